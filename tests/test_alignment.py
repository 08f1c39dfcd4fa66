"""Models moved onto the grid of their files, in float64."""

import keras
import numpy as np
import pytest
from export_helpers import INPUT_RANGE
from export_helpers import assert_all_codes
from export_helpers import exported
from export_helpers import grid_inputs
from export_helpers import network
from export_helpers import numpy_of
from export_helpers import outputs_of
from export_helpers import random_resnet
from export_helpers import run

import keras_bcgd as kb
from keras_bcgd.tflite.runner import KERNELS

layers = keras.layers

pytestmark = pytest.mark.usefixtures("float64")


def align(model, **settings):
    return kb.align_for_export(model, INPUT_RANGE, **settings)


@pytest.mark.parametrize(
    "weight_bits, activation_bits",
    [(1, 1), (2, 2), (4, 4), (4, 7), (6, 4)],
)
def test_every_code_of_a_residual_network(
    weight_bits, activation_bits, tmp_path
):
    model = random_resnet(weight_bits, activation_bits)
    align(model)
    report = assert_all_codes(model, tmp_path)
    # Two thresholds of channels with hardly any sums may be left.
    assert report.inexact_thresholds <= 2


def test_without_alignment_codes_differ(tmp_path):
    """Or the test above would test nothing."""
    model, x = random_resnet(4, 4), grid_inputs((16, 16, 3))
    path, _ = exported(model, tmp_path)
    for kernels in KERNELS:
        assert np.any(
            np.abs(run(path, x, kernels) - outputs_of(model, x)) > 0.1
        )


def test_one_threshold_for_each_channel_with_8_bit_weights(tmp_path):
    """The accumulator is coarse, but the bias can avoid one threshold."""
    model = network(
        (8, 8, 3),
        kb.QuantConv2D(16, 3, bits=8),
        layers.BatchNormalization(),
        kb.QuantReLU(1),
    )
    align(model)
    assert assert_all_codes(model, tmp_path).inexact_thresholds <= 1


def identity_network(**settings):
    return network(
        (8, 8, 3),
        kb.QuantConv2D(16, 3, bits=4, **settings),
        layers.BatchNormalization(),
        kb.QuantIdentity(8, alpha_initializer=keras.initializers.Constant(0.1)),
    )


def test_outputs_move_by_parts_of_a_step():
    """By 2 % and a step at most; most codes stay."""
    model, x = identity_network(), grid_inputs((8, 8, 3))
    before = outputs_of(model, x)
    (moved,) = align(model)
    difference = np.abs(outputs_of(model, x) - before)
    assert np.all(difference < 0.02 * np.abs(before) + 0.1001)
    assert np.mean(difference > 0) < 0.2
    assert moved.name == model.layers[0].name
    assert 0 < moved.slope_change <= 0.02
    assert 0 < moved.shift < 0.5
    assert moved.risk == moved.default_risk == 0
    assert moved.channels > 0


def changes(model, before):
    """Names of the weights that are not what they were."""
    return {
        weight.path.split("/")[-1]
        for weight, old in zip(model.weights, before, strict=True)
        if np.any(numpy_of(weight) != old)
    }


def test_gamma_and_beta_move_as_told_and_nothing_else():
    model = identity_network()
    norm = model.layers[1]
    norm.gamma.assign(np.linspace(0.5, 2, 16))
    before = [numpy_of(weight) for weight in model.weights]
    (moved,) = align(model)
    assert changes(model, before) == {"gamma", "beta"}
    change = np.abs(np.linspace(0.5, 2, 16) / numpy_of(norm.gamma) - 1)
    assert np.max(change) == pytest.approx(moved.slope_change)


@pytest.mark.parametrize("bits", [1, 4])
def test_a_second_alignment_moves_nothing(bits):
    model = random_resnet(bits, 4)
    align(model)
    before = [numpy_of(weight) for weight in model.weights]
    again = align(model)
    assert max((moved.slope_change for moved in again), default=0) < 1e-3
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_allclose(numpy_of(weight), old, rtol=1e-2, atol=1e-2)


def test_exact_channels_stay():
    """With few levels and a fine accumulator nothing has to move."""
    model = network(
        (8, 8, 3),
        kb.QuantConv2D(16, 3, bits=1),
        layers.BatchNormalization(),
        kb.QuantReLU(2),
    )
    before = [numpy_of(weight) for weight in model.weights]
    assert not len(align(model))
    assert not changes(model, before)


def test_without_normalization_the_kernel_and_the_bias_move(tmp_path):
    """One scale for all channels, and a bias for each."""
    model = network(
        (8, 8, 3),
        kb.QuantConv2D(16, 3, bits=4),
        kb.QuantIdentity(8, alpha_initializer=keras.initializers.Constant(0.1)),
    )
    conv = model.layers[0]
    before = [numpy_of(weight) for weight in model.weights]
    scale, codes = conv.kernel_scale_and_codes()
    (moved,) = align(model)
    assert moved.slope_change > 0 and moved.shift > 0
    assert changes(model, before) <= {"kernel", "kernel_is_quantized", "bias"}
    new_scale, new_codes = conv.kernel_scale_and_codes()
    np.testing.assert_array_equal(new_codes, codes)
    change = np.max(np.abs(new_scale / scale - 1))
    assert change == pytest.approx(moved.slope_change, rel=0.03)
    assert_all_codes(model, tmp_path)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sums_in_a_level", [145.2, 180.3, 201.9])
def test_weights_of_8_bits_before_a_staircase(bits, sums_in_a_level, tmp_path):
    """D a little below an even number: then all kernels agree."""
    scale = 0.01
    alpha = keras.initializers.Constant(sums_in_a_level * scale / 255)
    model = network(
        (8, 8, 3),
        kb.QuantConv2D(16, 3, bits=8, use_bias=False),
        layers.BatchNormalization(epsilon=1e-7),
        kb.QuantReLU(
            bits,
            alpha_initializer=alpha,
            alpha_constraint=kb.AlphaBound(1e-6),
        ),
    )
    conv, norm, relu = model.layers
    codes = np.random.default_rng(0).integers(-127, 128, conv.kernel.shape)
    codes.flat[0] = 127
    conv.kernel.assign(scale * codes)
    ones = np.ones(16)
    norm.set_weights([ones, 0.3 * ones, 0 * ones, ones])
    relu.alpha.assign(sums_in_a_level * scale / 255)
    before = kb.export_tflite(
        model, tmp_path / "before.tflite", INPUT_RANGE, align=False
    )
    assert before.inexact or before.inexact_elsewhere
    align(model)
    report = assert_all_codes(model, tmp_path)
    assert not report.inexact and not report.inexact_elsewhere
    assert not len(align(model))


def test_without_bias_nothing_moves():
    model = network(
        (8, 8, 3), kb.QuantConv2D(4, 3, bits=4, use_bias=False), kb.QuantReLU(4)
    )
    before = [numpy_of(weight) for weight in model.weights]
    assert not len(align(model))
    assert not changes(model, before)


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3, 1e9])
def test_extreme_slopes(scale, tmp_path):
    """A step far below or above one unit of the accumulator."""
    model = identity_network()
    norm = model.layers[1]
    norm.gamma.assign(scale * numpy_of(norm.gamma))
    align(model)
    assert all(np.all(np.isfinite(numpy_of(w))) for w in model.weights)
    exported(model, tmp_path)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="int8, int4"):
        align(identity_network(), weight_format="int3")
    with pytest.raises(ValueError, match="`input_range` or"):
        kb.align_for_export(identity_network())
    with pytest.raises(ValueError, match="`verbose` must be .* verbose=2"):
        align(identity_network(), verbose=2)
