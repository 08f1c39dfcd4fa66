"""The integers of the file: scales, zero points, weights and biases.

A convolution, its batch normalization and its staircase compute, for one
output channel with weight codes q and integer inputs n_in = x / s_in,

    x_out = slope * s_in * sum(q * n_in) + constant
    k = number of j in 0..L-1 with x_out > j * alpha           (the staircase)

(slides "Weight Quantization" and "Activation Quantization (AQ)"). An integer
kernel accumulates `mult * sum(q * n_in) + bias`, multiplies by the ratio of
scales, and rounds to the nearest:

    k_file = number of j in 0..L-1 with mult * n + bias > (j + 1/2) * D
    n = sum(q * n_in)        D = alpha / unit        unit = slope * s_in / mult

`mult` is the largest integer by which the codes can be multiplied in their
type: it leaves mult - 1 free integers between two accumulated values, and
makes the bias finer by as much. With `B = constant / unit`, the trained
network goes beyond level j from `n_j = floor((j * D - B) / mult) + 1` on, and
the file does the same for every n if

    (j + 1/2) * D - mult * n_j < bias < (j + 1/2) * D - mult * (n_j - 1)

a window of width mult that holds `B + D / 2` or has it as its upper end (a
tie, which must go down). `Windows` looks for an integer in the middle of all
windows: there neither a tie nor the way in which a kernel rounds matters. As
the trained codes depend on the integers n alone, the D of the file may also
differ a little from that of training, if more windows then share an integer.
"""

import dataclasses

import numpy as np

from keras_bcgd.activations import largest_level

INT8_MIN = -128
INT8_MAX = 127
LARGEST_WEIGHT = {"int8": 127, "int4": 7}

# How kernels turn an accumulator into an output code: in float32, rounding
# once (XNNPACK), or in fixed point, rounding twice (the others).
ONCE = "once"
TWICE = "twice"

# Kernels that requantize in float32 round the scale, the accumulator and the
# product; those in fixed point round the scale to 31 bits.
_KERNEL_ERROR = 2.0**-22
# Larger biases are left to a constant channel, as int32 ends at 2**31.
_LARGEST_BIAS = 2.0**30
# A step of the accumulator may be so many steps of the output at most: kernels
# in float32 demand a ratio of scales below 256.
_LARGEST_RATIO = 128.0
_CONSTANT_STEPS = 64
# How far `Windows` looks for a bias, nearest first, and for another slope.
_CANDIDATES = np.array(sorted(range(-6, 7), key=abs))
_SLACK = 0.25


@dataclasses.dataclass
class Grid:
    """How the integers of a tensor stand for real numbers.

    `real = scale * (code - zero_point) + offset`, codes from `low` to `high`.
    `offset` is 0 but for an input whose range puts 0.0 between two codes.
    """

    scale: float
    zero_point: int
    low: int = INT8_MIN
    high: int = INT8_MAX
    offset: float = 0.0

    @property
    def file_scale(self):
        """The scale as the file holds it, in float32."""
        return float(np.float32(self.scale))


def input_grid(low, high):
    """The 256 codes of an input between `low` and `high`."""
    scale = (high - low) / 255
    exact = INT8_MIN - low / scale
    zero_point = int(np.floor(exact + 0.5))
    offset = scale * (zero_point - exact)
    if abs(zero_point - exact) < 1e-6:
        offset = 0.0
    return Grid(scale, zero_point, offset=offset)


def code_grid(alpha, bits):
    """The codes k = 0..L of a QuantReLU, at the upper end of int8.

    The largest code is 127, so that saturation clamps above, and a fused RELU
    clamps at the zero point, below.
    """
    zero_point = INT8_MAX - largest_level(bits)
    return Grid(alpha, zero_point, low=zero_point)


def average_grid(grid, count):
    """The finest grid of the mean of `count` codes; exact if 256 suffice."""
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    steps = count * (high - low)
    if steps <= 255:
        zero_point = INT8_MIN - count * low
        return Grid(grid.scale / count, zero_point, high=INT8_MIN + steps)
    scale = grid.scale * (high - low) / 255
    return Grid(scale, INT8_MIN - round(low * 255 / (high - low)))


def range_grid(low, high):
    """The 256 codes of outputs between `low` and `high`, others saturating."""
    low, high = float(low), float(high)
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        high = low + 1.0
    scale = (high - low) / 255
    # The zero point itself must be a code.
    low, high = min(low, 0.0), max(high, 0.0)
    zero_point = int(np.clip(round(INT8_MIN - low / scale), -128, 127))
    return Grid(scale, zero_point)


def fold(scale, bias, norm, num_channels):
    """`slope` and `constant` of each channel: `x = slope * sum + constant`.

    Batch normalization after a convolution of weights `scale * codes`:

        gamma * (scale * sum + bias - mean) / sqrt(variance + epsilon) + beta

    Args:
        scale: Array of 1 or `num_channels` scales.
        bias: Array of `num_channels`, or `None`.
        norm: Dict of the arrays `gamma`, `beta`, `mean`, `variance` and the
            float `epsilon`, or `None`.
        num_channels: Int.

    Returns:
        Two float64 arrays of shape `(num_channels,)`.
    """
    scale = np.broadcast_to(np.float64(scale).reshape(-1), num_channels)
    bias = np.float64(0 if bias is None else bias)
    if norm is None:
        return scale.copy(), np.broadcast_to(bias, num_channels).copy()
    sigma = np.sqrt(np.float64(norm["variance"]) + norm["epsilon"])
    ratio = np.float64(norm["gamma"]) / sigma
    return ratio * scale, ratio * (bias - norm["mean"]) + norm["beta"]


@dataclasses.dataclass
class Weights:
    """What the file holds for one convolution, with channels last.

    Attributes:
        values: int8 array of shape `(inputs, channels)`: codes times `mult`.
        scale: float32 array of shape `(channels,)`.
        bias: int64 array of shape `(channels,)`.
        mult: Int.
        flips: Int, the channels whose codes changed sign.
        constant: Int, the channels whose output does not depend on the input.
        thresholds: Int, the number of (channel, level) pairs.
        exact: Int, those that are provably where training put them, in all
            kernels that the file is to fit.
        exact_first: Int, the same in the first of these kernels.
    """

    values: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    mult: int
    flips: int
    constant: int
    thresholds: int = 0
    exact: int = 0
    exact_first: int = 0


def accumulated_range(codes, grid):
    """The smallest and the largest sum of codes times inputs, per channel."""
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    low, high = min(low, 0), max(high, 0)  # zero padding
    positive = np.maximum(codes, 0).sum(axis=0, dtype=np.float64)
    negative = np.minimum(codes, 0).sum(axis=0, dtype=np.float64)
    return positive * low + negative * high, positive * high + negative * low


def quantize_weights(
    codes, slope, constant, grid, output, mult, levels, roundings=(ONCE, TWICE)
):
    """The integers of one convolution.

    Args:
        codes: Integer array of shape `(inputs, channels)`.
        slope: Array of shape `(channels,)`.
        constant: Array of shape `(channels,)`.
        grid: `Grid` of the input.
        output: `Grid` of the output; its scale is alpha under a staircase.
        mult: Int, the multiplier of the codes.
        levels: Int, L of the staircase, or 0: none, round to the nearest.
        roundings: Tuple of `ONCE` and `TWICE`, the kernels to fit.

    Returns:
        `Weights`.
    """
    constant = constant + slope * codes.sum(axis=0) * grid.offset
    flipped = slope < 0
    codes = np.where(flipped, -codes, codes)
    slope = np.abs(slope)

    alpha = output.scale
    unit = slope * grid.scale / mult
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        step, start = alpha / unit, constant / unit  # D and B
        size = np.abs(start) + max(levels, 255) * step
    # Not so in channels whose weights or gamma are 0 or nearly so.
    alive = (unit > 0) & (size < _LARGEST_BIAS) & np.any(codes, axis=0)
    step, start = np.where(alive, step, 1.0), np.where(alive, start, 0.0)

    # The file holds its scales in float32.
    unit = np.where(alive, unit, alpha / _CONSTANT_STEPS)
    unit = np.minimum(unit, _LARGEST_RATIO * alpha)
    scale = np.float32(unit / grid.file_scale)
    file_step = output.file_scale / (grid.file_scale * np.float64(scale))

    exact = exact_first = np.zeros(0)
    if levels:
        low, high = accumulated_range(codes, grid)
        windows = Windows(step, start, mult, low, high, levels, roundings)
        bias, file_step = windows.place(file_step)
        scale = np.float32(output.file_scale / (grid.file_scale * file_step))
        file_step = output.file_scale / (grid.file_scale * np.float64(scale))
        # In a constant channel, what the input could still change is lost.
        level, lost = _constant_level(
            constant, slope * grid.scale, low, high, alpha, levels
        )
        bias = np.where(alive, bias, np.round(level * file_step))
        exact, exact_first = (
            np.where(
                alive, windows.count(bias, file_step, part), levels - lost
            )
            for part in (roundings, roundings[:1])
        )
    else:
        bias = np.round(constant / (grid.file_scale * np.float64(scale)))
        bias = np.clip(bias, -_LARGEST_BIAS, _LARGEST_BIAS)
    return Weights(
        values=(np.where(alive, codes, 0) * mult).astype(np.int8),
        scale=scale,
        bias=bias.astype(np.int64),
        mult=mult,
        flips=int(np.sum(flipped & alive)),
        constant=int(np.sum(~alive)),
        thresholds=levels * len(slope),
        exact=int(exact.sum()),
        exact_first=int(exact_first.sum()),
    )


def _constant_level(constant, slope, low, high, alpha, levels):
    """k without any input, and over how many levels inputs would move it."""
    level = staircase(constant, alpha, levels)
    top = staircase(constant + slope * high, alpha, levels)
    bottom = staircase(constant + slope * low, alpha, levels)
    return level, top - bottom


def staircase(x, alpha, levels):
    """k of each x: the number of levels j * alpha, j = 0..L-1, below it."""
    return np.sum(x[:, None] > alpha * np.arange(levels), axis=1)


class Windows:
    """Where the bias and the scale of each channel may lie.

    Kernels in float32 round once. Kernels in fixed point (`TWICE`) round to
    `2**-shift` of an output step first, and so reach level j + 1 already at
    `(j + 1/2 - 2**-(shift + 1)) * D`, where `D` is `2**shift` to `2**(shift +
    1)`.

    Args:
        step: D of each channel, the accumulator units in one level.
        start: B of each channel, the real bias in accumulator units.
        mult: Int, the units in one step of n.
        low: The smallest n of each channel.
        high: The largest n of each channel.
        levels: Int, L.
        roundings: Tuple of the kernels that the file is to fit, `ONCE` and
            `TWICE`; where it cannot fit all of them, the first counts.
    """

    def __init__(self, step, start, mult, low, high, levels, roundings):
        self.mult = mult
        self.levels = levels
        self.roundings = roundings
        j = np.arange(levels)
        self.half = j + 0.5
        first = np.floor((j * step[:, None] - start[:, None]) / mult) + 1
        low, high = low[:, None], high[:, None]
        # The largest sum that stays at level j and the smallest that goes
        # beyond; sums that never occur ask for nothing.
        stays = mult * np.minimum(first - 1, high)
        passes = mult * np.maximum(first, low)
        self.stays = np.where(first <= low, -np.inf, stays)
        self.passes = np.where(first > high, np.inf, passes)

    def place(self, file_step):
        """Puts each channel in the middle of its windows.

        Args:
            file_step: D of the file, nearly that of training.

        Returns:
            `(bias, file_step)`. The second changes in channels in which no
            integer bias fits all windows: there a slightly other slope may.
        """
        lower, upper = self._bias_bounds(file_step, self.roundings)
        bottom, top = lower.max(axis=1), upper.min(axis=1)
        bottom = np.where(np.isinf(bottom), top - 2 * self.mult, bottom)
        top = np.where(np.isinf(top), bottom + 2 * self.mult, top)
        bias = np.round((bottom + top) / 2)

        file_step = file_step.copy()
        for roundings in (self.roundings, self.roundings[:1]):
            missed = self.count(bias, file_step) < self.levels
            for channel in np.flatnonzero(missed):
                bias[channel], file_step[channel] = self._search(
                    channel, bias[channel], file_step[channel], roundings
                )
        return bias, file_step

    def count(self, bias, file_step, roundings=None):
        """How many thresholds of each channel are right for every n.

        Args:
            bias: Integer bias of each channel.
            file_step: D of the file.
            roundings: Tuple of kernels. `None`: all that the file is to fit.
                Defaults to `None`.
        """
        lower, upper = self._bias_bounds(file_step, roundings)
        inside = (lower < bias[:, None]) & (bias[:, None] < upper)
        return inside.sum(axis=1)

    def _ends(self, file_step, roundings):
        """The earliest and the latest place of each threshold, in D."""
        roundings = self.roundings if roundings is None else roundings
        _, exponent = np.frexp(1 / file_step)  # shift = -exponent
        early = np.where(exponent < 0, 0.5 * 2.0**exponent, 0)[..., None]
        earliest = self.half - early * (TWICE in roundings)
        latest = self.half - early * (ONCE not in roundings)
        return earliest * (1 - _KERNEL_ERROR), latest * (1 + _KERNEL_ERROR)

    def _bias_bounds(self, file_step, roundings):
        earliest, latest = self._ends(file_step, roundings)
        file_step = file_step[:, None]
        lower = latest * file_step - self.passes
        upper = earliest * file_step - self.stays
        return lower, upper

    def _search(self, channel, bias, file_step, roundings):
        """The bias and slope of one channel that fit the most windows.

        For a given bias each window is an interval of slopes: a sweep over
        their ends finds a point that lies in the most of them.
        """
        bias = bias + _CANDIDATES[:, None]
        earliest, latest = self._ends(file_step, roundings)
        near, far = file_step * (1 - _SLACK), file_step * (1 + _SLACK)
        bottom = np.clip((self.stays[channel] + bias) / earliest, near, far)
        top = np.clip((self.passes[channel] + bias) / latest, near, far)
        top = np.maximum(top, bottom)

        # At equal ends an interval closes before the next one opens.
        ends = np.concatenate([top, bottom], axis=1)
        order = np.argsort(ends, axis=1, kind="stable")
        ends = np.take_along_axis(ends, order, axis=1)
        covered = np.cumsum(np.where(order < self.levels, -1, 1), axis=1)
        width = np.diff(ends, axis=1)
        score = covered[:, :-1] + width / (2 * (far - near))
        row, column = np.unravel_index(np.argmax(score), score.shape)
        return bias[row, 0], (ends[row, column] + ends[row, column + 1]) / 2


def output_range(codes, slope, constant, grid):
    """Bounds of each channel over every input of the grid, as two arrays."""
    low, high = accumulated_range(codes, grid)
    constant = constant + slope * codes.sum(axis=0) * grid.offset
    ends = slope * grid.scale * np.stack([low, high])
    return ends.min(axis=0) + constant, ends.max(axis=0) + constant
