"""Layers with several inputs."""

import keras

from keras_bcgd.export.node import Quantizer


def read_merge(builder, call, inputs):
    """Reads an Add or Concatenate."""
    layer = call.layer
    kind = "add"
    shapes = [node.output_shape for node in inputs]
    if type(layer) is keras.layers.Concatenate:
        kind = "concatenate"
        if layer.axis % (len(shapes[0]) + 1) == 0:
            builder.problems.add(
                layer,
                "it must not concatenate the batch: use another axis",
            )
    elif len(inputs) != 2:
        builder.problems.add(
            layer, "add two tensors at a time, with several Add"
        )
    elif shapes[0] != shapes[1]:
        builder.problems.add(
            layer,
            f"add tensors of one shape; theirs are {shapes[0]} and {shapes[1]}",
        )
    return builder.append(kind, call, inputs)


def read_quant_add(builder, call, inputs):
    """Reads a QuantAdd."""
    node = builder.append("add", call, inputs)
    node.quantizer = Quantizer("identity", call.layer)
    return node


def read_quant_concatenate(builder, call, inputs):
    """Reads a QuantConcatenate, which quantizes all that it reads."""
    node = builder.append("concatenate", call, inputs)
    for index in range(len(inputs)):
        builder.set_operand(node, index, Quantizer("identity", call.layer))
    return node


def read_multiply(builder, call, inputs):
    """Reads a QuantMultiply."""
    node = builder.append("multiply", call, inputs)
    node.quantizer = Quantizer("identity", call.layer)
    return node


def read_add_relu(builder, call, inputs):
    """Reads a QuantAddReLU."""
    layer = call.layer
    node = builder.append("add", call, inputs)
    trained = layer.branch_bits is not None
    node.quantizer = Quantizer("staircase", layer)
    builder.set_operand(node, 0, Quantizer("branch", layer, True, trained))
    if layer.shortcut_is_branch and trained:
        builder.set_operand(node, 1, Quantizer("branch", layer))
    elif builder.operand_is_open(node, 1):
        builder.set_operand(node, 1, Quantizer("branch", layer, trained=False))
    return node
