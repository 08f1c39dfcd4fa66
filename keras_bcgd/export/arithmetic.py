"""The integers of the file: scales, zero points, weights and biases.

A convolution and its batch normalization compute, for one output channel with
weight codes q and integer inputs n_in = x / s_in,

    x_out = slope * s_in * n + constant        n = sum(q * n_in)

(slides "Weight Quantization" and "Full Quantization Problem"). An integer
kernel accumulates `mult * n + bias` in units of `unit = slope * s_in / mult`,
multiplies by the ratio `unit / s_out` of scales, and rounds to the nearest.
`mult` is the largest integer by which the codes can be multiplied in their
type: the codes are stored as trained, never rounded again, and the bias
becomes finer by as much. `bias_intervals` has what follows for a staircase,
where s_out is alpha and rounding must become the ceil of "Activation
Quantization (AQ)".
"""

import dataclasses
import math

import numpy as np

from keras_bcgd.activations import largest_level
from keras_bcgd.branches import branch_offset
from keras_bcgd.branches import branch_step
from keras_bcgd.export.bias_intervals import ALL
from keras_bcgd.export.bias_intervals import BiasIntervals
from keras_bcgd.pointwise import hard_sigmoid_levels

INT8_MIN = -128
INT8_MAX = 127
LARGEST_WEIGHT = {"int8": 127, "int4": 7, "int2": 1, "lut": 127}

# Larger biases are left to a constant channel, as int32 ends at 2**31.
_LARGEST_BIAS = 2.0**30
# A step of the accumulator may be so many steps of the output at most: kernels
# in float32 demand a ratio of scales below 256.
_LARGEST_RATIO = 128.0
_CONSTANT_STEPS = 64


@dataclasses.dataclass
class Grid:
    """How the integers of a tensor stand for real numbers.

    `real = scale * (code - zero_point) + offset`, codes from `low` to `high`.
    `offset` is 0 but for inputs: of a range that puts 0.0 between two codes, or
    of a model that begins with a rescaling. After that, `stored` is the scale
    in the file, that of the images, and `scale` that of the network.
    """

    scale: float
    zero_point: int
    low: int = INT8_MIN
    high: int = INT8_MAX
    offset: float = 0.0
    stored: float | None = None

    @property
    def file_scale(self):
        """The scale as the file holds it, in float32."""
        return float(np.float32(self.stored or self.scale))

    @property
    def ends(self):
        """The real numbers of the smallest and the largest code."""
        codes = np.array([self.low, self.high])
        return self.scale * (codes - self.zero_point) + self.offset

    def covers(self, x):
        """Whether each x is within half a step of the codes."""
        codes = (x - self.offset) / self.scale + self.zero_point
        return (codes > self.low - 0.51) & (codes < self.high + 0.51)


def input_grid(low, high):
    """The 256 codes of an input between `low` and `high`."""
    scale = (high - low) / 255
    exact = INT8_MIN - low / scale
    zero_point = int(np.floor(exact + 0.5))
    offset = scale * (zero_point - exact)
    if abs(zero_point - exact) < 1e-6:
        offset = 0.0
    return Grid(scale, zero_point, offset=offset)


def unsigned(grid):
    """The same numbers as codes from 0 to 255."""
    return dataclasses.replace(
        grid,
        zero_point=grid.zero_point + 128,
        low=grid.low + 128,
        high=grid.high + 128,
    )


def is_exact_mean(grid, count):
    """Whether int8 holds every value of the mean of `count` codes."""
    return count * (grid.high - grid.low) <= 255


def wide_mean_grid(grid, count):
    """The 16-bit grid of the mean of `count` codes: their sum."""
    largest = count * max(
        abs(grid.low - grid.zero_point), abs(grid.high - grid.zero_point)
    )
    # Halved until it fits: a power of 2 is exact in every kernel.
    coarser = 2.0 ** max(0, math.ceil(math.log2(max(largest, 1) / 32767)))
    return Grid(grid.scale * coarser / count, 0, -32768, 32767)


def average_grid(grid, count):
    """The finest grid of the mean of `count` codes; exact if 256 suffice."""
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    steps = count * (high - low)
    if steps <= 255:
        zero_point = INT8_MIN - count * low
        return Grid(grid.scale / count, zero_point, high=INT8_MIN + steps)
    scale = grid.scale * (high - low) / 255
    return Grid(scale, INT8_MIN - round(low * 255 / (high - low)))


def range_grid(low, high, step=0.0):
    """The 256 codes of outputs between `low` and `high`, others saturating.

    `step` is what one step of the largest sum amounts to: kernels refuse an
    output that is finer than that by far.
    """
    # The zero point itself must be a code.
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if high - low < 1e-6:
        high = low + 1.0
    scale = max((high - low) / 255, step / _LARGEST_RATIO)
    return Grid(scale, round(INT8_MIN - low / scale))


@dataclasses.dataclass
class Output:
    """What the output of an operator is rounded to.

    Attributes:
        grid: `Grid`.
        thresholds: Array of the trained thresholds in steps of the grid: above
            the j-th the code is `grid.low + j + 1` or more. `None`: there are
            none, the file rounds to the nearest.
        shift: Float that is added to what training computed: alpha / 2 in
            the branch of an addition.
        relu: Boolean. Whether the file has to clamp at the zero point.
    """

    grid: Grid
    thresholds: np.ndarray | None = None
    shift: float = 0.0
    relu: bool = False

    @property
    def levels(self):
        """The number of thresholds."""
        return 0 if self.thresholds is None else len(self.thresholds)

    @property
    def boundaries(self):
        """Where the file, rounding to the nearest, has its thresholds."""
        first = self.grid.low - self.grid.zero_point
        return first + np.arange(self.levels) + 0.5


def staircase_output(alpha, bits):
    """The codes k = 0..L of a QuantReLU, at the upper end of int8.

    The largest code is 127, so that saturation clamps above, and a fused RELU
    clamps at the zero point, below.
    """
    levels = largest_level(bits)
    zero_point = INT8_MAX - levels
    grid = Grid(alpha, zero_point, low=zero_point)
    return Output(grid, np.arange(levels), relu=True)


def branch_output(alpha, bits, half):
    """The signed codes of a branch that is added before a QuantReLU.

    With `half`, the codes stand for the branch plus alpha / 2, the half step by
    which the ceil of the staircase differs from rounding: it moves the zero
    point, and is exact (`keras_bcgd.branches`).
    """
    step = branch_step(alpha, bits)
    shift = alpha / 2 if half else 0.0
    offset = branch_offset(alpha, bits) if half else 0.0
    # The trained grid is step * code - offset; the shift moves it by whole
    # codes.
    grid = Grid(step, round((offset - shift) / step))
    return _nearest(grid, shift)


def identity_output(alpha, smallest=INT8_MIN, largest=INT8_MAX):
    """The codes of a QuantIdentity, at the upper end of int8."""
    zero_point = INT8_MAX - largest
    grid = Grid(alpha, zero_point, low=smallest + zero_point)
    return _nearest(grid)


def hard_sigmoid_output(bits):
    """The codes of a QuantHardSigmoid, at the upper end of int8."""
    levels = hard_sigmoid_levels(bits)
    zero_point = INT8_MAX - levels
    grid = Grid(1 / levels, zero_point, low=zero_point)
    return dataclasses.replace(_nearest(grid), relu=True)


def _nearest(grid, shift=0.0):
    """Training rounds to the nearest, as the file does."""
    codes = np.arange(grid.low, grid.high) - grid.zero_point
    return Output(grid, codes + 0.5, shift)


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
        is_exact: Boolean array of shape `(channels,)`: whether all are in the
            right place.
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
    is_exact: np.ndarray | None = None


def accumulated_range(codes, grid):
    """The smallest and the largest sum of codes times inputs, per channel."""
    low, high = grid.low - grid.zero_point, grid.high - grid.zero_point
    positive = np.maximum(codes, 0).sum(axis=0, dtype=np.float64)
    negative = np.minimum(codes, 0).sum(axis=0, dtype=np.float64)
    return positive * low + negative * high, positive * high + negative * low


def quantize_weights(trained, grid, output, mult, roundings=ALL, search=True):
    """The integers of one convolution.

    Args:
        trained: `trained_values.LinearMap`.
        grid: `Grid` of the input.
        output: `Output`.
        mult: Int, the multiplier of the codes.
        roundings: Tuple of the kernels to fit, some of `bias_intervals.ALL`.
        search: Boolean. Whether the file may get another slope where no bias
            fits all thresholds. Defaults to `True`.

    Returns:
        `Weights`.
    """
    constant = shifted_constant(trained, grid, output)
    flipped = trained.slope < 0
    codes = np.where(flipped, -trained.codes, trained.codes)
    slope = np.abs(trained.slope)

    target, levels = output.grid, output.levels
    unit = slope * grid.scale / mult
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        step, start = target.scale / unit, constant / unit  # D and B
        size = np.abs(start) + max(levels, 255) * step
    # Not so in channels whose weights or gamma are 0 or nearly so.
    alive = (unit > 0) & (size < _LARGEST_BIAS) & np.any(codes, axis=0)
    step, start = np.where(alive, step, 1.0), np.where(alive, start, 0.0)

    unit = np.where(alive, unit, target.scale / _CONSTANT_STEPS)
    if levels:
        unit = np.minimum(unit, _LARGEST_RATIO * target.scale)
    # The file holds its scales in float32.
    scale, file_step = _stored_scale(grid, target, target.scale / unit)

    exact = exact_first = np.zeros(0)
    if levels:
        low, high = accumulated_range(codes, grid)
        intervals = BiasIntervals(
            step, start, mult, low, high, output, roundings
        )
        bias, file_step = intervals.place(file_step, search)
        scale, file_step = _stored_scale(grid, target, file_step)
        # In a constant channel, what the input could still change is lost.
        level, lost = _constant_level(
            constant, slope * grid.scale, low, high, output
        )
        code = target.low - target.zero_point + level
        bias = np.where(alive, bias, np.round(code * file_step))
        exact, exact_first = (
            np.where(
                alive, intervals.count(bias, file_step, part), levels - lost
            )
            for part in (roundings, roundings[:1])
        )
    else:
        bias = np.round(constant / target.scale * file_step)
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
        is_exact=exact == levels,
    )


def shifted_constant(trained, grid, output):
    """The constant of each channel, with what the grids add to it."""
    offset = trained.slope * trained.codes.sum(axis=0) * grid.offset
    return trained.constant + offset + output.shift


def _stored_scale(grid, target, step):
    """The weight scales in float32 that come nearest to a D, and their D."""
    scale = np.float32(target.file_scale / (grid.file_scale * step))
    return scale, target.file_scale / (grid.file_scale * np.float64(scale))


def _constant_level(constant, slope, low, high, output):
    """The level without input, and over how many levels inputs would move."""
    level = staircase(constant, output)
    top = staircase(constant + slope * high, output)
    bottom = staircase(constant + slope * low, output)
    return level, top - bottom


def staircase(x, output):
    """How many of the trained thresholds each x is above."""
    thresholds = output.grid.scale * output.thresholds
    return np.sum(x[..., None] > thresholds, axis=-1)


def output_range(codes, slope, constant, grid):
    """Bounds of each channel over every input of the grid, as two arrays."""
    low, high = accumulated_range(codes, grid)
    constant = constant + slope * codes.sum(axis=0) * grid.offset
    ends = slope * grid.scale * np.stack([low, high])
    return ends.min(axis=0) + constant, ends.max(axis=0) + constant
