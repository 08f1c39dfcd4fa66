"""What rounds: QuantReLU, QuantIdentity, other activations, a float ReLU."""

from keras_bcgd.export.node import Quantizer


def read_staircase(builder, call, inputs):
    """Reads a QuantReLU."""
    return builder.quantize(call, *inputs, Quantizer("staircase", call.layer))


def read_identity(builder, call, inputs):
    """Reads a QuantIdentity."""
    return builder.quantize(call, *inputs, Quantizer("identity", call.layer))


def read_relu(builder, call, inputs):
    """Reads a float ReLU, of 8 bits by calibration."""
    quantizer = Quantizer("relu", call.layer, trained=False)
    return builder.quantize(call, *inputs, quantizer)


def read_hard_sigmoid(builder, call, inputs):
    """Reads a QuantHardSigmoid."""
    return builder.quantize(
        call, *inputs, Quantizer("hard_sigmoid", call.layer)
    )


def read_table(builder, call, inputs):
    """Reads a QuantTable: a sigmoid or tanh of codes."""
    return builder.append("table", call, inputs)


def read_negative_slope(builder, call, inputs):
    """Reads the second part of a leaky ReLU: slopes, and the larger of two."""
    layer = call.layer
    slopes = builder.append("affine", call, inputs)
    slopes.quantizer = Quantizer("identity", layer.codes)
    slopes.name = f"{layer.name}/slope"
    node = builder.append("maximum", call, inputs)
    node.inputs = [*inputs, slopes]
    return node
