"""LOGISTIC and TANH: 256 codes become 256 codes."""

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export.steps import Step
from keras_bcgd.pointwise import TABLES

NAMES = {"sigmoid": "LOGISTIC", "tanh": "TANH"}
# The runtime makes its table in float32. An output so near to the middle
# between two codes, in steps, may become either.
_MARGIN = 1e-3
# Steps of the input from which TensorFlow Lite Micro computes other codes: it
# looks at 16 units on either side of 0, in whole steps, and from 8 on at none.
_LARGEST_ON_TFLM = {"sigmoid": 2.0, "tanh": 8.0}


def make_step(node, inputs, plan):
    """The step of a table, with how many of its codes are certain."""
    (x,) = inputs
    grid = grid_of(node.layer.function)
    codes = codes_and_certainty(node.layer.function, x.grid)[1]
    return Step(
        node,
        inputs,
        x,
        arithmetic.Output(grid),
        pairs=codes.size,
        right=int(codes.sum()),
    )


def is_other_on_tflm(step):
    """Whether TensorFlow Lite Micro computes other codes than LiteRT."""
    largest = _LARGEST_ON_TFLM[step.node.layer.function]
    return step.reads.grid.file_scale >= largest


def grid_of(function):
    """The grid of the output of a table."""
    step, low, _ = TABLES[function]
    return arithmetic.Grid(step, arithmetic.INT8_MIN - low)


def codes_and_certainty(function, grid):
    """The output code of each input code, and whether all kernels agree.

    Args:
        function: String: `"sigmoid"` or `"tanh"`.
        grid: `arithmetic.Grid` of the input.

    Returns:
        Two arrays of the length of the grid, of ints and of booleans.
    """
    step, low, high = TABLES[function]
    x = grid.scale * (np.arange(grid.low, grid.high + 1) - grid.zero_point)
    y = 1 / (1 + np.exp(-x)) if function == "sigmoid" else np.tanh(x)
    y = y / step
    distance = np.abs(y - np.floor(y) - 0.5)
    saturates = (y < low - _MARGIN) | (y > high + 0.5 + _MARGIN)
    codes = np.clip(np.round(y), low, high).astype(int)
    return codes, saturates | (distance > _MARGIN)


def write(step, inputs, file):
    """Adds the operator."""
    node, (x,) = step.node, inputs
    y = file.tensor(node.name, x.shape, step.hands_over)
    return file.operator(NAMES[node.layer.function], [x], y)
