"""How far from the nearest code the output of a file may rightly be.

A file whose operator accumulates a whole number a computes round(a / D), where
D is the number of units in one step of its output, `out / (in * w)` by its
scales; its bias is a whole number of units as well, off by half of one. What is
halfway between two codes may become either: the kernels in float32 (XNNPACK)
round once, with an error of 1e-5 of a step; those in fixed point round to
`2**-s` of a step first, `2**s <= D`, which moves the middle by half of that.
Kernels with 16-bit inputs round once, but their ratio of scales has 15 bits.
Keras itself computes in float32. All of it is derived here from the file alone,
not from the code that wrote it.
"""

import math

import numpy as np

from keras_bcgd.tflite.runner import MICRO

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# The same codes, or a choice among them.
_PASSING = (
    "CONCATENATION",
    "MAX_POOL_2D",
    "PAD",
    "PADV2",
    "RESHAPE",
    "SPLIT",
    "STRIDED_SLICE",
)

# Float32 kernels, and sums in 20 bits.
_LEAST = 1e-3
# Of Keras, per step of the largest output: 2**-24 for each of some terms.
_FLOAT_NOISE = 1e-6
# For operators that are not known here.
_UNKNOWN = 0.05
# Functions by table, in steps of 1/256 and of 1/32,768, as measured on LiteRT
# 2.3 (docs/runtimes.md). The 16-bit softmax adds up an error of each class: one
# that is 10 below the largest, or more, counts as e**-10, 1.5 steps, or 2. The
# table of TensorFlow Lite Micro is in float32, its softmax 1 step from that.
_OF_TABLES = {
    ("LOGISTIC", "int8"): 0.0,
    ("LOGISTIC", "int16"): 1.0,
    ("SOFTMAX", "int8"): 0.0,
    ("SOFTMAX", "int16"): 3.0,
}
_OF_EACH_CLASS = 2.0
_OF_MICRO = 1.0


def tolerance(file, tensor, kernels, largest):
    """How far beyond half a step a code may be from the model's value.

    Args:
        file: `tflite.reader.TFLiteFile`.
        tensor: `tflite.reader.Tensor`, an output of it.
        kernels: String, the kernels that ran.
        largest: Float, the largest output of the model, in steps.

    Returns:
        A float, in steps.
    """
    makers = {
        output.name: operator
        for operator in file.operators
        for output in operator.outputs
        if output is not None
    }
    allowed = _of_tensor(makers, tensor, kernels, largest)
    return allowed + _FLOAT_NOISE * largest


def _of_tensor(makers, tensor, kernels, largest):
    operator = makers.get(tensor.name)
    if operator is None:
        return _UNKNOWN
    first = operator.inputs[0]
    if operator.name in _PASSING:
        parts = [t for t in operator.inputs if t is not None and t.data is None]
        return max(_of_tensor(makers, t, kernels, largest) for t in parts)
    if operator.name == "QUANTIZE" and len(first.scales) == 1:
        ratio = first.scales[0] / tensor.scales[0]
        inner = _of_tensor(makers, first, kernels, largest / ratio)
        if ratio == 1:
            return inner
        # Rounded twice: to the steps of the input as well.
        return ratio * (0.5 + inner) + _early(kernels, 1 / ratio)
    if operator.name in _WEIGHTED:
        return _of_weights(operator, tensor, kernels, largest)
    if operator.name == "ADD":
        return _LEAST
    table = operator.name, tensor.dtype
    if table not in _OF_TABLES:
        return _UNKNOWN
    allowed = _OF_TABLES[table] + _of_input(operator, tensor, makers, kernels)
    if table == ("SOFTMAX", "int16"):
        allowed += _OF_EACH_CLASS * tensor.shape[-1]
        allowed += _OF_MICRO if kernels == MICRO else 0.0
    return allowed


def _of_input(operator, tensor, makers, kernels):
    """What rounding the logits does to a softmax or sigmoid of them.

    Both change by a quarter of a change of theirs at most.
    """
    logits = operator.inputs[0]
    largest = float(np.iinfo(logits.dtype).max)
    allowed = 0.5 + _of_tensor(makers, logits, kernels, largest)
    return 0.25 * allowed * logits.scales[0] / tensor.scales[0]


def _of_weights(operator, tensor, kernels, largest):
    first, weights = operator.inputs[:2]
    if not (len(first.scales) and len(weights.scales) and len(tensor.scales)):
        return _UNKNOWN
    # As the kernels do, from the scales in float32.
    ratios = np.float64(first.scales[0]) * np.float64(weights.scales)
    ratios = ratios / np.float64(tensor.scales[0])
    # The bias is a whole number of these ratios: off by half of one.
    least = _LEAST + 0.5 * max(ratios)
    if first.dtype == "int16":
        return least + largest * max(map(_error_of_15_bits, ratios))
    return least + max(_early(kernels, 1 / ratio) for ratio in ratios)


def _early(kernels, step):
    """By how much of a step of D units fixed point rounds up early."""
    if kernels == "xnnpack" or step < 2:
        return 0.0
    return 0.5 * 2.0 ** -math.floor(math.log2(step))


def _error_of_15_bits(ratio):
    """The relative error of a ratio in kernels with 16-bit inputs."""
    fraction, _ = math.frexp(ratio)
    rounded = min((round(fraction * 2**31) + 2**15) >> 16, 2**15 - 1)
    return abs(rounded / 2**15 / fraction - 1)
