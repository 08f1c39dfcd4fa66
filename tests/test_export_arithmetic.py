"""The integers of the exporter, in NumPy."""

import numpy as np
import pytest

from keras_bcgd.export import arithmetic
from keras_bcgd.export import bias_intervals


def levels_of(total, step, zero_point, rounding, levels):
    """The level of each accumulator in one of the two kinds of kernel."""
    ratio = 1 / step
    if rounding == bias_intervals.ONCE:
        code = np.rint(np.float32(total) * np.float32(ratio)).astype(int)
    else:
        mantissa, exponent = np.frexp(ratio)
        fixed = int(np.round(mantissa * 2**31))
        product = (total.astype(int) * fixed + 2**30) >> 31
        shift = -int(exponent)
        code = (product + ((1 << shift) >> 1)) >> shift
    return np.clip(code, 0, levels)


def staircase(levels):
    grid = arithmetic.Grid(1.0, 127 - levels, low=127 - levels)
    return arithmetic.Output(grid, np.arange(levels))


@pytest.mark.parametrize(
    "rounding", [bias_intervals.ONCE, bias_intervals.TWICE_UP]
)
@pytest.mark.parametrize("mult, levels", [(127, 255), (18, 15), (7, 3), (1, 1)])
def test_exact_means_every_sum(mult, levels, rounding):
    rng = np.random.default_rng(0)
    step = rng.uniform(mult, 40 * mult, 50)
    start = rng.normal(size=50) * step
    low, high = np.full(50, -1000.0), np.full(50, 1000.0)
    if levels == 255:
        high[:] = 20000
    both = (bias_intervals.ONCE, bias_intervals.TWICE_UP)
    output = staircase(levels)
    search = bias_intervals.BiasIntervals(
        step, start, mult, low, high, output, both
    )
    bias, file_step = search.place(step)
    file_step = 1 / np.float64(np.float32(1 / file_step))
    full = search.count(bias, file_step) == levels
    assert np.mean(full) > (0.3 if mult == 1 else 0.5)
    for c in np.flatnonzero(full):
        n = np.arange(low[c], high[c] + 1)
        j = np.arange(levels)
        trained = np.sum((mult * n + start[c])[:, None] > j * step[c], axis=1)
        found = levels_of(mult * n + bias[c], file_step[c], 0, rounding, levels)
        np.testing.assert_array_equal(found, trained)


def test_first_rounding_counts_where_both_cannot_fit():
    """Without room (mult = 1) one kind of kernel is nearly exact."""
    rng = np.random.default_rng(0)
    step = rng.uniform(20, 100, 50)
    start = rng.normal(size=50) * step
    bounds = np.full(50, -2000.0), np.full(50, 2000.0)
    for first, other in [
        (bias_intervals.ONCE, bias_intervals.TWICE_UP),
        (bias_intervals.TWICE_UP, bias_intervals.ONCE),
    ]:
        roundings = (first, other)
        search = bias_intervals.BiasIntervals(
            step, start, 1, *bounds, staircase(15), roundings
        )
        bias, file_step = search.place(step)
        assert search.count(bias, file_step, (first,)).mean() > 0.9 * 15


@pytest.mark.parametrize("low, high", [(0, 1), (-1, 1), (-3, 0), (-0.1, 7)])
def test_input_grid_spans_the_range(low, high):
    grid = arithmetic.input_grid(low, high)
    ends = grid.scale * (np.array([-128, 127]) - grid.zero_point) + grid.offset
    np.testing.assert_allclose(ends, [low, high], atol=1e-9)


@pytest.mark.parametrize("low, high", [(3, 9), (-5, 11), (-9, -2), (0, 0)])
def test_range_grid_holds_zero_and_the_range(low, high):
    grid = arithmetic.range_grid(low, high)
    ends = grid.scale * (np.array([-128, 127]) - grid.zero_point)
    assert -128 <= grid.zero_point <= 127
    assert ends[0] <= low + grid.scale and high - grid.scale <= ends[1]
