"""The scale of the outputs that no QuantReLU quantizes."""

import math

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import trained_values

# What lies so far below the largest logit adds e**-8 to a softmax, and so far
# from 0 a sigmoid is as near to its end.
_DEPTH = 8.0
# 16 bits reach so many times farther than the logits of the data.
_REACH = 2.0
# Kernels with 16-bit inputs round the ratio of scales to so many bits.
_FACTOR_BITS = 15
# So many of these ratios are tried: every second of 16,384 or more, so that the
# scale grows by 0.8 % at most.
_FACTORS = 64


def logits_grid(node, grid, samples, output_type, depth=None, mult=1):
    """The grid of the logits, from data or from bounds that always hold.

    Args:
        node: `node.Node` that computes them.
        grid: `Grid` of its input.
        samples: Array of logits of representative data, or `None`.
        output_type: String: `"int8"`, or `"int16"`.
        depth: What of int8 may saturate, as only the largest logits of a
            sample decide: `"runner_up"`, those below the second largest of
            all samples; `"softmax"` and `"sigmoid"`, those that add next to
            nothing to one. `None`: no logit of the data saturates. Defaults to
            `None`.
        mult: Int, the multiplier of the weight codes. Defaults to `1`.

    Returns:
        `Grid`.
    """
    step = 0.0
    low, high = (None, None) if samples is None else _ends(samples)
    bound = np.inf
    if node.kind != "add":
        real = trained_values.read_trained(node)
        step = np.abs(real.slope).max() * grid.scale
        lows, highs = arithmetic.output_range(
            real.codes, real.slope, real.constant, grid
        )
        bound = max(abs(lows.min()), abs(highs.max()))
        if samples is None:
            samples, low, high = lows, lows.min(), highs.max()

    if output_type == "int16":
        largest = max(min(_REACH * max(abs(low), abs(high)), bound), 1e-6)
        scale = 1.01 * largest / 32767
        return arithmetic.Grid(
            _with_exact_ratio(scale, step / mult, node, grid),
            0,
            -32768,
            32767,
        )
    if depth == "softmax":
        largest = samples.max(axis=-1, keepdims=True)
        low = np.maximum(samples, largest - _DEPTH).min()
    elif depth == "sigmoid":
        low, high = max(low, -_DEPTH), min(high, _DEPTH)
    elif depth == "runner_up" and samples.shape[-1] > 1:
        low = np.sort(samples, axis=-1)[..., -2].min()
    margin = 0.02 * (high - low)
    return arithmetic.range_grid(low - margin, high + margin, step)


def _ends(samples):
    return samples.min(), samples.max()


def _with_exact_ratio(scale, unit, node, grid):
    """A slightly larger scale at which `unit / scale` has few bits.

    Kernels multiply a 16-bit layer's accumulator by the ratio of scales,
    rounded to 15 bits: of 32,767 steps that would be up to half a step.
    """
    ratio = unit / scale
    if not 0 < ratio < math.inf:
        return scale
    fraction, exponent = math.frexp(ratio)
    largest = math.floor(fraction * 2**_FACTOR_BITS)
    one = math.ldexp(1.0, exponent - _FACTOR_BITS)
    if node.kind == "dense":
        return _held_best(largest, one, unit, grid.file_scale)
    return unit / (largest * one)


def _held_best(largest, one, unit, input_scale):
    """Of scales with a ratio of 15 bits the one that float32 holds best.

    Dense layers of LiteRT take the ratio of the scales in the file, in float64,
    TensorFlow Lite Micro that of 15 bits: so both round alike. Odd numbers put
    the fewest sums halfway between two steps.
    """
    factors = np.arange((largest - 1) | 1, 0, -2)[:_FACTORS]
    ratios = factors * one
    scales = unit / ratios
    stored = np.float32(scales)
    # As `arithmetic` computes the scale of the weights.
    weights = np.float32(stored / (input_scale * (scales / unit)))
    found = input_scale * np.float64(weights) / stored
    return float(scales[np.argmin(np.abs(found / ratios - 1))])
