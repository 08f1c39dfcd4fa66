"""A ceil by rounding to the nearest: sums on thresholds, for any alpha."""

import fractions

import keras
import numpy as np
import pytest
from export_helpers import outputs_of
from onnx_helpers import FORMATS
from onnx_helpers import computed

import keras_bcgd as kb
from keras_bcgd import branches
from keras_bcgd.onnx import staircase

ALPHAS = np.float32(np.random.default_rng(0).uniform(0.01, 1.0, 40))


@pytest.mark.parametrize("is_compared", [False, True])
@pytest.mark.parametrize("bits", range(1, 9))
def test_half_step_is_nearly_half(bits, is_compared):
    for alpha in ALPHAS:
        half = staircase.half_step(alpha, bits, is_compared=is_compared)
        missing = fractions.Fraction(1, 2) - fractions.Fraction(
            float(half)
        ) / fractions.Fraction(float(alpha))
        # Three roundings, each by half of the last of 24 bits.
        assert 0 < missing < fractions.Fraction(3, 2 ** (24 - bits))


@pytest.mark.parametrize("bits", range(1, 9))
def test_ties_stay_below_however_a_runtime_rounds(bits):
    levels = np.arange(2**bits)
    for alpha in ALPHAS:
        x = np.float32(levels) * alpha
        raised = x + staircase.half_step(alpha, bits)
        for quotients in (raised / alpha, raised * (np.float32(1) / alpha)):
            np.testing.assert_array_equal(np.round(quotients), levels)
        raised = x + staircase.half_step(alpha, bits, is_compared=True)
        codes = np.sum(raised[:, None] >= finn_thresholds(alpha, bits), axis=1)
        np.testing.assert_array_equal(codes, levels)


def finn_thresholds(alpha, bits):
    """As FINN computes them of a Quant behind a Relu."""
    steps = np.arange(2**bits - 1, dtype=np.float32)
    return alpha / np.float32(2) + alpha * steps


@pytest.mark.parametrize("bits", range(1, 7))
def test_sums_of_two_branches_stay_below(bits):
    """All pairs of codes whose sum is a multiple of alpha."""
    for alpha in ALPHAS[:8]:
        step = np.float32(branches.branch_step(alpha, bits))
        sums = staircase.two_branches(step, alpha, (-128, 127))
        half = staircase.half_step(alpha, bits, sums, is_compared=True)
        first, second = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128))
        x = np.float32(first) * step + np.float32(second) * step
        levels = (first + second) / 2 ** (7 - bits)
        codes = np.round((x + half) / alpha)
        # The sums that end on no threshold are a step of the branch away.
        above = levels > 0
        np.testing.assert_array_equal(codes[above], np.ceil(levels[above]))
        thresholds = finn_thresholds(alpha, bits)
        codes = np.sum((x + half)[..., None] >= thresholds, axis=-1)
        expected = np.clip(np.ceil(levels), 0, 2**bits - 1)
        np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_files_round_thresholds_as_keras_does(tmp_path, format, bits):
    """Every multiple of alpha, and what is around it."""
    for index, alpha in enumerate(ALPHAS[:4]):
        layer = kb.QuantReLU(
            bits, alpha_initializer=keras.initializers.Constant(alpha)
        )
        model = keras.Sequential([keras.Input((3 * 2**bits,)), layer])
        ties = np.float32(np.arange(-1, 2**bits - 1)) * alpha
        x = np.concatenate([ties, ties - alpha / 1000, ties + alpha / 1000])
        x = np.float32(x)[None]
        expected = outputs_of(model, x)
        folder = tmp_path / str(index)
        folder.mkdir()
        np.testing.assert_array_equal(
            computed(model, folder, x, format), expected
        )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 7, 8])
@pytest.mark.parametrize("both", [False, True])
def test_residual_sums_round_as_keras_does(tmp_path, format, bits, both):
    """A branch that ends on thresholds, where the shortcut is 0 or not."""
    alpha = ALPHAS[bits]
    layer = kb.QuantAddReLU(
        bits,
        shortcut_is_branch=both,
        alpha_initializer=keras.initializers.Constant(alpha),
    )
    joined = keras.Input((1024,))
    split = keras.layers.Reshape((2, 512))(joined)
    first = keras.layers.Cropping1D((0, 1))(split)
    second = keras.layers.Cropping1D((1, 0))(split)
    y = layer([first, second])
    model = keras.Model(joined, y)
    step = np.float32(branches.branch_step(alpha, bits))
    rng = np.random.default_rng(0)
    branch = np.float32(np.tile(np.arange(-128, 128), 2)) * step
    # Of another alpha, as a shortcut has it: on thresholds where it is 0.
    scale = step if both else np.float32(0.73) * alpha
    shortcut = np.float32(rng.choice([0, 0, 1, 2, 3], 512)) * scale
    x = np.concatenate([branch, shortcut])[None]
    expected = outputs_of(model, x)
    assert len(np.unique(expected)) > 1
    y = computed(model, tmp_path, x, format)
    np.testing.assert_array_equal(y.reshape(-1), expected.reshape(-1))
