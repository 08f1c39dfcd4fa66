"""Exact least-squares projection onto scaled integer codes, in NumPy.

For `bits >= 2` write `a_i = |y_i|` and let the codes run over
`{-K, ..., K}`. The signs of the best codes are those of `y`, so only the
magnitudes `q_i` in `{0, ..., K}` are open.

**The walk.** Raising `q_i` from `k - 1` to `k` adds `a_i` to
`S1 = <q, a>` and `2k - 1` to `S2 = <q, q>`. At a scale `delta` the nearest
codes include exactly the steps `(i, k)` whose breakpoint
`tau = a_i / (k - 1/2)` exceeds `delta`. So the best codes are a prefix of
the steps in descending order of `tau`. A prefix with its own best scale
`delta = S1 / S2` has the squared error `||y||^2 - F`, with
`F = S1^2 / S2`, and the projection is the prefix of the largest `F`.

**Where it can lie.** A step has `S1 : S2 = tau / 2`, so along the walk the
points `(S2, S1)` form a concave curve and `S1 / S2` never grows. The first
prefix has `delta = max(a)`, the last at least `mean(a) / K`. The best pair
`(delta, q)` rounds to itself: every step in the prefix has `tau > delta` and
every other one `tau < delta` (a step with `tau = delta` raises `F`, added or
removed). So the best prefix is the one at the threshold `s = delta`, and `s`
may be sought in `[mean(a) / K, max(a)]`.

**Discarding buckets.** One sort of the magnitudes gives `S1` and `S2` at any
threshold by `K` binary searches. Let `H` and `L` mark the prefixes at the
thresholds `high > low`, and let a prefix between them have
`S2 = S2_H + c`, `0 <= c <= C = S2_L - S2_H`. Two tests may drop the bucket:

1. Self-consistency. The best prefix has `delta` between its neighbouring
   breakpoints, hence in `[low, high]`, and in
   `[S1_L / S2_L, S1_H / S2_H]` as `S1 / S2` never grows. If these intervals
   are disjoint, the best prefix is not inside.
2. Value. Every step inside has a slope between `low / 2` and `high / 2`, so

       S1 <= S1_H + c * high / 2         (line from H)
       S1 <= S1_L - (C - c) * low / 2    (line from L)

   On a line `F` is the square of a linear function over a linear one, hence
   convex in `c`, hence largest at the ends of any interval. Use the line from
   H on `[0, m]` and the line from L on `[m, C]`: for *any* `m`,
   `F <= max(F_H, F_L, F(line H at m), F(line L at m))`. The lines cross at
   `m = (2 (S1_L - S1_H) - C low) / (high - low)`, the tightest choice; an
   `m` off by rounding gives a bound that still holds. `F_H` and `F_L` are
   candidates themselves, so only the other two need a comparison.

The buckets left are cut into narrower ones, or, when few steps remain in
them, their steps are sorted and every prefix is tried. Equal breakpoints may
come in any order: while they enter `F` is convex, so no prefix that splits
them is best. Equal magnitudes always get equal codes.

All sums are in float64, and both tests keep a relative slack of
`1e-12 + N * eps`, the worst rounding of a running sum. "Exact" means up to
that rounding.
"""

import numpy as np

_PIECES = 16
# A bucket with this few steps, or this narrow, is searched and not cut again:
# float64 has too few thresholds left in a narrower one.
_FEW_STEPS = 2**10
_NARROW = 1 - 1e-13
_BLOCK = 2**15


def project_exact_numpy(y, bits, axis=None):
    """Projects an array onto the nearest scaled integer codes, exactly.

    Solves `min ||scale * codes - y||^2` over `scale >= 0` and integer codes
    in `{-K, ..., K}`, with `K = 1` for 2 bits (ternary) and
    `K = 2**(bits - 1) - 1` for 3 bits and more. With 1 bit the codes are
    `-1` and `+1`, the code of 0 is `+1`, and the scale is the mean magnitude.

    This is the problem of the slide "Projection: solving least squares
    problem" that accompanies Yin, Zhang, Lyu, Osher, Qi and Xin, "Blended
    Coarse Gradient Descent for Full Quantization of Deep Neural Networks",
    [arXiv:1808.05240](https://arxiv.org/abs/1808.05240). The slides call the
    exact solution too expensive for 3 bits and more. Here it costs one sort
    of the magnitudes, a few rounds of binary searches and a pass that writes
    the codes; the module docstring has the proof. A minimizer need not be
    unique (for one element several codes fit with no error); any one may be
    returned.

    Args:
        y: Array of floats, not empty. Integers and booleans are taken as
            float64.
        bits: Integer from 1 to 8. The width of the codes.
        axis: Integer, tuple of integers or `None`. The axes to keep: one
            scale per index along them, computed over all other axes. `None`
            gives one scale for the whole array. Defaults to `None`.

    Returns:
        A tuple `(scale, codes)` of arrays with the dtype of `y`. `codes` has
        the shape of `y` and holds integers. `scale` is 0-d for `axis=None`,
        else it has the rank of `y` with size 1 in the axes not kept. Where a
        group is all zero, its scale is 0. Where a group holds a NaN or an
        infinity, its scale is NaN.

    Raises:
        ValueError: If `bits` or `axis` is not as described, or if `y` is
            empty or not of real numbers.

    Example:

    >>> y = np.array([0.1, -0.9, 1.1, 2.1])
    >>> scale, codes = keras_bcgd.project_exact_numpy(y, bits=3)
    >>> round(float(scale), 4), codes
    (1.0333, array([ 0., -1.,  1.,  2.]))
    """
    largest_code = _largest_code(bits)
    y = np.asarray(y)
    if y.dtype.kind in "biu":
        y = y.astype(np.float64)
    if y.dtype.kind != "f":
        raise ValueError(
            "Argument `y` must be an array of real numbers. "
            f"Received: y with dtype={y.dtype}"
        )
    if y.size == 0:
        raise ValueError(
            f"Argument `y` must not be empty. Received: y with shape={y.shape}"
        )
    kept = _kept_axes(axis, y.ndim)
    front = tuple(range(len(kept)))
    moved = np.moveaxis(y, kept, front)
    kept_shape = moved.shape[: len(kept)]
    groups = moved.reshape(int(np.prod(kept_shape, dtype=np.int64)), -1)

    codes = np.empty(groups.shape, dtype=y.dtype)
    scales = np.empty(len(groups), dtype=y.dtype)
    for index, group in enumerate(groups):
        scales[index] = _project_group(group, bits, largest_code, codes[index])
    codes = np.moveaxis(codes.reshape(moved.shape), front, kept)
    if axis is None:
        return scales.reshape(()), codes
    scale_shape = [y.shape[i] if i in kept else 1 for i in range(y.ndim)]
    # The kept axes may be named in any order: put them back by position.
    scales = scales.reshape(kept_shape).transpose(np.argsort(kept))
    return scales.reshape(scale_shape), codes


def _largest_code(bits):
    """Checks `bits` and returns the largest code."""
    is_integer = isinstance(bits, (int, np.integer))
    if not is_integer or isinstance(bits, bool) or not 1 <= bits <= 8:
        raise ValueError(
            "Argument `bits` must be an integer from 1 to 8. "
            f"Received: bits={bits!r}"
        )
    return max(1, 2 ** (int(bits) - 1) - 1)


def _kept_axes(axis, rank):
    """Returns `axis` as a tuple of distinct axes from 0 to `rank - 1`."""
    if axis is None:
        return ()
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    valid = all(
        isinstance(i, (int, np.integer))
        and not isinstance(i, bool)
        and -rank <= i < rank
        for i in given
    )
    kept = tuple(int(i) % rank for i in given) if valid else ()
    if not valid or len(set(kept)) != len(kept):
        raise ValueError(
            "Argument `axis` must be `None`, or an integer or a tuple of "
            f"distinct integers from {-rank} to {rank - 1} for an array of "
            f"rank {rank}. Received: axis={axis!r}"
        )
    return kept


def _project_group(group, bits, largest_code, codes):
    """Writes the codes of a 1-d array to `codes` and returns its scale."""
    magnitudes = np.abs(group)
    # `max` hands on a NaN.
    maximum = magnitudes.max()
    if bits == 1:
        codes[...] = np.where(group < 0, -1, 1)
    else:
        codes[...] = 0
    if not np.isfinite(maximum):
        return np.nan
    if maximum == 0:
        return 0.0
    # Dividing by a power of two is exact and keeps sums and squares in range.
    exponent = np.frexp(maximum)[1]
    if bits == 1:
        scaled = np.ldexp(magnitudes.astype(np.float64), -exponent)
        return np.ldexp(scaled.mean(), exponent)
    ordered = np.sort(magnitudes)
    walk = _Walk(ordered, exponent, largest_code)
    cuts = walk.best_cuts()
    _write_codes(group, magnitudes, walk.smallest_members(ordered, cuts), codes)
    return np.ldexp(walk.delta(cuts), exponent)


def _write_codes(group, magnitudes, smallest, codes):
    """Writes the signed count of entries of `smallest` not above `|y|`."""
    for start in range(0, len(group), _BLOCK):
        part = slice(start, start + _BLOCK)
        magnitude = magnitudes[part]
        count = np.zeros(len(magnitude), dtype=np.int8)
        for bound in smallest:
            count += (magnitude >= bound).view(np.int8)
        np.negative(count, out=count, where=group[part] < 0)
        codes[part] = count


class _Walk:
    """The walk over the breakpoints of sorted magnitudes.

    A prefix is stored as its cuts: for each code `k` the index into `values`
    of the smallest value whose code is at least `k`.

    Args:
        ordered: 1-d array of finite magnitudes, ascending, not all zero.
        exponent: Integer. The magnitudes are divided by `2**exponent`.
        largest_code: Integer. The largest code `K`.
    """

    def __init__(self, ordered, exponent, largest_code):
        is_first = np.empty(len(ordered), dtype=bool)
        is_first[0] = True
        np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
        # Distinct values, the sums and counts of all magnitudes from each
        # value upwards, and a last entry for "none".
        self.starts = np.flatnonzero(is_first)
        scaled = np.ldexp(ordered.astype(np.float64), -exponent)
        self.values = scaled[self.starts]
        self.tail_counts = np.append(len(ordered) - self.starts, 0)
        tail_sums = np.cumsum(scaled[::-1])[::-1]
        self.tail_sums = np.append(tail_sums[self.starts], 0.0)
        self.weights = 2 * np.arange(1, largest_code + 1) - 1
        self.low = self.tail_sums[0] / (len(ordered) * largest_code)
        self.high = self.values[-1]
        self.slack = 1e-12 + len(ordered) * np.finfo(np.float64).eps
        self.best_value = -np.inf
        self.cuts = None

    def best_cuts(self):
        """Returns the cuts of the prefix with the largest `F`."""
        high, low = self.high * (1 + self.slack), self.low * (1 - self.slack)
        edges = np.array([[high, low]])
        fractions = np.arange(_PIECES + 1) / _PIECES
        while len(edges):
            edges = self._refine(edges)
            if len(edges):
                high, low = edges[:, :1], edges[:, 1:]
                edges = high * (low / high) ** fractions
                edges[:, -1:] = low
        return self.cuts

    def delta(self, cuts):
        """Returns the best scale `S1 / S2` of a prefix."""
        return self.tail_sums[cuts].sum() / (
            self.tail_counts[cuts] @ self.weights
        )

    def smallest_members(self, ordered, cuts):
        """Returns, for each code reached, the smallest magnitude with it."""
        return ordered[self.starts[cuts[cuts < len(self.values)]]]

    def _cuts_at(self, threshold):
        """Returns the cuts of the prefix with `tau >= threshold`."""
        return self.values.searchsorted(threshold * (self.weights / 2))

    def _sums_at(self, thresholds):
        """Returns `S1`, `S2` and the number of distinct steps per threshold."""
        first = np.zeros(thresholds.shape)
        second = np.zeros(thresholds.shape)
        steps = np.zeros(thresholds.shape, dtype=np.int64)
        # Codes in blocks, so that memory stays small for many thresholds.
        block = max(1, _BLOCK // thresholds.size)
        for start in range(0, len(self.weights), block):
            weights = self.weights[start : start + block]
            cuts = self.values.searchsorted(
                thresholds[..., np.newaxis] * (weights / 2)
            )
            first += self.tail_sums[cuts].sum(axis=-1)
            second += self.tail_counts[cuts] @ weights
            steps += (len(self.values) - cuts).sum(axis=-1)
        return first, second, steps

    def _refine(self, edges):
        """Tries the prefixes at all edges and drops or searches buckets.

        Args:
            edges: 2-d array, descending along its rows. The neighbours in a
                row are the ends of a bucket.

        Returns:
            2-d array of the rows `(high, low)` of the buckets that may hold
            the best prefix and have too many steps to be searched.
        """
        first, second, steps = self._sums_at(edges)
        values = first * first / second
        best = np.unravel_index(np.argmax(values), values.shape)
        if values[best] > self.best_value:
            self.best_value = values[best]
            self.cuts = self._cuts_at(edges[best])

        # The slack covers the rounding of sums and of edges times (k - 1/2).
        high = edges[:, :-1] * (1 + self.slack)
        low = edges[:, 1:] * (1 - self.slack)
        delta = first / second
        consistent = (delta[:, 1:] * (1 - self.slack) <= high) & (
            delta[:, :-1] * (1 + self.slack) >= low
        )
        gain = first[:, 1:] - first[:, :-1]
        room = second[:, 1:] - second[:, :-1]
        middle = np.clip((2 * gain - room * low) / (high - low), 0, room)
        middle_first = np.maximum(
            first[:, :-1] + middle * high / 2,
            first[:, 1:] - (room - middle) * low / 2,
        )
        bound = (1 + self.slack) * middle_first**2 / (second[:, :-1] + middle)
        inside = steps[:, 1:] - steps[:, :-1]

        # With a single step inside there is no prefix but the two ends.
        keep = consistent & (inside > 1) & (bound > self.best_value)
        bound, inside = bound[keep], inside[keep]
        rows = np.stack([edges[:, :-1][keep], edges[:, 1:][keep]], axis=1)
        few = (inside <= _FEW_STEPS) | (rows[:, 1] >= _NARROW * rows[:, 0])
        for index in np.argsort(np.where(few, -bound, np.inf))[: few.sum()]:
            if bound[index] > self.best_value:
                self._search(*rows[index])
        return rows[~few & (bound > self.best_value)]

    def _search(self, high, low):
        """Tries every prefix between the thresholds `high` and `low`."""
        upper, lower = self._cuts_at(high), self._cuts_at(low)
        # Number of steps to each code, the code of each step, its value.
        lengths = upper - lower
        code = np.repeat(np.arange(len(lengths)), lengths)
        offset = np.arange(len(code)) - np.repeat(
            np.cumsum(lengths) - lengths, lengths
        )
        position = lower[code] + offset
        value = self.values[position]
        tau = value / (self.weights[code] / 2)
        order = np.argsort(-tau)
        code, position = code[order], position[order]
        value = value[order]

        count = self.tail_counts[position] - self.tail_counts[position + 1]
        first = self.tail_sums[upper].sum() + np.cumsum(count * value)
        second = self.tail_counts[upper] @ self.weights + np.cumsum(
            count * self.weights[code]
        )
        prefix_value = first * first / second
        best = np.argmax(prefix_value)
        if prefix_value[best] > self.best_value:
            self.best_value = prefix_value[best]
            self.cuts = upper - np.bincount(
                code[: best + 1], minlength=len(lengths)
            )
