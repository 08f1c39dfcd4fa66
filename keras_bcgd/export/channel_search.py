"""The bias and the slope of channels with which no sum is at a threshold.

Each channel tries some slopes with some biases each; `alignment` has what for.
That all channels of a layer do so at once, and that places are given up at the
first thresholds where a sum is too near, changes no result: it takes less time.
"""

import dataclasses

import numpy as np

from keras_bcgd.export import bias_intervals
from keras_bcgd.export.places import Places

# Floating point in Keras is off by less than this, in parts of one code of
# the weights times one of the input.
_FLOAT_ERROR = 3e-3
# By how much the slope may change, in the first trials and at most.
_SMALL_CHANGES = np.linspace(-5e-4, 5e-4, 41)
_LARGEST_CHANGE = 0.02
# The same where two levels lie less than so many sums apart, as behind a
# depthwise convolution: simple ratios are rare there.
_LARGEST_CHANGE_IF_COARSE = 0.06
_COARSE = 4
_LARGEST_DENOMINATOR = 24
_FARTHEST_BIAS = 9
# How far D may be below an even number, as a part of it: kernels in float32
# must tell them apart.
_SMALLEST_GAP = 4e-7
_LARGEST_GAP = 4e-6
# The least share of outputs next to a threshold: batch normalization need not
# leave a normal distribution, and far from its center never does.
_LEAST_DENSITY = 1e-6
# What a place costs: a share of the outputs for which the default kernels, or
# some kernel, could give the next code; and an output moved by a step.
_COST_BY_DEFAULT, _COST, _COST_OF_MOVES = 1e3, 1.0, 1e-6
# A place where no sum is in a zone costs less than any other if its moves cost
# less than this.
_CERTAINLY_LEAST = _COST_BY_DEFAULT * _LEAST_DENSITY
# So many thresholds are looked at first, and then so many more; of arrays so
# many elements at once, which caches hold.
_FIRST_LEVELS = 12, 36
_BLOCK = 2**18


@dataclasses.dataclass
class _Trials:
    """Changes of D to be tried, those of all channels one after another.

    Attributes:
        changes: Array of the relative changes of D.
        owners: Array, to which channel each belongs; it ascends.
    """

    changes: np.ndarray
    owners: np.ndarray


class Channels:
    """Channels of one operator, in units of the accumulator.

    Args:
        planned: `steps.WeightedStep`.
        step: Array of D of each channel, what training left.
        bias: Array of the biases that training left.
        center: Array of the means of the sums.
        spread: Array of their deviations; infinite if unknown.
    """

    def __init__(self, planned, step, bias, center, spread):
        self.mult = planned.mult
        self.roundings = planned.roundings
        self.boundaries = planned.output.boundaries
        self.step, self.bias = step.copy(), bias.copy()
        self.largest_change = np.where(
            step < _COARSE * self.mult,
            _LARGEST_CHANGE_IF_COARSE,
            _LARGEST_CHANGE,
        )
        # What an output in steps of the grid changes with the slope.
        self.far = (np.abs(center) + 3 * np.minimum(spread, 100 * step)) / step
        self._first_step, self._center, self._spread = step, center, spread
        # Biases that differ by `mult` are alike.
        farthest = min(_FARTHEST_BIAS, self.mult // 2)
        self._reach = np.arange(-farthest, farthest + 1)

    def _density(self, channel):
        """The share of outputs next to each threshold of a channel."""
        boundaries = self.boundaries
        density = np.full(len(boundaries), 1 / len(boundaries))
        spread = self._spread[channel]
        if np.isfinite(spread):
            spread = max(spread, 1e-9)
            sums = boundaries * self._first_step[channel]
            z = (sums - self._center[channel]) / spread
            density = self.mult / (spread * np.sqrt(2 * np.pi))
            density = density * np.exp(-(z**2) / 2)
        return np.maximum(density, _LEAST_DENSITY)

    def float_decides(self, gap):
        """Whether a sum is where floating point may decide in Keras.

        Args:
            gap: Float, how far above those of training the thresholds of the
                file are, in D.

        Returns:
            Boolean array with one element for each channel.
        """
        step = self.step[:, None]
        bias = self.bias[:, None] - gap * step
        distance = (self.boundaries - gap) * step - bias
        margin = _FLOAT_ERROR * self.mult
        high = np.floor((distance + margin) / self.mult)
        is_hit = high >= np.ceil((distance - margin) / self.mult)
        return is_hit.any(axis=1)

    def search(self, channels, can_change):
        """The bias and the slope with the least risk.

        What was aligned before stays, unless there is a place with half its
        risk. So a second alignment moves next to nothing.

        Args:
            channels: Array of the indices of those that are to be moved.
            can_change: Boolean. Whether D may change.

        Returns:
            `(moved, places)`: the indices of the channels that do not stay,
            and their `Places`.
        """
        found = Places.empty(len(self.step))
        is_moved = np.zeros(len(self.step), bool)
        if self.mult == 1 and can_change and self.boundaries[0] > 0:
            at_even, places = self._to_even(channels)
            found.put(at_even, places)
            is_moved[at_even] = True
            channels = np.setdiff1d(channels, at_even, assume_unique=True)
        risk = self._present_risk(channels)  # NaN: it is not aligned
        is_open = ~(risk == 0)
        channels, risk = channels[is_open], risk[is_open]
        total = np.ones(len(channels))
        while len(channels):
            better = self._search_once(channels, can_change)
            total = total * (1 + better.change)
            stays = (better.risk > risk / 2) | (
                np.abs(total - 1) > self.largest_change[channels]
            )
            goes = np.isnan(risk) | ~stays
            channels, total = channels[goes], total[goes]
            better = better.take(goes)
            self.bias[channels] = better.bias
            self.step[channels] = self.step[channels] * (1 + better.change)
            better.change = total - 1
            found.put(channels, better)
            is_moved[channels] = True
            is_open = better.risk > 0
            channels, total = channels[is_open], total[is_open]
            risk = better.risk[is_open]
        moved = np.flatnonzero(is_moved)
        return moved, found.take(moved)

    def _present_risk(self, channels):
        """The risk of each channel where it is; NaN: it is not aligned."""
        early = self._early(self.step[channels])
        bias = np.round(self.bias[channels] - early)
        off = self.bias[channels] - early - bias
        is_aligned = ~(np.abs(off) > _FLOAT_ERROR * self.mult / 4)
        risk = np.full(len(channels), np.nan)
        stay = _Trials(np.zeros(is_aligned.sum()), channels[is_aligned])
        zones = self._zones(self._steps(stay), self.roundings)
        hits = self._hits(bias[None, is_aligned], *zones)
        risk[is_aligned] = [
            (hits[:, i : i + 1] @ self._density(channel))[0, 0]
            for i, channel in enumerate(stay.owners)
        ]
        return risk

    def _early(self, step):
        """What training has in the place of kernels that are early."""
        if bias_intervals.ONCE == self.roundings[0]:
            return np.zeros_like(step)
        return bias_intervals.earliness(step) * step

    def _search_once(self, channels, can_change):
        """The best of no change, of small ones, or of those to ratios."""
        stay = _Trials(np.zeros(len(channels)), channels)
        trials = [stay]
        if can_change:
            small = _Trials(
                np.tile(_SMALL_CHANGES, len(channels)),
                np.repeat(channels, len(_SMALL_CHANGES)),
            )
            # No ratio is near a D much smaller than `mult`.
            ratios = self._to_ratios(channels, _LARGEST_CHANGE)
            coarse = channels[self.largest_change[channels] > _LARGEST_CHANGE]
            more = self._to_ratios(coarse, _LARGEST_CHANGE_IF_COARSE)
            trials += [small, ratios, more]
        found = Places.empty(len(self.step))
        is_open = np.zeros(len(self.step), bool)
        is_open[channels] = True
        for some in trials:
            solved, places = self._free_places(_only(some, is_open))
            found.put(solved, places)
            is_open[solved] = False
        found.risk[is_open] = found.default_risk[is_open] = np.inf
        for some in trials:
            some = _only(some, is_open & (found.risk > 0))
            for channel, place in self._least_places(some):
                best = found.default_risk[channel], found.risk[channel]
                if place[2:] < best:
                    found.put(channel, Places(*place))
        return found.take(channels)

    def _to_ratios(self, channels, largest_change):
        """The changes that make D a simple ratio times `mult`.

        With D = mult * p / q the thresholds (c + 1/2) * D lie at no more than
        2 q places between the sums, which are `mult` apart: few enough to
        avoid all of them at once.
        """
        step = self.step[channels][:, None, None]
        q = np.arange(1, _LARGEST_DENOMINATOR + 1)
        p = np.round(step * q / self.mult) + np.array([[-1], [0], [1]])
        changes = self.mult * p / q / step - 1
        changes = np.sort(changes.reshape(len(channels), 3 * len(q)), axis=1)
        is_tried = np.abs(changes) <= largest_change
        is_tried[:, 1:] &= changes[:, 1:] != changes[:, :-1]
        return _Trials(
            changes[is_tried], np.repeat(channels, is_tried.sum(axis=1))
        )

    def _to_even(self, channels):
        """D a little below an even number, for weights of 8 bits.

        Their sums are all whole numbers. The one at (c + 1/2) * D is then just
        beyond the threshold and the one before it a whole unit below, farther
        than kernels in fixed point are early. (Below 0 some of these are
        early and some late: there is no such place.)

        Returns:
            `(channels, places)`: those for which there is one.
        """
        step = self.step[channels]
        even = 2 * np.round(step / 2)[:, None] + np.array([0, -2, 2, -4, 4])
        p = np.where(even > 0, even, 1.0)
        early = bias_intervals.earliness(p) * p
        room = (0.9 - early) / (np.abs(self.boundaries).max() * p)
        below = np.minimum(room / 2, _LARGEST_GAP)
        changes = p * (1 - below) / step[:, None] - 1
        fits = (even > 0) & (below > _SMALLEST_GAP)
        fits &= np.abs(changes) <= _LARGEST_CHANGE
        is_found = fits.any(axis=1)
        found = channels[is_found]
        places = Places.empty(len(found))
        places.bias = np.round(self.bias[found] - 0.5) + 0.5
        nearest = np.argmax(fits[is_found], axis=1)[:, None]
        changes = np.take_along_axis(changes[is_found], nearest, axis=1)
        places.change = changes[:, 0]
        return found, places

    def ratios(self, channel):
        """The changes of D of one channel that make it a simple ratio."""
        return self._to_ratios(np.array([channel]), _LARGEST_CHANGE).changes

    def least_risks(self, channel, changes):
        """The least risk of one channel at each change, of all biases."""
        trials = _Trials(changes, np.full(len(changes), channel))
        zones = self._zones(self._steps(trials), self.roundings)
        hits = self._hits(self._biases(trials.owners), *zones)
        return (hits @ self._density(channel)).min(axis=0)

    def _biases(self, channels):
        """Array of shape `(biases, channels)`."""
        return np.round(self.bias[channels]) + self._reach[:, None]

    def _steps(self, trials):
        return self.step[trials.owners] * (1 + trials.changes)

    def _moves(self, biases, trials):
        """How far places are, in steps of the output."""
        owners = trials.owners
        moves = np.abs(biases - self.bias[owners]) / self.step[owners]
        return moves + np.abs(trials.changes) * self.far[owners]

    def _free_places(self, trials):
        """The nearest places where no sum is in a zone of any kernel.

        Args:
            trials: `_Trials`.

        Returns:
            `(channels, places)`: those for which there is one that certainly
            is the best.
        """
        owners, steps = trials.owners, self._steps(trials)
        biases = self._biases(owners)
        row, column = self._free(biases, steps)
        bias = biases[row, column]
        moves = self._moves(bias, _only(trials, column))
        order = np.lexsort((column, row, moves, owners[column]))
        is_first = np.ones(len(order), bool)
        is_first[1:] = np.diff(owners[column[order]]) > 0
        order = order[is_first]
        order = order[_COST_OF_MOVES * moves[order] < _CERTAINLY_LEAST]
        column = column[order]
        places = Places.empty(len(order))
        places.bias = bias[order] + self._early(steps[column])
        places.change = trials.changes[column]
        return owners[column], places

    def _free(self, biases, steps):
        """Which biases and D have no sum in a zone of any kernel.

        Args:
            biases: Array of shape `(biases, steps)`.
            steps: Array of D.

        Returns:
            Two arrays, the rows and columns of `biases`; columns ascend.
        """
        first, *others = self._parts_of_boundaries()
        rows, columns = [np.zeros(0, int)], [np.zeros(0, int)]
        for part in _blocks(len(steps), len(biases) * len(first)):
            zones = self._zones(steps[part], self.roundings, first)
            hits = self._hits(biases[:, part], *zones)
            column, row = np.nonzero(~hits.any(axis=-1).T)
            for boundaries in others:
                # Few are left, of which many share their D.
                used, of_used = np.unique(column, return_inverse=True)
                zones = self._zones(
                    steps[part][used], self.roundings, boundaries
                )
                is_free = [np.zeros(0, bool)]
                for some in _blocks(len(row), len(boundaries)):
                    bias = biases[:, part][row[some], column[some]]
                    hits = self._hits(bias, *(z[of_used[some]] for z in zones))
                    is_free.append(~hits.any(axis=-1))
                is_free = np.concatenate(is_free)
                row, column = row[is_free], column[is_free]
            rows.append(row)
            columns.append(column + part.start)
        return np.concatenate(rows), np.concatenate(columns)

    def _parts_of_boundaries(self):
        """The thresholds in some parts, the first ones from all over."""
        rest, parts = self.boundaries, []
        for count in _FIRST_LEVELS:
            is_taken = np.zeros(len(rest), bool)
            is_taken[:: max(len(rest) // count, 1)] = True
            parts.append(rest[is_taken])
            rest = rest[~is_taken]
        return [part for part in (*parts, rest) if len(part)]

    def _least_places(self, trials):
        """The nearest places of the least risk.

        Args:
            trials: `_Trials`.

        Yields:
            For each channel itself and its place, as the arguments of
            `Places`.
        """
        channels, starts = np.unique(trials.owners, return_index=True)
        ends = np.append(starts[1:], len(trials.owners))
        size = len(self._reach) * len(self.boundaries)
        for some in _groups(starts, ends, max(_BLOCK // size, 1)):
            begin = starts[some][0]
            part = _only(trials, slice(begin, ends[some][-1]))
            steps, biases = self._steps(part), self._biases(part.owners)
            # The default kernels first, then all, whose risk is never smaller.
            hits, first_hits = (
                self._hits(biases, *self._zones(steps, roundings))
                for roundings in (self.roundings, self.roundings[:1])
            )
            moves = self._moves(biases, part)
            early = self._early(steps)
            for channel, start, end in zip(
                channels[some], starts[some], ends[some], strict=True
            ):
                own = slice(start - begin, end - begin)
                density = self._density(channel)
                first = risks = hits[:, own] @ density
                if risks.min() > 0:
                    first = first_hits[:, own] @ density
                score = _COST_BY_DEFAULT * first + _COST * risks
                score = score + _COST_OF_MOVES * moves[:, own]
                i, j = np.unravel_index(np.argmin(score), score.shape)
                bias = biases[i, own][j] + early[own][j]
                change = part.changes[own][j]
                yield channel, (bias, change, first[i, j], risks[i, j])

    def _zones(self, steps, roundings, boundaries=None):
        """Where no sum may be.

        Args:
            steps: Array of D.
            roundings: Tuple of the kernels in question.
            boundaries: Array of thresholds, in D. `None`: all. Defaults to
                `None`.

        Returns:
            `(begins, widths)`: two arrays of shape `(steps, boundaries)`, in
            parts of `mult`.
        """
        boundaries = self.boundaries if boundaries is None else boundaries
        ends = bias_intervals.zones(boundaries, steps, roundings)
        low, high = (end * steps[:, None] / self.mult for end in ends)
        return low - _FLOAT_ERROR, high - low + 2 * _FLOAT_ERROR

    def _hits(self, biases, begins, widths):
        """Whether a sum is in a zone, for each bias and each threshold.

        Args:
            biases: Array whose last axis is that of the steps.
            begins: Array of shape `(steps, boundaries)`.
            widths: Array of that shape.

        Returns:
            Boolean array of shape `(*biases.shape, boundaries)`.
        """
        first = begins - biases[..., None] / self.mult
        return np.ceil(first) - first <= widths  # by a whole number, a sum


def _only(trials, where):
    """Some of the trials: a mask of channels, or indices of trials."""
    if isinstance(where, np.ndarray) and where.dtype == bool:
        where = where[trials.owners]
    return _Trials(trials.changes[where], trials.owners[where])


def _blocks(count, size):
    """Slices of `count` elements, each of which stands for `size`."""
    length = max(_BLOCK // size, 1)
    return [slice(i, i + length) for i in range(0, count, length)]


def _groups(starts, ends, length):
    """Slices of what begins and ends one after another, about so long."""
    first = 0
    while first < len(starts):
        last = np.searchsorted(ends, starts[first] + length, side="right")
        last = max(last, first + 1)
        yield slice(first, last)
        first = last
