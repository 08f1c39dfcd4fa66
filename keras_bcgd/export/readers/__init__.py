"""What reads a call of each class of layers, as nodes of the graph.

A function takes the `builder.Builder`, the `Call` and the nodes that the call
reads; it appends nodes and returns the one that computes what the call does.
"""

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.export import support
from keras_bcgd.export.readers import ends
from keras_bcgd.export.readers import kernels
from keras_bcgd.export.readers import maps
from keras_bcgd.export.readers import merges
from keras_bcgd.export.readers import quantizers
from keras_bcgd.network import traits
from keras_bcgd.network.interpolation import WeightedMean

_READERS = {
    keras.layers.Add: merges.read_merge,
    keras.layers.BatchNormalization: kernels.read_norm,
    keras.layers.Concatenate: merges.read_merge,
    keras.layers.Normalization: ends.read_rescaling,
    keras.layers.Rescaling: ends.read_rescaling,
    quant_layers.NegativeSlope: quantizers.read_negative_slope,
    quant_layers.QuantAdd: merges.read_quant_add,
    quant_layers.QuantAddReLU: merges.read_add_relu,
    quant_layers.QuantConcatenate: merges.read_quant_concatenate,
    quant_layers.QuantHardSigmoid: quantizers.read_hard_sigmoid,
    quant_layers.QuantIdentity: quantizers.read_identity,
    quant_layers.QuantMultiply: merges.read_multiply,
    quant_layers.QuantReLU: quantizers.read_staircase,
    quant_layers.QuantTable: quantizers.read_table,
    **dict.fromkeys(traits.AVERAGES, maps.read_average),
    **dict.fromkeys(traits.COMMUTING, maps.read_commuting),
    **dict.fromkeys(traits.CONVOLUTIONS, kernels.read_convolution),
    keras.layers.Resizing: maps.read_resizing,
    keras.layers.UpSampling2D: maps.read_resizing,
    WeightedMean: maps.read_average,
}


def reader_of(layer):
    """The function that reads a call of a layer."""
    if not support.has_integer_form(layer):
        return ends.read_unknown
    if traits.is_relu(layer):
        return quantizers.read_relu
    return _READERS.get(type(layer), ends.read_final)
