"""Groups the calls of a model into the nodes of a graph."""

import collections
import dataclasses

import keras

from keras_bcgd.export import heights
from keras_bcgd.export import readers
from keras_bcgd.export import support
from keras_bcgd.export.node import CONVOLUTIONS
from keras_bcgd.export.node import ON_MAPS
from keras_bcgd.export.node import WEIGHTED
from keras_bcgd.export.node import Graph
from keras_bcgd.export.node import Node
from keras_bcgd.export.node import Quantizer
from keras_bcgd.export.node import commutes
from keras_bcgd.layers import Composite
from keras_bcgd.network import traits
from keras_bcgd.network.calls import REPEATED
from keras_bcgd.network.calls import Call
from keras_bcgd.network.calls import input_keys


def _without_idle(calls, keys):
    """Leaves out what does nothing outside training."""
    same = {}
    kept = []
    for call in calls:
        sources = [same.get(source, source) for source in call.sources]
        if traits.does_nothing(call.layer):
            same[call.key] = sources[0]
        else:
            kept.append(Call(call.layer, sources, call.key))
    return kept, [same.get(key, key) for key in keys]


def _outputs_alone(node, readers, outputs):
    """The outputs that show what a node computes; none, if others read it."""
    found = [node] if node in outputs else []
    for reader in readers[node]:
        is_final = reader.kind in traits.FINAL.values()
        if not is_final and not commutes(reader):
            return []
        behind = _outputs_alone(reader, readers, outputs)
        if not behind:
            return []
        found += behind
    return found


def _make_dense(graph, node):
    """Reads a convolution of size 1 that sees a single place as a dense layer.

    As the classifier of MobileNet: a dense layer may have logits of 16 bits.
    """
    source = node.inputs[0]
    is_single = source.output_shape[:-1] == (1, 1)
    if node.kind != "conv" or node.window != (1, 1) or not is_single:
        return
    flat = dataclasses.replace(
        source,
        kind="reshape",
        inputs=[source],
        input_shape=source.output_shape,
        output_shape=source.output_shape[-1:],
        name=f"{source.name}/flat",
        norm=None,
        quantizer=None,
    )
    graph.nodes.insert(graph.nodes.index(node), flat)
    node.kind, node.inputs = "dense", [flat]


def _geometry(kind, layer, input_shape):
    """The window of a convolution or pooling, and how it moves."""
    if kind not in ON_MAPS or kind in ("crop", "pad"):
        return {}
    if isinstance(layer, keras.layers.Dense):
        return {}  # the same at each place
    window = tuple(input_shape[:-1])  # of global pooling
    for name in ("pool_size", "kernel_size"):
        window = tuple(getattr(layer, name, window))
    return {
        "window": _height_and_width(window),
        "strides": _height_and_width(getattr(layer, "strides", ())),
        "dilation": _height_and_width(getattr(layer, "dilation_rate", ())),
        "padding": getattr(layer, "padding", "valid"),
    }


def _height_and_width(numbers):
    """Two numbers, of less that is given the last."""
    return ((1, 1) + tuple(numbers))[-2:]


def _can_pass(quantizer, node):
    """Whether rounding before a node is rounding what it computes.

    A padding puts zeros around: where the hard sigmoid is 1/2.
    """
    keeps_zero = quantizer.kind != "hard_sigmoid"
    return commutes(node) and (
        keeps_zero or node.kind not in ("pad", "pad_channels")
    )


class Builder:
    """Groups the calls of a model into nodes.

    The functions in `readers` read one call each, with the methods that are
    public here.

    Args:
        calls: List of `network.calls.Call`.
        keys: List of the keys of the outputs.
        problems: `support.Problems`, to which what is refused goes.
    """

    def __init__(self, calls, keys, problems):
        self.all_calls = calls
        self.calls, self.output_keys = _without_idle(calls, keys)
        self.problems = problems
        self.nodes = []
        self.at = {}  # key of a tensor: the node that computes it
        self.call_of = {}  # node: the call from which it was made
        self.readers = collections.Counter(self.output_keys)
        for call in self.calls:
            self.readers.update(call.sources)

    def build(self, model):
        """The `Graph` of the calls."""
        starts = []
        keys = input_keys(model)
        for key, tensor in zip(keys, model.inputs, strict=True):
            shape = tuple(tensor.shape[1:])
            starts.append(Node("input", None, [], shape, shape, "input", key))
            self.at[key] = starts[-1]
        self._check_calls()
        for call in self.calls:
            self.at[call.key] = self._read(call)
        outputs = [self.at[key] for key in self.output_keys]
        graph = Graph(starts, self.nodes, outputs, self.all_calls)
        heights.add(graph)
        self._quantize_the_rest(graph)
        return graph

    def _check_calls(self):
        """Checks each layer by itself."""
        counts = collections.Counter(
            id(call.layer) for call in self.calls if call.index == 0
        )
        before_output = self._before_output()
        for call in self.calls:
            is_repeated = counts[id(call.layer)] > 1
            if is_repeated:
                self.problems.add(call.layer, REPEATED)
            if is_repeated and isinstance(call.layer, Composite):
                continue  # of one call its parts are looked at
            at_output = call.key in before_output
            support.check_layer(
                call.layer, len(call.sources), at_output, self.problems
            )

    def _before_output(self):
        """The keys of the tensors which only reshapes lead to an output."""
        found = set(self.output_keys)
        inside = set()
        for call in reversed(self.calls):
            is_reshape = traits.COMMUTING.get(type(call.layer)) == "reshape"
            if is_reshape and call.key in found - inside:
                found.update(call.sources)
            else:
                inside.update(call.sources)
        return found - inside

    def _read(self, call):
        """The node that computes what a call computes."""
        inputs = [self.at[source] for source in call.sources]
        return readers.reader_of(call.layer)(self, call, inputs)

    def append(self, kind, call, inputs, **settings):
        """Appends the node of a call; returns it."""
        shapes = [(None, *node.output_shape) for node in inputs]
        shape = call.layer.compute_output_shape(
            shapes if len(shapes) > 1 else shapes[0]
        )
        node = Node(
            kind,
            call.layer,
            inputs,
            inputs[0].output_shape,
            tuple(shape[1:]),
            call.layer.name,
            call.key,
            **_geometry(kind, call.layer, inputs[0].output_shape),
            **settings,
        )
        self.nodes.append(node)
        self.call_of[node] = call
        return node

    def is_open(self, node, key):
        """Whether a quantizer can be fused into what computes `key`."""
        return (
            node.kind in (*WEIGHTED, "add")
            and node.quantizer is None
            and self.readers[key] == 1
        )

    def _source_keys(self, node):
        """The keys of what a node reads."""
        return self.call_of[node].sources

    def quantize(self, call, node, quantizer):
        """Fuses a quantizer into the node whose output it quantizes.

        Through poolings, paddings and reshapes, which commute with it; into
        all parts of a concatenation.
        """
        passed, source, key = [], node, call.sources[0]
        while self.readers[key] == 1 and _can_pass(quantizer, source):
            passed.append(source)
            (key,) = self._source_keys(source)
            source = source.inputs[0]
        if source.kind == "concatenate" and self.readers[key] == 1:
            self._quantize_parts(source, quantizer)
        elif not self.is_open(source, key):
            affine = self.append("affine", call, [node])
            affine.quantizer = quantizer
            return affine
        else:
            source.quantizer = quantizer
        if source.kind == "add":
            self._quantize_operands(source, quantizer)
        for moved in (source, *passed):
            moved.name = f"{moved.layer.name}/codes"
        (passed[0] if passed else source).name = call.layer.name
        return node

    def _quantize_parts(self, node, quantizer):
        """Fuses a quantizer into all parts of a concatenation."""
        keys = self._source_keys(node)
        for index, (part, key) in enumerate(
            zip(node.inputs, keys, strict=True)
        ):
            if part.kind == "concatenate" and self.readers[key] == 1:
                self._quantize_parts(part, quantizer)
            else:
                self.set_operand(node, index, quantizer)

    def _quantize_operands(self, node, quantizer):
        """Puts the operands of an addition before a QuantReLU on its grid."""
        if quantizer.kind != "staircase":
            return
        layer = quantizer.layer
        open_ = [i for i in (0, 1) if self.operand_is_open(node, i)]
        first = open_[0] if open_ else 0
        for i in {first, *open_}:
            branch = Quantizer("branch", layer, i == first, trained=False)
            self.set_operand(node, i, branch)
        if first == 1:
            # The operand with the half step comes first.
            node.inputs.reverse()

    def operand_is_open(self, node, index):
        """The same of what computes an operand of a node."""
        key = self._source_keys(node)[index]
        return self.is_open(node.inputs[index], key)

    def set_operand(self, node, index, quantizer):
        """Quantizes an operand, by an operator of its own where necessary."""
        operand = node.inputs[index]
        if self.operand_is_open(node, index):
            operand.quantizer = quantizer
            operand.name = f"{operand.layer.name}/branch"
            return
        shape = operand.output_shape
        copy = Node(
            "affine",
            node.layer,
            [operand],
            shape,
            shape,
            f"{node.layer.name}/branch{index}",
            self._source_keys(node)[index],
            quantizer=quantizer,
        )
        # Right before the addition.
        self.nodes.insert(self.nodes.index(node), copy)
        node.inputs[index] = copy

    def _quantize_the_rest(self, graph):
        """What no layer quantizes: the logits, and 8 bits by calibration."""
        read_by = graph.readers()
        open_kinds = (*CONVOLUTIONS, "affine", "add")
        for node in list(graph.nodes):
            if node.kind in open_kinds and node.quantizer is None:
                outputs = _outputs_alone(node, read_by, graph.outputs)
                if outputs:
                    graph.logits[node] = outputs
                    _make_dense(graph, node)
                else:
                    node.quantizer = Quantizer("any", trained=False)
