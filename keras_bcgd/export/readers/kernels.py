"""Layers with a kernel, and the batch normalization behind them."""

import keras

from keras_bcgd.export.node import Quantizer
from keras_bcgd.export.readers import ends
from keras_bcgd.network import traits


def read_convolution(builder, call, inputs):
    """Reads a layer with a kernel."""
    layer = call.layer
    kind = traits.CONVOLUTIONS[type(layer)]
    rank = len(inputs[0].output_shape)
    if kind == "dense" and rank in (2, 3):
        kind = "conv"  # of size 1
    elif getattr(layer, "groups", 1) > 1:
        kind = "grouped"
    elif kind == "dense" and rank != 1:
        builder.problems.add(
            layer,
            f"its input has {rank + 1} axes: put a Reshape before it, to "
            "(height, width, channels), for the same at each place, or a "
            "Flatten, for one answer from all places",
        )
    node = builder.append(kind, call, inputs)
    if traits.has_relu(layer):
        node.quantizer = Quantizer("relu", layer, trained=False)
    elif traits.final_kind(layer) is not None:
        return ends.read_final(builder, call, [node])
    return node


def read_norm(builder, call, inputs):
    """Reads a batch normalization, folded into a convolution if it can be."""
    (node,) = inputs
    rank = len(node.output_shape) + 1
    if call.layer.axis % rank != rank - 1:
        builder.problems.add(
            call.layer, "it must normalize the last axis: use axis=-1"
        )
    fits = node.is_convolution and node.layer.activation in (
        None,
        keras.activations.linear,
    )
    if fits and builder.is_open(node, call.sources[0]) and not node.norm:
        node.norm = call.layer
        node.name, node.key = call.layer.name, call.key
        return node
    return builder.append("affine", call, [node], norm=call.layer)
