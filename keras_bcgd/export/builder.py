"""Groups the calls of a model into the nodes of a graph."""

import collections
import dataclasses

import keras
import numpy as np

from keras_bcgd.export import support
from keras_bcgd.export.node import WEIGHTED
from keras_bcgd.export.node import Graph
from keras_bcgd.export.node import Node
from keras_bcgd.export.node import Quantizer
from keras_bcgd.export.node import commutes
from keras_bcgd.layers import QuantAddReLU
from keras_bcgd.layers import QuantIdentity
from keras_bcgd.layers import QuantReLU
from keras_bcgd.network import traits
from keras_bcgd.network.calls import REPEATED
from keras_bcgd.network.calls import Call
from keras_bcgd.network.calls import input_keys

_FINAL_ADVICE = {
    "sigmoid": (
        "must be the last of the model: use a QuantReLU in its place, or move "
        "it to the end; two classes train best without it, with "
        "from_logits=True"
    ),
    "softmax": (
        "must be the last of the model: leave it out, or move it to the end"
    ),
}


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
    if kind not in ("conv", "depthwise", "average", "max_pool"):
        return {}
    if isinstance(layer, keras.layers.Dense):
        return {}  # the same at each place
    window = tuple(input_shape[:2])  # of global pooling
    for name in ("pool_size", "kernel_size"):
        window = tuple(getattr(layer, name, window))
    return {
        "window": window,
        "strides": tuple(getattr(layer, "strides", (1, 1))),
        "dilation": tuple(getattr(layer, "dilation_rate", (1, 1))),
        "padding": getattr(layer, "padding", "valid"),
    }


class Builder:
    """Groups the calls of a model into nodes."""

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
        starts = []
        keys = input_keys(model)
        for key, tensor in zip(keys, model.inputs, strict=True):
            shape = tuple(tensor.shape[1:])
            starts.append(Node("input", None, [], shape, shape, "input", key))
            self.at[key] = starts[-1]
        self._check_calls()
        for call in self.calls:
            self.at[call.key] = self._read(call)
        output = self.at[self.output_keys[0]]
        graph = Graph(starts[0], self.nodes, output, None, self.all_calls)
        self._quantize_the_rest(graph)
        return graph

    def _check_calls(self):
        """Checks each layer by itself."""
        counts = collections.Counter(
            id(call.layer) for call in self.calls if call.index == 0
        )
        before_output = self._before_output()
        for call in self.calls:
            at_output = call.key in before_output
            support.check_layer(
                call.layer, len(call.sources), at_output, self.problems
            )
            if counts[id(call.layer)] > 1:
                self.problems.add(call.layer, REPEATED)

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
        return _reader(call.layer)(self, call, inputs)

    def _read_unknown(self, call, inputs):
        """What is refused, with its shape, so that the rest can be read."""
        output = keras.tree.flatten(call.layer.output)[call.index]
        node = Node(
            "unknown",
            call.layer,
            inputs,
            inputs[0].output_shape,
            tuple(output.shape[1:]),
            call.layer.name,
            call.key,
        )
        self.nodes.append(node)
        return node

    def _append(self, kind, call, inputs, **settings):
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

    def _is_open(self, node, key):
        """Whether a quantizer can be fused into what computes `key`."""
        return (
            node.kind in (*WEIGHTED, "add")
            and node.quantizer is None
            and self.readers[key] == 1
        )

    def _source_keys(self, node):
        """The keys of what a node reads."""
        return self.call_of[node].sources

    def _read_convolution(self, call, inputs):
        layer = call.layer
        kind = traits.CONVOLUTIONS[type(layer)]
        rank = len(inputs[0].output_shape)
        if kind == "dense" and rank == 3:
            kind = "conv"  # of size 1
        elif kind == "dense" and rank != 1:
            self.problems.add(
                layer,
                f"its input has {rank + 1} axes: put a Reshape before it, to "
                "(height, width, channels), for the same at each place, or a "
                "Flatten, for one answer from all places",
            )
        node = self._append(kind, call, inputs)
        if traits.has_relu(layer):
            node.quantizer = Quantizer("relu", layer, trained=False)
        elif traits.final_kind(layer) is not None:
            return self._read_final(call, [node])
        return node

    def _read_norm(self, call, inputs):
        (node,) = inputs
        rank = len(node.output_shape) + 1
        if call.layer.axis % rank != rank - 1:
            self.problems.add(
                call.layer, "it must normalize the last axis: use axis=-1"
            )
        fits = node.is_convolution and node.layer.activation in (
            None,
            keras.activations.linear,
        )
        if fits and self._is_open(node, call.sources[0]) and not node.norm:
            node.norm = call.layer
            node.name, node.key = call.layer.name, call.key
            return node
        return self._append("affine", call, [node], norm=call.layer)

    def _read_staircase(self, call, inputs):
        return self._quantize(call, *inputs, Quantizer("staircase", call.layer))

    def _read_identity(self, call, inputs):
        return self._quantize(call, *inputs, Quantizer("identity", call.layer))

    def _read_relu(self, call, inputs):
        quantizer = Quantizer("relu", call.layer, trained=False)
        return self._quantize(call, *inputs, quantizer)

    def _read_commuting(self, call, inputs):
        kind = traits.COMMUTING[type(call.layer)]
        return self._append(kind, call, inputs)

    def _read_average(self, call, inputs):
        node = self._append("average", call, inputs)
        self._check_average(node)
        return node

    def _quantize(self, call, node, quantizer):
        """Fuses a quantizer into the node whose output it quantizes.

        Through poolings, paddings and reshapes, which commute with it; into
        all parts of a concatenation.
        """
        passed, source, key = [], node, call.sources[0]
        while commutes(source) and self.readers[key] == 1:
            passed.append(source)
            (key,) = self._source_keys(source)
            source = source.inputs[0]
        if source.kind == "concatenate" and self.readers[key] == 1:
            for index in range(len(source.inputs)):
                self._set_operand(source, index, quantizer)
        elif not self._is_open(source, key):
            affine = self._append("affine", call, [node])
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

    def _read_final(self, call, inputs):
        """A softmax or a sigmoid, which only the end of a model may have."""
        (node,) = inputs
        layer, shape = call.layer, node.output_shape
        kind = traits.final_kind(layer)
        if call.key not in self.output_keys or self.readers[call.key] > 1:
            self.problems.add(layer, f"a {kind} {_FINAL_ADVICE[kind]}")
        if getattr(layer, "axis", -1) not in (-1, len(shape)):
            self.problems.add(layer, "a softmax must be over the last axis")
        final = Node(kind, layer, [node], shape, shape, kind, call.key)
        self.nodes.append(final)
        return final

    def _read_rescaling(self, call, inputs):
        (node,) = inputs
        layer = call.layer
        if node.kind not in ("input", "rescale"):
            self.problems.add(
                layer,
                "put it directly after the input, or use a BatchNormalization "
                "in its place",
            )
            return node
        names = ("scale", "offset")
        if type(layer) is keras.layers.Normalization:
            names = ("mean", "variance")
        sizes = {int(np.size(getattr(layer, name))) for name in names}
        if not sizes <= {1, node.output_shape[-1]}:
            self.problems.add(
                layer,
                "it must rescale everything, or each channel, by one number: "
                f"use axis=-1; it has {max(sizes)} numbers for "
                f"{node.output_shape[-1]} channels",
            )
        return self._append("rescale", call, [node])

    def _read_merge(self, call, inputs):
        layer = call.layer
        kind = "add"
        shapes = [node.output_shape for node in inputs]
        if type(layer) is keras.layers.Concatenate:
            kind = "concatenate"
            if layer.axis % (len(shapes[0]) + 1) == 0:
                self.problems.add(
                    layer,
                    "it must not concatenate the batch: use another axis",
                )
        elif len(inputs) != 2:
            self.problems.add(
                layer, "add two tensors at a time, with several Add"
            )
        elif shapes[0] != shapes[1]:
            self.problems.add(
                layer,
                "add tensors of one shape; theirs are "
                f"{shapes[0]} and {shapes[1]}",
            )
        return self._append(kind, call, inputs)

    def _read_add_relu(self, call, inputs):
        layer = call.layer
        node = self._append("add", call, inputs)
        trained = layer.branch_bits is not None
        node.quantizer = Quantizer("staircase", layer)
        self._set_operand(node, 0, Quantizer("branch", layer, True, trained))
        if layer.shortcut_is_branch and trained:
            self._set_operand(node, 1, Quantizer("branch", layer))
        elif self._operand_is_open(node, 1):
            self._set_operand(
                node, 1, Quantizer("branch", layer, trained=False)
            )
        return node

    def _quantize_operands(self, node, quantizer):
        """Puts the operands of an addition before a QuantReLU on its grid."""
        if quantizer.kind != "staircase":
            return
        layer = quantizer.layer
        open_ = [i for i in (0, 1) if self._operand_is_open(node, i)]
        first = open_[0] if open_ else 0
        for i in {first, *open_}:
            branch = Quantizer("branch", layer, i == first, trained=False)
            self._set_operand(node, i, branch)
        if first == 1:
            # The operand with the half step comes first.
            node.inputs.reverse()

    def _operand_is_open(self, node, index):
        key = self._source_keys(node)[index]
        return self._is_open(node.inputs[index], key)

    def _set_operand(self, node, index, quantizer):
        """Quantizes an operand, by an operator of its own where necessary."""
        operand = node.inputs[index]
        if self._operand_is_open(node, index):
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
        last = graph.output
        if last.kind in traits.FINAL.values():
            last = last.inputs[0]
        while commutes(last):
            last = last.inputs[0]
        open_kinds = ("conv", "depthwise", "dense", "affine", "add")
        for node in list(graph.nodes):
            if node.kind in open_kinds and node.quantizer is None:
                if node is last:
                    graph.logits = node
                    _make_dense(graph, node)
                else:
                    node.quantizer = Quantizer("any", trained=False)

    def _check_average(self, node):
        if node.padding == "valid":
            return
        sizes = zip(
            node.input_shape[:2], node.window, node.strides, strict=True
        )
        if any(
            size is not None and (-(-size // stride) - 1) * stride + pool > size
            for size, pool, stride in sizes
        ):
            self.problems.add(
                node.layer,
                "padding='same' averages over fewer values at the border: use "
                "padding='valid'",
            )


# What reads a call of each class of layers, as in `Builder`.
_READERS = {
    keras.layers.Add: Builder._read_merge,
    keras.layers.BatchNormalization: Builder._read_norm,
    keras.layers.Concatenate: Builder._read_merge,
    keras.layers.Normalization: Builder._read_rescaling,
    keras.layers.Rescaling: Builder._read_rescaling,
    QuantAddReLU: Builder._read_add_relu,
    QuantIdentity: Builder._read_identity,
    QuantReLU: Builder._read_staircase,
    **dict.fromkeys(traits.AVERAGES, Builder._read_average),
    **dict.fromkeys(traits.COMMUTING, Builder._read_commuting),
    **dict.fromkeys(traits.CONVOLUTIONS, Builder._read_convolution),
}


def _reader(layer):
    """The method that reads a call of a layer."""
    if not support.has_integer_form(layer):
        return Builder._read_unknown
    if traits.is_relu(layer):
        return Builder._read_relu
    return _READERS.get(type(layer), Builder._read_final)
