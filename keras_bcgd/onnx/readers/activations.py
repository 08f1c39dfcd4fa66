"""QuantReLU, QuantIdentity, and the activations of stock layers."""

import keras

from keras_bcgd.network import traits
from keras_bcgd.onnx.writer import Unsupported

_FINAL_OPERATORS = {"sigmoid": "Sigmoid", "softmax": "Softmax"}


def nothing(writer, layer, name, x):
    """What does nothing outside training."""
    return x


def staircase(writer, layer, name, x):
    """A QuantReLU."""
    return writer.staircase(x, layer, name)


def identity(writer, layer, name, x):
    """A QuantIdentity."""
    return writer.on_signed_grid(x, layer, name)


def relu(writer, layer, name, x):
    """A float ReLU, by itself or as an activation."""
    if type(layer) is keras.layers.ReLU and (
        layer.negative_slope or layer.threshold
    ):
        raise Unsupported("use negative_slope=0 and threshold=0")
    largest = traits.largest_of_relu(layer)
    if largest is None:
        return writer.file.same("Relu", [x], name)
    ends = [
        writer.file.constant(f"{name}/{end}", value)
        for end, value in (("low", 0), ("high", largest))
    ]
    return writer.file.same("Clip", [x, *ends], name)


def final(writer, layer, name, x):
    """A softmax or a sigmoid, by itself or as an activation."""
    kind = traits.final_kind(layer)
    axis = getattr(layer, "axis", -1)
    if axis not in (-1, len(x.shape)):
        raise Unsupported("a softmax must be over the last axis")
    settings = {"axis": 1} if kind == "softmax" else {}
    return writer.file.same(_FINAL_OPERATORS[kind], [x], name, **settings)


def of_kernel(writer, layer, name, x):
    """The activation argument of a layer with a kernel."""
    if layer.activation in (None, keras.activations.linear):
        return x
    if traits.has_relu(layer):
        return relu(writer, layer, f"{name}/activation", x)
    if traits.final_kind(layer) is not None:
        return final(writer, layer, f"{name}/activation", x)
    raise Unsupported("use activation=None and a QuantReLU after it")
