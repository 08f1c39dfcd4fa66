"""QuantReLU, QuantAddReLU, QuantIdentity, and the sums before them."""

import keras
import numpy as np

from keras_bcgd import branches
from keras_bcgd.activations import largest_level
from keras_bcgd.stock import thresholds
from keras_bcgd.stock.fake_quant import STEPS
from keras_bcgd.stock.tensor import StockTensor
from keras_bcgd.stock.tensor import as_numpy


def staircase(builder, layer, x):
    """QuantReLU: half a step in the constant, ReLU, fake-quant."""
    x = builder.linear_before(x)
    alpha, levels = _alpha(layer), largest_level(layer.bits)
    x.linear.constant = thresholds.centred(x, alpha, levels)
    return _clipped(builder, layer, x.value)


def _clipped(builder, layer, value):
    """The ReLU and the fake-quant of a staircase."""
    alpha, levels = _alpha(layer), largest_level(layer.bits)
    name = layer.name
    value = builder.make(keras.layers.ReLU, name=name)(value)
    limits = (levels - STEPS) * alpha, levels * alpha
    value = builder.fake_quant(value, name, *limits)
    return StockTensor(value, True, alpha, 0.0, levels * alpha)


def identity(builder, layer, x):
    """QuantIdentity: a fake-quant on what has none yet."""
    if x.on_grid:
        x = builder.linear_before(x)
    alpha = _alpha(layer)
    low, high = layer.smallest_and_largest_code
    grid = alpha * np.arange(low, high + 1.0)
    value = _on_signed_grid(builder, x.value, layer.name, grid)
    return StockTensor(value, True, alpha, grid[0], grid[-1])


def add(builder, layer, *inputs):
    """A sum, whose constant is that of a float term, if it has one."""
    linear = None
    for x in inputs:
        if x.step is None and x.linear is not None:
            linear = x.linear
        builder.settle(x)
    total = builder.make(keras.layers.Add, name=layer.name)
    out = StockTensor(total([x.value for x in inputs]), linear=linear)
    if all(x.step is not None for x in inputs):
        out.use_range(sum(x.low for x in inputs), sum(x.high for x in inputs))
    return out


def add_relu(builder, layer, branch, shortcut):
    """QuantAddReLU: the branch carries the half step, on its grid."""
    if layer.branch_bits is None:
        return staircase(builder, layer, add(builder, layer, branch, shortcut))
    alpha, bits = _alpha(layer), layer.branch_bits
    step = branches.branch_step(alpha, layer.bits, bits)
    # Coarser steps than alpha / 2 are those of the shifted branch.
    shift = max(0, round(alpha / 2 / step)) if step < alpha else 0
    grid = (_signed_codes(bits) + shift) * step
    if layer.shortcut_is_branch:
        other_grid = _signed_codes(bits) * step
    else:
        builder.settle(shortcut)
        other_grid = shortcut.grid
    shrink = thresholds.shrink(
        alpha,
        largest_level(layer.bits),
        grid,
        other_grid,
        shrinks_both=layer.shortcut_is_branch,
    )
    value = _branch(builder, layer, branch, alpha / 2, grid, shrink)
    other = shortcut.value
    if layer.shortcut_is_branch:
        other = _branch(builder, layer, shortcut, 0.0, other_grid, shrink)
    total = builder.make(keras.layers.Add, name=f"{layer.name}_add")
    return _clipped(builder, layer, total([value, other]))


def _branch(builder, layer, x, half, grid, shrink):
    """A residual branch plus `half`, on its signed grid."""
    x = builder.linear_before(x)
    x.linear.slope = shrink * x.linear.slope
    x.linear.constant = shrink * (x.linear.constant + half)
    name = f"{layer.name}_branch"
    return _on_signed_grid(builder, x.value, name, shrink * grid)


def _on_signed_grid(builder, value, name, grid):
    """A fake-quant whose codes are `grid`, all 256 of them or less."""
    low, step = grid[0], grid[1] - grid[0]
    high = None if len(grid) > STEPS else grid[-1]
    return builder.fake_quant(value, name, low, low + STEPS * step, high)


def _signed_codes(bits):
    """The codes around 0, in float64."""
    low, high = branches.smallest_and_largest_code(bits)
    return np.arange(low, high + 1.0)


def _alpha(layer):
    return float(as_numpy(layer.alpha))
