"""One small TFLite file of each kind that the exporter writes, or might write.

`KINDS` maps the name of a kind to a function that writes its file. Most come
from `export_tflite`. The last have one operator each, which the exporter does
not write: `TFLiteWriter` builds them.
"""

import functools

import keras
import numpy as np

import keras_bcgd as kb
from keras_bcgd.tflite.schema import load_schema
from keras_bcgd.tflite.writer import TFLiteWriter
from keras_bcgd.utils.files import write_atomically

layers = keras.layers

SHAPE = (8, 8, 3)


def block(x, filters, activation_bits=4):
    """Convolution, batch normalization, quantized ReLU."""
    x = kb.QuantConv2D(filters, 3, bits=2, padding="same")(x)
    return kb.QuantReLU(activation_bits)(layers.BatchNormalization()(x))


def classifier(x, classes=5):
    return kb.QuantDense(classes, bits=8)(layers.Flatten()(x))


def chain(x):
    return classifier(layers.MaxPooling2D()(block(x, 8)))


def few_bits(x):
    x = layers.Flatten()(layers.MaxPooling2D()(block(x, 8)))
    x = layers.BatchNormalization()(kb.QuantDense(8, bits=2)(x))
    return kb.QuantDense(5, bits=2)(kb.QuantReLU(4)(x))


def residual(x):
    x = block(x, 8)
    y = kb.QuantConv2D(8, 3, bits=2, padding="same")(x)
    y = layers.BatchNormalization()(y)
    return classifier(kb.QuantAddReLU(4, branch_bits=8)([y, x]))


def depthwise(x, bits=4):
    x = kb.QuantDepthwiseConv2D(3, bits=bits)(block(x, 8))
    return kb.QuantDense(5, bits=bits)(
        layers.Flatten()(kb.QuantReLU(4)(layers.BatchNormalization()(x)))
    )


def pointwise(x, bits=4):
    """Convolutions of size 1."""
    x = kb.QuantConv2D(16, 1, bits=bits)(block(x, 8))
    x = kb.QuantReLU(4)(layers.BatchNormalization()(x))
    x = kb.QuantConv2D(6, 1, strides=2, bits=bits)(x)
    x = kb.QuantReLU(4)(layers.BatchNormalization()(x))
    # A row that ends inside of a byte.
    x = kb.QuantConv2D(8, 1, bits=bits)(x)
    return classifier(kb.QuantReLU(4)(layers.BatchNormalization()(x)))


def average(x, filters=8, classes=5):
    """By parts in 8 bits where the classifier is small, else in 16 bits."""
    x = layers.GlobalAveragePooling2D()(block(x, filters))
    return classifier(x, classes)


def zero_padding(x):
    return classifier(block(layers.ZeroPadding2D(1)(block(x, 8)), 8))


def shifted_zero(x):
    """Behind the rescaling, 0.0 is not the zero point."""
    return chain(layers.Rescaling(2.0, -1.0)(x))


def concatenation(x):
    """Of two scales, which QUANTIZE brings to one."""
    return classifier(layers.Concatenate()([block(x, 4), block(x, 4, 3)]))


def convolution_map(x):
    return kb.QuantConv2D(4, 1, bits=8)(block(x, 8))


def softmax(x):
    return layers.Softmax()(chain(x))


def sigmoid(x):
    return layers.Activation("sigmoid")(chain(x))


def export(build, path, **settings):
    """Writes a network as after training, with random weights."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, build(inputs))
    data = np.random.default_rng(0).integers(0, 256, (64, *SHAPE)) / 255
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
        elif hasattr(layer, "alpha"):
            layer.alpha.assign(2.0 / 2**layer.bits)
    model(keras.ops.convert_to_tensor(data, "float32"), training=True)
    settings = {"output_type": "int8", "verbose": 0} | settings
    kb.export_tflite(
        model,
        path,
        input_range=(0, 1),
        representative_data=data,
        **settings,
    )


# Those of the format for 16 bits, and of operators that the exporter does not
# write.
VERSIONS = {
    ("CAST", "INT8"): 1,
    ("CONV_2D", "INT16"): 4,
    ("LOGISTIC", "INT8"): 2,
    ("LOGISTIC", "INT16"): 3,
    ("SOFTMAX", "INT16"): 3,
}


class Writer(TFLiteWriter):
    """With these versions."""

    def _version(self, name, inputs):
        types = load_schema().TensorType
        for (operator, dtype), version in VERSIONS.items():
            is_it = self._tensors[inputs[0]].type == getattr(types, dtype)
            if operator == name and is_it:
                return version
        return super()._version(name, [i for i in inputs if i != -1])


def convolution_in_16_bits(path):
    rng = np.random.default_rng(0)
    scales = np.float32(rng.uniform(0.005, 0.01, 4))
    writer = Writer("convolution in 16 bits")
    x = writer.add_tensor("input", (1, 8, 8, 8), "int16", 1 / 4096)
    kernel = rng.integers(-127, 128, (4, 3, 3, 8))
    w = writer.add_constant("weights", kernel, "int8", scales)
    bias = rng.integers(-(2**20), 2**20, 4)
    b = writer.add_constant("bias", bias, "int64", scales / 4096)
    y = writer.add_tensor("output", (1, 6, 6, 4), "int16", 1 / 1024)
    settings = {"padding": "valid", "strideH": 1, "strideW": 1}
    writer.add_operator("CONV_2D", [x, w, b], [y], "Conv2DOptions", **settings)
    _write(writer, path, x, y)


def single_operator(path, name, dtype, scale, options=(), **settings):
    """A function of numbers between 0 and 1, in one operator."""
    bits = {"int8": 8, "int16": 15}[dtype]
    zero_point = -128 if dtype == "int8" else 0
    writer = Writer(f"{name} of {dtype}")
    x = writer.add_tensor("input", (1, 10), dtype, scale)
    y = writer.add_tensor("output", (1, 10), dtype, 2.0**-bits, zero_point)
    writer.add_operator(name, [x], [y], *options, **settings)
    _write(writer, path, x, y)


def dense_with_one_scale(path, has_bias=True):
    """As other converters write it."""
    rng = np.random.default_rng(0)
    writer = Writer("dense with one scale")
    x = writer.add_tensor("input", (1, 32), "int8", 0.1, -3)
    kernel = rng.integers(-127, 128, (5, 32))
    w = writer.add_constant("weights", kernel, "int8", [0.01])
    b = -1
    if has_bias:
        bias = rng.integers(-(2**12), 2**12, 5)
        b = writer.add_constant("bias", bias, "int32", [0.1 * 0.01])
    y = writer.add_tensor("output", (1, 5), "int8", 0.5, 7)
    writer.add_operator(
        "FULLY_CONNECTED", [x, w, b], [y], "FullyConnectedOptions"
    )
    _write(writer, path, x, y)


def cast(path):
    """Codes in 16 bits, with what QUANTIZE would take off left on them."""
    writer = Writer("cast")
    x = writer.add_tensor("input", (1, 10), "int8", 0.1, -128)
    y = writer.add_tensor("output", (1, 10), "int16", 0.1)
    writer.add_operator("CAST", [x], [y])
    _write(writer, path, x, y)


def quantize_in_16_bits(path):
    """The same numbers in finer steps."""
    writer = Writer("quantize")
    x = writer.add_tensor("input", (1, 10), "int16", 0.1)
    y = writer.add_tensor("output", (1, 10), "int16", 0.1 / 256)
    writer.add_operator("QUANTIZE", [x], [y], "QuantizeOptions")
    _write(writer, path, x, y)


def _write(writer, path, x, y):
    contents = writer.finish({"input": x}, {"output": y})
    write_atomically(path, contents)


_kind = functools.partial
KINDS = {
    "chain": _kind(export, chain),
    "batch_size=4": _kind(export, chain, batch_size=4),
    "labels": _kind(export, chain, labels=list("abcde")),
    "uint8 input and output": _kind(
        export, chain, input_type="uint8", output_type="uint8"
    ),
    "softmax": _kind(export, softmax),
    "sigmoid": _kind(export, sigmoid),
    "convolution at the end": _kind(export, convolution_map),
    "residual": _kind(export, residual),
    "depthwise": _kind(export, depthwise),
    "average by parts": _kind(export, average),
    "average in 16 bits": _kind(
        export, functools.partial(average, filters=32, classes=100)
    ),
    "ZeroPadding2D": _kind(export, zero_padding),
    "Rescaling, padded": _kind(export, shifted_zero),
    "concatenation": _kind(export, concatenation),
    "output_type=int16": _kind(export, chain, output_type="int16"),
    "output_type=int16, softmax": _kind(export, softmax, output_type="int16"),
    "output_type=int16, sigmoid": _kind(export, sigmoid, output_type="int16"),
    "output_type=int16, convolution": _kind(
        export, convolution_map, output_type="int16"
    ),
    "weight_format=int4": _kind(export, few_bits, weight_format="int4"),
    "weight_format=int4, depthwise": _kind(
        export, depthwise, weight_format="int4"
    ),
    "weight_format=int4, output_type=int16": _kind(
        export, few_bits, weight_format="int4", output_type="int16"
    ),
    "weight_format=int2": _kind(export, few_bits, weight_format="int2"),
    "weight_format=int2, output_type=int16": _kind(
        export, few_bits, weight_format="int2", output_type="int16"
    ),
    "weight_format=auto, 1x1": _kind(export, pointwise, weight_format="auto"),
    "weight_format=int2, 1x1": _kind(
        export, functools.partial(pointwise, bits=2), weight_format="int2"
    ),
    "FULLY_CONNECTED, one scale": dense_with_one_scale,
    "FULLY_CONNECTED, no bias": _kind(dense_with_one_scale, has_bias=False),
    "CONV_2D in 16 bits": convolution_in_16_bits,
    "CAST from 8 to 16 bits": cast,
    "QUANTIZE in 16 bits": quantize_in_16_bits,
    "SOFTMAX in 16 bits": _kind(
        single_operator,
        name="SOFTMAX",
        dtype="int16",
        scale=1 / 3000,
        options=("SoftmaxOptions",),
        beta=1.0,
    ),
    "LOGISTIC in 8 bits": _kind(
        single_operator, name="LOGISTIC", dtype="int8", scale=1 / 16
    ),
    "LOGISTIC in 16 bits": _kind(
        single_operator, name="LOGISTIC", dtype="int16", scale=1 / 3000
    ),
}
