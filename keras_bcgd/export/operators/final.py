"""SOFTMAX and LOGISTIC, at the end of a model."""

from keras_bcgd.export import arithmetic
from keras_bcgd.export.steps import Codes
from keras_bcgd.export.steps import Step

_OPERATORS = {
    "softmax": ("SOFTMAX", "SoftmaxOptions", {"beta": 1.0}),
    "sigmoid": ("LOGISTIC", None, {}),
}
# What they give, by the rules of the runtime.
_GRIDS = {
    "int8": arithmetic.Grid(1 / 256, -128),
    "int16": arithmetic.Grid(1 / 32768, 0, -32768, 32767),
}


def make_step(node, inputs, plan):
    """The step of a softmax or sigmoid, in 8 or 16 bits."""
    dtype = "int16" if plan.is_wide_output(node) else "int8"
    reads = inputs[0]
    if reads.dtype != dtype:
        reads = Codes(plan.logits_grid(node, dtype), dtype)
    return Step(node, inputs, reads, arithmetic.Output(_GRIDS[dtype]))


def write(step, inputs, file):
    """Adds the operator."""
    (x,) = inputs
    if x.dtype != step.reads.dtype:
        x = file.quantize(x, step.reads, "logits/int8")
    name, options, settings = _OPERATORS[step.node.kind]
    y = file.tensor(step.node.name, x.shape, step.hands_over)
    return file.operator(name, [x], y, options, **settings)
