"""Which layers of Keras have a quantized form, and which settings they use."""

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.conversion import settings as settings_lib
from keras_bcgd.network import traits

QUANTIZED_KERNELS = {
    keras.layers.Conv2D: quant_layers.QuantConv2D,
    keras.layers.DepthwiseConv2D: quant_layers.QuantDepthwiseConv2D,
    keras.layers.Dense: quant_layers.QuantDense,
    keras.layers.SeparableConv2D: quant_layers.QuantConv2D,
    # Those of float twins: at 32 bits.
    **{kind: kind for kind in traits.QUANTIZED},
}
LINEAR = (None, keras.activations.linear)
# What reads an 8-bit tensor as it is.
INTEGER_READERS = (
    *QUANTIZED_KERNELS,
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    *traits.AVERAGES,
)


def names_of(layer):
    """The names of the settings that matter to a layer."""
    names = ()
    if type(layer) in QUANTIZED_KERNELS:
        names += settings_lib.OF_WEIGHTS
    if is_relu(layer):
        names += settings_lib.OF_ACTIVATIONS
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


def rounds(node):
    """Whether a node is an activation: its kind decides what is before it."""
    return (
        node.layer is not None
        and is_relu(node.layer)
        and (type(node.layer) not in QUANTIZED_KERNELS)
    )


def problem_of_activation(layer):
    """Why an activation that is no ReLU stays float, or `None`."""
    activation = _activation(layer)
    if activation in LINEAR or not callable(activation):
        return None
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
