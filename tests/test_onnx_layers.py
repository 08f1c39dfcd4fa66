"""Each layer in an ONNX file computes what Keras computes."""

import keras
import numpy as np
import pytest
from export_helpers import grid_inputs
from export_helpers import outputs_of
from export_helpers import randomize
from onnx_helpers import FORMATS
from onnx_helpers import computed

import keras_bcgd as kb

layers = keras.layers
MAP = (7, 6, 4)

# What is tested, and the shape of its input. None of these ends on a threshold.
LAYERS = {
    "conv": (kb.QuantConv2D(5, 3, bits=4), MAP),
    "conv_1_bit": (kb.QuantConv2D(5, 3, bits=1), MAP),
    "conv_2_bits": (kb.QuantConv2D(5, (3, 2), bits=2), MAP),
    "conv_8_bits": (kb.QuantConv2D(5, (1, 3), bits=8), MAP),
    "per_channel": (kb.QuantConv2D(5, 3, bits=3, per_channel=True), MAP),
    "per_channel_1_bit": (kb.QuantConv2D(5, 3, bits=1, per_channel=True), MAP),
    "same": (kb.QuantConv2D(5, 3, padding="same"), MAP),
    "same_strided": (kb.QuantConv2D(5, 3, strides=2, padding="same"), MAP),
    "same_wide": (kb.QuantConv2D(5, 4, strides=3, padding="same"), MAP),
    "dilated": (
        kb.QuantConv2D(5, 3, dilation_rate=(2, 1), padding="same"),
        MAP,
    ),
    "groups": (kb.QuantConv2D(6, 3, groups=2), MAP),
    "relu_inside": (kb.QuantConv2D(5, 3, activation="relu"), MAP),
    "float_conv": (layers.Conv2D(5, 3), MAP),
    "conv_of_32_bits": (kb.QuantConv2D(5, 3, bits=32), MAP),
    "conv1d": (kb.QuantConv1D(5, 3), (9, 4)),
    "causal": (
        kb.QuantConv1D(5, 3, padding="causal", dilation_rate=2),
        (9, 4),
    ),
    "depthwise": (kb.QuantDepthwiseConv2D(3, bits=4), MAP),
    "depthwise_multiplier": (
        kb.QuantDepthwiseConv2D(
            3, bits=3, depth_multiplier=2, per_channel=True, strides=2
        ),
        MAP,
    ),
    "separable": (kb.QuantSeparableConv2D(5, 3, bits=4), MAP),
    "dense": (kb.QuantDense(5, bits=4), (6,)),
    "dense_1_bit": (kb.QuantDense(5, bits=1), (6,)),
    "dense_per_channel": (kb.QuantDense(5, bits=4, per_channel=True), (6,)),
    "dense_on_map": (kb.QuantDense(5, bits=4, per_channel=True), MAP),
    "float_dense": (layers.Dense(5, activation="softmax"), (6,)),
    "norm": (layers.BatchNormalization(), MAP),
    "norm_plain": (layers.BatchNormalization(scale=False, center=False), (6,)),
    "max_pool": (layers.MaxPooling2D(2, padding="same"), MAP),
    "subsampling": (layers.MaxPooling2D(1, strides=2), MAP),
    "max_pool_1d": (layers.MaxPooling1D(3, 2), (9, 4)),
    "average": (layers.AveragePooling2D((2, 3), 1), MAP),
    "average_same": (layers.AveragePooling2D(3, 2, padding="same"), MAP),
    "average_1d": (layers.AveragePooling1D(3, 2, padding="same"), (9, 4)),
    "global_average": (layers.GlobalAveragePooling2D(), MAP),
    "global_kept": (layers.GlobalAveragePooling2D(keepdims=True), MAP),
    "global_1d": (layers.GlobalAveragePooling1D(), (9, 4)),
    "global_maximum": (layers.GlobalMaxPooling2D(), MAP),
    "zero_padding": (layers.ZeroPadding2D(((1, 2), (0, 3))), MAP),
    "zero_padding_1d": (layers.ZeroPadding1D((2, 1)), (9, 4)),
    "cropping": (layers.Cropping2D(((1, 2), (0, 3))), MAP),
    "cropping_1d": (layers.Cropping1D((2, 1)), (9, 4)),
    "pad_channels": (kb.PadChannels(7), MAP),
    "pad_features": (kb.PadChannels(7), (4,)),
    "flatten": (layers.Flatten(), MAP),
    "reshape": (layers.Reshape((4, 14, 3)), MAP),
    "reshape_to_flat": (layers.Reshape((168,)), MAP),
    "reshape_to_map": (layers.Reshape((2, 3)), (6,)),
    "permute": (layers.Permute((3, 1, 2)), MAP),
    "permute_others": (layers.Permute((2, 3, 1)), MAP),
    "relu": (layers.ReLU(), MAP),
    "relu6": (layers.ReLU(0.4), MAP),
    "sigmoid": (layers.Activation("sigmoid"), (6,)),
    "softmax_of_map": (layers.Softmax(), MAP),
    "rescaling": (layers.Rescaling(2.0, -1.0), MAP),
    "rescaling_channels": (layers.Rescaling([1.0, 2, 3, 4], 0.5), MAP),
    "dropout": (layers.Dropout(0.5), MAP),
    "identity": (kb.QuantIdentity(8), MAP),
    "identity_few_bits": (kb.QuantIdentity(3), MAP),
    "identity_from_0": (kb.QuantIdentity(8, minimum=0.0), MAP),
    "identity_minimum": (kb.QuantIdentity(6, minimum=-0.3), MAP),
    "identity_minimum_8": (kb.QuantIdentity(8, minimum=-0.3), MAP),
    "staircase": (kb.QuantReLU(3), MAP),
}


def signed(shape, samples=3):
    return np.float32(grid_inputs(shape, samples) * 2 - 1.01)


def close(model, tmp_path, x, format):
    """To float32: what is added in another order, and no more."""
    expected = outputs_of(model, x)
    assert len(np.unique(expected)) > 1
    np.testing.assert_allclose(
        computed(model, tmp_path, x, format), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(tmp_path, name, format):
    layer, shape = LAYERS[name]
    copy = type(layer).from_config(layer.get_config())
    model = randomize(keras.Sequential([keras.Input(shape), copy]))
    close(model, tmp_path, signed(shape), format)


def test_normalization_layer(tmp_path):
    layer = layers.Normalization()
    layer.adapt(signed(MAP, 20))
    model = keras.Sequential([keras.Input(MAP), layer, layers.Flatten()])
    close(model, tmp_path, signed(MAP), "qcdq")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "behind",
    [
        lambda: [kb.QuantDense(5, bits=4)],
        lambda: [layers.BatchNormalization(), kb.QuantDense(5, bits=1)],
        lambda: [kb.QuantReLU(4), layers.Dropout(0.5), kb.QuantDense(5)],
        lambda: [layers.Normalization(mean=[0.1] * 168, variance=[2.0] * 168)],
        lambda: [layers.Rescaling(list(range(168)))],
        lambda: [layers.Reshape((14, 12))],
        lambda: [kb.PadChannels(170)],
        lambda: [],
    ],
    ids=["dense", "norm", "quant", "columns", "rescale", "map", "pad", "end"],
)
def test_flattened_map_keeps_its_order(tmp_path, behind, format):
    model = randomize(
        keras.Sequential([keras.Input(MAP), layers.Flatten(), *behind()])
    )
    close(model, tmp_path, signed(MAP), format)


def two_inputs(merge):
    """A merge of a map and of what a convolution makes of it."""
    x = keras.Input(MAP)
    y = kb.QuantConv2D(4, 3, bits=4, padding="same")(x)
    return randomize(keras.Model(x, merge([x, y])))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "merge",
    [
        lambda: layers.Add(),
        lambda: layers.Concatenate(),
        lambda: layers.Concatenate(1),
        lambda: layers.Concatenate(2),
        lambda: kb.QuantAdd(),
        lambda: kb.QuantConcatenate(),
        lambda: kb.QuantMultiply(),
        lambda: kb.QuantAddReLU(4),
        lambda: kb.QuantAddReLU(7),
        lambda: kb.QuantAddReLU(4, branch_bits=None),
        lambda: kb.QuantAddReLU(4, branch_bits=6, shortcut_is_branch=True),
        lambda: kb.QuantAddReLU(8, shortcut_is_branch=True),
    ],
)
def test_merge(tmp_path, merge, format):
    close(two_inputs(merge()), tmp_path, signed(MAP), format)


def test_add_of_three_and_of_flattened_maps(tmp_path):
    x = keras.Input(MAP)
    flat = layers.Flatten()(x)
    dense = kb.QuantDense(168)(flat)
    same = kb.QuantReLU(4)(flat)
    y = layers.Add()([flat, dense, same])
    close(keras.Model(x, y), tmp_path, signed(MAP), "qcdq")


@pytest.mark.parametrize("format", FORMATS)
def test_gate_of_one_number_per_channel(tmp_path, format):
    """Squeeze-and-excitation: sizes that broadcast."""
    x = keras.Input(MAP)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    model = randomize(keras.Model(x, kb.QuantMultiply()([x, gate])))
    close(model, tmp_path, signed(MAP), format)


def test_models_within_models(tmp_path):
    inner = keras.Sequential(
        [keras.Input(MAP), kb.QuantConv2D(3, 3), kb.QuantReLU(4)]
    )
    x = keras.Input(MAP)
    y = kb.QuantDense(3)(layers.Flatten()(inner(x)))
    close(keras.Model(x, y), tmp_path, signed(MAP), "qcdq")
