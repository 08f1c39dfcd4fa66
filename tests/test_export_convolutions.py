"""Files of 1D, transposed, grouped and separable convolutions."""

import keras
import numpy as np
import pytest
from export_helpers import assert_all_codes
from export_helpers import assert_same_codes
from export_helpers import exported
from export_helpers import grid_inputs
from export_helpers import network
from export_helpers import numpy_of
from export_helpers import outputs_of
from export_helpers import randomize
from export_helpers import read_file
from export_helpers import run
from keras import layers

import keras_bcgd as kb
from keras_bcgd.tflite.reader import read_tflite
from keras_bcgd.tflite.runner import KERNELS

SERIES, IMAGE = (20, 3), (6, 6, 4)


def operators(path):
    return [operator.name for operator in read_tflite(path).operators]


def block(layer, bits=4):
    return [layer, layers.BatchNormalization(), kb.QuantReLU(bits)]


# Over time.


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("strides, dilation", [(1, 1), (2, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("padding", ["same", "valid", "causal"])
def test_convolutions_over_time(
    padding, strides, dilation, per_channel, tmp_path
):
    settings = {
        "padding": padding,
        "strides": strides,
        "dilation_rate": dilation,
        "per_channel": per_channel,
    }
    model = network(
        SERIES,
        *block(kb.QuantConv1D(8, 3, bits=4, **settings)),
        *block(kb.QuantConv1D(6, 2, bits=2, **settings)),
    )
    report = assert_same_codes(model, tmp_path)
    assert report.inexact_thresholds == 0
    names = operators(report.path)
    assert names.count("CONV_2D") == 2
    # One adds the height at the input, one takes it from the output.
    assert names.count("RESHAPE") == 2


OVER_TIME = {
    "padding and cropping": [
        layers.ZeroPadding1D((2, 1)),
        *block(kb.QuantConv1D(8, 3, bits=4)),
        layers.Cropping1D((1, 2)),
        *block(kb.QuantConv1D(8, 3, bits=4)),
    ],
    "max pooling": [
        *block(kb.QuantConv1D(8, 3, bits=4)),
        layers.MaxPooling1D(3, strides=2, padding="same"),
        *block(kb.QuantConv1D(8, 3, bits=4)),
    ],
    "pooling before the staircase": [
        kb.QuantConv1D(8, 3, bits=4),
        layers.BatchNormalization(),
        layers.MaxPooling1D(2),
        kb.QuantReLU(4),
    ],
    "average": [
        *block(kb.QuantConv1D(8, 3, bits=4)),
        layers.AveragePooling1D(2),
        *block(kb.QuantConv1D(8, 3, bits=4)),
    ],
    "global average": [
        *block(kb.QuantConv1D(8, 5, bits=4)),
        layers.GlobalAveragePooling1D(),
        kb.QuantDense(5, bits=4),
        kb.QuantReLU(4),
    ],
    "global maximum": [
        *block(kb.QuantConv1D(8, 3, bits=4)),
        layers.GlobalMaxPooling1D(),
        kb.QuantDense(5, bits=4),
        kb.QuantReLU(4),
    ],
    "dense at each time": [
        *block(kb.QuantDense(8, bits=4)),
        *block(kb.QuantDense(5, bits=4)),
    ],
    "flatten": [
        *block(kb.QuantConv1D(8, 3, bits=4)),
        layers.Flatten(),
        kb.QuantDense(5, bits=4),
        kb.QuantReLU(4),
    ],
    "to an image": [
        *block(kb.QuantConv1D(8, 3, bits=4)),
        layers.Reshape((6, 3, 8)),
        *block(kb.QuantConv2D(8, 3, bits=4)),
    ],
    "groups": [
        *block(kb.QuantConv1D(8, 3, bits=4)),
        *block(kb.QuantConv1D(8, 3, bits=4, groups=4, padding="causal")),
    ],
    "staircase at the input": [
        kb.QuantReLU(4),
        *block(kb.QuantConv1D(8, 3, bits=4)),
    ],
}


@pytest.mark.parametrize("name", OVER_TIME)
def test_layers_over_time(name, tmp_path):
    parts = [type(p).from_config(p.get_config()) for p in OVER_TIME[name]]
    assert_same_codes(network(SERIES, *parts), tmp_path)


def test_a_series_of_an_image_needs_no_height(tmp_path):
    model = network(
        (8, 8, 3),
        *block(kb.QuantConv2D(8, 3, bits=4)),
        layers.Reshape((36, 8)),
    )
    path, _ = exported(model, tmp_path)
    assert operators(path) == ["CONV_2D", "RESHAPE"]


@pytest.mark.parametrize("axis", [1, 2, -1, -2])
def test_concatenation_over_time(axis, tmp_path):
    inputs = keras.Input(SERIES)
    x = kb.QuantReLU(4)(kb.QuantConv1D(4, 3, bits=4, padding="same")(inputs))
    y = kb.QuantConv1D(5, 3, bits=4)(layers.Concatenate(axis)([x, x]))
    model = randomize(keras.Model(inputs, kb.QuantReLU(4)(y)))
    assert_all_codes(model, tmp_path)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("padding", ["same", "causal"])
def test_padding_over_time_behind_a_rescaling(padding, tmp_path):
    """Where 0.0 is not the zero point: a PADV2."""
    model = network(
        SERIES,
        layers.Rescaling(2, -1),
        *block(kb.QuantConv1D(4, 3, bits=4, padding=padding)),
    )
    report = assert_all_codes(model, tmp_path)
    assert "PADV2" in operators(report.path)


def test_a_residual_block_over_time(tmp_path):
    inputs = keras.Input(SERIES)
    conv = {"bits": 4, "padding": "same"}
    x = kb.QuantReLU(4)(kb.QuantConv1D(4, 3, **conv)(inputs))
    y = layers.BatchNormalization()(kb.QuantConv1D(4, 3, **conv)(x))
    model = randomize(keras.Model(inputs, kb.QuantAddReLU(4)([y, x])))
    x = grid_inputs(SERIES)
    path, report = exported(model, tmp_path, align=True)
    assert_equal_codes(report.model, path, x)


def test_the_input_keeps_its_shape_and_its_identity(tmp_path):
    model = network(
        SERIES,
        kb.QuantIdentity(alpha_initializer=keras.initializers.Constant(1 / 64)),
        *block(kb.QuantConv1D(8, 3, bits=4)),
    )
    path, report = exported(model, tmp_path, 1, input_range=None)
    assert report.input_scale == 1 / 64
    (graph,) = read_file(path).subgraphs
    shapes = [
        list(graph.tensors[i].shape) for i in (*graph.inputs, *graph.outputs)
    ]
    assert shapes == [[1, 20, 3], [1, 18, 8]]


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_logits_at_each_time(activation, tmp_path):
    model = network(
        SERIES,
        *block(kb.QuantConv1D(8, 3, bits=4)),
        kb.QuantConv1D(5, 1, bits=8, activation=activation),
    )
    x = grid_inputs(SERIES)
    path, report = exported(
        model, tmp_path, output_type="int16", representative_data=x
    )
    expected = outputs_of(model, x)
    for kernels in KERNELS:
        found = run(path, x, kernels)
        assert found.shape == expected.shape
        assert np.max(np.abs(found - expected)) < 8 * report.output_scale


def test_divergence_is_found_over_time(tmp_path):
    model = network(
        SERIES,
        *block(kb.QuantConv1D(8, 3, bits=4)),
        *block(kb.QuantConv1D(8, 3, bits=4)),
    )
    path, _ = exported(model, tmp_path)
    x = grid_inputs(SERIES)
    assert kb.first_divergence(model, path, x) is None
    first = model.layers[2]
    first.alpha.assign(1.2 * first.alpha)
    found = kb.first_divergence(model, path, x)
    assert found.name == first.name


# Transposed.


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_transposed_convolutions(padding, strides, kernel_size, tmp_path):
    settings = {
        "strides": strides,
        "padding": padding,
        "per_channel": bool(strides % 2),
    }
    model = network(
        IMAGE,
        *block(kb.QuantConv2D(8, 3, bits=4)),
        *block(kb.QuantConv2DTranspose(6, kernel_size, bits=4, **settings)),
    )
    report = assert_same_codes(model, tmp_path)
    assert report.inexact_thresholds == 0


TRANSPOSED = {
    "no normalization": [
        kb.QuantConv2DTranspose(5, (3, 2), strides=(1, 2), bits=4),
        kb.QuantReLU(4),
    ],
    "many levels": block(kb.QuantConv2DTranspose(5, 3, bits=2, strides=2), 6),
    "one bit": block(kb.QuantConv2DTranspose(5, 3, bits=1, strides=2), 1),
    "no bias": [
        kb.QuantConv2DTranspose(5, 3, bits=4, use_bias=False),
        layers.BatchNormalization(scale=False),
        kb.QuantReLU(4),
    ],
    "twice": [
        *block(kb.QuantConv2DTranspose(5, 3, bits=4, strides=2)),
        *block(kb.QuantConv2DTranspose(5, 2, bits=4, strides=2)),
    ],
}


@pytest.mark.parametrize("name", TRANSPOSED)
def test_transposed_layers(name, tmp_path):
    parts = [type(p).from_config(p.get_config()) for p in TRANSPOSED[name]]
    assert_same_codes(network(IMAGE, *parts), tmp_path)


def assert_equal_codes(model, path, x):
    """The final codes are those of Keras, on every kernel set."""
    quantizer = [part for part in model.layers if hasattr(part, "alpha")][-1]
    alpha = numpy_of(quantizer.alpha)
    expected = np.round(outputs_of(model, x) / alpha)
    assert len(np.unique(expected)) > 4
    for kernels in KERNELS:
        codes = np.round(run(path, x, kernels) / alpha)
        np.testing.assert_array_equal(codes, expected, kernels)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kernel_size, strides", [(3, 2), (2, 2), (2, 3)])
def test_a_transposed_convolution_is_aligned(kernel_size, strides, tmp_path):
    """Its 256 codes have thresholds that no bias alone can place."""
    model = network(
        IMAGE,
        *block(kb.QuantConv2D(8, 3, bits=4)),
        kb.QuantConv2DTranspose(
            6, kernel_size, strides=strides, padding="same", bits=4
        ),
        layers.BatchNormalization(),
        kb.QuantIdentity(8, alpha_initializer=keras.initializers.Constant(0.1)),
    )
    x = grid_inputs(IMAGE)
    _, report = exported(model, tmp_path)
    assert report.inexact_thresholds > 0
    path, report = exported(model, tmp_path, align=True)
    assert report.inexact_thresholds == 0
    assert_equal_codes(report.model, path, x)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_a_transposed_convolution_at_the_end(activation, tmp_path):
    model = network(
        IMAGE,
        *block(kb.QuantConv2D(8, 3, bits=4)),
        kb.QuantConv2DTranspose(2, 2, strides=2, bits=8, activation=activation),
    )
    x = grid_inputs(IMAGE)
    path, report = exported(model, tmp_path, representative_data=x)
    expected = outputs_of(model, x)
    for kernels in KERNELS:
        difference = np.abs(run(path, x, kernels) - expected)
        assert np.max(difference) < 1.5 * report.output_scale


def test_float_transposed_weights_get_8_bits(tmp_path):
    model = network(
        IMAGE, layers.Conv2DTranspose(6, 3, strides=2), kb.QuantReLU(4)
    )
    model.layers[0].kernel.assign(
        np.random.default_rng(0).normal(size=(3, 3, 6, 4))
    )
    x = grid_inputs(IMAGE)
    path, _ = exported(model, tmp_path)
    alpha = numpy_of(model.layers[-1].alpha)
    for kernels in KERNELS:
        difference = np.abs(run(path, x, kernels) - outputs_of(model, x))
        assert np.mean(difference > 0.5 * alpha) < 0.1
        assert np.max(difference) < 1.1 * alpha


# In groups, and separable.


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("settings", [{}, {"strides": 2, "padding": "same"}])
def test_convolutions_in_groups(groups, settings, tmp_path):
    model = network(
        (8, 8, 4),
        *block(kb.QuantConv2D(8, 3, bits=4, groups=2)),
        *block(
            kb.QuantConv2D(
                16, 3, bits=4, groups=groups, per_channel=True, **settings
            )
        ),
    )
    # "auto" has no int4 kernels for groups.
    report = assert_same_codes(model, tmp_path, weight_format="auto")
    assert report.inexact_thresholds <= 1
    convolutions = read_tflite(report.path).operators
    assert [(c.name, c.version) for c in convolutions] == [("CONV_2D", 6)] * 2


def separable(**settings):
    """Two of them behind a convolution, so that they read trained codes."""
    model = network(
        (8, 8, 3),
        *block(kb.QuantConv2D(4, 1, bits=4)),
        *block(kb.QuantSeparableConv2D(8, 3, padding="same", **settings)),
        *block(kb.QuantSeparableConv2D(8, 3, depth_multiplier=2, **settings)),
    )
    for layer in (model.layers[3], model.layers[6]):
        layer.codes.alpha.assign(0.0203)
    return model


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_separable_convolutions(bits, tmp_path):
    """Their alphas move, as there is no bias between the parts."""
    x, model = grid_inputs((8, 8, 3)), separable(bits=bits)
    _, report = exported(model, tmp_path)
    assert (report.inexact_thresholds > 0) == (bits == 4)
    path, report = exported(model, tmp_path, align=True)
    assert report.inexact_thresholds == 0
    assert_equal_codes(report.model, path, x)
    for layer in (report.model.layers[3], report.model.layers[6]):
        alpha = float(numpy_of(layer.codes.alpha))
        assert alpha == pytest.approx(0.0203, rel=0.03)


@pytest.mark.usefixtures("float64")
def test_scales_of_channels_have_no_alpha_in_common(tmp_path):
    """So that other kernels than the default ones may be off by one."""
    x = grid_inputs((8, 8, 3))
    path, report = exported(
        separable(bits=4, per_channel=True), tmp_path, align=True
    )
    alpha = numpy_of(report.model.layers[-1].alpha)
    expected = np.round(outputs_of(report.model, x) / alpha)
    assert len(np.unique(expected)) > 4
    for kernels in KERNELS:
        difference = np.abs(np.round(run(path, x, kernels) / alpha) - expected)
        assert np.max(difference) <= (kernels != "xnnpack")
        assert np.mean(difference) < 0.02


def test_codes_of_fewer_bits_are_refused(tmp_path):
    model = network(
        (8, 8, 3), *block(kb.QuantSeparableConv2D(8, 3, branch_bits=6))
    )
    with pytest.raises(ValueError, match="_codes' .*use bits=8"):
        exported(model, tmp_path)
