"""ADD: two tensors, whose codes may have different scales."""

import dataclasses

import numpy as np

from keras_bcgd.export import addition
from keras_bcgd.export import arithmetic
from keras_bcgd.export.steps import Step
from keras_bcgd.network.trained import read_alpha


def make_step(node, inputs, plan):
    """The step of an addition, with a scale for which all sums are right."""
    a, b = (codes.grid for codes in inputs)
    if node in plan.graph.logits:
        # From the largest sums, without data.
        output = arithmetic.Output(_sum_grid(a, b, plan.samples.get(node)))
        return Step(node, inputs, inputs[0], output)
    output = plan.output_of(node)
    step = Step(node, inputs, inputs[0], output)
    if output.levels:
        shift = _shift_of(node.inputs[0])
        grid, step.right = addition.best_grid(a, b, shift, output)
        step.output = dataclasses.replace(output, grid=grid)
        step.pairs = np.broadcast(*addition.pairs(a, b)).size
    return step


def _sum_grid(a, b, logits):
    if logits is not None:
        return arithmetic.range_grid(logits.min(), logits.max())
    return arithmetic.range_grid(*(a.ends + b.ends))


def _shift_of(operand):
    quantizer = operand.quantizer
    if quantizer is None or not quantizer.half:
        return 0.0
    return read_alpha(quantizer.layer) / 2


def write(step, inputs, file):
    """Adds the operator."""
    settings = {}
    if step.output.relu:
        settings["fusedActivationFunction"] = "relu"
    y = file.tensor(step.node.name, inputs[0].shape, step.hands_over)
    return file.operator("ADD", inputs, y, "AddOptions", **settings)
