"""Where the integer bias must lie for rounding to become the staircase.

The trained level of `x_out = unit * (mult * n + B)`, n an integer, is

    k = number of j in 0..L-1 with mult * n + B > j * D        D = alpha / unit

(slide "Activation Quantization (AQ)": the ceil, k = j on the tie x_out = j *
alpha, and 0 for x_out = 0), and the file, which rounds to the nearest, gives

    k = number of j in 0..L-1 with mult * n + bias > (j + 1/2) * D

The trained network goes beyond level j from `n_j = floor((j * D - B) / mult)
+ 1` on, and the file does the same for every n if

    (j + 1/2) * D - mult * n_j < bias < (j + 1/2) * D - mult * (n_j - 1)

an interval of width mult that holds `B + D / 2` (or ends there: a tie, which
must go down). In the middle of all L intervals neither ties nor the way in
which a kernel rounds matter. As the levels depend on the integers n alone, the
D of the file may also differ a little from that of training, if more intervals
then share an integer.
"""

import functools

import numpy as np

# How kernels turn an accumulator into an output code: in float32, rounding once
# (XNNPACK), or in fixed point, rounding to 1/2**shift of a step first; then
# the kernels without delegate round halves up, and the reference kernels away
# from 0. Those of TensorFlow Lite Micro do so in dense layers too, where the
# reference kernels of LiteRT 2.3 round once, in float64.
ONCE = "once"
TWICE_UP = "twice, halves up"
TWICE_AWAY = "twice, halves away from 0"
ALL = (ONCE, TWICE_UP, TWICE_AWAY)
# The same by the names of the kernels, as `tflite.runner` has them.
OF_KERNELS = {
    "xnnpack": ONCE,
    "builtin": TWICE_UP,
    "reference": TWICE_AWAY,
    "micro": TWICE_AWAY,
}

# Kernels in float32 round the scale, the accumulator and the product; those in
# fixed point round the scale to 31 bits.
_KERNEL_ERROR = 2.0**-22
# How far to look for a bias, nearest first, and for another slope.
_CANDIDATES = np.array(sorted(range(-9, 10), key=abs))
_SLACK = 0.25


class BiasIntervals:
    """Where the bias and the scale of each channel may lie.

    Kernels in fixed point, which round to `2**-shift` of an output step first,
    reach level j + 1 already at `(j + 1/2 - 2**-(shift + 1)) * D`, where `D` is
    `2**shift` to `2**(shift + 1)`.

    Args:
        step: D of each channel, the accumulator units in one level.
        start: B of each channel, the real bias in accumulator units.
        mult: Int, the units in one step of n.
        low: The smallest n of each channel.
        high: The largest n of each channel.
        output: `arithmetic.Output`: the thresholds of training, j for a
            QuantReLU, and those of the file, j + 1/2, both in D.
        roundings: Tuple of the kernels that the file is to fit, some of `ALL`;
            where it cannot fit all of them, the first counts.
    """

    def __init__(self, step, start, mult, low, high, output, roundings):
        self.mult = mult
        self.levels = output.levels
        self.roundings = roundings
        self.half = output.boundaries
        trained = output.thresholds * step[:, None]
        first = np.floor((trained - start[:, None]) / mult) + 1
        low, high = low[:, None], high[:, None]
        # The largest sum that stays at level j and the smallest that goes
        # beyond; sums that never occur ask for nothing.
        stays = mult * np.minimum(first - 1, high)
        passes = mult * np.maximum(first, low)
        self.stays = np.where(first <= low, -np.inf, stays)
        self.passes = np.where(first > high, np.inf, passes)

    def place(self, file_step, search=True):
        """Puts each channel in the middle of its intervals.

        Args:
            file_step: D of the file, nearly that of training.
            search: Boolean. Whether D may change. Defaults to `True`.

        Returns:
            `(bias, file_step)`. The second changes in channels in which no
            integer bias fits all intervals: there a slightly other slope may.
        """
        lower, upper = self._bias_bounds(file_step, self.roundings)
        bottom, top = lower.max(axis=1), upper.min(axis=1)
        bottom = np.where(np.isinf(bottom), top - 2 * self.mult, bottom)
        top = np.where(np.isinf(top), bottom + 2 * self.mult, top)
        bias = np.round((bottom + top) / 2)

        if not search:
            return bias, file_step
        middle, given = bias.copy(), file_step
        file_step = file_step.copy()
        for roundings in (self.roundings, self.roundings[:1]):
            missed = self.count(bias, file_step, roundings) < self.levels
            for channel in np.flatnonzero(missed):
                bias[channel], file_step[channel] = self._search(
                    channel, middle[channel], given[channel], roundings
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
        roundings = self.roundings if roundings is None else roundings
        return zones(self.half, file_step, roundings)

    def _bias_bounds(self, file_step, roundings):
        earliest, latest = self._ends(file_step, roundings)
        file_step = file_step[:, None]
        lower = latest * file_step - self.passes
        upper = earliest * file_step - self.stays
        return lower, upper

    def _search(self, channel, bias, file_step, roundings):
        """The bias and slope of one channel that fit the most intervals.

        For a given bias each of them is an interval of slopes: a sweep over
        their ends finds a point that lies in the most of them.
        """
        bias = bias + _CANDIDATES[:, None]
        earliest, latest = self._ends(file_step, roundings)
        near, far = file_step * (1 - _SLACK), file_step * (1 + _SLACK)
        stays = (self.stays[channel] + bias) / earliest
        passes = (self.passes[channel] + bias) / latest
        above = self.half > 0  # a larger step moves these up, others down
        bottom = np.clip(np.where(above, stays, passes), near, far)
        top = np.clip(np.where(above, passes, stays), near, far)
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


def zones(boundaries, file_step, roundings):
    """The earliest and the latest place of each threshold, in D.

    Args:
        boundaries: Array of the thresholds of exact rounding, in D.
        file_step: Array of D, any shape.
        roundings: Tuple of the kernels in question.

    Returns:
        Two arrays of the shape `(*file_step.shape, len(boundaries))`.
    """
    early = earliness(file_step)[..., None]
    places = {
        ONCE: np.zeros_like(early) + boundaries,
        TWICE_UP: boundaries - early,
        TWICE_AWAY: boundaries - np.sign(boundaries) * early,
    }
    chosen = [places[rounding] for rounding in roundings]
    error = _KERNEL_ERROR * np.abs(boundaries)
    earliest = functools.reduce(np.minimum, chosen)
    latest = functools.reduce(np.maximum, chosen)
    return earliest - error, latest + error


def earliness(file_step):
    """By how much of D the kernels in fixed point reach a level earlier."""
    _, exponent = np.frexp(1 / file_step)  # shift = -exponent
    return np.where(exponent < 0, 0.5 * 2.0**exponent, 0)
