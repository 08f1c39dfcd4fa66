"""The layers of a Keras model as one flat graph, for planning.

Models that are used as layers are opened. A layer that is called several times,
by one model or by several, is one node whose sources and readers are those of
all its calls.
"""

import collections
import dataclasses

import keras
import numpy as np

from keras_bcgd.network import interpolation
from keras_bcgd.network import traits
from keras_bcgd.network.functional import read_functional

# Paths that no layer has: its name is without a slash.
OUTPUT = "/output"
_START = "/input"

# Their weights may have several axes and are none the less one per channel.
_NO_KERNEL = (keras.layers.Normalization, keras.layers.PReLU)


@dataclasses.dataclass
class LayerNode:
    """A layer of the flat graph.

    Attributes:
        path: String, its name, after those of the models it is in; of several
            paths the first.
        layer: The Keras layer; `None`: an operation that is not a layer.
        kind: String, the name of its class.
        model: String, the path of the model it is in.
        sources: List of paths, what it reads, in order, in all its calls.
        shapes: List of the shapes of these.
        calls: Int, how often it is called.
        readers: List of paths of what reads it, each call once; `OUTPUT` if
            the model does.
        paths: List of all its paths: of several, models share it.
        operation: The layer, or the operation that is none; `None`: an input.
        numbers: List of what an operation is given besides tensors: `[3.0]`
            of `x + 3.0`.
        is_end: Boolean. Whether it has a kernel, and there is no other before
            it or none after it, on one of its paths.
    """

    path: str
    layer: keras.layers.Layer | None
    kind: str
    model: str
    sources: list = dataclasses.field(default_factory=list)
    shapes: list = dataclasses.field(default_factory=list)
    calls: int = 1
    readers: list = dataclasses.field(default_factory=list)
    paths: list = dataclasses.field(default_factory=list)
    operation: object = None
    numbers: list = dataclasses.field(default_factory=list)
    is_end: bool = False

    def __post_init__(self):
        self.paths.append(self.path)

    @property
    def has_kernel(self):
        """Whether it multiplies by weights: a convolution, say."""
        if self.layer is None or isinstance(self.layer, _NO_KERNEL):
            return False
        return any(len(weight.shape) > 1 for weight in self.layer.weights)


def is_graph(model):
    """Whether a model is Sequential or functional, and built."""
    return traits.is_model(model)


def leaves(model, prefix=""):
    """The layers that are no models that can be opened.

    Args:
        model: A model for which `is_graph` is true.
        prefix: String, what the paths begin with. Defaults to `""`.

    Yields:
        `(path, layer)`, a shared layer under each of its paths.
    """
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        if is_graph(layer):
            yield from leaves(layer, f"{path}/")
        else:
            yield path, layer


def read_network(model):
    """The flat graph of a model.

    Args:
        model: A built `keras.Sequential` or functional model, checked.

    Returns:
        Dict from path to `LayerNode`, in the order in which they run.
    """
    nodes = {}
    inputs = [[] for _ in model.inputs]
    outputs = _read_model(model, "", inputs, nodes, 1)
    for node in nodes.values():
        for source in node.sources:
            nodes[source].readers.append(node.path)
    for path in outputs:
        nodes[path].readers.append(OUTPUT)
    for path in Walker(nodes).ends():
        nodes[path].is_end = True
    return _merged(nodes)


def _merged(nodes):
    """One node for each layer: models may share a layer, or a model."""
    first = {}  # id of a layer, path of an operation: its node
    same = {OUTPUT: OUTPUT}
    for path, node in nodes.items():
        key = path if node.layer is None else id(node.layer)
        same[path] = first.setdefault(key, node).path
    for path, node in nodes.items():
        node.sources = [same[source] for source in node.sources]
        node.readers = [same[reader] for reader in node.readers]
        whole = nodes[same[path]]
        if whole is not node:
            whole.paths += node.paths
            whole.sources += node.sources
            whole.shapes += node.shapes
            whole.calls += node.calls
            whole.is_end = whole.is_end or node.is_end
            # Once: in a shared model the same layers read it.
            whole.readers += [r for r in node.readers if r not in whole.readers]
    return {node.path: node for node in first.values()}


def _read_model(model, prefix, inputs, nodes, calls):
    """Appends the nodes of a model; returns the paths of its outputs.

    Args:
        model: The model.
        prefix: String, what the paths of its layers begin with.
        inputs: List of lists of paths, what each of its inputs reads.
        nodes: Dict, to which the nodes go.
        calls: Int, how often the model is called.
    """
    if isinstance(model, keras.Sequential):
        return _read_sequential(model, prefix, inputs, nodes, calls)
    graph = read_functional(model)
    ends = {}  # name of a layer: the paths of its outputs

    # Two rounds: a shared layer may read what comes after it.
    order = [name for name, _, _ in graph.starts]
    pending = []
    for entry in graph.operations:
        name, uses, layer = entry.name, entry.uses, entry.layer
        path = prefix + name
        if is_graph(layer):
            count = calls * len(uses)
            starts = [[] for _ in layer.inputs]
            ends[name] = _read_model(layer, f"{path}/", starts, nodes, count)
            pending.append((_input_paths(layer, f"{path}/"), uses))
            continue
        count = calls * max(1, len(uses))
        node = LayerNode(path, layer, entry.kind, prefix, calls=count)
        node.operation = entry.operation
        if len(entry.numbers) == 1:
            (node.numbers,) = entry.numbers
        nodes[path], ends[name] = node, [path]
        if isinstance(layer, keras.layers.InputLayer):
            node.sources = list(inputs[order.index(name)])
        pending.append(([path], uses))
    for paths, uses in pending:
        for use in uses:
            _link(nodes, paths, use, ends)
    return [_end(ends, name, index) for name, _, index in graph.ends]


def _read_sequential(model, prefix, inputs, nodes, calls):
    start = LayerNode(
        f"{prefix}{_START}", None, "InputLayer", prefix, calls=calls
    )
    start.sources = list(inputs[0])
    nodes[start.path] = start
    shape, ends = tuple(model.inputs[0].shape), [start.path]
    for layer in model.layers:
        path = prefix + layer.name
        if is_graph(layer):
            inner = _read_model(layer, f"{path}/", [ends], nodes, calls)
            ends = inner
        else:
            kind = type(layer).__name__
            nodes[path] = LayerNode(
                path, layer, kind, prefix, ends[:1], [shape], calls
            )
            nodes[path].operation = layer
            ends = [path]
        shape = tuple(layer.output.shape) if is_graph(layer) else None
    return ends


def _input_paths(model, prefix):
    """The paths of the nodes at which a model within the model begins."""
    if isinstance(model, keras.Sequential):
        return [f"{prefix}{_START}"]
    starts = read_functional(model).starts
    return [prefix + name for name, _, _ in starts]


def _link(nodes, paths, read, ends):
    """Lets the nodes at `paths` read the tensors of one call."""
    sources = []
    for tensor in read:
        name, _, index = tensor.origin
        sources.append((_end(ends, name, index), tensor.shape))
    for i, path in enumerate(paths):
        # A model's inputs read one tensor each, a layer all of them.
        mine = sources[i : i + 1] if len(paths) > 1 else sources
        nodes[path].sources += [source for source, _ in mine]
        nodes[path].shapes += [shape for _, shape in mine]


def _end(ends, name, index):
    paths = ends[name]
    return paths[index] if len(paths) > 1 else paths[0]


class Walker:
    """Follows a graph over what a quantizer can be moved through."""

    def __init__(self, nodes):
        self.nodes = nodes

    def readers(self, node):
        """What reads a node, over what does nothing outside training.

        Returns:
            List of `LayerNode` and `OUTPUT`, one for each call.
        """
        return self._expand(node, set())

    def _expand(self, node, seen):
        found = []
        for path in node.readers:
            reader = self.nodes.get(path, OUTPUT)
            if reader is not OUTPUT and _is_idle(reader):
                if path not in seen:
                    found += self._expand(reader, seen | {path})
            else:
                found.append(reader)
        return found

    def source(self, node, index=0):
        """What a node reads, over what does nothing outside training.

        And no further than to what reads several nodes in several calls.
        """
        source = self.nodes[node.sources[index]]
        while _is_idle(source) and has_one_source(source):
            source = self.nodes[source.sources[0]]
        return source

    def sole_reader(self, node):
        """The one reader over poolings, paddings and reshapes, or `None`."""
        seen = set()
        while True:
            readers = self.readers(node)
            if len(readers) != 1:
                return None
            (reader,) = readers
            if reader is OUTPUT or not _commutes(reader) or reader.path in seen:
                return reader
            seen.add(reader.path)
            node = reader

    def reachable(self, starts, forward):
        """The paths that are reached from these paths, without them."""
        seen = set()
        queue = collections.deque(starts)
        while queue:
            node = self.nodes.get(queue.popleft())
            if node is None:
                continue
            for path in node.readers if forward else node.sources:
                if path not in seen:
                    seen.add(path)
                    queue.append(path)
        return seen

    def ends(self):
        """The paths of kernels with no other kernel before, or after them."""
        kernels = {path for path, node in self.nodes.items() if node.has_kernel}
        found = set()
        for path in kernels:
            others = kernels - {path}
            if not (
                others & self.reachable([path], False)
                and others & self.reachable([path], True)
            ):
                found.add(path)
        return found


def has_one_source(node):
    """Whether all calls of a node read the same."""
    return len(set(node.sources)) == 1


def _is_idle(node):
    if node.layer is None:
        return node.kind == "InputLayer"
    return isinstance(
        node.layer, keras.layers.InputLayer
    ) or traits.does_nothing(node.layer)


def _commutes(node):
    return traits.commutes(node.layer)


def window_size(node):
    """How many values an average, or an interpolation, takes together."""
    if interpolation.has_parts(node.layer):
        return interpolation.window_size(node.layer)
    return int(np.prod(node.layer.pool_size))
