"""MUL in integers: which products of two codes give the trained code.

The runtime multiplies a * b exactly and the product by the ratio of scales,
s_a s_b / s, rounding to the nearest code: XNNPACK once, in float32, halves to
the even code; the other kernels in fixed point, to some bits behind the point
first, which moves every threshold towards 0 by up to the size of one product;
TensorFlow Lite Micro rounds like these, a ratio that it computes in float64.
With a ratio of (1 + e) / q, q an even number that is no power of 2 and e some
parts in a million, a product that would lie halfway between two codes is a
little beyond it, and the next one too far below it to be moved beyond: then all
kernels agree with each other and with training. `alpha_alignment` moves the
scale of the output to the nearest such ratio.
"""

import numpy as np

from keras_bcgd.export.addition import fixed_point
from keras_bcgd.export.addition import pairs
from keras_bcgd.export.addition import shifted
from keras_bcgd.export.operators import table

# Keras rounds both operands, the product and the ratio to 24 bits.
_KERAS_ERROR = 2.0**-21
# Some kernels saturate in 16 bits first.
_LARGEST_PRODUCT = 2.0**15 - 256


def codes_of(node, first, second):
    """The pairs of codes that a product can be of, two arrays that broadcast.

    Where one factor is computed from the other, x times sigmoid(x), those that
    go together; else all of them.

    Args:
        node: `node.Node` of the product.
        first: `arithmetic.Grid` of its first input.
        second: `arithmetic.Grid` of its second.
    """
    x, gate = node.inputs
    a, b = pairs(first, second)
    if gate.inputs != [x]:
        return a, b
    real = first.scale * (a - first.zero_point)
    if gate.kind == "table":
        b = table.codes_and_certainty(gate.layer.function, first)[0][:, None]
        return a, b + second.zero_point
    is_of_codes = gate.kind == "affine" and gate.norm is None
    if is_of_codes and gate.quantizer.kind == "hard_sigmoid":
        # On the grid of `second`, whose scale is 1 / levels.
        gates = np.clip(real / 6 + 0.5, 0, 1) / second.scale
        return a, np.round(gates) + second.zero_point
    return a, b


def is_right(a, b, first, second, output):
    """Whether each pair of codes gives the trained code on all kernels.

    Args:
        a: Array of codes.
        b: Array of codes that broadcasts with it.
        first: `arithmetic.Grid` of the first.
        second: `arithmetic.Grid` of the second.
        output: `arithmetic.Grid` of the product.

    Returns:
        Boolean array, one for each pair.
    """
    product = (a - first.zero_point) * (b - second.zero_point)
    real = product * (first.scale * second.scale / output.scale)
    wanted = np.clip(
        np.round(real) + output.zero_point, output.low, output.high
    )
    right = _is_certain(real, output)
    for multiply in set(OF_KERNELS.values()):
        right &= multiply(product, first, second, output) == wanted
    return right


def _is_certain(real, output):
    """Whether float32 rounds as real numbers do."""
    distance = np.abs(real - np.floor(real) - 0.5)
    low, high = output.low - output.zero_point, output.high - output.zero_point
    return (
        (distance > _KERAS_ERROR * np.abs(real))
        | (real < low - 1)
        | (real > high + 1)
    ) & (np.abs(real) < _LARGEST_PRODUCT)


def ratios(ratio):
    """The ratios near one for which all kernels agree, the nearest first.

    Args:
        ratio: Float, s_a s_b / s.

    Returns:
        Array of floats.
    """
    nearest = 2 * round(0.5 / ratio)
    q = np.arange(max(2, nearest - 40), nearest + 41, 2)
    q = q[np.argsort(np.abs(q * ratio - 1), kind="stable")]
    return ((1 + np.array([4e-6, 2e-6])) / q[:, None]).ravel()


def multiply_once(product, first, second, output):
    """The codes of the default kernels: one product in float32."""
    ratio = _ratio(first, second, output)
    return _clip(np.rint(np.float32(product) * ratio), output)


def multiply_twice(product, first, second, output):
    """The codes of the other kernels: fixed point of 31 bits, then a shift."""
    ratio = np.float64(_ratio(first, second, output))
    return _multiply_twice(product, ratio, output)


def multiply_twice_in_float64(product, first, second, output):
    """The same of TensorFlow Lite Micro, whose ratio was not rounded before."""
    scale = np.float64(first.file_scale) * second.file_scale
    return _multiply_twice(product, scale / output.file_scale, output)


def _multiply_twice(product, ratio, output):
    factor, shift = fixed_point(ratio)
    x = (np.int64(product) << max(-shift, 0)) * factor
    nudge = np.where(x >= 0, 1 << 30, 1 - (1 << 30))
    high = np.sign(x + nudge) * (np.abs(x + nudge) >> 31)
    return _clip(shifted(high, max(shift, 0)), output)


def _ratio(first, second, output):
    """s_a s_b / s as all kernels of LiteRT compute it, in float32."""
    scale = np.float32(first.file_scale) * np.float32(second.file_scale)
    return np.float32(scale / np.float32(output.file_scale))


def _clip(codes, output):
    return np.clip(codes + output.zero_point, -128, 127)


# The products by the names of the kernels, as `tflite.runner` has them.
OF_KERNELS = {
    "xnnpack": multiply_once,
    "builtin": multiply_twice,
    "reference": multiply_twice,
    "micro": multiply_twice_in_float64,
}
