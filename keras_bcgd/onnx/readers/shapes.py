"""Layers that give values other places: flatten, reshape, permute."""

import numpy as np

from keras_bcgd.onnx.tensor import flat_order
from keras_bcgd.onnx.tensor import to_first
from keras_bcgd.onnx.tensor import to_last
from keras_bcgd.onnx.writer import output_shape


def flatten(writer, layer, name, x):
    """A flattened map keeps the order of the file: see `tensor`."""
    if len(x.shape) == 1:
        return x
    return writer.file.node(
        "Flatten",
        [x],
        name,
        output_shape(layer, x),
        order=flat_order(x.shape),
        axis=1,
    )


def reshape(writer, layer, name, x):
    """By way of the channels last, whose order Keras keeps."""
    shape = output_shape(layer, x)
    if shape == x.shape:
        return x
    if len(shape) == 1:
        return flatten(writer, layer, name, x)
    file = writer.file
    x = file.in_keras_order(x)
    if len(x.shape) > 1:
        perm = to_last(len(x.shape))
        last = _as_in_file(x.shape)
        x = file.node("Transpose", [x], f"{name}/nhwc", last, perm=perm)
    # 0 keeps the batch.
    sizes = file.constant(f"{name}/shape", [0, *shape], np.int64)
    nhwc = _as_in_file(shape)
    x = file.node("Reshape", [x, sizes], f"{name}/reshaped", nhwc)
    return file.node("Transpose", [x], name, shape, perm=to_first(len(shape)))


def _as_in_file(shape):
    """The shape of a `Tensor` that is `shape`, channels last, in the file."""
    return (*shape[1:], shape[0])


def permute(writer, layer, name, x):
    """Another order of the axes; in the file the last one comes first."""
    rank = len(x.shape)
    if rank == 1:
        return x
    places = [0, *range(2, rank + 1), 1]  # of the axes of Keras in the file
    dims = [layer.dims[-1], *layer.dims[:-1]]
    perm = [0, *(places[axis] for axis in dims)]
    shape = output_shape(layer, x)
    return writer.file.node("Transpose", [x], name, shape, perm=perm)
