"""Layers that stay what they are, and what they do to the grid of a tensor."""

import dataclasses

import keras

from keras_bcgd.network import traits
from keras_bcgd.stock.builder import Unsupported
from keras_bcgd.stock.tensor import StockTensor


def nothing(builder, layer, x):
    """A layer that does nothing outside training."""
    return x


def commuting(builder, layer, x):
    """A layer through which the staircase can be moved."""
    if not traits.commutes(layer):
        raise Unsupported("use interpolation='nearest'")
    value = builder.copy(layer)(x.value)
    return dataclasses.replace(x, value=value, direct=False)


def pad_channels(builder, layer, x):
    """A ZeroPadding2D that takes width and channels for the image."""
    if len(x.value.shape) != 4:
        raise Unsupported("its input must have 4 dimensions")
    builder.settle(x)
    pad = builder.make(
        keras.layers.ZeroPadding2D,
        ((0, 0), (0, layer.channels - x.value.shape[-1])),
        data_format="channels_first",
        name=layer.name,
    )
    return dataclasses.replace(x, value=pad(x.value))


def concatenate(builder, layer, *inputs):
    """Concatenate, on one grid for all."""
    if any(x.step is None for x in inputs):
        raise Unsupported("use a QuantReLU or QuantIdentity before it")
    low, high = min(x.low for x in inputs), max(x.high for x in inputs)
    out = StockTensor(None, True, inputs[0].step, low, high)
    values = [x.value for x in inputs]
    if not all(x.on_grid and x.step == out.step for x in inputs):
        out.use_range(low, high)
        values = [
            builder.fake_quant(
                builder.linear_before(x).value, layer.name, low, high
            )
            for x in inputs
        ]
    out.value = builder.copy(layer)(values)
    return out


def relu(builder, layer, x):
    """A float ReLU, by itself or the activation of a layer."""
    if type(layer) is keras.layers.ReLU:
        return StockTensor(builder.copy(layer)(x.value))
    stock = builder.make(keras.layers.ReLU, name=layer.name)
    return StockTensor(stock(x.value))


def softmax(builder, layer, x):
    """A softmax, by itself or the activation of a layer."""
    axis = getattr(layer, "axis", -1)
    if axis not in (-1, len(x.value.shape) - 1):
        raise Unsupported("a softmax must be over the last axis")
    builder.settle(x)
    stock = builder.make(keras.layers.Softmax, name=layer.name)
    return StockTensor(stock(x.value), True, 1 / 256, 0.0, 255 / 256)


ACTIVATIONS = {
    None: nothing,
    keras.activations.linear: nothing,
    keras.activations.relu: relu,
    keras.activations.softmax: softmax,
}
