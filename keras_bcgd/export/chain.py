"""The layers of a Keras model in the order in which they run.

What cannot be exported is collected in `Problems` and refused in one error.
"""

import keras

from keras_bcgd import layers as quant_layers

CONVOLUTIONS = {
    quant_layers.QuantConv2D: "conv",
    quant_layers.QuantDepthwiseConv2D: "depthwise",
    quant_layers.QuantDense: "dense",
}

# Layers through which the staircase can be moved: it is monotone and keeps 0.
COMMUTING = {
    keras.layers.MaxPooling2D: "max_pool",
    keras.layers.GlobalMaxPooling2D: "max_pool",
    keras.layers.ZeroPadding2D: "pad",
    keras.layers.Flatten: "reshape",
    keras.layers.Reshape: "reshape",
}

AVERAGES = (
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling2D,
)

# These do nothing outside training.
_TRAINING_ONLY = (
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.RandomBrightness,
    keras.layers.RandomContrast,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)

_BRANCHES = "branches cannot be exported: use a chain of layers"
_ADVICE = {
    keras.layers.Conv2D: "use keras_bcgd.QuantConv2D, for instance bits=8",
    keras.layers.DepthwiseConv2D: (
        "use keras_bcgd.QuantDepthwiseConv2D, for instance bits=8"
    ),
    keras.layers.Dense: "use keras_bcgd.QuantDense, for instance bits=8",
    keras.layers.ReLU: "use keras_bcgd.QuantReLU",
    keras.layers.Activation: "use keras_bcgd.QuantReLU",
    keras.layers.Add: _BRANCHES,
    keras.layers.Concatenate: _BRANCHES,
    keras.layers.Lambda: (
        "what it computes cannot be read from it: remove it, or do it before "
        "or after the model"
    ),
}
_GENERAL_ADVICE = (
    "it has no integer form here: remove it, or do it before or after the model"
)


class Problems:
    """Collects what cannot be exported, to refuse it in one error."""

    def __init__(self):
        self._lines = []

    def add(self, layer, advice):
        self.add_named(layer.name, type(layer).__name__, advice)

    def add_named(self, name, kind, advice):
        line = f"'{name}' ({kind}): {advice}"
        if line not in self._lines:
            self._lines.append(line)

    def check(self):
        """Raises a `ValueError` that lists the problems, if there are any."""
        if self._lines:
            raise ValueError(
                "The model cannot be exported to TFLite; nothing was written. "
                "Received:\n- " + "\n- ".join(self._lines)
            )


def does_nothing(layer):
    """Whether a layer passes its input on, outside training."""
    return type(layer) in _TRAINING_ONLY or (
        type(layer) is keras.layers.Activation
        and layer.activation is keras.activations.linear
    )


def is_softmax(layer):
    """Whether a layer is a softmax by itself."""
    return type(layer) is keras.layers.Softmax or (
        type(layer) is keras.layers.Activation
        and layer.activation is keras.activations.softmax
    )


def layer_chain(model, problems):
    """The layers of a model in the order in which they run.

    Models that are used as layers are opened.

    Args:
        model: A built `keras.Sequential` or functional model.
        problems: `Problems`, to which go all layers that cannot be exported,
            branches, and layers that are called more than once.

    Returns:
        List of layers, without those for the input.
    """
    if isinstance(model, keras.Sequential):
        layers = model.layers
    else:
        layers = _functional_layers(model, problems)
    chain = []
    for layer in layers:
        if _is_open(layer):
            chain += layer_chain(layer, problems)
        elif not isinstance(layer, keras.layers.InputLayer):
            _check_layer(layer, problems)
            chain.append(layer)
    return chain


def _is_open(layer):
    return isinstance(layer, keras.Model) and bool(
        getattr(layer, "inputs", None)
    )


def _functional_layers(model, problems):
    layers = {layer.name: layer for layer in model.layers}
    readers = {}  # the names of those that read the output of each
    for name, kind, calls in _operations(model, problems):
        if name not in layers:
            advice = "an operation that is not a layer: " + _GENERAL_ADVICE
            problems.add_named(name, kind, advice)
        if len(calls) > 1:
            advice = f"it is called {len(calls)} times: call it once"
            problems.add_named(name, kind, advice)
        for source in _sources(calls):
            readers.setdefault(source, []).append(name)
    branches = {
        name: sorted(set(users))
        for name, users in readers.items()
        if len(set(users)) > 1
    }
    for name, users in branches.items():
        kind = type(layers.get(name)).__name__
        advice = f"{_BRANCHES}. It is read by {', '.join(users)}"
        problems.add_named(name, kind, advice)
    if branches:
        # The order means nothing then, but each layer is to be checked.
        return list(layers.values())
    return _follow(layers, readers)


def _follow(layers, readers):
    """The layers from the input on, each read by the next."""
    chain = []
    name = next(
        name
        for name, layer in layers.items()
        if isinstance(layer, keras.layers.InputLayer)
    )
    for _ in range(len(layers) + len(readers)):
        if name in layers:
            chain.append(layers[name])
        if name not in readers:
            break
        name = readers[name][0]
    return list(dict.fromkeys(chain))


def _operations(model, problems):
    """`(name, type, calls)` of each operation of a functional model."""
    try:
        entries = model.get_config()["layers"]
        return [
            (entry["name"], entry["class_name"], entry["inbound_nodes"])
            for entry in entries
        ]
    except (KeyError, NotImplementedError, TypeError):
        # Most likely one of the layers is the reason.
        for layer in model.layers:
            _check_layer(layer, problems)
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


def _check_layer(layer, problems):
    """Adds to `problems` what is wrong with a layer by itself."""
    kind = type(layer)
    if getattr(layer, "data_format", None) == "channels_first":
        problems.add(layer, "use data_format='channels_last'")
    if kind in CONVOLUTIONS:
        _check_convolution(layer, problems)
    elif kind is keras.layers.BatchNormalization:
        if layer.axis not in (-1, layer.input_spec.ndim - 1):
            problems.add(layer, "it must normalize the last axis")
    elif not (
        kind in COMMUTING
        or kind in AVERAGES
        or kind in (quant_layers.QuantReLU, keras.layers.InputLayer)
        or does_nothing(layer)
        or is_softmax(layer)
        or _is_open(layer)
    ):
        problems.add(layer, _ADVICE.get(kind, _GENERAL_ADVICE))


def _check_convolution(layer, problems):
    if not layer.is_quantized:
        problems.add(layer, "bits=32 has no integer form: use bits=1 to 8")
    if getattr(layer, "groups", 1) != 1:
        problems.add(layer, "use groups=1 or a QuantDepthwiseConv2D")
    if getattr(layer, "lora_rank", None):
        problems.add(layer, "LoRA weights cannot be exported")
    if layer.activation not in (
        None,
        keras.activations.linear,
        keras.activations.softmax,
    ):
        problems.add(layer, "use activation=None and a QuantReLU after it")
