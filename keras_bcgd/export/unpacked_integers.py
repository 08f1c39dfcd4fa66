"""The integers of an int8 convolution that computes what an int4 one does.

With int4 weights LiteRT's default kernels leave convolutions to its builtin
ones, which round twice (`bias_intervals`); with int8 weights they round once.
In units of the accumulator, an output code is reached from

    g * k + bias >= (j + 1/2 - e) * D          e = earliness(D)

on, with weights that are multiples of g and so k a whole number. That is a
staircase like that of training, for which int8 weights, multiplied by more, can
have a bias that fits any kernel.
"""

import dataclasses

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import bias_intervals

# The kernels that have to fit: XNNPACK's.
_DEFAULT = bias_intervals.ALL[:1]


@dataclasses.dataclass
class Integers:
    """What a file holds of a convolution, with channels last.

    Attributes:
        values: int8 array of shape `(inputs, channels)`.
        scale: float32 array of shape `(channels,)`.
        bias: Integer array of shape `(channels,)`.
    """

    values: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def int8_integers(given, grid, y):
    """The integers with int8 weights, and for how many thresholds they fit.

    Args:
        given: `Integers` of the int4 convolution.
        grid: `arithmetic.Grid` of the input.
        y: The same of the output, from the lowest code on that a fused RELU
            leaves.

    Returns:
        `(integers, thresholds, equal)`: the other two are ints, the pairs of a
        channel and a code, and those for which int8 weights provably give it
        on the default kernels where int4 ones did.
    """
    factor = max(int(np.gcd.reduce(given.values, axis=None)), 1)
    codes = given.values // factor
    most = arithmetic.INT8_MAX // np.maximum(np.abs(codes).max(axis=0), 1)
    found, missed = _with_multiplier(
        int(most.min()), codes, factor, given, grid, y
    )
    for mult in range(int(most.max()), 0, -1):
        # Rounding the bias takes another fraction off.
        channels = np.flatnonzero((missed > 0) & (most >= mult))
        if not channels.size:
            continue
        part = Integers(
            given.values, given.scale[channels], given.bias[channels]
        )
        other, missed_by_other = _with_multiplier(
            mult, codes[:, channels], factor, part, grid, y
        )
        better = missed_by_other < missed[channels]
        channels = channels[better]
        missed[channels] = missed_by_other[better]
        found.values[:, channels] = other.values[:, better]
        found.scale[channels] = other.scale[better]
        found.bias[channels] = other.bias[better]
    thresholds = (y.high - y.low) * missed.size
    return found, thresholds, thresholds - int(missed.sum())


def _with_multiplier(mult, codes, factor, given, grid, y):
    """The integers with codes times `mult`.

    Returns:
        `(integers, missed)`: and for each channel the number of thresholds for
        which they do not fit.
    """
    ratio = mult / factor
    unit = y.file_scale / grid.file_scale
    step = unit / np.float64(given.scale)
    early = bias_intervals.earliness(step) * step
    places = np.arange(y.low, y.high) - y.zero_point + 0.5
    intervals = bias_intervals.BiasIntervals(
        step * ratio,
        (given.bias + early) * ratio,
        mult,
        *arithmetic.accumulated_range(codes, grid),
        arithmetic.Output(y, places),
        bias_intervals.ALL,
    )
    bias, step = intervals.place(step * ratio)
    scale = np.float32(unit / step)
    values = (codes * mult).astype(np.int8)
    right = intervals.count(bias, unit / np.float64(scale), _DEFAULT)
    return Integers(values, scale, bias), places.size - right
