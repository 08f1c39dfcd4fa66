"""Poolings, paddings and crops."""

import numpy as np

from keras_bcgd.onnx.readers import geometry
from keras_bcgd.onnx.writer import output_shape


def maximum(writer, layer, name, x):
    """A pooling of the largest."""
    return _pool(writer, layer, name, x, "MaxPool")


def average(writer, layer, name, x):
    """A pooling of means; at a border, of what is inside of the map."""
    return _pool(writer, layer, name, x, "AveragePool", count_include_pad=0)


def _pool(writer, layer, name, x, kind, **settings):
    window, strides = list(layer.pool_size), list(layer.strides)
    return writer.file.node(
        kind,
        [x],
        name,
        output_shape(layer, x),
        kernel_shape=window,
        strides=strides,
        pads=geometry.pads(x, window, strides, layer.padding),
        **settings,
    )


def global_average(writer, layer, name, x):
    """The mean of each channel."""
    return _global(writer, layer, name, x, "GlobalAveragePool")


def global_maximum(writer, layer, name, x):
    """The largest of each channel."""
    return _global(writer, layer, name, x, "GlobalMaxPool")


def _global(writer, layer, name, x, kind):
    channels = x.shape[-1]
    shape = (*[1] * (len(x.shape) - 1), channels)
    if layer.keepdims:
        return writer.file.node(kind, [x], name, shape)
    y = writer.file.node(kind, [x], f"{name}/map", shape)
    return writer.file.node("Flatten", [y], name, (channels,), axis=1)


def pad(writer, layer, name, x):
    """Zeros around a map."""
    amounts = [_pair(amount) for amount in _listed(layer.padding, x)]
    return _pad(writer, layer, name, x, [(0, 0), *amounts])


def pad_channels(writer, layer, name, x):
    """Channels of zeros behind the others."""
    x = writer.file.in_keras_order(x)
    amounts = [(0, layer.channels - x.shape[-1])]
    amounts += [(0, 0)] * (len(x.shape) - 1)
    return _pad(writer, layer, name, x, amounts)


def _pad(writer, layer, name, x, amounts):
    """Pads the axes behind the batch, the channels first."""
    before, after = np.transpose([(0, 0), *amounts])
    pads = writer.file.constant(f"{name}/pads", [*before, *after], np.int64)
    return writer.file.node("Pad", [x, pads], name, output_shape(layer, x))


def crop(writer, layer, name, x):
    """A part of a map."""
    sizes = x.shape[:-1]
    amounts = [_pair(amount) for amount in _listed(layer.cropping, x)]
    ends = [
        size - after for size, (_, after) in zip(sizes, amounts, strict=True)
    ]
    values = {
        "starts": [before for before, _ in amounts],
        "ends": ends,
        "axes": range(2, 2 + len(sizes)),
    }
    constants = [
        writer.file.constant(f"{name}/{key}", [*value], np.int64)
        for key, value in values.items()
    ]
    return writer.file.node(
        "Slice", [x, *constants], name, output_shape(layer, x)
    )


def _listed(amounts, x):
    """The amounts of each axis; of one axis Keras may have them bare."""
    return [amounts] if len(x.shape) == 2 else amounts


def _pair(amount):
    """`(before, after)`."""
    return tuple(amount) if np.ndim(amount) else (amount, amount)
