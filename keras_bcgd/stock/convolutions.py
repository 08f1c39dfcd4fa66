"""Layers with a kernel, and the batch normalization that is folded into it."""

import keras
import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.network import traits
from keras_bcgd.stock import copies
from keras_bcgd.stock.builder import Unsupported
from keras_bcgd.stock.fake_quant import FakeQuantKernel
from keras_bcgd.stock.tensor import as_numpy

# The stock layer of each kind, and the arguments that it takes over.
_CONV = ("filters", "kernel_size", "strides", "padding", "dilation_rate")
_STOCK = {
    "conv": (keras.layers.Conv2D, _CONV),
    "dense": (keras.layers.Dense, ("units",)),
    "depthwise": (
        keras.layers.DepthwiseConv2D,
        ("depth_multiplier", *_CONV[1:]),
    ),
}
# Kernels whose fake-quant TensorFlow's converter does not fold.
_UNSUPPORTED = (keras.layers.Conv1D, keras.layers.Conv2DTranspose)


def convolution(builder, layer, x):
    """A convolution with the quantized kernel, as a stock layer."""
    if isinstance(layer, _UNSUPPORTED):
        raise Unsupported("only export_tflite makes integers of it")
    if getattr(layer, "groups", 1) != 1:
        raise Unsupported("use groups=1 or a QuantDepthwiseConv2D")
    activation = copies.ACTIVATIONS.get(layer.activation)
    if activation is None:
        raise Unsupported("use activation=None and a QuantReLU after it")
    kind, names = _STOCK[traits.CONVOLUTIONS[type(layer)]]
    arguments = {name: getattr(layer, name) for name in names}
    stock = builder.make(kind, name=layer.name, **arguments)
    bias = as_numpy(layer.bias) if layer.use_bias else None
    slope, codes = _kernel(layer)
    x = builder.linear(stock, x, codes, slope, bias)
    return activation(builder, layer, x)


def _kernel(layer):
    """Scales and codes of a kernel; scale 1 and the weights, if float."""
    if getattr(layer, "is_quantized", False):
        scale, codes = layer.kernel_scale_and_codes()
        return scale, np.int64(codes)
    return 1.0, as_numpy(layer.kernel)


def normalization(builder, layer, x):
    """BatchNormalization: in the slope and the constant before it."""
    if layer.axis not in (-1, len(x.value.shape) - 1):
        raise Unsupported("it must normalize the last axis")
    if not x.direct:
        x.linear = None
    x = builder.linear_before(x)
    x.step = x.low = x.high = None
    linear = x.linear
    if linear.inputs.ndim == 2 and isinstance(linear.layer, FakeQuantKernel):
        # The converter knows only one scale for the kernel of a Dense.
        linear.layer = linear.layer.layer
        x.value = linear.layer(linear.inputs)
    norm = {
        "gamma": as_numpy(layer.gamma) if layer.scale else 1.0,
        "beta": as_numpy(layer.beta) if layer.center else 0.0,
        "mean": as_numpy(layer.moving_mean),
        "variance": as_numpy(layer.moving_variance),
        "epsilon": layer.epsilon,
    }
    linear.slope, linear.constant = arithmetic.fold(
        linear.slope, linear.constant, norm, len(linear.slope)
    )
    return x
