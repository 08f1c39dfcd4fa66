"""What only the ends of a model may have, and what is refused."""

import keras
import numpy as np

from keras_bcgd.export.node import Node
from keras_bcgd.network import traits

_FINAL_ADVICE = {
    "sigmoid": (
        "must be the last of the model: use a QuantActivation('sigmoid') in "
        "its place, or move it to the end; two classes train best without it, "
        "with from_logits=True"
    ),
    "softmax": (
        "must be the last of the model: leave it out, or move it to the end"
    ),
}


def read_final(builder, call, inputs):
    """A softmax or a sigmoid, which only the end of a model may have."""
    (node,) = inputs
    layer, shape = call.layer, node.output_shape
    kind = traits.final_kind(layer)
    if call.key not in builder.output_keys or builder.readers[call.key] > 1:
        builder.problems.add(layer, f"a {kind} {_FINAL_ADVICE[kind]}")
    if getattr(layer, "axis", -1) not in (-1, len(shape)):
        builder.problems.add(layer, "a softmax must be over the last axis")
    final = Node(kind, layer, [node], shape, shape, kind, call.key)
    builder.nodes.append(final)
    return final


def read_rescaling(builder, call, inputs):
    """Reads a Rescaling or Normalization at the input."""
    (node,) = inputs
    layer = call.layer
    if node.kind not in ("input", "rescale"):
        builder.problems.add(
            layer,
            "put it directly after the input, or use a BatchNormalization "
            "in its place",
        )
        return node
    names = ("scale", "offset")
    if type(layer) is keras.layers.Normalization:
        names = ("mean", "variance")
    sizes = {int(np.size(getattr(layer, name))) for name in names}
    if not sizes <= {1, node.output_shape[-1]}:
        builder.problems.add(
            layer,
            "it must rescale everything, or each channel, by one number: "
            f"use axis=-1; it has {max(sizes)} numbers for "
            f"{node.output_shape[-1]} channels",
        )
    return builder.append("rescale", call, [node])


def read_unknown(builder, call, inputs):
    """What is refused, with its shape, so that the rest can be read."""
    output = keras.tree.flatten(call.layer.output)[call.index]
    node = Node(
        "unknown",
        call.layer,
        inputs,
        inputs[0].output_shape,
        tuple(output.shape[1:]),
        call.layer.name,
        call.key,
    )
    builder.nodes.append(node)
    return node
