"""The steps of a plan: what is known of a node before anything is written."""

import dataclasses

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import bias_intervals
from keras_bcgd.export.node import Node


@dataclasses.dataclass(frozen=True)
class Codes:
    """The integers of a tensor: their grid and their type."""

    grid: arithmetic.Grid
    dtype: str = "int8"


@dataclasses.dataclass(eq=False)
class Step:
    """How the file computes one node.

    Attributes:
        node: `Node`.
        inputs: List of `Codes`, what the nodes before hand over.
        reads: `Codes` of the first input as the operator reads it; the file
            converts what it is given.
        output: `arithmetic.Output`.
        inexact: List of strings, what rounds as training did not.
        pairs: Int, of an addition, how many pairs of codes there are.
        right: Int, how many of them give the trained code on all kernels.
    """

    node: Node
    inputs: list
    reads: Codes
    output: arithmetic.Output
    inexact: list = dataclasses.field(default_factory=list)
    pairs: int = 0
    right: int = 0

    @property
    def hands_over(self):
        """The `Codes` that the nodes behind it read."""
        return Codes(self.output.grid, self.reads.dtype)


@dataclasses.dataclass(eq=False)
class WeightedStep(Step):
    """The same of a node that multiplies by weights.

    Attributes:
        mult: Int, by which the codes of the weights are multiplied.
        operator: String, the name of the operator: `"CONV_2D"`.
        weight_type: String: `"int8"`, `"int4"`, `"int2"` or `"lut"`.
        roundings: Tuple of the kernels to fit, the most important first.
        padding: String, of the operator: `"valid"` or `"same"`.
        amounts: List of the pairs of ints by which a PAD before it pads each
            axis, or `None`.
        weights: `arithmetic.Weights`, once `integers` has found them.
    """

    mult: int = 1
    operator: str = ""
    weight_type: str = "int8"
    roundings: tuple = bias_intervals.ALL
    padding: str = "valid"
    amounts: list | None = None
    weights: arithmetic.Weights | None = None

    @property
    def grid(self):
        """The `Grid` of what it multiplies."""
        return self.reads.grid


def same_codes(node, inputs):
    """The `Step` of an operator that keeps the codes of what it reads."""
    return Step(node, inputs, inputs[0], arithmetic.Output(inputs[0].grid))


def window_size(node):
    """How many values a pooling takes together; of weights, their sum."""
    codes = getattr(node.layer, "codes", None)
    if node.kind == "average" and codes is not None:
        return int(codes.sum())
    return int(np.prod(node.window))
