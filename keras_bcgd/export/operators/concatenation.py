"""CONCATENATION: several tensors, brought to one scale."""

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export.steps import Codes
from keras_bcgd.export.steps import Step


def make_step(node, inputs, plan):
    """The step of a concatenation: the grid that holds all inputs."""
    grids = [codes.grid for codes in inputs]
    grid, inexact = grids[0], []
    if any(
        (other.scale, other.zero_point) != (grid.scale, grid.zero_point)
        for other in grids
    ):
        ends = np.array([other.ends for other in grids])
        grid = arithmetic.range_grid(ends.min(), ends.max())
        inexact.append(
            f"{node.name} rounds: what it concatenates has different "
            "scales, and is brought to one."
        )
    output = arithmetic.Output(grid)
    return Step(node, inputs, Codes(grid), output, inexact)


def write(step, inputs, file):
    """Adds the operator."""
    node, codes = step.node, step.hands_over
    rank = 1 + len(node.output_shape) - node.has_height
    axis = node.layer.axis % rank + node.has_height
    # The runtime wants one stored scale, which that of a sum may not be.
    inputs = [
        x
        if x.grid == codes.grid
        else file.quantize(x, codes, f"{node.name}/input{i}")
        for i, x in enumerate(inputs)
    ]
    y = file.tensor(node.name, (file.batch_size, *node.output_shape), codes)
    return file.operator(
        "CONCATENATION",
        inputs,
        y,
        "ConcatenationOptions",
        axis=axis,
    )
