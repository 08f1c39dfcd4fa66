"""Which layers of Keras have a quantized form, and which settings they use."""

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.conversion import settings as settings_lib
from keras_bcgd.export import support

QUANTIZED_KERNELS = {
    keras.layers.Conv2D: quant_layers.QuantConv2D,
    keras.layers.DepthwiseConv2D: quant_layers.QuantDepthwiseConv2D,
    keras.layers.Dense: quant_layers.QuantDense,
    keras.layers.SeparableConv2D: quant_layers.QuantConv2D,
    # Those of float twins: at 32 bits.
    **{kind: kind for kind in support.QUANTIZED},
}
LINEAR = (None, keras.activations.linear)
# What reads an 8-bit tensor as it is.
INTEGER_READERS = (
    *QUANTIZED_KERNELS,
    keras.layers.Add,
    keras.layers.BatchNormalization,
    keras.layers.Concatenate,
    *support.AVERAGES,
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


def is_relu(layer):
    """Whether a QuantReLU can take the place of what it computes at the end."""
    if type(layer) is keras.layers.ReLU:
        return not (layer.negative_slope or layer.threshold)
    kinds = (keras.layers.Activation, *QUANTIZED_KERNELS)
    return type(layer) in kinds and support.has_relu(layer)


def rounds(node):
    """Whether a node is an activation: its kind decides what is before it."""
    return (
        node.layer is not None
        and is_relu(node.layer)
        and (type(node.layer) not in QUANTIZED_KERNELS)
    )


_ACTIVATIONS = (
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)


def other_activation(layer):
    """The name of an activation that is no ReLU, or `None`."""
    if isinstance(layer, _ACTIVATIONS):
        return type(layer).__name__
    activation = getattr(layer, "activation", None)
    if activation in LINEAR or not callable(activation):
        return None
    if activation is keras.activations.softmax:
        return None
    return getattr(activation, "__name__", type(activation).__name__)
