"""Movements of a wrist: real sensor data, which the package seglearn carries.

Ten people did seven exercises of the shoulder, with a smartwatch on the left
and the right: three accelerations and three angular velocities, 50 times a
second (Burns et al., 2018, https://arxiv.org/abs/1802.01489). The last three
people are kept for the test.

The file is read without importing seglearn, whose import wants pandas, too.
"""

import importlib.util
import pathlib

import numpy as np
from absl import app

NAMES = ("pendulum", "abduction", "elevation", "internal_rotation")
NAMES += ("external_rotation", "trapezius", "row")
CHANNELS = 6
TEST_PEOPLE = (8, 9, 10)


def find():
    """The path of the data.

    Raises:
        absl.app.UsageError: If seglearn is not installed.
    """
    found = importlib.util.find_spec("seglearn")
    if found is None:
        raise app.UsageError(
            "The data of --tasks=watch come in the package seglearn: pip "
            'install seglearn, or pip install -e ".[watch]". --tasks=words '
            "needs no package."
        )
    return pathlib.Path(found.origin).parent / "data" / "watch_dataset.npy"


def load(length=128, step=32):
    """`(x, y), (x_test, y_test)`: windows and the numbers of the exercises.

    The windows are int8, `(count, length, CHANNELS)`: of each channel 127 is
    what one training sample in 1,000 exceeds.

    Args:
        length: Int, samples of a window.
        step: Int, samples from one to the next, of the same recording.
    """
    # As seglearn's `load_watch` does it.
    data = np.load(find(), allow_pickle=True).item()
    people, labels = np.int32(data["subject"]), np.int32(data["y"])
    of_test = np.isin(people, TEST_PEOPLE)
    training = [data["X"][i] for i in np.flatnonzero(~of_test)]
    limits = np.quantile(np.abs(np.concatenate(training)), 0.999, axis=0)
    parts = []
    for chosen in (~of_test, of_test):
        windows, answers = [], []
        for i in np.flatnonzero(chosen):
            codes = np.clip(np.round(data["X"][i] * 127 / limits), -128, 127)
            starts = range(0, len(codes) - length + 1, step)
            windows += [codes[j : j + length].astype("int8") for j in starts]
            answers += [labels[i]] * len(starts)
        parts.append((np.stack(windows), np.array(answers)))
    return parts


def random_windows(count=128, length=128):
    """Arrays in the form of `load`'s, of noise: to try a program."""
    rng = np.random.default_rng(0)
    windows = rng.integers(-128, 128, (count, length, CHANNELS)).astype("int8")
    return [(windows, np.arange(count) % len(NAMES))] * 2
