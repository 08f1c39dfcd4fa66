"""Which layers have an integer form; the others are refused in one error."""

import keras

from keras_bcgd import layers as quant_layers

QUANTIZED = {
    quant_layers.QuantConv2D: "conv",
    quant_layers.QuantDepthwiseConv2D: "depthwise",
    quant_layers.QuantDense: "dense",
}

CONVOLUTIONS = {
    **QUANTIZED,
    keras.layers.Conv2D: "conv",
    keras.layers.DepthwiseConv2D: "depthwise",
    keras.layers.Dense: "dense",
}

# Layers through which the staircase can be moved: it is monotone and keeps 0.
COMMUTING = {
    keras.layers.MaxPooling2D: "max_pool",
    keras.layers.GlobalMaxPooling2D: "max_pool",
    keras.layers.ZeroPadding2D: "pad",
    keras.layers.Flatten: "reshape",
    keras.layers.Reshape: "reshape",
    quant_layers.PadChannels: "pad_channels",
}

AVERAGES = (
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling2D,
)

# These do nothing outside training. By name: older releases have fewer.
_TRAINING_ONLY = tuple(
    getattr(keras.layers, name)
    for name in (
        "ActivityRegularization",
        "AlphaDropout",
        "AugMix",
        "CutMix",
        "Dropout",
        "GaussianDropout",
        "GaussianNoise",
        "Identity",
        "MixUp",
        "RandAugment",
        "RandomBrightness",
        "RandomColorDegeneration",
        "RandomColorJitter",
        "RandomContrast",
        "RandomElasticTransform",
        "RandomErasing",
        "RandomFlip",
        "RandomGaussianBlur",
        "RandomGrayscale",
        "RandomHue",
        "RandomInvert",
        "RandomPerspective",
        "RandomPosterization",
        "RandomRotation",
        "RandomSaturation",
        "RandomSharpness",
        "RandomShear",
        "RandomTranslation",
        "RandomZoom",
        "Solarization",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
    )
    if hasattr(keras.layers, name)
)

# Layers that have an integer form and are in no table above.
_OTHERS = (
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    keras.layers.InputLayer,
    keras.layers.Normalization,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    quant_layers.QuantAddReLU,
    quant_layers.QuantIdentity,
    quant_layers.QuantReLU,
)

# What may follow the logits, at the end of a model.
FINAL = {
    keras.activations.sigmoid: "sigmoid",
    keras.activations.softmax: "softmax",
}

# The functions that are a ReLU, and where each clips.
RELUS = {keras.activations.relu: None, keras.activations.relu6: 6.0}

# Layers with one input that compute an activation and nothing else.
_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
)

# The layers that compute what these operations do.
_LAYERS_OF_OPERATIONS = {
    "Add": "layers.Add()",
    "Concatenate": "layers.Concatenate()",
    "Relu": "layers.ReLU()",
    "Relu6": "layers.ReLU(6.0)",
}

GENERAL_ADVICE = (
    "it has no integer form here: remove it, or do it before or after the model"
)
_NORMALIZATION_ADVICE = "use a BatchNormalization in its place"
_ADVICE = {
    keras.layers.GroupNormalization: _NORMALIZATION_ADVICE,
    keras.layers.Lambda: (
        "what it computes cannot be read from it: remove it, or do it before "
        "or after the model"
    ),
    keras.layers.LayerNormalization: _NORMALIZATION_ADVICE,
    keras.layers.SeparableConv2D: (
        "use a QuantDepthwiseConv2D and a QuantConv2D of kernel size 1"
    ),
    keras.layers.UnitNormalization: _NORMALIZATION_ADVICE,
    keras.layers.UpSampling2D: (
        "Concatenate and Reshape do the same for interpolation='nearest', as "
        "docs/from_float.md shows; or remove it, or do it before or after the "
        "model"
    ),
}
_AT_OUTPUT = "leave the output linear{} and compute it in the app"


class Problems:
    """Collects what cannot be exported, to refuse it in one error.

    Attributes:
        lines: List of strings, one for each problem: the name of the layer,
            its class, and what to do.
    """

    def __init__(self):
        self.lines = []

    def add(self, layer, advice):
        line = f"'{layer.name}' ({type(layer).__name__}): {advice}"
        if line not in self.lines:
            self.lines.append(line)

    def check(self):
        """Raises a `ValueError` that lists the problems, if there are any."""
        if self.lines:
            raise ValueError(
                "The model cannot be exported to TFLite; nothing was written. "
                "Received:\n- " + "\n- ".join(self.lines)
            )


def does_nothing(layer):
    """Whether a layer passes its input on, outside training."""
    return type(layer) in _TRAINING_ONLY or (
        type(layer) is keras.layers.Activation
        and layer.activation is keras.activations.linear
    )


def is_relu(layer):
    """Whether a layer is a plain float ReLU by itself."""
    return type(layer) is keras.layers.ReLU or (
        type(layer) is keras.layers.Activation and layer.activation in RELUS
    )


def final_kind(layer):
    """`"softmax"` or `"sigmoid"`, by itself or as an activation, or `None`."""
    if type(layer) is keras.layers.Softmax:
        return "softmax"
    if type(layer) is keras.layers.Activation or type(layer) in CONVOLUTIONS:
        return FINAL.get(layer.activation)
    return None


def is_model(layer):
    """Whether a layer is a model of layers that can be read one by one.

    Not one whose class has a `call` of its own, which may do anything.
    """
    if not isinstance(layer, keras.Model) or not getattr(layer, "inputs", None):
        return False
    (owner, *_) = (kind for kind in type(layer).__mro__ if "call" in vars(kind))
    return owner.__module__.split(".")[0] == "keras"


def largest_of_relu(layer):
    """Where a float ReLU, or the one inside a layer, clips; may be `None`."""
    if type(layer) is keras.layers.ReLU:
        return layer.max_value
    return RELUS[layer.activation]


def has_relu(layer):
    """Whether the activation of a convolution is a float ReLU."""
    return getattr(layer, "activation", None) in RELUS


def has_integer_form(layer):
    """Whether there is an operator for the class of a layer."""
    kind = type(layer)
    return (
        kind in CONVOLUTIONS
        or kind in COMMUTING
        or kind in AVERAGES
        or kind in _OTHERS
        or does_nothing(layer)
        or is_relu(layer)
        or final_kind(layer) is not None
    )


def layer_of_operation(kind, sources):
    """The layer that does what an operation does, as a string, or `None`.

    Args:
        kind: String, the class of the operation.
        sources: Int, how many tensors it reads: `x + 1` reads one.
    """
    if kind == "Add" and sources == 1:
        return None
    return _LAYERS_OF_OPERATIONS.get(kind)


def check_layer(layer, sources, at_output, problems):
    """Adds to `problems` what is wrong with a layer by itself.

    Args:
        layer: A Keras layer, or an operation that is none.
        sources: Int, how many tensors it reads.
        at_output: Boolean. Whether nothing but reshapes follows it.
        problems: `Problems`.
    """
    kind = type(layer)
    if getattr(layer, "data_format", None) == "channels_first":
        problems.add(layer, "use data_format='channels_last'")
    if getattr(layer, "quantization_mode", None) is not None:
        problems.add(
            layer,
            "Keras has quantized it: export the float model instead, or what "
            "`quantize_model` makes of it",
        )
    if not isinstance(layer, keras.layers.Layer):
        _check_operation(layer, sources, problems)
    elif kind in CONVOLUTIONS:
        _check_convolution(layer, at_output, problems)
    elif kind is keras.layers.ReLU:
        if layer.negative_slope or layer.threshold:
            problems.add(layer, "use negative_slope=0 and threshold=0")
    elif kind is keras.layers.Normalization:
        if layer.invert:
            problems.add(layer, "use invert=False")
    elif kind in (quant_layers.QuantAddReLU, quant_layers.QuantIdentity):
        _check_signed(layer, problems)
    elif kind in _ACTIVATIONS and not has_integer_form(layer):
        advice = "use a QuantReLU in its place"
        if at_output:
            advice = _AT_OUTPUT.format(" (without this layer)")
        problems.add(layer, advice)
    elif not (has_integer_form(layer) or is_model(layer)):
        problems.add(layer, _ADVICE.get(kind, GENERAL_ADVICE))


def _check_operation(operation, sources, problems):
    advice = GENERAL_ADVICE
    layer = layer_of_operation(type(operation).__name__, sources)
    if layer is not None:
        advice = f"use {layer}"
    problems.add(operation, f"an operation that is not a layer: {advice}")


def _check_signed(layer, problems):
    """8 bits saturate at both ends of int8, fewer would need another clamp."""
    name = "bits"
    if type(layer) is quant_layers.QuantAddReLU:
        name = "branch_bits"
    if getattr(layer, name) not in (None, 8):
        problems.add(
            layer, f"use {name}=8 (in `quantize_model`, branch_bits=8)"
        )


def _check_convolution(layer, at_output, problems):
    if getattr(layer, "groups", 1) != 1:
        problems.add(layer, "use groups=1 or a QuantDepthwiseConv2D")
    if getattr(layer, "lora_rank", None):
        problems.add(
            layer,
            "LoRA weights cannot be exported: `save_weights` merges them, so "
            "load them into the same model without LoRA",
        )
    if layer.activation in (None, keras.activations.linear, *RELUS, *FINAL):
        return
    advice = "use activation=None and a QuantReLU after it"
    if at_output:
        advice = _AT_OUTPUT.format(" (activation=None)")
    problems.add(layer, advice)
