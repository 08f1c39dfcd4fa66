"""What rounds: the QuantReLU, the QuantIdentity and a float ReLU."""

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
