"""TRANSPOSE_CONV: each input adds its window of weights to the output."""

import numpy as np

from keras_bcgd.export import bias_intervals
from keras_bcgd.export.operators import pad


def plan(step):
    """Chooses the roundings of the step of a transposed convolution.

    Raises:
        ValueError: If no code of its input stands for 0.0.
    """
    node, grid = step.node, step.reads.grid
    if pad.shift_of_zero(grid):
        raise ValueError(
            f"The layer '{node.layer.name}' ({type(node.layer).__name__}) must "
            "not follow a Rescaling or Normalization directly, as 0.0 is then "
            "not the zero point of what it reads: put a convolution or a "
            "QuantIdentity before it. "
            f"Received: 0.0 at {pad.shift_of_zero(grid)} codes from it"
        )
    if grid.offset:
        step.inexact.append(
            f"{node.name} rounds: fewer weights reach its border, and 0.0 is "
            "between two codes of its input."
        )
    skips = any(np.less(node.window, node.strides))
    if node.padding == "same" and skips:
        # XNNPACK leaves outputs that no input reaches to "builtin".
        step.roundings = (*bias_intervals.ALL[1:], bias_intervals.ONCE)


def write(step, x, kernel, bias, y, file):
    """Adds the operator.

    Args:
        step: `WeightedStep`.
        x: `FileTensor`, what it reads.
        kernel: Int, the constant of the weights.
        bias: Int, that of the bias.
        y: `FileTensor`, what it computes.
        file: `File`.
    """
    node, settings = step.node, {}
    if step.output.relu:
        settings["fusedActivationFunction"] = "relu"
    shape = file.constant(f"{node.name}/shape", np.int32(y.shape))
    return file.operator(
        "TRANSPOSE_CONV",
        [shape, kernel, x, bias],
        y,
        "TransposeConvOptions",
        padding=node.padding,
        strideH=node.strides[0],
        strideW=node.strides[1],
        **settings,
    )
