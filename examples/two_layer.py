"""Draws the theory of coarse gradients: a network of two layers, in pictures.

A student v' sigma(Z w) learns a teacher v*' sigma(Z w*) from Gaussian inputs Z.
Its activation sigma is a step, so its loss on samples is a hill of terraces: by
w its derivative is 0 or does not exist. Coarse gradient descent walks down all
the same: it puts the derivative of a ReLU where that of sigma should be. Seven
pictures, each as PNG and SVG, show how and when this finds the teacher:

    staircase    sigma near by and from afar, where it is a ramp
    terraces     the loss on few samples, and coarse-gradient paths down it
    population   the mean loss f over the angle between w and w*
    samples      the loss on N samples nears f as N grows
    paths        loss and angles of many starts
    basin        which starts end at the teacher, and which the theorem covers
    derivatives  ReLU, clipped ReLU and identity as the coarse derivative

    python examples/two_layer.py --output_dir=two_layer_output

Each picture prints what it found. The functions behind them are those of
keras_bcgd.theory; docs/theory.md has the statements and formulas. Takes about
half a minute; --only=basin,paths draws these two alone.
"""

import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app
from absl import flags

from two_layer_figures import figures

_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "two_layer_output", "Folder for the pictures."
)
_ONLY = flags.DEFINE_list(
    "only", None, f"Draw these alone, of {', '.join(figures.FIGURES)}."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of teachers, starts and samples.")
_M = flags.DEFINE_integer(
    "m", 5, "Length of v: how many inputs share w.", lower_bound=1
)
_N = flags.DEFINE_integer("n", 10, "Length of w.", lower_bound=2)
_STARTS = flags.DEFINE_integer(
    "starts", 60, "How many starts `paths` has.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 30, "Samples of each step in `derivatives`.", lower_bound=1
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    names = _ONLY.value or list(figures.FIGURES)
    unknown = sorted(set(names) - set(figures.FIGURES))
    if unknown:
        raise app.UsageError(
            f"--only takes {', '.join(figures.FIGURES)}. Received: {unknown}"
        )
    start = time.time()
    folder = pathlib.Path(_OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    settings = figures.Settings(
        seed=_SEED.value,
        m=_M.value,
        n=_N.value,
        starts=_STARTS.value,
        batch_size=_BATCH_SIZE.value,
    )
    for name in names:
        figure, finding = figures.FIGURES[name](settings)
        figures.save(figure, folder, name)
        print(f"{name}: {finding}")
    print(f"Pictures in {folder}: {time.time() - start:.0f} s.")


if __name__ == "__main__":
    app.run(main)
