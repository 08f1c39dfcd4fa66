"""Which layers have an integer form; the others are refused in one error."""

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.network import traits
from keras_bcgd.network.interpolation import WeightedMean

# Layers that have an integer form and are in no table of `network.traits`.
_OTHERS = (
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    keras.layers.InputLayer,
    keras.layers.Normalization,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    quant_layers.NegativeSlope,
    quant_layers.QuantAdd,
    quant_layers.QuantAddReLU,
    quant_layers.QuantConcatenate,
    quant_layers.QuantHardSigmoid,
    quant_layers.QuantIdentity,
    quant_layers.QuantMultiply,
    quant_layers.QuantReLU,
    quant_layers.QuantTable,
    WeightedMean,
)

# Layers with one input that compute an activation and nothing else.
_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
)

# The functions of a QuantActivation that are no ReLU.
_WITH_GRIDS = ("hard_sigmoid", "hard_silu", "sigmoid", "silu", "tanh")

GENERAL_ADVICE = (
    "it has no integer form here: remove it, or do it before or after the model"
)
_NORMALIZATION_ADVICE = "use a BatchNormalization in its place"
_ATTENTION_ADVICE = (
    "attention multiplies tensors with each other and has a softmax inside of "
    "the model, for which there are no integers here: use convolutions, or do "
    "it before or after the model"
)
_RECURRENT_ADVICE = (
    "it calls itself again for each step of a sequence, for which there are no "
    "integers here: use convolutions along the sequence"
)


def _by_name(names, advice):
    """The same advice for several layers; older releases have fewer."""
    kinds = (getattr(keras.layers, name, None) for name in names.split())
    return dict.fromkeys([kind for kind in kinds if kind is not None], advice)


_ADVICE = {
    **_by_name(
        "AdditiveAttention Attention GroupQueryAttention MultiHeadAttention",
        _ATTENTION_ADVICE,
    ),
    **_by_name(
        "Bidirectional ConvLSTM1D ConvLSTM2D GRU LSTM RNN SimpleRNN "
        "TimeDistributed",
        _RECURRENT_ADVICE,
    ),
    **_by_name(
        "GroupNormalization LayerNormalization RMSNormalization "
        "UnitNormalization",
        _NORMALIZATION_ADVICE,
    ),
    keras.layers.Embedding: (
        "look the vectors up in the app, and let the model begin with them"
    ),
    keras.layers.Lambda: (
        "what it computes cannot be read from it: remove it, or do it before "
        "or after the model"
    ),
    keras.layers.DepthwiseConv1D: "use a Conv1D of as many groups as channels",
    keras.layers.SeparableConv1D: (
        "use a Conv1D of as many groups as channels, then one of size 1"
    ),
    keras.layers.UpSampling1D: (
        "use an UpSampling2D of size (n, 1), between a Reshape to (length, 1, "
        "channels) and one back"
    ),
    keras.layers.Multiply: "use a QuantMultiply in its place",
    keras.layers.SeparableConv2D: "use a QuantSeparableConv2D",
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


def has_integer_form(layer):
    """Whether there is an operator for the class of a layer."""
    kind = type(layer)
    return (
        kind in traits.CONVOLUTIONS
        or kind in traits.COMMUTING
        or kind in traits.AVERAGES
        or kind in _OTHERS
        or traits.does_nothing(layer)
        or traits.is_relu(layer)
        or traits.final_kind(layer) is not None
    )


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
    elif kind in traits.CONVOLUTIONS:
        _check_convolution(layer, at_output, problems)
    elif kind is keras.layers.ReLU:
        if layer.negative_slope or layer.threshold:
            problems.add(layer, "use negative_slope=0 and threshold=0")
    elif kind is keras.layers.Normalization:
        if layer.invert:
            problems.add(layer, "use invert=False")
    elif isinstance(
        layer, (quant_layers.QuantAddReLU, quant_layers.QuantIdentity)
    ):
        _check_signed(layer, problems)
    elif kind in _ACTIVATIONS and not has_integer_form(layer):
        advice = f"use a {_instead_of(layer)} in its place"
        if at_output:
            advice = _AT_OUTPUT.format(" (without this layer)")
        problems.add(layer, advice)
    elif not (has_integer_form(layer) or traits.is_model(layer)):
        problems.add(layer, _ADVICE.get(kind, GENERAL_ADVICE))


def _instead_of(layer):
    """The class that computes an activation, or comes near to it."""
    if type(layer) is keras.layers.LeakyReLU:
        return "QuantLeakyReLU"
    if type(layer) is keras.layers.PReLU:
        return "QuantPReLU"
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    has_grids = name in _WITH_GRIDS
    return "QuantActivation" if has_grids else "QuantReLU"


def _check_operation(operation, sources, problems):
    advice = GENERAL_ADVICE
    layer = traits.layer_of_operation(type(operation).__name__, sources)
    if layer is not None:
        advice = f"use {layer}"
    problems.add(operation, f"an operation that is not a layer: {advice}")


def _check_signed(layer, problems):
    """8 bits saturate at both ends of int8, fewer would need another clamp."""
    name = "bits"
    if type(layer) is quant_layers.QuantAddReLU:
        name = "branch_bits"
    elif type(layer) is quant_layers.QuantMultiply:
        if layer.bits != 8 and layer.minimum is None:
            problems.add(layer, "use bits=8, or give its `minimum`")
        return
    if getattr(layer, name) not in (None, 8):
        problems.add(
            layer, f"use {name}=8 (in `quantize_model`, branch_bits=8)"
        )


def _check_transposed(layer, problems):
    if layer.output_padding is not None:
        problems.add(layer, "use output_padding=None")
    if tuple(layer.dilation_rate) != (1, 1):
        problems.add(layer, "use dilation_rate=1")


def _check_convolution(layer, at_output, problems):
    if traits.CONVOLUTIONS[type(layer)] == "transposed":
        _check_transposed(layer, problems)
    if getattr(layer, "lora_rank", None):
        problems.add(
            layer,
            "LoRA weights cannot be exported: `save_weights` merges them, so "
            "load them into the same model without LoRA",
        )
    known = (None, keras.activations.linear, *traits.RELUS, *traits.FINAL)
    if layer.activation in known:
        return
    advice = "use activation=None and a QuantReLU after it"
    if at_output:
        advice = _AT_OUTPUT.format(" (activation=None)")
    problems.add(layer, advice)
