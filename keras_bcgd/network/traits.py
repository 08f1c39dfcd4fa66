"""What is known about the layers of Keras and of this package.

One table for each question; what can be exported, quantized or made of stock
layers is said by `export.support`, `conversion.kinds` and `stock.conversion`.
"""

import keras

from keras_bcgd import layers as quant_layers

QUANTIZED = {
    quant_layers.QuantConv1D: "conv",
    quant_layers.QuantConv2D: "conv",
    quant_layers.QuantConv2DTranspose: "transposed",
    quant_layers.QuantDepthwiseConv2D: "depthwise",
    quant_layers.QuantDense: "dense",
}

CONVOLUTIONS = {
    **QUANTIZED,
    keras.layers.Conv1D: "conv",
    keras.layers.Conv2D: "conv",
    keras.layers.Conv2DTranspose: "transposed",
    keras.layers.DepthwiseConv2D: "depthwise",
    keras.layers.Dense: "dense",
}

# Layers through which the staircase can be moved: it is monotone and keeps 0.
COMMUTING = {
    keras.layers.MaxPooling1D: "max_pool",
    keras.layers.MaxPooling2D: "max_pool",
    keras.layers.GlobalMaxPooling1D: "max_pool",
    keras.layers.GlobalMaxPooling2D: "max_pool",
    keras.layers.Cropping1D: "crop",
    keras.layers.Cropping2D: "crop",
    keras.layers.ZeroPadding1D: "pad",
    keras.layers.ZeroPadding2D: "pad",
    keras.layers.Flatten: "reshape",
    keras.layers.Permute: "transpose",
    keras.layers.Reshape: "reshape",
    keras.layers.Resizing: "resize",
    keras.layers.UpSampling2D: "resize",
    quant_layers.PadChannels: "pad_channels",
}

GLOBAL_AVERAGES = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
)
AVERAGES = (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    *GLOBAL_AVERAGES,
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

# What may follow the logits, at the end of a model.
FINAL = {
    keras.activations.sigmoid: "sigmoid",
    keras.activations.softmax: "softmax",
}

# The functions that are a ReLU, and where each clips.
RELUS = {keras.activations.relu: None, keras.activations.relu6: 6.0}

# The layers that compute what these operations do.
_LAYERS_OF_OPERATIONS = {
    "Add": "layers.Add()",
    "Concatenate": "layers.Concatenate()",
    "Relu": "layers.ReLU()",
    "Relu6": "layers.ReLU(6.0)",
}


def commutes(layer):
    """Whether the staircase can be moved through a layer.

    An interpolation between pixels is a mean, through which it cannot.
    """
    if type(layer) not in COMMUTING:
        return False
    return getattr(layer, "interpolation", "nearest") == "nearest"


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


def layer_of_operation(kind, sources):
    """The layer that does what an operation does, as a string, or `None`.

    Args:
        kind: String, the class of the operation.
        sources: Int, how many tensors it reads: `x + 1` reads one.
    """
    if kind == "Add" and sources == 1:
        return None
    return _LAYERS_OF_OPERATIONS.get(kind)
