"""The plan of a file: the grid of every tensor, before anything is written."""

import dataclasses

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import logits
from keras_bcgd.export.node import Node
from keras_bcgd.export.operators import OPERATORS
from keras_bcgd.export.operators import convolution
from keras_bcgd.export.operators import widening
from keras_bcgd.export.steps import Codes
from keras_bcgd.export.steps import window_size
from keras_bcgd.export.trained_values import read_output
from keras_bcgd.network import traits

_FINAL = set(traits.FINAL.values())


@dataclasses.dataclass(frozen=True)
class PlannedOutput:
    """An output of the file.

    Attributes:
        node: `Node`.
        codes: `Codes`.
        in_int8: `Codes`, the same before they become `"uint8"`.
    """

    node: Node
    codes: Codes
    in_int8: Codes


class Plan:
    """A graph with the grid of every tensor; nothing is written yet.

    Args:
        graph: `node.Graph`.
        grids: List of `arithmetic.Grid`, those of the inputs.
        ranges: Dict from the calibrated nodes to `(low, high)`.
        samples: Dict from the nodes of logits to arrays of these, of
            representative data; empty without.
        weight_types: Dict from the nodes with a kernel to `"int8"`, `"int4"`,
            `"int2"` or `"lut"`.
        output_types: List of strings, one for each output: `"int8"`,
            `"uint8"` or `"int16"`.
        tasks: List of strings or `None`, likewise: with `"classification"`
            8-bit logits that never decide may saturate.
        target: String, as `targets` has them, or `None`.

    Attributes:
        steps: List of `steps.Step`, in the order in which they run.
        outputs: List of `PlannedOutput`.
        saturated: Dict from the nodes of logits to the share of their
            `samples` outside of the output.
    """

    def __init__(
        self,
        graph,
        grids,
        ranges,
        samples,
        weight_types,
        output_types,
        tasks,
        target,
    ):
        self.target = target
        self.graph = graph
        self.grids = grids
        self.samples = samples
        self.saturated = {}
        self.steps = []
        self._ranges = ranges
        self._weight_types = weight_types
        self._output_types = dict(zip(graph.outputs, output_types, strict=True))
        self._tasks = dict(zip(graph.outputs, tasks, strict=True))
        self._codes = {
            node: Codes(grid)
            for node, grid in zip(graph.inputs, grids, strict=True)
        }
        self._readers = graph.readers()
        for node in graph.nodes:
            inputs = [self._codes[source] for source in node.inputs]
            step = OPERATORS[node.kind].make_step(node, inputs, self)
            self.steps.append(step)
            self._codes[node] = step.hands_over
        self.outputs = [self._planned(node) for node in graph.outputs]

    def _planned(self, node):
        """The `PlannedOutput` of a node."""
        codes = self._codes[node]
        if codes.dtype == "int16" and not self.is_wide_output(node):
            codes = Codes(self.logits_grid(node, "int8"))
        in_int8 = codes
        if self._output_types[node] == "uint8":
            codes = Codes(arithmetic.unsigned(codes.grid), "uint8")
        return PlannedOutput(node, codes, in_int8)

    def is_wide_output(self, node):
        """Whether an output has 16 bits."""
        return self._output_types[node] == "int16"

    @property
    def inexact(self):
        """What rounds as training did not: a list of sentences."""
        return [why for step in self.steps for why in step.inexact]

    def output_of(self, node):
        """The `arithmetic.Output` of a node with a quantizer."""
        quantizer = node.quantizer
        if node not in self._ranges:
            return read_output(quantizer)
        grid = arithmetic.range_grid(*self._ranges[node])
        return arithmetic.Output(grid, relu=quantizer.kind == "relu")

    def weight_type(self, node):
        """The type of the weights of a node."""
        return self._weight_types.get(node, "int8")

    def has_wide_logits(self, node):
        """Whether the logits that a node computes have 16 bits."""
        x = self._codes[node.inputs[0]]
        outputs = self.graph.logits[node]
        return x.dtype == "int16" or any(map(self.is_wide_output, outputs))

    def logits_grid(self, output, dtype):
        """The grid in a type of the logits that an output shows."""
        node = self.graph.logits_of(output)
        kinds = {other.kind for other in self.graph.logits[node]}
        depth = None
        if len(kinds) == 1 and kinds <= _FINAL:
            (depth,) = kinds
        elif not kinds & _FINAL and all(
            self._tasks[other] == "classification"
            for other in self.graph.logits[node]
        ):
            depth = "runner_up"
        samples = self.samples.get(node)
        reads = self._codes[node.inputs[0]]
        if dtype == "int16":
            reads = widening.wide_codes(node, reads, self.target)
        grid = logits.logits_grid(
            node,
            reads.grid,
            samples,
            dtype,
            depth,
            convolution.multiplier(node, self.weight_type(node), dtype),
        )
        if samples is not None:
            self.saturated[node] = np.mean(~grid.covers(samples))
        return grid

    def is_wide(self, node):
        """Whether a node computes in 16 bits: logits, and what they average.

        The mean of many codes has more values than 8 bits hold.
        """
        if node in self.graph.logits and node.kind in widening.WIDE:
            return self.has_wide_logits(node)
        if node.kind != "average" or node.quantizer is not None:
            return False
        grid = self._codes[node.inputs[0]].grid
        return self._is_for_logits(node) and not arithmetic.is_exact_mean(
            grid, window_size(node)
        )

    def _is_for_logits(self, node):
        """Whether dense logits read a node, through reshapes, nothing else."""
        readers = self._readers[node]
        if node in self.graph.outputs or not readers:
            return False
        return all(
            self._is_for_logits(reader)
            if reader.kind == "reshape"
            else reader.kind == "dense" and reader in self.graph.logits
            for reader in readers
        )
