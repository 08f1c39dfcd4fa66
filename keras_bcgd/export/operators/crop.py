"""SLICE: a map without its border."""

import numpy as np

from keras_bcgd.export.steps import same_codes


def make_step(node, inputs, plan):
    """The step of a cropping, which keeps the codes."""
    return same_codes(node, inputs)


def write(step, inputs, file):
    """Adds the operator."""
    node, (x,) = step.node, inputs
    cropping = node.layer.cropping
    if node.has_height:
        cropping = ((0, 0), cropping)
    (top, _), (left, _) = cropping
    shape = (file.batch_size, *node.output_shape)
    begin = file.constant(f"{node.name}/begin", np.int32([0, top, left, 0]))
    size = file.constant(f"{node.name}/size", np.int32(shape))
    y = file.tensor(node.name, shape, step.hands_over)
    return file.operator("SLICE", [x, begin, size], y, "SliceOptions")
