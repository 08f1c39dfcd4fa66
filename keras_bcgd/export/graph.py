"""Reads a Keras model as a chain of stages, one per integer operator.

Each stage is a layer with what can be fused into it: the batch normalization
after it and the QuantReLU that quantizes its output. Whatever cannot be
exported is collected and refused in one error.
"""

import dataclasses
import typing

import keras

from keras_bcgd import layers as quant_layers

CONVOLUTIONS = {
    quant_layers.QuantConv2D: "conv",
    quant_layers.QuantDepthwiseConv2D: "depthwise",
    quant_layers.QuantDense: "dense",
}

# Layers through which the staircase can be moved: it is monotone and keeps 0.
_COMMUTING = {
    keras.layers.MaxPooling2D: "max_pool",
    keras.layers.GlobalMaxPooling2D: "max_pool",
    keras.layers.ZeroPadding2D: "pad",
    keras.layers.Flatten: "reshape",
    keras.layers.Reshape: "reshape",
}

_AVERAGES = (
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

_ADVICE = {
    keras.layers.Conv2D: "use keras_bcgd.QuantConv2D, for instance bits=8",
    keras.layers.DepthwiseConv2D: (
        "use keras_bcgd.QuantDepthwiseConv2D, for instance bits=8"
    ),
    keras.layers.Dense: "use keras_bcgd.QuantDense, for instance bits=8",
    keras.layers.ReLU: "use keras_bcgd.QuantReLU",
    keras.layers.Add: "branches cannot be exported: use a chain of layers",
    keras.layers.Concatenate: (
        "branches cannot be exported: use a chain of layers"
    ),
    keras.layers.Lambda: (
        "what it computes cannot be read from it: remove it, or do it before "
        "or after the model"
    ),
}
_GENERAL_ADVICE = (
    "it has no integer form here: remove it, or do it before or after the model"
)


@dataclasses.dataclass
class Stage:
    """A layer and what is fused into it.

    Attributes:
        kind: String: `"conv"`, `"depthwise"`, `"dense"`, `"relu"` (a QuantReLU
            of its own), `"average"`, `"max_pool"`, `"pad"`, `"reshape"` or
            `"softmax"`.
        layer: The Keras layer.
        input_shape: Tuple of ints, without the batch.
        output_shape: The same of its output.
        norm: The `BatchNormalization` after it, or `None`.
        relu: The `QuantReLU` that quantizes its output, or `None`.
    """

    kind: str
    layer: keras.layers.Layer
    input_shape: tuple
    output_shape: tuple
    norm: typing.Any = None
    relu: typing.Any = None

    @property
    def is_convolution(self):
        return self.kind in CONVOLUTIONS.values()


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
        if self._lines:
            raise ValueError(
                "The model cannot be exported to TFLite; nothing was written. "
                "Received:\n- " + "\n- ".join(self._lines)
            )


def read_stages(model):
    """The stages of a model, from its input to its output.

    Args:
        model: A built `keras.Sequential` or functional model, a chain of
            layers with one input and one output.

    Returns:
        `(input_shape, stages)`: a tuple of ints without the batch, and a list
        of `Stage`.

    Raises:
        ValueError: If the model is not built, has several inputs or outputs,
            branches, or has a layer that cannot be exported. The message
            names every such layer.
    """
    _check_model(model)
    problems = Problems()
    chain = layer_chain(model, problems)
    for layer in chain:
        _check_layer(layer, problems)
    problems.check()
    input_shape = tuple(model.input_shape[1:])
    if None in input_shape:
        raise ValueError(
            "The size of the input must be fixed, but for the batch. "
            f"Received: model.input_shape={model.input_shape}"
        )
    stages = _fuse(chain, input_shape, problems)
    problems.check()
    return input_shape, stages


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a keras.Sequential or a functional keras.Model. "
            f"Received: model={model!r}"
        )
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            f"The model '{model.name}' has no known input shape: begin it with "
            "a keras.Input, or call it once. Only Sequential and functional "
            f"models can be exported. Received: {type(model).__name__} with "
            f"built={model.built}"
        )
    for name in ("inputs", "outputs"):
        if len(getattr(model, name)) != 1:
            raise ValueError(
                f"The model must have one of its `{name}`. "
                f"Received: {len(getattr(model, name))} {name}"
            )


def layer_chain(model, problems):
    """The layers of a model in the order in which they run.

    Models used as layers are opened. Branches and layers that are called more
    than once go to `problems`.
    """
    if isinstance(model, keras.Sequential):
        layers = model.layers
    else:
        layers = _functional_chain(model, problems)
    chain = []
    for layer in layers:
        if isinstance(layer, keras.Model):
            chain += layer_chain(layer, problems)
        elif not isinstance(layer, keras.layers.InputLayer):
            chain.append(layer)
    return chain


def _functional_chain(model, problems):
    layers = {layer.name: layer for layer in model.layers}
    children = {}
    for name, kind, calls in _calls(model, layers, problems):
        if name not in layers:
            advice = "an operation that is not a layer: " + _GENERAL_ADVICE
            problems.add_named(name, kind, advice)
        if len(calls) > 1:
            advice = f"it is called {len(calls)} times; use it once"
            problems.add_named(name, kind, advice)
        for parent in [parent for call in calls for parent in _parents(call)]:
            children.setdefault(parent, []).append(name)
    for name, users in children.items():
        if len(set(users)) > 1:
            kind = type(layers.get(name)).__name__
            advice = "branches cannot be exported: its output goes to "
            problems.add_named(name, kind, advice + ", ".join(sorted(users)))
    chain = []
    inputs = [
        name
        for name, layer in layers.items()
        if isinstance(layer, keras.layers.InputLayer)
    ]
    name = inputs[0]
    # With a branch the order means nothing, but each layer is to be checked.
    if any(len(set(users)) > 1 for users in children.values()):
        return list(layers.values())
    while name is not None and layers.get(name) not in chain:
        if name in layers:
            chain.append(layers[name])
        name = next(iter(children.get(name, [])), None)
    return chain


def _calls(model, layers, problems):
    """Yields `(name, type, calls)` of each operation of a functional model."""
    try:
        entries = model.get_config()["layers"]
    except (KeyError, NotImplementedError):
        for layer in layers.values():
            _check_layer(layer, problems)
        problems.check()
        raise ValueError(
            f"The graph of the model '{model.name}' cannot be read from its "
            "`get_config()`: only Sequential and functional models can be "
            f"exported. Received: {type(model).__name__}"
        ) from None
    for entry in entries:
        yield entry["name"], entry["class_name"], entry["inbound_nodes"]


def _parents(call):
    """The names of the operations whose tensors are in a serialized call."""
    if isinstance(call, dict):
        if call.get("class_name") == "__keras_tensor__":
            return [call["config"]["keras_history"][0]]
        call = list(call.values())
    if isinstance(call, (list, tuple)):
        return [name for part in call for name in _parents(part)]
    return []


def _check_layer(layer, problems):
    """Adds to `problems` what is wrong with a layer by itself."""
    kind = type(layer)
    if kind in CONVOLUTIONS:
        _check_convolution(layer, problems)
    elif kind is keras.layers.BatchNormalization:
        if layer.axis not in (-1, 3) and layer.axis != layer.input_spec.ndim - 1:
            problems.add(layer, "it must normalize the last axis")
    elif kind in _AVERAGES or kind in _COMMUTING:
        if getattr(layer, "data_format", None) == "channels_first":
            problems.add(layer, "use data_format='channels_last'")
    elif not (
        kind in _TRAINING_ONLY
        or kind in (quant_layers.QuantReLU, keras.layers.InputLayer)
        or isinstance(layer, keras.Model)
        or _is_linear(layer)
        or _is_softmax(layer)
    ):
        problems.add(layer, _ADVICE.get(kind, _GENERAL_ADVICE))


def _check_convolution(layer, problems):
    if not layer.is_quantized:
        problems.add(layer, "bits=32 has no integer form: use bits=1 to 8")
    if getattr(layer, "data_format", None) == "channels_first":
        problems.add(layer, "use data_format='channels_last'")
    if getattr(layer, "groups", 1) != 1:
        problems.add(layer, "use groups=1 or a QuantDepthwiseConv2D")
    if getattr(layer, "lora_rank", None):
        problems.add(layer, "lora_rank is not supported")
    if layer.activation not in (
        None,
        keras.activations.linear,
        keras.activations.softmax,
    ):
        problems.add(layer, "use activation=None and a QuantReLU after it")


def _is_linear(layer):
    return (
        type(layer) is keras.layers.Activation
        and layer.activation is keras.activations.linear
    )


def _is_softmax(layer):
    if type(layer) is keras.layers.Softmax:
        return True
    return (
        type(layer) is keras.layers.Activation
        and layer.activation is keras.activations.softmax
    )


def _fuse(chain, shape, problems):
    """Groups a chain of layers into stages."""
    stages = []
    # The stage whose output still waits for its QuantReLU, and the one that
    # a batch normalization may follow.
    waiting = None
    just_now = None
    chain = [
        layer
        for layer in chain
        if type(layer) not in _TRAINING_ONLY and not _is_linear(layer)
    ]
    for position, layer in enumerate(chain):
        kind = type(layer)
        is_last = position == len(chain) - 1
        output_shape = tuple(layer.compute_output_shape((None, *shape))[1:])
        stage = Stage("", layer, shape, output_shape)
        if kind is keras.layers.BatchNormalization:
            if just_now is None:
                problems.add(
                    layer,
                    "a BatchNormalization must come directly after a "
                    "QuantConv2D, QuantDepthwiseConv2D or QuantDense",
                )
            else:
                just_now.norm = layer
            just_now = None
            continue
        just_now = None
        if kind is quant_layers.QuantReLU and waiting is not None:
            waiting.relu = layer
            waiting = None
            continue
        if kind in _COMMUTING:
            stage.kind = _COMMUTING[kind]
        elif _is_softmax(layer):
            stage.kind = "softmax"
            _check_softmax(layer, is_last, problems)
        else:
            # These stages need codes, or the real numbers before them.
            if waiting is not None and waiting.is_convolution:
                problems.add(
                    waiting.layer,
                    "its output is not quantized: put a QuantReLU between it "
                    f"and '{layer.name}'",
                )
            waiting = stage
            if kind in CONVOLUTIONS:
                stage.kind = CONVOLUTIONS[kind]
                just_now = stage
            elif kind in _AVERAGES:
                stage.kind = "average"
            else:
                stage.kind, stage.relu, waiting = "relu", layer, None
        stages.append(stage)
        shape = output_shape
        if stage.kind == "dense" and len(stage.input_shape) != 1:
            problems.add(layer, "put a Flatten before it")
        if stage.kind == "average":
            _check_average(stage, problems)
        if stage.is_convolution and (
            layer.activation is keras.activations.softmax
        ):
            if not is_last:
                problems.add(layer, "a softmax must be the last of the model")
            stages.append(Stage("softmax", layer, shape, shape))
    return stages


def _check_softmax(layer, is_last, problems):
    if not is_last:
        problems.add(layer, "a softmax must be the last layer of the model")
    if getattr(layer, "axis", -1) != -1:
        problems.add(layer, "a softmax must be over the last axis")


def _check_average(stage, problems):
    layer = stage.layer
    if getattr(layer, "padding", "valid") == "valid":
        return
    sides = zip(
        stage.input_shape, layer.pool_size, layer.strides, strict=False
    )
    for size, pool, stride in sides:
        if (-(-size // stride) - 1) * stride + pool > size:
            problems.add(
                layer,
                "padding='same' averages over fewer values at the border: use "
                "padding='valid', or a size that the strides divide",
            )
            return
