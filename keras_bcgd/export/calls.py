"""Reads a Keras model as a list of calls of layers, in the order they run.

Models that are used as layers are opened, so that the list is flat.
"""

import dataclasses

import keras
import numpy as np

from keras_bcgd.export import support

INPUT = "input"


@dataclasses.dataclass
class Call:
    """One call of a layer.

    Attributes:
        layer: The Keras layer.
        sources: List of strings, the keys of the tensors that it reads.
        key: String, that of the tensor it computes.
    """

    layer: keras.layers.Layer
    sources: list
    key: str


def read_calls(model, problems):
    """The calls of a model.

    Args:
        model: A built `keras.Sequential` or functional model with one input,
            whose key is `INPUT`, and one output.
        problems: `Problems`, to which go the layers that cannot be exported,
            those that are called more than once, and operations.

    Returns:
        `(calls, key)`: a list of `Call`, and the key of the output.
    """
    calls = []
    key = _read_model(model, INPUT, "", calls, problems)
    return calls, key


def _read_model(model, source, prefix, calls, problems):
    """Appends the calls of a model that reads `source`; returns its output."""
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            source = _read_layer(layer, [source], prefix, calls, problems)
        return source
    layers = {layer.name: layer for layer in model.layers}
    keys = {}
    operations, output = _operations(model, problems)
    for name, kind, uses in operations:
        if name not in layers:
            advice = "an operation that is not a layer: "
            problems.add_named(name, kind, advice + support.GENERAL_ADVICE)
        if len(uses) > 1:
            advice = f"it is called {len(uses)} times: call it once"
            problems.add_named(name, kind, advice)
        sources = [keys[s] for s in _sources(uses[:1]) if s in keys]
        layer = layers.get(name)
        if isinstance(layer, keras.layers.InputLayer):
            keys[name] = source
        elif layer is None:
            keys[name] = f"{prefix}{name}"
        else:
            keys[name] = _read_layer(layer, sources, prefix, calls, problems)
    return keys[output]


def _read_layer(layer, sources, prefix, calls, problems):
    if isinstance(layer, keras.layers.InputLayer):
        return sources[0]
    if support.is_model(layer):
        inner = f"{prefix}{layer.name}/"
        return _read_model(layer, sources[0], inner, calls, problems)
    support.check_layer(layer, problems)
    call = Call(layer, sources, f"{prefix}{layer.name}")
    calls.append(call)
    return call.key


def _operations(model, problems):
    """`(name, type, calls)` of each operation, and the name of the output."""
    try:
        config = model.get_config()
        operations = [
            (entry["name"], entry["class_name"], entry["inbound_nodes"])
            for entry in config["layers"]
        ]
        output = config["output_layers"]
        while not isinstance(output[0], str):
            output = output[0]
        return operations, output[0]
    except (KeyError, NotImplementedError, TypeError):
        # Most likely one of the layers is the reason.
        for layer in model.layers:
            support.check_layer(layer, problems)
        problems.check()
        raise ValueError(
            f"The graph of the model '{model.name}' cannot be read from its "
            "`get_config()`: only Sequential and functional models can be "
            f"exported. Received: {type(model).__name__}"
        ) from None


def _sources(call):
    """The names of the operations whose tensors are in a serialized call."""
    if isinstance(call, dict):
        if call.get("class_name") == "__keras_tensor__":
            return [call["config"]["keras_history"][0]]
        call = list(call.values())
    if isinstance(call, (list, tuple)):
        return [name for part in call for name in _sources(part)]
    return []


def run_calls(calls, keys, data, batch_size=256):
    """What a model computes for some data, in float, without its augmentation.

    A softmax that is the activation of a layer is left out.

    Args:
        calls: List of `Call`.
        keys: The tensors that are asked for.
        data: Array of inputs of the model.
        batch_size: Int. Defaults to `256`.

    Yields:
        For each batch, a dict from keys to float64 arrays.

    Raises:
        ValueError: If one of these is not finite; names its layer.
    """
    layers = {call.key: _without_softmax(call.layer) for call in calls}
    last = {}  # after which call a tensor is not read any more
    for i, call in enumerate(calls):
        last.update(dict.fromkeys(call.sources, i))
    for start in range(0, len(data), batch_size):
        part = data[start : start + batch_size]
        values = {
            INPUT: keras.ops.convert_to_tensor(part, keras.config.floatx())
        }
        results = {}
        for i, call in enumerate(calls):
            inputs = [values[source] for source in call.sources]
            if support.does_nothing(call.layer):
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


def _without_softmax(layer):
    if type(layer) not in support.CONVOLUTIONS:
        return layer
    if layer.activation is not keras.activations.softmax:
        return layer
    copy = type(layer).from_config({**layer.get_config(), "activation": None})
    copy.build((None, *layer.input.shape[1:]))
    copy.set_weights(layer.get_weights())
    return copy
