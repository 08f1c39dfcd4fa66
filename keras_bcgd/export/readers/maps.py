"""Poolings, paddings and reshapes."""

from keras_bcgd.export.node import as_map
from keras_bcgd.network import traits


def read_commuting(builder, call, inputs):
    """Reads what keeps the codes."""
    kind = traits.COMMUTING[type(call.layer)]
    return builder.append(kind, call, inputs)


def read_average(builder, call, inputs):
    """Reads an average pooling."""
    node = builder.append("average", call, inputs)
    _check_average(builder, node)
    return node


def _check_average(builder, node):
    if node.padding == "valid":
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
