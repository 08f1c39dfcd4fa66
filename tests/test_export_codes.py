"""Files against the model: every code, ties, constants, saturation."""

import keras
import numpy as np
import pytest
from export_helpers import assert_same_codes
from export_helpers import exported
from export_helpers import grid_inputs
from export_helpers import network
from export_helpers import numpy_of
from export_helpers import reference
from export_helpers import run
from export_networks import two_convolutions
from keras import layers

import keras_bcgd as kb
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner


@pytest.mark.parametrize("activation_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("weight_bits", [1, 2, 3, 4])
def test_every_code_is_the_trained_one(weight_bits, activation_bits, tmp_path):
    model = two_convolutions(weight_bits, activation_bits)
    report = assert_same_codes(model, tmp_path)
    assert report.inexact_thresholds == 0
    assert not report.notes


# At 5 bits and more the multiplier is 8 or less, at 8 bits 1; and 8-bit
# activations have 255 thresholds. What the report calls exact is exact, and
# elsewhere a code is off by one at most.
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    "weight_bits, activation_bits",
    [(1, 8), (2, 8), (4, 8), (5, 4), (6, 4), (8, 1), (8, 4), (8, 8)],
)
def test_wide_codes_are_off_by_one_at_most(
    weight_bits, activation_bits, kernels, tmp_path
):
    model = network(
        (8, 8, 3),
        kb.QuantConv2D(12, 3, bits=weight_bits),
        layers.BatchNormalization(),
        kb.QuantReLU(activation_bits),
    )
    x = grid_inputs((8, 8, 3))
    path, report = exported(model, tmp_path)
    alpha = numpy_of(model.layers[-1].alpha)
    difference = (run(path, x, kernels) - reference(model, x)) / alpha
    (row,) = report.layers
    exact = row.exact_by_default if kernels == "xnnpack" else row.exact
    assert np.max(np.abs(difference)) < 1.001
    assert np.mean(np.abs(difference) > 0.5) < 0.01
    if exact == row.thresholds:
        assert np.max(np.abs(difference)) < 0.001


NETWORKS = {
    "no normalization": [kb.QuantConv2D(4, 3, bits=4), kb.QuantReLU(4)],
    "per channel": [
        kb.QuantConv2D(4, 3, bits=4, per_channel=True),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "same, stride 2": [
        kb.QuantConv2D(4, 3, bits=4, strides=2, padding="same"),
        kb.QuantReLU(4),
    ],
    "oblong, dilated": [
        kb.QuantConv2D(4, (2, 3), bits=2, dilation_rate=(1, 2)),
        kb.QuantReLU(2),
    ],
    "depthwise": [
        kb.QuantDepthwiseConv2D(3, bits=4, padding="same"),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "depthwise, multiplier": [
        kb.QuantDepthwiseConv2D(3, bits=1, depth_multiplier=2, strides=2),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "depthwise, per channel": [
        kb.QuantDepthwiseConv2D(
            3, bits=4, depth_multiplier=2, per_channel=True
        ),
        layers.BatchNormalization(),
        kb.QuantReLU(2),
    ],
    "dense": [
        layers.Flatten(),
        kb.QuantDense(9, bits=4),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "no scale, no center": [
        kb.QuantConv2D(4, 3, bits=4),
        layers.BatchNormalization(scale=False),
        kb.QuantReLU(4),
        kb.QuantConv2D(4, 3, bits=4, use_bias=False),
        layers.BatchNormalization(center=False),
        kb.QuantReLU(4),
    ],
    "padding": [
        layers.ZeroPadding2D(((1, 2), (0, 1))),
        kb.QuantConv2D(4, 3, bits=4, strides=2),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "padding before the staircase": [
        kb.QuantConv2D(4, 3, bits=4),
        layers.BatchNormalization(),
        layers.ZeroPadding2D(1),
        kb.QuantReLU(4),
    ],
    "pooling before the staircase": [
        kb.QuantConv2D(4, 3, bits=4),
        layers.BatchNormalization(),
        layers.MaxPooling2D(),
        kb.QuantReLU(4),
    ],
    "max pooling": [
        kb.QuantReLU(4),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        kb.QuantConv2D(4, 1, bits=4),
        kb.QuantReLU(4),
    ],
    "global max pooling": [
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
        layers.GlobalMaxPooling2D(),
        kb.QuantDense(5, bits=4),
        kb.QuantReLU(4),
    ],
    "cropping of codes": [
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
        layers.Cropping2D(((1, 0), (2, 1))),
        kb.QuantConv2D(5, 2, bits=4),
        kb.QuantReLU(4),
    ],
    "cropping before the staircase": [
        kb.QuantConv2D(4, 3, bits=4),
        layers.BatchNormalization(),
        layers.Cropping2D(1),
        kb.QuantReLU(4),
    ],
    "average": [
        kb.QuantReLU(4),
        layers.AveragePooling2D(2),
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
    ],
    "average that divides": [
        kb.QuantReLU(2),
        layers.AveragePooling2D(2, padding="same"),
        kb.QuantReLU(3),
    ],
    "overlapping average": [
        kb.QuantReLU(4),
        layers.AveragePooling2D(3, strides=1),
        kb.QuantReLU(4),
    ],
    "global average": [
        kb.QuantReLU(2),
        layers.GlobalAveragePooling2D(),
        kb.QuantDense(5, bits=4),
        kb.QuantReLU(4),
    ],
    "staircase alone": [kb.QuantReLU(4)],
    "staircase of a vector": [layers.Flatten(), kb.QuantReLU(4)],
    "staircase twice": [
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
        kb.QuantReLU(2),
    ],
    "reshape": [
        layers.Reshape((4, 16, 3)),
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
    ],
    "training only": [
        layers.GaussianNoise(0.1),
        layers.RandomFlip(),
        kb.QuantConv2D(4, 3, bits=4),
        layers.SpatialDropout2D(0.5),
        layers.Activation("linear"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        kb.QuantReLU(4),
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers(name, tmp_path):
    parts = [type(p).from_config(p.get_config()) for p in NETWORKS[name]]
    assert_same_codes(network((8, 8, 3), *parts), tmp_path)


def test_augmentation_does_not_reach_the_scale_of_the_output(tmp_path):
    model = network(
        (8, 8, 3),
        layers.RandomFlip(),
        layers.Flatten(),
        kb.QuantDense(5, bits=8),
    )
    x = np.random.default_rng(0).uniform(size=(20, 8, 8, 3)).astype("float32")
    files = []
    for name in ("a.tflite", "b.tflite"):
        kb.export_tflite(model, tmp_path / name, representative_data=x)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def dyadic_network(bits, activation_bits):
    """Sums, alpha and input steps are powers of 2: many exact ties."""
    model = keras.Sequential(
        [
            keras.Input((8,)),
            kb.QuantDense(6, bits=bits, use_bias=False),
            kb.QuantReLU(activation_bits),
        ]
    )
    rng = np.random.default_rng(0)
    codes = rng.choice([-1, 1] if bits == 1 else [-1, 0, 1], (8, 6))
    model.layers[0].kernel.assign(codes * 0.5)
    model.layers[1].alpha.assign(0.25)
    return model


@pytest.mark.parametrize("bits", [1, 2])
def test_ties_go_down(bits, tmp_path):
    x = np.random.default_rng(0).integers(-8, 9, (64, 8)) / 16
    model = dyadic_network(bits, 4)
    sums = x @ numpy_of(model.layers[0].quantized_kernel)
    assert np.mean(sums % 0.25 == 0) > 0.05
    assert_same_codes(model, tmp_path, x, input_range=(-1, 127 / 128))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_zero_gives_zero(bits, kernels, tmp_path):
    path, _ = exported(dyadic_network(2, bits), tmp_path, 1)
    assert not np.any(run(path, np.zeros((1, 8)), kernels))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_saturation_at_both_ends(bits, kernels, tmp_path):
    model = dyadic_network(1, bits)
    model.layers[0].kernel.assign(np.repeat([[1, 1, 1, -1, -1, -1]], 8, 0))
    model.layers[1].alpha.assign(0.01)
    path, _ = exported(model, tmp_path, 1)
    runner = TFLiteRunner(path, kernels)
    codes = runner.run(runner.quantize(np.ones((1, 8))))
    bottom = 127 - (2**bits - 1)
    np.testing.assert_array_equal(codes, [[127] * 3 + [bottom] * 3])


def test_zero_and_tiny_gamma_leave_a_constant(tmp_path):
    model = two_convolutions(4, 4)
    norm = model.layers[1]
    norm.gamma.assign([0, 1e-30, -1e-12, 1e-6, 1, 1, 1, 1])
    report = assert_same_codes(model, tmp_path)
    assert report.layers[0].constant == 4


def test_huge_gamma(tmp_path):
    model = two_convolutions(1, 1)
    model.layers[1].gamma.assign([1e3, -1e3, 1e8, -1e9, 1, 1, 1, 1])
    assert_same_codes(model, tmp_path)


def test_zero_kernel(tmp_path):
    model = two_convolutions(4, 4)
    kernel = numpy_of(model.layers[0].kernel)
    kernel[..., :2] = 0
    model.layers[0].kernel.assign(kernel)
    assert_same_codes(model, tmp_path)


def test_zero_between_two_input_codes(tmp_path):
    """The offset of the grid goes into the bias."""
    model = network((6, 6, 2), kb.QuantConv2D(4, 3, bits=4), kb.QuantReLU(4))
    low, high = -0.4703, 0.9
    x = low + (high - low) * grid_inputs((6, 6, 2))
    report = assert_same_codes(model, tmp_path, x, input_range=(low, high))
    assert "between two input codes" in report.notes[0]


@pytest.mark.parametrize("size", [1, 2])
def test_average_of_signed_inputs(size, tmp_path):
    model = network((8, 8, 3), layers.AveragePooling2D(size))
    x = 2 * grid_inputs((8, 8, 3)) - 1
    path, report = exported(model, tmp_path, input_range=(-1, 1))
    for kernels in KERNELS:
        difference = run(path, x, kernels) - reference(model, x)
        assert np.max(np.abs(difference)) < 1.1 * report.output_scale
