"""What writes a call of each class of layers.

A function takes the `writer.Writer`, the layer, the name of what the call
computes and the tensors that it reads; it returns the tensor.
"""

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.network import traits
from keras_bcgd.onnx.readers import activations
from keras_bcgd.onnx.readers import ends
from keras_bcgd.onnx.readers import kernels
from keras_bcgd.onnx.readers import maps
from keras_bcgd.onnx.readers import merges
from keras_bcgd.onnx.readers import shapes

_KERNELS = {
    "conv": kernels.convolution,
    "depthwise": kernels.depthwise,
    "dense": kernels.dense,
}

_READERS = {
    **{
        kind: _KERNELS[name]
        for kind, name in traits.CONVOLUTIONS.items()
        if name in _KERNELS
    },
    keras.layers.Add: merges.add,
    keras.layers.AveragePooling1D: maps.average,
    keras.layers.AveragePooling2D: maps.average,
    keras.layers.BatchNormalization: kernels.normalization,
    keras.layers.Concatenate: merges.concatenate,
    keras.layers.Cropping1D: maps.crop,
    keras.layers.Cropping2D: maps.crop,
    keras.layers.Flatten: shapes.flatten,
    keras.layers.GlobalAveragePooling1D: maps.global_average,
    keras.layers.GlobalAveragePooling2D: maps.global_average,
    keras.layers.GlobalMaxPooling1D: maps.global_maximum,
    keras.layers.GlobalMaxPooling2D: maps.global_maximum,
    keras.layers.MaxPooling1D: maps.maximum,
    keras.layers.MaxPooling2D: maps.maximum,
    keras.layers.Normalization: ends.normalization,
    keras.layers.Permute: shapes.permute,
    keras.layers.Rescaling: ends.rescaling,
    keras.layers.Reshape: shapes.reshape,
    keras.layers.ZeroPadding1D: maps.pad,
    keras.layers.ZeroPadding2D: maps.pad,
    quant_layers.PadChannels: maps.pad_channels,
    quant_layers.QuantAdd: merges.quant_add,
    quant_layers.QuantAddReLU: merges.add_relu,
    quant_layers.QuantConcatenate: merges.quant_concatenate,
    quant_layers.QuantIdentity: activations.identity,
    quant_layers.QuantMultiply: merges.multiply,
    quant_layers.QuantReLU: activations.staircase,
}


def reader_of(layer):
    """The function that writes a call of a layer, or `None`."""
    if traits.does_nothing(layer):
        return activations.nothing
    if traits.is_relu(layer):
        return activations.relu
    if type(layer) in _READERS:
        return _READERS[type(layer)]
    return None if traits.final_kind(layer) is None else activations.final
