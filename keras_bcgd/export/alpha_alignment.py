"""Alphas moved so that the operators without trained weights are exact.

What a convolution computes can be moved by its batch normalization
(`alignment`). These operators have nothing but the alphas of their grids:

- a sum of two tensors (`addition_alignment`);
- a product (`multiplication`): the alpha of its output;
- a sigmoid or tanh by table: the alpha of its input, until no output lies near
  the middle between two codes, where kernels could differ;
- an average, or a hard sigmoid of codes: the alpha of its output, or input.
  With a ratio of scales P / Q, P odd, no sum lies on a threshold, which is
  halfway between two codes;
- a convolution without a bias or batch normalization, the first part of a
  QuantSeparableConv2D: likewise, where all its channels have one scale.
"""

import dataclasses

import numpy as np

from keras_bcgd.export import addition_alignment
from keras_bcgd.export import arithmetic
from keras_bcgd.export import multiplication
from keras_bcgd.export.addition_alignment import CHANGES
from keras_bcgd.export.addition_alignment import assign
from keras_bcgd.export.alignment import Alignment
from keras_bcgd.export.node import commutes
from keras_bcgd.export.operators import convolution
from keras_bcgd.export.operators import table
from keras_bcgd.export.trained_values import read_output
from keras_bcgd.export.trained_values import read_trained
from keras_bcgd.layers import NegativeSlope
from keras_bcgd.network.trained import read_alpha

_LARGEST_CHANGE = 0.03
# Ratios for products are farther from each other. A finer grid cuts off, so
# that it may be coarser by more.
_LEAST_CHANGE_OF_PRODUCT = -0.08
_LARGEST_CHANGE_OF_PRODUCT = 0.2
_LARGEST_DENOMINATOR = 24
# Floating point in Keras is off by less than this, in parts of the output.
_KERAS_ERROR = 2.0**-20
_MOST_SUMS = 2**22


def align_alphas(graph):
    """Moves alphas, in the order in which the operators run.

    Args:
        graph: `node.Graph`.

    Returns:
        List of `Alignment`, one for each alpha that was moved.
    """
    fixed = set()  # ids of layers on whose alpha an operator relies
    moved = []
    for node in graph.nodes:
        layers = _layers_with_alpha([node, *node.inputs])
        before = {layer: read_alpha(layer) for layer in layers}
        _align(node, fixed)
        moved += [
            Alignment(
                name=layer.name, alpha_change=read_alpha(layer) / alpha - 1
            )
            for layer, alpha in before.items()
            if read_alpha(layer) != alpha
        ]
    return moved


def _align(node, fixed):
    quantizers = [quantizer_of(n) for n in (node, *node.inputs)]
    if node.kind == "add":
        if not all(quantizers):
            return
        addition_alignment.align_addition(quantizers, fixed)
    elif node.kind == "multiply":
        if not all(_grid_of(source) for source in node.inputs):
            return
        _align_product(node, fixed)
    elif node.kind == "table":
        _align_table(node, fixed)
    elif _is_of_ones(node) or _is_bare(node):
        _align_ones(node, fixed)
    else:
        return
    fixed.update(
        id(layer) for layer in _layers_with_alpha([node, *node.inputs])
    )


def _is_of_ones(node):
    """Whether a node has weights of one, between two known grids."""
    if node.kind not in ("affine", "average") or node.norm is not None:
        return False
    if isinstance(node.layer, NegativeSlope):
        return False  # both grids are one
    return quantizer_of(node) is not None and bool(_grid_of(node.inputs[0]))


def quantizer_of(node):
    """What rounded the codes that a node hands over, where training knows."""
    while commutes(node) or node.kind == "maximum":
        node = node.inputs[0]
    quantizer = node.quantizer
    if quantizer is None or not quantizer.trained:
        return None
    return quantizer


def _grid_of(node):
    """The grid of the codes that a node hands over, or `None`."""
    while commutes(node) or node.kind == "maximum":
        node = node.inputs[0]
    if node.kind == "table":
        return table.grid_of(node.layer.function)
    quantizer = quantizer_of(node)
    return None if quantizer is None else read_output(quantizer).grid


def _layers_with_alpha(nodes):
    """The layers whose alphas are the grids of what nodes hand over."""
    quantizers = [quantizer_of(node) for node in nodes]
    layers = [q.layer for q in quantizers if q and hasattr(q.layer, "alpha")]
    return list(dict.fromkeys(layers))


def _search(layer, alphas, is_exact, largest_change=_LARGEST_CHANGE):
    """Tries alphas, the first ones first; if none will do it stays."""
    before = read_alpha(layer)
    if is_exact():
        return
    for alpha in alphas:
        small = abs(alpha / before - 1) <= largest_change
        if small and assign(layer, alpha) and is_exact():
            return
    layer.alpha.assign(before)


def _align_product(node, fixed):
    first, second = (_grid_of(source) for source in node.inputs)
    layer = node.quantizer.layer
    if id(layer) in fixed:
        return
    product = first.scale * second.scale
    alpha = read_alpha(layer)
    alphas = product / multiplication.ratios(product / alpha)
    alphas = alphas[alphas / alpha - 1 >= _LEAST_CHANGE_OF_PRODUCT]
    codes = multiplication.codes_of(node, first, second)

    def is_exact():
        output = read_output(node.quantizer).grid
        right = multiplication.is_right(*codes, first, second, output)
        return right.all()

    _search(layer, alphas, is_exact, _LARGEST_CHANGE_OF_PRODUCT)


def _align_table(node, fixed):
    quantizer = quantizer_of(node.inputs[0])
    layers = _layers_with_alpha(node.inputs)
    if not layers or id(layers[0]) in fixed:
        return

    def is_exact():
        grid = read_output(quantizer).grid
        return table.codes_and_certainty(node.layer.function, grid)[1].all()

    alphas = read_alpha(layers[0]) * (1 + CHANGES)
    _search(layers[0], alphas, is_exact)


def _align_ones(node, fixed):
    """Moves an alpha of weights of one: an average, a hard sigmoid of codes."""
    quantizer = quantizer_of(node)
    grid = _grid_of(node.inputs[0])
    moves_input = not hasattr(quantizer.layer, "alpha")
    layers = _layers_with_alpha(node.inputs if moves_input else [node])
    if not layers or id(layers[0]) in fixed:
        return
    (layer,) = layers
    alpha = read_alpha(layer)
    ratio = _levels_in_sums(node, grid)
    q = np.arange(1, _LARGEST_DENOMINATOR + 1)
    odd = 2 * np.round((ratio * q - 1) / 2) + 1 + np.array([[-2], [0], [2]])
    changes = (odd / q / ratio)[odd > 0].ravel()
    changes = 1 / changes if moves_input else changes
    changes = changes[np.argsort(np.abs(changes - 1), kind="stable")]
    if not node.is_convolution:  # of which each trial takes longer
        changes = np.concatenate([changes, 1 + CHANGES])
    _search(
        layer,
        alpha * changes,
        lambda: _is_exact(node, _grid_of(node.inputs[0])),
    )


def _is_bare(node):
    """Whether a convolution has nothing but the grid of its output."""
    if not node.is_convolution or node.norm is not None or node.layer.use_bias:
        return False
    quantizer = quantizer_of(node)
    if quantizer is None or quantizer.kind != "identity":
        return False
    grid = _grid_of(node.inputs[0])
    if grid is None or grid.offset:
        return False
    has_room = convolution.multiplier(node, "int8", "int8") > 1
    return has_room and np.ptp(read_trained(node).slope) == 0


def _levels_in_sums(node, grid):
    """How many sums lie in one step of the output."""
    linear = read_trained(node)
    output = read_output(node.quantizer)
    return output.grid.scale / (abs(linear.slope[0]) * grid.scale)


def _is_exact(node, grid):
    """Whether every sum gives the trained code, in Keras and on all kernels."""
    linear, output = read_trained(node), read_output(node.quantizer)
    if not node.is_convolution:  # its channels are alike
        linear = dataclasses.replace(
            linear,
            codes=linear.codes[:, :1],
            slope=linear.slope[:1],
            constant=linear.constant[:1],
        )
    low, high = arithmetic.accumulated_range(linear.codes, grid)
    low, high = low.min(), high.max()
    if high - low > _MOST_SUMS:
        return True  # nothing to be done
    sums = np.arange(int(low), int(high) + 1)
    real = arithmetic.shifted_constant(linear, grid, output)[0]
    real = (real + linear.slope[0] * grid.scale * sums) / output.grid.scale
    start = output.thresholds[0]
    nearest = np.clip(np.round(real - start), 0, output.levels - 1) + start
    certain = np.abs(real - nearest) > _KERAS_ERROR * np.maximum(
        np.abs(real), 1.0
    )
    if not certain.all():
        return False
    weights = arithmetic.quantize_weights(
        linear, grid, output, convolution.multiplier(node, "int8", "int8")
    )
    return bool(weights.is_exact.all())
