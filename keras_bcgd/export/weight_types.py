"""The type of the weights of each layer: int8, int4, int2 or lut.

"lut" is int8 as indices into a table, for TensorFlow Lite Micro
(`tflite.lut`).
"""

from keras_bcgd import projections
from keras_bcgd.export import targets
from keras_bcgd.tflite import lut

# Kinds of nodes for whose weights there are int4 kernels.
_INT4 = ("conv", "dense", "depthwise")
# In int4, depthwise convolutions take most of MobileNet's time for 2 % of its
# bytes: "int4" takes them, "auto" does not.
_INT4_IF_AUTO = ("conv", "dense")
# What makes a file small, where it is not int4.
_SMALLEST = {targets.MICRO: "lut", targets.ETHOS_U: "int8"}


def choose(graph, weight_format, minimize, target):
    """The type of the weights of each node that has a kernel."""
    if weight_format == "auto":
        weight_format = _SMALLEST.get(target, "auto")
        if minimize == "latency":
            weight_format = "int8"
    if weight_format == "lut":
        # All weights, also the ones of a mean; where a table does not pay they
        # stay int8 (`integers`).
        return dict.fromkeys(graph.nodes, "lut")
    return {
        node: _choose(node, weight_format, target, node in graph.logits)
        for node in graph.nodes
        if node.is_convolution
    }


def _choose(node, weight_format, target, has_logits):
    if weight_format == "int2" and _is_int2(node, target):
        return "int2"
    kinds = _INT4 if weight_format == "int4" else _INT4_IF_AUTO
    if weight_format == "int8" or node.bits > 4 or node.kind not in kinds:
        return "int8"
    # TFLM has int4 kernels for convolutions of 8-bit codes alone.
    if target == targets.MICRO and (node.kind == "dense" or has_logits):
        return "int8"
    return "int4"


def is_dense(node, target):
    """Whether a node with weights of 4 or 2 bits is a FULLY_CONNECTED.

    So are convolutions of size 1 for LiteRT, at each place of a map: it has
    fast kernels for such weights there alone. TFLM has them in convolutions
    alone.
    """
    if node.kind == "conv" and target is None:
        return node.window == (1, 1)
    return node.kind == "dense"


def check(graph, weight_format):
    """Raises a `ValueError` if the layers have too many bits."""
    if weight_format == "int2" and not any(
        _is_int2(node, None) for node in graph.nodes
    ):
        raise ValueError(
            '`weight_format="int2"` is for QuantDense layers and convolutions '
            'of size 1, of 1 or 2 bits; use "auto". Received: a model without '
            "such a layer"
        )
    if weight_format == "lut":
        _check_tables(graph)
    if weight_format != "int4":
        return
    wide = [
        f"'{node.layer.name}' (bits={node.bits})"
        for node in graph.nodes
        if node.is_convolution and node.bits > 4
    ]
    if wide:
        raise ValueError(
            '`weight_format="int4"` holds at most 4 bits; use "auto" for int4 '
            f"where it fits. Received: layers with more: {', '.join(wide)}"
        )


def _is_int2(node, target):
    """Whether the weights of a node can be int2: kernels are for dense."""
    return is_dense(node, target) and node.bits <= 2


def _check_tables(graph):
    kernels = [node for node in graph.nodes if node.is_convolution]
    if kernels and all(_values(node) > 2**lut.MOST_BITS for node in kernels):
        bits = ", ".join(f"'{n.layer.name}' (bits={n.bits})" for n in kernels)
        raise ValueError(
            '`weight_format="lut"` is for layers with at most '
            f"{2**lut.MOST_BITS} different weights, of at most "
            f"{lut.MOST_BITS} bits. Received: a model without such a layer: "
            f"{bits}"
        )


def _values(node):
    """How many different weights a layer may have."""
    largest = projections.largest_code(node.bits)
    return 2 * largest + (node.bits > 1)
