"""Multiply-accumulate operations of an operator, from the shapes alone."""

import math

# Of these each output is a sum over the whole of a filter.
_OVER_FILTER = ("CONV_2D", "FULLY_CONNECTED")


def macs(operator):
    """How often an operator multiplies by a weight and adds, in one run.

    Positions at the border count in full, also where part of the filter lies
    on padding, as is usual. Biases do not count; a batch counts as a whole.

    Args:
        operator: `tflite.reader.Operator`.

    Returns:
        Int, 0 for an operator without weights; also for one of a kind that is
        not known here.
    """
    if operator.name in _OVER_FILTER:
        # Weights: (filters, height, width, channels of a group); a matrix
        # (outputs, inputs).
        return _outputs(operator) * math.prod(operator.inputs[1].shape[1:])
    if operator.name == "DEPTHWISE_CONV_2D":
        # (1, height, width, channels of the output)
        return _outputs(operator) * math.prod(operator.inputs[1].shape[1:3])
    if operator.name == "TRANSPOSE_CONV":
        # Inputs: the shape of the output, the weights (channels of the output,
        # height, width, channels of the input), the image.
        _, weights, image = operator.inputs[:3]
        return math.prod(image.shape) * math.prod(weights.shape[:3])
    return 0


def _outputs(operator):
    return math.prod(operator.outputs[0].shape)
