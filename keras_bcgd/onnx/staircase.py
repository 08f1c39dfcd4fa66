"""The staircase, which rounds up, by operators that round to the nearest.

`ceil(t) = round(t + 1/2)` but where t is whole: there ceil stays, and rounding
halves to even goes up at every second t. Sums of a residual branch and a
shortcut are often such a t, as the branch has a grid with the multiples of
alpha on it. So what is added is a little less than alpha / 2:

    k = clip(round((x + h) / alpha), 0, 2**bits - 1),    h < alpha / 2

h is the largest of some numbers with which, in float32, every sum that ends on
a threshold gets the code below it, in runtimes that divide by alpha and in
those that multiply by its reciprocal; in QONNX also in those that compare with
the thresholds of rounding, (k + 1/2) alpha, as FINN does. It lacks some
`2**(bits - 24)` steps. Only inputs that are no farther above a threshold get
the code below it, where another order of summation may put them too.

`Quant` has a mode that rounds up, but FINN and hls4ml do not read it.
"""

import numpy as np

from keras_bcgd.activations import largest_level
from keras_bcgd.onnx.formats import Grid

# So many parts of what float32 does not tell apart at the largest level.
_PARTS = 4
# Three or four roundings, each by a half of that, are the worst case.
_MOST_PARTS = 64


def half_step(alpha, bits, sums=None, is_compared=False):
    """What is added before rounding to the nearest.

    Args:
        alpha: Float, the resolution.
        bits: Int, the bit width.
        sums: `(values, levels)`, float32 numbers that end on the threshold
            above these levels. `None`: `alpha` times each level. Defaults to
            `None`.
        is_compared: Boolean. Whether runtimes may compare with thresholds.
            Defaults to `False`.

    Returns:
        A `np.float32`, less than `alpha / 2`.

    Example:

    >>> float(half_step(1.0, bits=1))
    0.49999991059303284
    """
    alpha = np.float32(alpha)
    levels = np.arange(1, largest_level(bits) + 1)
    values = np.float32(levels) * alpha
    if sums is not None:
        values, levels = sums
    for parts in range(1, _MOST_PARTS):
        less = 2.0 ** (bits - 24) * parts / _PARTS
        half = np.float32(np.float64(alpha) * (0.5 - less))
        raised = values + half
        thresholds = alpha / 2 + np.float32(levels) * alpha
        if (
            np.all(np.round(raised / alpha) <= levels)
            and np.all(np.round(raised * (1 / alpha)) <= levels)
            and (not is_compared or np.all(raised < thresholds))
        ):
            break
    return half


def two_branches(step, alpha, codes):
    """The sums of two branches that end on a threshold, for `half_step`.

    Args:
        step: Float, that of the grid of both.
        alpha: Float, a multiple of it.
        codes: `(low, high)`, the ends of that grid.

    Returns:
        `(values, levels)`, arrays.
    """
    low, high = codes
    codes = np.arange(low, high + 1)
    values = np.float32(codes) * np.float32(step)
    total = np.add.outer(codes, codes)
    steps = round(alpha / step)
    whole = (total > 0) & (total % steps == 0)
    return np.add.outer(values, values)[whole], total[whole] // steps


def write(file, form, x, alpha, bits, name, sums=None):
    """Writes sigma(x, alpha), slide "Activation Quantization (AQ)".

    Args:
        file: `OnnxFile`.
        form: One of `formats.FORMATS`.
        x: `Tensor`.
        alpha: Float.
        bits: Int.
        name: String, of the output.
        sums: As for `half_step`. Defaults to `None`.

    Returns:
        `Tensor`.
    """
    half = half_step(alpha, bits, sums, form.is_compared)
    half = file.constant(f"{name}/half_step", half)
    x = file.same("Add", [x, half], f"{name}/shifted")
    x = form.clamp(file, x, name)
    return form.codes(file, x, Grid(alpha, 0, largest_level(bits)), name)
