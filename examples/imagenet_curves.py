"""Draws top-1 and top-5 by epoch of two runs, as the slides' figure does.

    python examples/imagenet_curves.py --figure=blending.png \\
        runs/1w4a_not_blended/quantized runs/1w4a/quantized

Each argument is the folder of a stage of examples/imagenet_resnet18.py. The
legend says what the settings of the runs differ in.
"""

import csv
import pathlib

from absl import app
from absl import flags
from matplotlib import figure

from training import workdir as workdirs

FLAGS = flags.FLAGS
# Told apart by people who see colors differently, and in print by the line.
_STYLES = [("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("k", ":")]
_NAMES = {"blending": "ρ", "weight_bits": "weights", "activation_bits": "act."}


def read(folder):
    """The rows of a stage's log.csv, and its settings.

    Raises:
        absl.app.UsageError: If the folder has none.
    """
    folder = pathlib.Path(folder)
    try:
        with open(folder / "log.csv", encoding="utf-8", newline="") as file:
            rows = [
                {name: float(value) for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
        return rows, workdirs.read_json(folder / "config.json")
    except OSError as error:
        raise app.UsageError(
            f"{folder} is no folder of a stage, such as runs/4w4a/quantized: "
            f"{error}"
        ) from None


def labels(configs):
    """What each of the settings has that the others have not."""
    differing = [
        name
        for name in configs[0]
        if any(config.get(name) != configs[0][name] for config in configs)
        and name != "init_from"
    ]
    return [
        ", ".join(
            f"{_NAMES.get(name, name)} = {config.get(name)}"
            for name in differing
        )
        or f"run {i}"
        for i, config in enumerate(configs, 1)
    ]


def draw(runs):
    """The figure of several runs.

    Args:
        runs: List of pairs, what `read` returns.

    Returns:
        `matplotlib.figure.Figure`.
    """
    drawing = figure.Figure(figsize=(9, 4), layout="constrained")
    names = labels([config for _, config in runs])
    for axes, k in zip(drawing.subplots(1, 2), (1, 5), strict=True):
        for (rows, _), name, (color, line) in zip(
            runs, names, _STYLES, strict=False
        ):
            epochs = [row["epoch"] for row in rows]
            accuracy = [100 * row[f"val_top{k}"] for row in rows]
            axes.plot(epochs, accuracy, line, color=color, label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"top-{k} accuracy, validation, %")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    drawing.legend(names, loc="outside lower center")
    bits = {
        (config["weight_bits"], config["activation_bits"]) for _, config in runs
    }
    title = "ResNet-18"
    if len(bits) == 1:
        title += ", {}-bit weights, {}-bit activations".format(*bits.pop())
    drawing.suptitle(title)
    return drawing


def main(argv):
    folders = argv[1:]
    if not 1 <= len(folders) <= len(_STYLES):
        raise app.UsageError(
            f"Give 1 to {len(_STYLES)} folders of stages, not {len(folders)}"
        )
    path = pathlib.Path(FLAGS.figure)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise app.UsageError(f"--figure is a .png, .svg or .pdf, not {path}")
    drawing = draw([read(folder) for folder in folders])
    workdirs.write_whole(
        path,
        lambda file: drawing.savefig(file, format=path.suffix[1:], dpi=150),
    )
    print(path)


if __name__ == "__main__":
    flags.DEFINE_string("figure", "curves.png", "The file: .png, .svg or .pdf.")
    app.run(main)
