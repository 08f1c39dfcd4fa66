"""Rescaling and Normalization: one number, or one for each channel."""

import keras
import numpy as np

from keras_bcgd.network.trained import read_weight
from keras_bcgd.onnx.writer import Unsupported


def rescaling(writer, layer, name, x):
    """`x * scale + offset`."""
    scale = read_weight(layer, "scale", layer.scale)
    offset = read_weight(layer, "offset", layer.offset)
    return _affine(writer, name, x, scale, offset)


def normalization(writer, layer, name, x):
    """`(x - mean) / sqrt(variance)`."""
    if layer.invert:
        raise Unsupported("use invert=False")
    mean = read_weight(layer, "mean", layer.mean)
    variance = read_weight(layer, "variance", layer.variance)
    # As the layer does: its smallest divisor is Keras' epsilon.
    slope = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return _affine(writer, name, x, slope, -mean * slope)


def _affine(writer, name, x, slope, constant):
    numbers = {"scale": slope, "offset": constant}
    for key, values in numbers.items():
        if values.size not in (1, x.shape[-1]):
            raise Unsupported(
                "it must rescale everything, or each channel, by one number: "
                f"use axis=-1; it has {values.size} numbers for "
                f"{x.shape[-1]} channels"
            )
        values = values.reshape(-1)
        if values.size > 1:
            values = x.by_channel(values)
            values = values.reshape(-1, *[1] * (len(x.shape) - 1))
        numbers[key] = writer.file.constant(f"{name}/{key}", values)
    y = writer.file.same("Mul", [x, numbers["scale"]], f"{name}/scaled")
    return writer.file.same("Add", [y, numbers["offset"]], name)
