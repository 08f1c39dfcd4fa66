"""Reads a Keras model as a list of calls of layers, in the order they run.

Models that are used as layers are opened, so that the list is flat.
"""

import collections
import dataclasses

import keras
import numpy as np

from keras_bcgd.layers import Composite
from keras_bcgd.network import borders
from keras_bcgd.network import interpolation
from keras_bcgd.network import traits
from keras_bcgd.network.functional import read_functional

INPUT = "input"
REPEATED = "it is called several times: make one for each call"


@dataclasses.dataclass
class Call:
    """One call of a layer.

    Attributes:
        layer: The Keras layer, or an operation that is not a layer.
        sources: List of strings, the keys of the tensors that it reads.
        key: String, that of the tensor it computes.
        index: Int. Which of its outputs that is. Defaults to `0`.
    """

    layer: keras.layers.Layer
    sources: list
    key: str
    index: int = 0


def input_keys(model):
    """The keys of the inputs of a model, of which the first is `INPUT`."""
    others = [f"{INPUT}/{i}" for i in range(1, len(model.inputs))]
    return [INPUT, *others]


def read_calls(model, problems):
    """The calls of a model.

    Args:
        model: A built `keras.Sequential` or functional model.
        problems: `export.support.Problems`, to which go models that are
            called more than once.

    Returns:
        `(calls, keys)`: a list of `Call`, and the keys of the outputs.
    """
    calls = []
    keys = _read_model(model, input_keys(model), "", calls, problems)
    return open_parts(calls), keys


def _read_model(model, sources, prefix, calls, problems):
    """Appends the calls of a model, and returns the keys of its outputs."""
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            path = f"{prefix}{layer.name}"
            sources = _read_layer(layer, sources, path, calls, problems)
        return sources
    graph = read_functional(model)
    keys = dict(zip(graph.starts, sources, strict=True))
    pending = [
        (entry.operation, number, reads)
        for entry in graph.operations
        for number, reads in enumerate(entry.uses)
    ]
    numbers = _numbers(graph.ends, pending)
    # Several rounds: a later call of a layer may read what comes after it.
    while pending:
        waiting = []
        for use in pending:
            operation, number, reads = use
            if not all(tensor.origin in keys for tensor in reads):
                waiting.append(use)
                continue
            given = [keys[tensor.origin] for tensor in reads]
            path = f"{prefix}{operation.name}"
            if number:
                path = f"{path}#{number}"
            if number and traits.is_model(operation):
                # Its layers are in the list already.
                problems.add(operation, REPEATED)
                found = _append(operation, given, path, calls)
            else:
                found = _read_layer(operation, given, path, calls, problems)
            name = operation.name
            for index, key in enumerate(found):
                keys[name, numbers[name][number], index] = key
        pending = waiting
    return [keys[end] for end in graph.ends]


def _numbers(ends, pending):
    """The numbers of the calls of each layer in origins, in order.

    Those of a model within the model begin with 1.
    """
    read = [tensor.origin for _, _, reads in pending for tensor in reads]
    found = collections.defaultdict(set)
    for name, number, _ in (*ends, *read):
        found[name].add(number)
    return {name: sorted(numbers) for name, numbers in found.items()}


def _read_layer(layer, sources, path, calls, problems):
    if isinstance(layer, keras.layers.InputLayer):
        return sources
    if traits.is_model(layer):
        return _read_model(layer, sources, f"{path}/", calls, problems)
    return _append(layer, sources, path, calls)


def open_parts(calls):
    """The same calls, with those of its parts in the place of some layers.

    Of a `Composite`, and of what is only known as several layers. What is
    called several times is left as it is, and refused by its name.
    """
    counts = collections.Counter(
        id(call.layer) for call in calls if call.index == 0
    )
    opened = []
    for call in calls:
        parts = _parts_of(call.layer, counts[id(call.layer)])
        if parts is None:
            opened.append(call)
            continue
        keys = [*call.sources]
        *_, (last, _) = parts
        for part, sources in parts:
            key = call.key if part is last else f"{call.key}/{part.name}"
            opened.append(Call(part, [keys[i] for i in sources], key))
            keys.append(key)
    return opened


def _parts_of(layer, count):
    if count > 1:
        return None
    if isinstance(layer, Composite):
        return layer.parts
    for special in (borders, interpolation):
        if special.has_parts(layer):
            return special.parts_of(layer)
    return None


def _append(layer, sources, path, calls):
    """Appends a call for each output of a layer; returns their keys."""
    keys = [
        f"{path}@{index}" if index else path
        for index, _ in enumerate(keras.tree.flatten(layer.output))
    ]
    calls += [Call(layer, sources, key, i) for i, key in enumerate(keys)]
    return keys


def run_calls(calls, keys, given, batch_size=256):
    """What a model computes for some data, in float, without its augmentation.

    A softmax or sigmoid that is the activation of a layer is left out.

    Args:
        calls: List of `Call`.
        keys: The tensors that are asked for.
        given: Dict from the keys of the inputs to arrays.
        batch_size: Int. Defaults to `256`.

    Yields:
        For each batch, a dict from keys to float64 arrays.

    Raises:
        ValueError: If one of these is not finite; names its layer.
    """
    layers = {call.key: _without_final(call.layer) for call in calls}
    last = {}  # after which call a tensor is not read any more
    for i, call in enumerate(calls):
        last.update(dict.fromkeys(call.sources, i))
    samples = len(given[INPUT])
    for start in range(0, samples, batch_size):
        values = {
            key: keras.ops.convert_to_tensor(
                data[start : start + batch_size], keras.config.floatx()
            )
            for key, data in given.items()
        }
        results = {
            key: keras.ops.convert_to_numpy(value).astype(np.float64)
            for key, value in values.items()
            if key in keys
        }
        for i, call in enumerate(calls):
            inputs = [values[source] for source in call.sources]
            if traits.does_nothing(call.layer):
                output = inputs[0]  # some of them augment in every call
            else:
                layer = layers[call.key]
                output = layer(inputs if len(inputs) > 1 else inputs[0])
            values[call.key] = output
            if call.key in keys:
                results[call.key] = _finite(call, output)
            for source in call.sources:
                if last[source] == i:
                    values.pop(source, None)
        yield results


def _finite(call, output):
    output = keras.ops.convert_to_numpy(output).astype(np.float64)
    if not np.all(np.isfinite(output)):
        raise ValueError(
            "What the model computes for `representative_data` must be finite."
            f" Received: {np.sum(~np.isfinite(output))} values NaN or infinite "
            f"in the output of layer '{call.layer.name}'"
        )
    return output


def _without_final(layer):
    """The layer without its softmax or sigmoid."""
    if type(layer) not in traits.CONVOLUTIONS:
        return layer
    if traits.final_kind(layer) is None:
        return layer
    copy = type(layer).from_config({**layer.get_config(), "activation": None})
    copy.build((None, *layer.input.shape[1:]))
    copy.set_weights(layer.get_weights())
    return copy
