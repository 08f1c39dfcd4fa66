"""Multiply-accumulate operations of one call of a layer."""

import math

import keras

_SAME_KERNEL_AT_EACH_OUTPUT = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
)
# Transposed convolutions.
AT_EACH_INPUT = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
# They have weights, but no sums of products with them. Normalization is not
# counted, as is usual: it can be folded into the layer before it.
_NONE = (
    keras.layers.BatchNormalization,
    keras.layers.Embedding,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
)


def macs_of_call(layer, input_shape, output_shape):
    """How often one call of a layer multiplies by a weight and adds.

    Each output position counts with the whole kernel, those at the border
    too, where some of it lies on padding; biases do not count.

    Args:
        layer: `keras.layers.Layer`, built.
        input_shape: Tuple of ints, that of its first input, batch included.
        output_shape: Tuple of ints, batch included.

    Returns:
        An int for one sample, or `None` for a layer with matrices of weights
        of a kind that is not known here.

    Example:

    >>> layer = keras.layers.Dense(10)
    >>> layer.build((None, 64))
    >>> macs_of_call(layer, (1, 64), (1, 10))
    640
    """
    outputs = math.prod(output_shape[1:])
    if isinstance(layer, _DEPTHWISE):
        return outputs * math.prod(layer.kernel_size)
    if isinstance(layer, _SAME_KERNEL_AT_EACH_OUTPUT):
        # (height, width, input channels of a group, filters)
        return outputs * math.prod(layer.kernel.shape[:-1])
    if isinstance(layer, AT_EACH_INPUT):
        # (height, width, filters, input channels)
        return math.prod(input_shape[1:]) * math.prod(layer.kernel.shape[:-1])
    if isinstance(layer, _SEPARABLE):
        channels = layer.pointwise_kernel.shape[-2]
        window = math.prod(layer.kernel_size)
        return outputs // layer.filters * channels * (window + layer.filters)
    if isinstance(layer, keras.layers.EinsumDense):
        return outputs * _summed(layer.equation, layer.kernel.shape)
    if isinstance(layer, _NONE) or not matrices(layer):
        return 0
    return None


def matrices(layer):
    """The weights of a layer that have two axes or more.

    Where Keras quantized them (`layer.quantize`), without the scales and zero
    points of the codes.
    """
    if isinstance(layer, _NONE) and not isinstance(
        layer, keras.layers.Embedding
    ):
        return []
    found = [weight for weight in layer.weights if len(weight.shape) > 1]
    if getattr(layer, "quantization_mode", None) is not None:
        found = [w for w in found if not w.name.endswith(("_scale", "_zero"))]
    return found


def _summed(equation, kernel_shape):
    """The number of products in each sum of `einsum(inputs, kernel)`."""
    operands, result = equation.replace(" ", "").split("->")
    labels = operands.split(",")[1]
    return math.prod(
        size
        for label, size in zip(labels, kernel_shape, strict=True)
        if label not in result
    )
