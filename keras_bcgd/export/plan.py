"""The plan of a file: the grid of every tensor, before anything is written."""

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import logits
from keras_bcgd.export.operators import OPERATORS
from keras_bcgd.export.operators import convolution
from keras_bcgd.export.operators import widening
from keras_bcgd.export.steps import Codes
from keras_bcgd.export.steps import window_size
from keras_bcgd.export.trained_values import read_output
from keras_bcgd.network import traits

_FINAL = traits.FINAL.values()


class Plan:
    """A graph with the grid of every tensor; nothing is written yet.

    Args:
        graph: `node.Graph`.
        grid: `arithmetic.Grid` of the input.
        ranges: Dict from the calibrated nodes to `(low, high)`.
        samples: Array of logits of representative data, or `None`.
        weight_types: Dict from the nodes with a kernel to `"int8"`, `"int4"`
            or `"int2"`.
        output_type: String: `"int8"`, `"uint8"` or `"int16"`.
        task: String or `None`: with `"classification"` 8-bit logits that
            never decide may saturate. Defaults to `None`.

    Attributes:
        steps: List of `steps.Step`, in the order in which they run.
        output: `Codes` of the file's output.
        output_in_int8: `Codes`, the same before they become `"uint8"`.
        saturated: Float, the share of `samples` outside of the output.
    """

    def __init__(
        self,
        graph,
        grid,
        ranges,
        samples,
        weight_types,
        output_type,
        task=None,
    ):
        self.graph = graph
        self.grid = grid
        self.output_type = output_type
        self.logits = samples
        self.saturated = 0.0
        self.steps = []
        self._ranges = ranges
        self._weight_types = weight_types
        self._task = task
        self._codes = {graph.input: Codes(grid)}
        self._readers = {}
        for node in graph.nodes:
            for source in node.inputs:
                self._readers.setdefault(source, []).append(node)
        for node in graph.nodes:
            inputs = [self._codes[source] for source in node.inputs]
            step = OPERATORS[node.kind].make_step(node, inputs, self)
            self.steps.append(step)
            self._codes[node] = step.hands_over
        self.output_in_int8 = self.output = self._codes[graph.output]
        if self.output.dtype == "int16" and output_type != "int16":
            self.output_in_int8 = self.output = Codes(self.logits_grid("int8"))
        if output_type == "uint8":
            grid = arithmetic.unsigned(self.output.grid)
            self.output = Codes(grid, "uint8")

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

    def has_wide_logits(self):
        """Whether the logits have 16 bits."""
        x = self._codes[self.graph.logits.inputs[0]]
        return self.output_type == "int16" or x.dtype == "int16"

    def logits_grid(self, dtype):
        """The grid of the logits in a type."""
        node = self.graph.logits
        depth = None
        if self.graph.output.kind in _FINAL:
            depth = self.graph.output.kind
        elif self._task == "classification":
            depth = "runner_up"
        reads = self._codes[node.inputs[0]]
        if dtype == "int16":
            reads = widening.wide_codes(node, reads)
        grid = logits.logits_grid(
            node,
            reads.grid,
            self.logits,
            dtype,
            depth,
            convolution.multiplier(node, self.weight_type(node), dtype),
        )
        if self.logits is not None:
            self.saturated = np.mean(~grid.covers(self.logits))
        return grid

    def is_wide(self, node):
        """Whether a node computes in 16 bits: logits, and what they average.

        The mean of many codes has more values than 8 bits hold.
        """
        classifier = self.graph.logits
        if node is classifier and node.kind in widening.WIDE:
            return self.has_wide_logits()
        if node.kind != "average" or node.quantizer is not None:
            return False
        readers = self._readers.get(node, [])
        while len(readers) == 1 and readers[0].kind == "reshape":
            readers = self._readers.get(readers[0], [])
        grid = self._codes[node.inputs[0]].grid
        return (
            readers == [classifier]
            and classifier.kind == "dense"
            and not arithmetic.is_exact_mean(grid, window_size(node))
        )
