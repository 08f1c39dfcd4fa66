"""Poolings, paddings, resizings and reshapes."""

import keras
import numpy as np

from keras_bcgd.export.node import as_map
from keras_bcgd.export.operators import resize
from keras_bcgd.network import interpolation
from keras_bcgd.network import traits


def read_commuting(builder, call, inputs):
    """Reads what keeps the codes."""
    kind = traits.COMMUTING[type(call.layer)]
    return builder.append(kind, call, inputs)


def read_resizing(builder, call, inputs):
    """Reads an UpSampling2D or a Resizing."""
    node = builder.append("resize", call, inputs)
    layer = call.layer
    wrong = [
        n for n in interpolation.OTHER_SETTINGS if getattr(layer, n, False)
    ]
    if wrong:
        builder.problems.add(layer, f"use {'=False and '.join(wrong)}=False")
    elif interpolation.has_parts(layer):
        pass  # called several times, and refused for that
    elif layer.interpolation != "nearest":
        builder.problems.add(
            layer,
            "only 'bilinear' by an integer factor has an integer form here: "
            "use that or interpolation='nearest'",
        )
    elif len(node.input_shape) == 3 and not _is_nearest(node):
        old, new = node.input_shape[:2], node.output_shape[:2]
        builder.problems.add(
            layer,
            f"from {old} to {new} pixels Keras copies others than the "
            "runtime does: use another size",
        )
    return node


def _is_nearest(node):
    """Whether a layer copies the pixels that the operator does."""
    old, new = node.input_shape[:2], node.output_shape[:2]
    if None in old + new:
        return True  # refused as a model without a known size
    rows, columns = map(resize.nearest_pixels, old, new)
    config = {**node.layer.get_config(), "dtype": "float32"}
    layer = type(node.layer).from_config(config)
    numbers = np.arange(np.prod(old), dtype="float32").reshape(1, *old, 1)
    found = keras.ops.convert_to_numpy(layer(numbers))[0, ..., 0]
    return np.array_equal(found, numbers[0, ..., 0][rows][:, columns])


def read_average(builder, call, inputs):
    """Reads an average pooling, or what interpolates.

    `network.borders` has split those that average fewer values at the border.
    """
    node = builder.append("average", call, inputs)
    _check_average(builder, node)
    return node


def _check_average(builder, node):
    if node.padding == "valid" or len(node.input_shape) == 3:
        return
    shape = as_map(node.input_shape)[:2]
    sizes = zip(shape, node.window, node.strides, strict=True)
    if any(
        size is not None and (-(-size // stride) - 1) * stride + pool > size
        for size, pool, stride in sizes
    ):
        builder.problems.add(
            node.layer,
            "padding='same' averages over fewer values at the border: use "
            "padding='valid'",
        )
