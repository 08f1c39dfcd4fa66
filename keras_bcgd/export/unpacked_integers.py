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

# How int8 weights are to fit, on XNNPACK's kernels, and how int4 ones did.
_DEFAULT = (bias_intervals.ONCE,)
_BUILTIN = (bias_intervals.TWICE_UP,)


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


def int8_integers(given, grid, y, rounds_once=False):
    """The integers with int8 weights, and for how many thresholds they fit.

    Args:
        given: `Integers` of the int4 convolution.
        grid: `arithmetic.Grid` of the input.
        y: The same of the output, from the lowest code on that a fused RELU
            leaves.
        rounds_once: Boolean. Whether the default kernels round once with the
            given integers too: these then stay where no others fit. Defaults
            to `False`.

    Returns:
        `(integers, thresholds, equal)`: the other two are ints, the pairs of a
        channel and a code, and those for which int8 weights provably give it
        on the default kernels where int4 ones did.
    """
    factor = max(int(np.gcd.reduce(given.values, axis=None)), 1)
    codes = given.values // factor
    most = arithmetic.INT8_MAX // np.maximum(np.abs(codes).max(axis=0), 1)
    found, missed = _with_multiplier(
        int(most.min()), codes, factor, given, grid, y, rounds_once
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
            mult, codes[:, channels], factor, part, grid, y, rounds_once
        )
        better = missed_by_other < missed[channels]
        channels = channels[better]
        missed[channels] = missed_by_other[better]
        found.values[:, channels] = other.values[:, better]
        found.scale[channels] = other.scale[better]
        found.bias[channels] = other.bias[better]
    missed = missed + _unsure(codes, factor, given, grid, y, rounds_once)
    if rounds_once:
        stays = missed > 0
        found.values[:, stays] = given.values[:, stays]
        found.scale[stays] = given.scale[stays]
        found.bias[stays] = given.bias[stays]
        missed[stays] = 0
    levels = y.high - y.low
    equal = (levels - np.minimum(missed, levels)).sum()
    return found, levels * missed.size, int(equal)


def _unsure(codes, factor, given, grid, y, rounds_once):
    """How many thresholds lie so near a sum that the int4 kernel may differ.

    In float64, that is: it rounds its scale to 31 bits, or computes in float32.
    """
    step = _step(given, grid, y)[:, None]
    roundings = _DEFAULT if rounds_once else _BUILTIN
    ends = bias_intervals.zones(_places(y), step[:, 0], roundings)
    below, above = (
        np.floor((end * step - given.bias[:, None]) / factor) for end in ends
    )
    low, high = arithmetic.accumulated_range(codes, grid)
    occurs = (above >= low[:, None]) & (above <= high[:, None])
    return np.sum((below < above) & occurs, axis=1)


def _step(integers, grid, y):
    """D of each channel: the units of the accumulator in one output code."""
    return y.file_scale / (grid.file_scale * np.float64(integers.scale))


def _places(y):
    """The thresholds of exact rounding, in D."""
    return np.arange(y.low, y.high) - y.zero_point + 0.5


def _with_multiplier(mult, codes, factor, given, grid, y, rounds_once):
    """The integers with codes times `mult`.

    Returns:
        `(integers, missed)`: and for each channel the number of thresholds for
        which they do not fit.
    """
    ratio = mult / factor
    step = _step(given, grid, y)
    early = 0.0 if rounds_once else bias_intervals.earliness(step) * step
    intervals = bias_intervals.BiasIntervals(
        step * ratio,
        (given.bias + early) * ratio,
        mult,
        *arithmetic.accumulated_range(codes, grid),
        arithmetic.Output(y, _places(y)),
        bias_intervals.ALL,
    )
    bias, step = intervals.place(step * ratio)
    scale = np.float32(y.file_scale / (grid.file_scale * step))
    integers = Integers((codes * mult).astype(np.int8), scale, bias)
    right = intervals.count(bias, _step(integers, grid, y), _DEFAULT)
    return integers, y.high - y.low - right
