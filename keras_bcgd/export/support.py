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

GENERAL_ADVICE = (
    "it has no integer form here: remove it, or do it before or after the model"
)
_ADVICE = {
    keras.layers.Activation: "use keras_bcgd.QuantReLU",
    keras.layers.Lambda: (
        "what it computes cannot be read from it: remove it, or do it before "
        "or after the model"
    ),
    keras.layers.LeakyReLU: "use keras_bcgd.QuantReLU",
    keras.layers.SeparableConv2D: (
        "use a QuantDepthwiseConv2D and a QuantConv2D of kernel size 1"
    ),
}


# The functions that are a ReLU, and where each clips.
RELUS = {keras.activations.relu: None, keras.activations.relu6: 6.0}


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


def is_relu(layer):
    """Whether a layer is a plain float ReLU by itself."""
    return type(layer) is keras.layers.ReLU or (
        type(layer) is keras.layers.Activation and layer.activation in RELUS
    )


def is_softmax(layer):
    """Whether a layer is a softmax by itself."""
    return type(layer) is keras.layers.Softmax or (
        type(layer) is keras.layers.Activation
        and layer.activation is keras.activations.softmax
    )


def is_model(layer):
    """Whether a layer is a model of layers that can be read one by one."""
    return isinstance(layer, keras.Model) and bool(
        getattr(layer, "inputs", None)
    )


def largest_of_relu(layer):
    """Where a float ReLU, or the one inside a layer, clips; may be `None`."""
    if type(layer) is keras.layers.ReLU:
        return layer.max_value
    return RELUS[layer.activation]


def has_relu(layer):
    """Whether the activation of a convolution is a float ReLU."""
    return getattr(layer, "activation", None) in RELUS


def check_layer(layer, problems):
    """Adds to `problems` what is wrong with a layer by itself."""
    kind = type(layer)
    if getattr(layer, "data_format", None) == "channels_first":
        problems.add(layer, "use data_format='channels_last'")
    if kind in CONVOLUTIONS:
        _check_convolution(layer, problems)
    elif kind is keras.layers.BatchNormalization:
        if layer.axis not in (-1, layer.input_spec.ndim - 1):
            problems.add(layer, "it must normalize the last axis")
    elif kind is keras.layers.ReLU:
        if layer.negative_slope or layer.threshold:
            problems.add(layer, "use negative_slope=0 and threshold=0")
    elif kind is keras.layers.Normalization:
        if layer.invert:
            problems.add(layer, "use invert=False")
    elif kind in (quant_layers.QuantAddReLU, quant_layers.QuantIdentity):
        _check_signed(layer, problems)
    elif not (
        kind in COMMUTING
        or kind in AVERAGES
        or kind in _OTHERS
        or does_nothing(layer)
        or is_softmax(layer)
        or is_relu(layer)
        or is_model(layer)
    ):
        problems.add(layer, _ADVICE.get(kind, GENERAL_ADVICE))


def _check_signed(layer, problems):
    """8 bits saturate at both ends of int8, fewer would need another clamp."""
    name = "bits"
    if type(layer) is quant_layers.QuantAddReLU:
        name = "branch_bits"
    if getattr(layer, name) not in (None, 8):
        problems.add(layer, f"use {name}=8")


def _check_convolution(layer, problems):
    if getattr(layer, "groups", 1) != 1:
        problems.add(layer, "use groups=1 or a QuantDepthwiseConv2D")
    if getattr(layer, "lora_rank", None):
        problems.add(layer, "LoRA weights cannot be exported")
    if layer.activation not in (
        None,
        keras.activations.linear,
        keras.activations.softmax,
        *RELUS,
    ):
        problems.add(layer, "use activation=None and a QuantReLU after it")
