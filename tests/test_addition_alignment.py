"""align_for_export moves alphas until every sum of two codes is exact."""

import keras
import numpy as np
import pytest
from export_helpers import INPUT_RANGE
from export_helpers import exported
from export_helpers import grid_inputs
from export_helpers import numpy_of
from export_helpers import outputs_of
from test_addition import run_add

import keras_bcgd as kb
from keras_bcgd.export import addition
from keras_bcgd.export import arithmetic
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner

layers = keras.layers

# The shortcut's alpha over that of the sum: equal, nearly so, simple
# fractions and nearly these, each of which puts sums on thresholds.
RATIOS = [
    1.0,
    1 + 1e-7,
    1 + 1.7e-6,
    1 - 1e-5,
    1 + 1e-4,
    0.5,
    2 / 3 + 1e-6,
    0.75,
    4 / 5 - 1e-6,
    8 / 7,
    1.25 + 1e-5,
    3 / 8,
    15 / 13 + 1e-6,
    16.0,
    0.0625,
    0.7321,
]


def residual(ratio, bits=4, shortcut_bits=4):
    """One block whose operands have alphas of a given ratio."""
    x = inputs = keras.Input((6, 6, 3))
    x = kb.QuantConv2D(4, 1, bits=4, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = shortcut = kb.QuantReLU(shortcut_bits)(x)
    x = kb.QuantConv2D(4, 3, bits=4, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = kb.QuantAddReLU(bits)([x, shortcut])
    model = keras.Model(inputs, x)
    alpha = np.float32(0.1693)
    model.layers[3].alpha.assign(alpha * ratio)
    model.layers[-1].alpha.assign(alpha)
    return model


def all_pairs_are_right(first, second, shift, output):
    """The runtime against the definition, for every pair of codes."""
    grid, counted = addition.best_grid(first, second, shift, output)
    a, b = addition.pairs(first, second)
    total = first.scale * (a - first.zero_point) - shift
    total = total + second.scale * (b - second.zero_point)
    steps = total / output.grid.scale
    levels = output.levels
    expected = output.grid.low + np.clip(
        np.ceil(steps - output.thresholds[0] - 1e-9), 0, levels
    )
    for kernels in KERNELS:
        np.testing.assert_array_equal(
            run_add(first, second, grid, kernels), expected, kernels
        )
    return counted == expected.size


@pytest.mark.parametrize(
    "bits, shortcut_bits", [(4, 4), (1, 1), (2, 4), (1, 4)]
)
@pytest.mark.parametrize("ratio", RATIOS)
def test_any_ratio_of_alphas(ratio, bits, shortcut_bits):
    model = residual(ratio, bits, shortcut_bits)
    before = numpy_of(model.layers[-1].alpha)
    report = kb.align_for_export(model, INPUT_RANGE)
    assert model.layers[-1].name not in str(report.inexact)
    alpha = float(numpy_of(model.layers[-1].alpha))
    assert abs(alpha / before - 1) < 2e-3
    output = arithmetic.staircase_output(alpha, bits)
    first = arithmetic.branch_output(alpha, bits, half=True).grid
    second = arithmetic.staircase_output(
        float(numpy_of(model.layers[3].alpha)), shortcut_bits
    ).grid
    assert all_pairs_are_right(first, second, alpha / 2, output)


@pytest.mark.parametrize("bits", [6, 7, 8])
@pytest.mark.parametrize("ratio", RATIOS[::3])
def test_many_bits(ratio, bits):
    model = residual(ratio, bits, bits)
    kb.align_for_export(model, INPUT_RANGE)
    alpha = float(numpy_of(model.layers[-1].alpha))
    output = arithmetic.staircase_output(alpha, bits)
    first = arithmetic.branch_output(alpha, bits, half=True).grid
    second = arithmetic.staircase_output(
        float(numpy_of(model.layers[3].alpha)), bits
    ).grid
    shift = arithmetic.branch_output(alpha, bits, half=True).shift
    assert all_pairs_are_right(first, second, shift, output)


@pytest.mark.parametrize("ratio", RATIOS[:6])
def test_file_is_the_model(ratio, tmp_path):
    """With trained statistics, on all kernels, sample by sample."""
    model = residual(ratio)
    x = grid_inputs((6, 6, 3), 64)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
            layer.gamma.assign([0.4, 0.9, -0.6, 0.7])
            layer.beta.assign([0.1, 0.3, 0.2, -0.1])
    model(keras.ops.convert_to_tensor(x), training=True)
    path, report = exported(model, tmp_path, 64, align=True)
    assert report.is_exact
    codes = np.round(
        outputs_of(report.model, x) / numpy_of(report.model.layers[-1].alpha)
    )
    assert len(np.unique(codes)) > 8
    for kernels in KERNELS:
        runner = TFLiteRunner(path, kernels)
        found = runner.run(runner.quantize(x)) - runner.output_zero_point
        np.testing.assert_array_equal(found, codes, kernels)


@pytest.mark.parametrize("seed", range(12))
def test_sums_of_identities(seed):
    """256 x 256 pairs each, of two sums one after the other."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((4, 4, 3))
    x = kb.QuantIdentity(8)(kb.QuantConv2D(4, 1, bits=4)(x))
    for _ in range(2):
        branch = kb.QuantIdentity(8)(kb.QuantConv2D(4, 1, bits=4)(x))
        x = kb.QuantIdentity(8)(layers.Add()([x, branch]))
    model = keras.Model(inputs, x)
    quantizers = [x for x in model.layers if isinstance(x, kb.QuantIdentity)]
    for layer in quantizers:
        layer.alpha.assign(rng.uniform(0.01, 0.08))
    before = [numpy_of(layer.alpha) for layer in quantizers]
    report = kb.align_for_export(model, INPUT_RANGE)
    changes = [
        numpy_of(layer.alpha) / old - 1
        for layer, old in zip(quantizers, before, strict=True)
    ]
    assert np.max(np.abs(changes)) < 5e-3
    assert not [row for row in report.inexact if "add" in row]
    alphas = {x.name: float(numpy_of(x.alpha)) for x in quantizers}
    for layer in model.layers:
        if isinstance(layer, layers.Add):
            (reader,) = [q for q in quantizers if q.input is layer.output]
            first, second = (
                arithmetic.identity_output(
                    alphas[operand._keras_history[0].name]
                )
                for operand in layer.input
            )
            output = arithmetic.identity_output(alphas[reader.name])
            grid, right = addition.best_grid(
                first.grid, second.grid, 0.0, output
            )
            assert right == 256 * 256


def test_a_second_time_moves_no_alpha():
    model = residual(1 + 1.7e-6)
    first = kb.align_for_export(model, INPUT_RANGE)
    assert [moved for moved in first if moved.alpha_change]
    second = kb.align_for_export(model, INPUT_RANGE)
    assert not [moved for moved in second if moved.alpha_change]


def test_bound_of_alpha_is_kept():
    """Where a bound leaves no room, the report says what is not exact."""
    model = residual(1 + 1.7e-6)
    alpha = float(numpy_of(model.layers[-1].alpha))
    model.layers[-1].alpha_constraint = kb.AlphaBound(alpha, alpha)
    report = kb.align_for_export(model, INPUT_RANGE)
    assert numpy_of(model.layers[-1].alpha) == np.float32(alpha)
    assert not report.is_exact
    assert model.layers[-1].name in str(report).splitlines()[0]
