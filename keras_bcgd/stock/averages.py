"""Poolings that average, and the grid of a mean."""

import keras
import numpy as np

from keras_bcgd.stock.builder import Unsupported
from keras_bcgd.stock.fake_quant import STEPS
from keras_bcgd.stock.tensor import StockTensor


def average(builder, layer, x):
    """AveragePooling2D as a convolution, which may change the grid."""
    height, width = x.value.shape[1:3]
    if layer.padding == "same" and (
        height is None
        or width is None
        or any(np.mod((height, width), layer.strides))
        or layer.pool_size != layer.strides
    ):
        raise Unsupported("use padding='valid'")
    window = tuple(layer.pool_size)
    stock = builder.make(
        keras.layers.DepthwiseConv2D,
        window,
        strides=layer.strides,
        name=layer.name,
    )
    codes = np.ones((*window, x.value.shape[-1], 1), int)
    count = np.prod(window)
    out = builder.linear(stock, x, codes, 1 / count)
    return _with_grid_of_mean(out, x, count)


def weighted_mean(builder, layer, x):
    """What interpolates, as a convolution."""
    stock = builder.make(
        keras.layers.DepthwiseConv2D, layer.kernel_size, name=layer.name
    )
    channels = x.value.shape[-1]
    codes = np.repeat(layer.codes[..., None, None], channels, 2)
    count = layer.codes.sum()
    out = builder.linear(stock, x, codes, 1 / count)
    return _with_grid_of_mean(out, x, count)


def global_average(builder, layer, x):
    """GlobalAveragePooling2D, which stays."""
    builder.settle(x)
    out = StockTensor(builder.copy(layer)(x.value))
    return _with_grid_of_mean(out, x, np.inf)


def _with_grid_of_mean(out, x, count):
    """The finest grid of a mean of `count` codes; exact if 256 suffice."""
    if x.step is not None:
        parts = max(1, STEPS // round((x.high - x.low) / x.step))
        if parts >= count:
            parts -= parts % count
        out.step, out.low, out.high = x.step / parts, x.low, x.high
    return out
