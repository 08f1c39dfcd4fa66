"""TRANSPOSE: the axes of a map in another order."""

import numpy as np

from keras_bcgd.export.steps import same_codes


def make_step(node, inputs, plan):
    """The step of a Permute, which keeps the codes."""
    return same_codes(node, inputs)


def write(step, inputs, file):
    """Adds the operator."""
    node, (x,) = step.node, inputs
    order = file.constant(f"{node.name}/order", np.int32([0, *node.layer.dims]))
    shape = (file.batch_size, *node.output_shape)
    y = file.tensor(node.name, shape, step.hands_over)
    return file.operator("TRANSPOSE", [x, order], y, "TransposeOptions")
