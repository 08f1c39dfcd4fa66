"""Alphas moved so that every sum of two codes is the trained one.

An addition of codes a and b computes, in steps of its output,

    a * s_a / s + b * s_b / s        s_a, s_b, s: alphas, or parts of them

and where that comes within 1e-4 of a threshold, some kernel of the runtime
(`addition`), or floating point in Keras, may give the next code. Whether it
does is decided by the ratios of the alphas, and a small change of one of them
is enough to keep away from all thresholds at once:

- Before a QuantReLU the codes of the branch lie at whole parts of a level, so
  that only the multiples b * s_b / s count, at most 255 of them. Each is near a
  threshold for some parts in ten thousand of all ratios: the nearest ratio
  that is free of all is found by trying.
- Before a QuantIdentity all 256 * 256 sums count. With s_a / s = p / q and
  s_b / s = r / q, q odd, they are multiples of 1 / q, and no multiple is nearer
  than 1 / 2q to a threshold, which lies halfway between two codes.
"""

import keras
import numpy as np

from keras_bcgd.export import addition
from keras_bcgd.export.trained_values import read_output
from keras_bcgd.network.trained import read_alpha

# The relative changes of an alpha that are tried, smallest first.
CHANGES = np.outer(np.arange(1, 1001) * 2e-5, [1, -1]).reshape(-1)
_LARGEST_CHANGE = 0.02
_LARGEST_DENOMINATOR = 4001


def align_addition(quantizers, fixed):
    """Moves alphas of one addition.

    Args:
        quantizers: List of three `node.Quantizer`: of the sum, and of its
            operands.
        fixed: Set of the ids of layers whose alpha must stay.
    """
    _Addition(*quantizers, fixed).align()


class _Addition:
    """One addition.

    Args:
        output: `Quantizer` of the sum.
        first: `Quantizer` of one operand.
        second: `Quantizer` of the other.
        fixed: Set of the ids of the layers whose alpha must stay.
    """

    def __init__(self, output, first, second, fixed):
        self.quantizers = output, first, second
        self.fixed = fixed

    def align(self):
        """Moves alphas, if that is needed and helps."""
        layers = {id(q.layer) for q in self.quantizers}
        if len(layers) == 1 or self._is_exact():
            return
        if self.quantizers[0].kind == "identity":
            self._to_odd_ratios()
        else:
            self._move_output()

    def _is_exact(self):
        """Whether every pair of codes is right, in Keras and on all kernels."""
        is_tied = self.quantizers[0].layer is self.quantizers[1].layer
        output, first, second = (read_output(q) for q in self.quantizers)
        shift = first.shift + second.shift
        distance, needed = _distance(
            first.grid, second.grid, shift, output, is_tied
        )
        if distance < needed:
            return False
        pairs = np.broadcast(*addition.pairs(first.grid, second.grid))
        _, right = addition.best_grid(first.grid, second.grid, shift, output)
        return right == pairs.size

    def _move_output(self):
        """Tries other alphas of the output, the nearest first."""
        layer = self.quantizers[0].layer
        alpha = read_alpha(layer)
        if id(layer) in self.fixed:
            return
        for change in CHANGES:
            if assign(layer, alpha * (1 + change)) and self._is_exact():
                return
        layer.alpha.assign(alpha)

    def _to_odd_ratios(self):
        """Makes the ratios of all three scales those of odd denominators."""
        output, first, second = self.quantizers
        if id(first.layer) in self.fixed:
            first, second = second, first
        layers = [output.layer, first.layer]
        if id(output.layer) in self.fixed or id(first.layer) in self.fixed:
            return
        before = [read_alpha(layer) for layer in layers]
        target, moving, fixed = (
            read_output(q) for q in (output, first, second)
        )
        _, needed = _distance(moving.grid, fixed.grid, 0.0, target, False)
        # Some of 1 / 2q is left for the kernels.
        q = min(int(1 / (4 * needed)), _LARGEST_DENOMINATOR) // 2 * 2 - 1
        scale = target.grid.scale
        p = round(q * fixed.grid.scale / scale)
        if p < 1:
            return
        scale_change = fixed.grid.scale * q / p / scale
        scale *= scale_change
        p = round(q * moving.grid.scale / scale)
        moving_change = scale * p / q / moving.grid.scale
        changes = scale_change, moving_change
        for layer, alpha, change in zip(layers, before, changes, strict=True):
            small = abs(change - 1) <= _LARGEST_CHANGE
            if not (small and assign(layer, alpha * change)):
                break
        else:
            if self._is_exact():
                return
        for layer, alpha in zip(layers, before, strict=True):
            layer.alpha.assign(alpha)


def assign(layer, alpha):
    """Sets an alpha, if its bound admits it."""
    allowed = layer.alpha_constraint(keras.ops.cast(alpha, layer.alpha.dtype))
    layer.alpha.assign(allowed)
    return abs(read_alpha(layer) - alpha) <= 1e-6 * alpha


def _distance(first, second, shift, output, first_is_tied):
    """How near sums come to a threshold, and how near they may, in steps."""
    scale = output.grid.scale
    a, b = addition.pairs(first, second)
    total = first.scale * (a - first.zero_point)
    total = total + second.scale * (b - second.zero_point)
    total = (total - shift) / scale
    start = output.thresholds[0]
    nearest = np.clip(np.round(total - start), 0, output.levels - 1) + start
    distances = np.abs(total - nearest)
    if first_is_tied:
        # Its codes lie on thresholds. What is added to 0 stays there, exactly
        # so in floating point, and the stretched scale of the output
        # (`addition`) keeps it below.
        distances = np.where(b == second.zero_point, np.inf, distances)
    # The default kernels round each ratio to 20 bits of the larger one, and
    # Keras each operand and the sum to 24.
    sizes = [np.abs(grid.ends).max() / scale for grid in (first, second)]
    codes = [np.abs(grid.ends).max() / grid.scale for grid in (first, second)]
    ratio = max(first.scale, second.scale) / scale
    needed = max(sum(codes) * ratio * 2.0**-21, sum(sizes) * 2.0**-22)
    return distances.min(), needed
