"""ADD in integers: which sums of two codes give the trained code.

The runtime adds in fixed point. An operand carries the half step that makes
rounding the ceil of the staircase (`arithmetic.branch_output`), and the sums
k = j that end exactly on a threshold, where the ceil stays below, must not be
rounded up: the output is stored with a scale that is larger by some parts in a
million. As there are at most 256 x 256 pairs of codes, all of them are tried,
in the integers of each kind of kernel.
"""

import numpy as np

from keras_bcgd.export import arithmetic

# By how much the stored scale of the output may be larger, smallest first.
_STRETCHES = [0.0, *(2.0**-e for e in np.arange(22, 9, -0.5))]


def pairs(first, second):
    """All pairs of codes of two grids, as two arrays that broadcast."""
    a = np.arange(first.low, first.high + 1)[:, None]
    b = np.arange(second.low, second.high + 1)
    return a, b


def trained_codes(first, second, shift, output):
    """The code that training gives to each pair of codes.

    Args:
        first: `Grid` of the operand that carries `shift`.
        second: `Grid` of the other.
        shift: Float.
        output: `Output`, with thresholds.
    """
    a, b = pairs(first, second)
    total = first.scale * (a - first.zero_point) - shift
    total = total + second.scale * (b - second.zero_point)
    return output.grid.low + arithmetic.staircase(total, output)


def best_grid(first, second, shift, output):
    """The grid with the stored scale for which the most pairs are right.

    Returns:
        `(grid, count)`: the `Grid` of the output, and how many pairs are right
        on all kernels.
    """
    expected = trained_codes(first, second, shift, output)
    best, count = output.grid, -1
    for stretch in _STRETCHES:
        scale = float(np.float32(output.grid.scale * (1 + stretch)))
        grid = arithmetic.Grid(
            output.grid.scale,
            output.grid.zero_point,
            output.grid.low,
            output.grid.high,
            stored=scale,
        )
        right = np.ones(expected.shape, bool)
        for add in (add_once, add_twice):
            right &= add(first, second, grid) == expected
        if right.sum() > count:
            best, count = grid, int(right.sum())
    return best, count


def add_once(first, second, grid):
    """The codes of the default kernels: one shift of 20-bit products."""
    a, b = pairs(first, second)
    ratios = [
        np.float32(np.float32(g.file_scale) / np.float32(grid.file_scale))
        for g in (first, second)
    ]
    _, exponent = np.frexp(max(ratios))
    shift = 20 - (int(exponent) - 1)
    by_a, by_b = (int(np.rint(np.float64(r) * 2.0**shift)) for r in ratios)
    total = (a - first.zero_point) * by_a + (b - second.zero_point) * by_b
    return _clip((total + (1 << (shift - 1))) >> shift, grid)


def add_twice(first, second, grid):
    """The codes of the other kernels: 31-bit products, rounded twice."""
    a, b = pairs(first, second)
    scales = [float(np.float32(g.file_scale)) for g in (first, second)]
    largest = 2 * max(scales)
    a, b = (
        _multiply((codes - g.zero_point) << 20, scale / largest)
        for codes, g, scale in zip((a, b), (first, second), scales, strict=True)
    )
    ratio = largest / (2.0**20 * float(np.float32(grid.file_scale)))
    return _clip(_multiply(a + b, ratio), grid)


def _multiply(x, ratio):
    """x times a ratio below 1, as the runtime's fixed point does it."""
    fraction, exponent = np.frexp(ratio)
    factor = round(fraction * 2**31)
    if factor == 2**31:
        factor, exponent = factor // 2, exponent + 1
    product = x.astype(np.int64) * factor
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    # Division that truncates towards 0.
    high = product + nudge
    high = np.sign(high) * (np.abs(high) >> 31)
    shift = -int(exponent)
    if shift <= 0:
        return high << -shift
    mask = (1 << shift) - 1
    remainder = high & mask
    threshold = (mask >> 1) + (high < 0)
    return (high >> shift) + (remainder > threshold)


def _clip(codes, grid):
    """Saturates at the top of int8 and, like a fused RELU, at 0."""
    return np.clip(codes + grid.zero_point, grid.zero_point, 127)
