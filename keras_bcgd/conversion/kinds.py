"""Which layers of Keras have a quantized form, and which settings they use."""

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.conversion import settings as settings_lib
from keras_bcgd.network import traits

QUANTIZED_KERNELS = {
    keras.layers.Conv1D: quant_layers.QuantConv1D,
    keras.layers.Conv2D: quant_layers.QuantConv2D,
    keras.layers.Conv2DTranspose: quant_layers.QuantConv2DTranspose,
    keras.layers.DepthwiseConv2D: quant_layers.QuantDepthwiseConv2D,
    keras.layers.Dense: quant_layers.QuantDense,
    keras.layers.SeparableConv2D: quant_layers.QuantConv2D,
    # Those of float twins: at 32 bits.
    **{kind: kind for kind in traits.QUANTIZED},
    quant_layers.QuantSeparableConv2D: quant_layers.QuantSeparableConv2D,
}
LINEAR = (None, keras.activations.linear)
# What reads an 8-bit tensor as it is.
INTEGER_READERS = (
    *QUANTIZED_KERNELS,
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    keras.layers.Multiply,
    *traits.AVERAGES,
    # Those that interpolate.
    keras.layers.Resizing,
    keras.layers.UpSampling2D,
)


def names_of(layer):
    """The names of the settings that matter to a layer."""
    names = ()
    if type(layer) in QUANTIZED_KERNELS:
        names += settings_lib.OF_WEIGHTS
    if is_relu(layer):
        names += settings_lib.OF_ACTIVATIONS
    elif function_of(layer) is not None:
        names += settings_lib.OF_ACTIVATIONS[:1]
    if names or isinstance(layer, INTEGER_READERS):
        names += settings_lib.OF_BRANCHES
    return names


_RELUS = {
    **traits.RELUS,
    keras.ops.relu: None,
    keras.ops.relu6: 6.0,
}
_ACTIVATIONS = (
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)


def is_relu(layer):
    """Whether a QuantReLU can take the place of what it computes at the end."""
    kinds = (keras.layers.ReLU, keras.layers.Activation, *QUANTIZED_KERNELS)
    if type(layer) not in kinds:
        return False
    activation = _activation(layer)
    if type(activation) is keras.layers.ReLU:
        return not (activation.negative_slope or activation.threshold)
    return activation in _RELUS


def largest_of_relu(layer):
    """Where a ReLU, or the one inside a layer, clips; may be `None`."""
    activation = _activation(layer)
    if type(activation) is keras.layers.ReLU:
        return activation.max_value
    return _RELUS[activation]


def _activation(layer):
    if isinstance(layer, _ACTIVATIONS):
        return layer
    return getattr(layer, "activation", None)


_FUNCTIONS = {
    getattr(module, name): function
    for module in (keras.activations, keras.ops)
    for name, function in {
        "hard_sigmoid": "hard_sigmoid",
        "hard_silu": "hard_swish",
        "leaky_relu": "leaky_relu",
        "sigmoid": "sigmoid",
        "silu": "swish",
        "tanh": "tanh",
    }.items()
}
# The slope of `keras.activations.leaky_relu`.
_DEFAULT_SLOPE = 0.2


def function_of(layer):
    """The name of an activation on trained grids, or `None`.

    That of the layer itself, or the one inside it: one of those of
    `QuantActivation`, `"leaky_relu"` or `"prelu"`.
    """
    kinds = (*_ACTIVATIONS, keras.layers.Activation, *QUANTIZED_KERNELS)
    if type(layer) not in kinds or is_relu(layer):
        return None
    activation = _activation(layer)
    if type(activation) is keras.layers.LeakyReLU:
        return "leaky_relu" if 0 <= activation.negative_slope <= 1 else None
    if type(activation) is keras.layers.ReLU:
        is_leaky = not activation.threshold and activation.max_value is None
        fits = is_leaky and 0 <= activation.negative_slope <= 1
        return "leaky_relu" if fits else None
    if type(activation) is keras.layers.PReLU:
        return (
            "prelu" if activation is layer and _is_per_channel(layer) else None
        )
    try:
        return _FUNCTIONS.get(activation)
    except TypeError:  # it cannot be hashed
        return None


def _is_per_channel(prelu):
    """Whether it has one slope for each channel, none of them above 1."""
    slopes = keras.ops.convert_to_numpy(prelu.alpha)
    return slopes.size == slopes.shape[-1] and slopes.max() <= 1


def slope_of(layer):
    """The slope of a leaky ReLU below 0."""
    activation = _activation(layer)
    slope = getattr(activation, "negative_slope", _DEFAULT_SLOPE)
    return float(slope)


def rounds(node):
    """Whether a node is an activation: its kind decides what is before it."""
    layer = node.layer
    if layer is None or type(layer) in QUANTIZED_KERNELS:
        return False
    return is_relu(layer) or function_of(layer) is not None


def problem_of_activation(layer):
    """Why an activation that is no ReLU stays float, or `None`."""
    activation = _activation(layer)
    if activation in LINEAR or not callable(activation):
        return None
    if type(activation) is keras.layers.PReLU:
        return (
            "PReLU stays float: it needs one slope for each channel "
            "(shared_axes), at most 1"
        )
    if activation is keras.activations.softmax:
        return None
    name = getattr(activation, "__name__", type(activation).__name__)
    if type(activation) is keras.layers.ReLU:
        arguments = [
            f"{argument}={getattr(activation, argument)}"
            for argument in ("negative_slope", "threshold")
            if getattr(activation, argument)
        ]
        name = f"ReLU with {' and '.join(arguments)}"
    elif not isinstance(activation, keras.layers.Layer) and all(
        getattr(module, name, None) is not activation
        for module in (keras.activations, keras.ops)
    ):
        return (
            f"{name} is not known, its output stays float; for a ReLU use "
            "activation='relu' or layers.ReLU"
        )
    return f"{name} has no quantized form, its output stays float"


def problem_of_operation(node):
    """Why an operation that is not a layer stays float."""
    layer = traits.layer_of_operation(node.kind, len(node.sources))
    advice = "" if layer is None else f" (use {layer})"
    return f"no layer but an operation{advice}: stays float"
