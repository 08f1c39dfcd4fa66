"""ADD in integers: which sums of two codes give the trained code.

The runtime adds in fixed point. An operand carries the half step that makes
rounding the ceil of the staircase (`arithmetic.branch_output`), and the sums
k = j that end exactly on a threshold, where the ceil stays below, must not be
rounded up: the output is stored with a scale that is larger by some parts in a
million. As there are at most 256 x 256 pairs of codes, all of them are tried,
in the integers of each kind of kernel.
"""

import dataclasses

import numpy as np

from keras_bcgd.export import arithmetic

# By how much the stored scale of the output may be larger, smallest first.
_STRETCHES = [0.0, *(2.0**-e for e in np.arange(22, 9, -0.5))]
# Sums that floating point puts above a threshold by so little of a step are on
# it, and stay below.
_TIE = 1e-9


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
    total = total - _TIE * output.grid.scale
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
        grid = dataclasses.replace(output.grid, stored=scale)
        right = np.ones(expected.shape, bool)
        for add in set(OF_KERNELS.values()):
            right &= add(first, second, grid) == expected
        if right.sum() > count:
            best, count = grid, int(right.sum())
        if right.all():
            break
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


def add_sum_twice(first, second, grid):
    """The codes without delegate: operands rounded once, the sum twice."""
    return _add_products(first, second, grid, _multiply_once)


def add_twice(first, second, grid):
    """The codes of the reference kernels, and TFLM: all products twice."""
    return _add_products(first, second, grid, _multiply_twice)


def _add_products(first, second, grid, multiply):
    """Both operands, and then their sum, times ratios of 31 bits."""
    a, b = pairs(first, second)
    scales = [float(np.float32(g.file_scale)) for g in (first, second)]
    largest = 2 * max(scales)
    a, b = (
        multiply((codes - g.zero_point) << 20, scale / largest)
        for codes, g, scale in zip((a, b), (first, second), scales, strict=True)
    )
    ratio = largest / (2.0**20 * float(np.float32(grid.file_scale)))
    return _clip(_multiply_twice(a + b, ratio), grid)


def fixed_point(ratio):
    """`(factor, shift)`: a ratio is `factor / 2**(31 + shift)`."""
    fraction, exponent = np.frexp(ratio)
    factor, shift = round(fraction * 2**31), -int(exponent)
    if factor == 2**31:
        return factor // 2, shift - 1
    return factor, shift


def _multiply_once(x, ratio):
    """x times a ratio below 1, halves up."""
    factor, shift = fixed_point(ratio)
    return (x.astype(np.int64) * factor + (1 << (30 + shift))) >> (31 + shift)


def _multiply_twice(x, ratio):
    """The same to `2**-shift` first, and then halves away from 0."""
    factor, shift = fixed_point(ratio)
    high = (x.astype(np.int64) * factor + (1 << 30)) >> 31
    return high << -shift if shift <= 0 else shifted(high, shift)


def shifted(x, shift):
    """x divided by `2**shift`, halves away from 0."""
    mask = (1 << shift) - 1
    return (x >> shift) + ((x & mask) > (mask >> 1) + (x < 0))


def _clip(codes, grid):
    """Saturates at the top of int8 and, by a fused RELU, at the lowest code."""
    return np.clip(codes + grid.zero_point, grid.low, 127)


# The sums by the names of the kernels, as `tflite.runner` has them.
OF_KERNELS = {
    "xnnpack": add_once,
    "builtin": add_sum_twice,
    "reference": add_twice,
    "micro": add_twice,
}
