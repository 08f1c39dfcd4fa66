"""QuantMultiply: every product of two codes, in Keras and on all kernels."""

import keras
import numpy as np
import pytest
from test_export_pointwise import codes_in_file
from test_export_pointwise import codes_in_keras

import keras_bcgd as kb
from keras_bcgd.export import multiplication
from keras_bcgd.export.addition import pairs
from keras_bcgd.export.arithmetic import identity_output
from keras_bcgd.tflite.runner import KERNELS

Constant = keras.initializers.Constant

# Bits and `minimum` of the product; minima of the operands; how many products
# of two codes of 1 are a step of the output.
PRODUCTS = [
    (8, None, None, None, 9.0),
    (8, 0.0, 0.0, 0.0, 15.3),
    (8, None, None, None, 16.0),
    (8, None, None, None, 20.0),
    (8, None, None, None, 63.7),
    (8, None, None, None, 128.0),
    (8, None, None, None, 300.0),
    (8, None, 0.0, None, 101.3),
    (8, -0.375, -3.0, 0.0, 215.0),
    (8, 0.0, 0.0, 0.0, 255.0),
    (8, 0.0, 0.0, 0.0, 77.7),
    (5, 0.0, 0.0, 0.0, 290.0),
    (4, 0.0, 0.0, 0.0, 300.0),
    (2, 0.0, 0.0, 0.0, 280.0),
]
# With 4 bits the file saturates at the top alone: products below `minimum`.
TOO_LOW = (4, -0.05, -1.0, 0.0, 250.0)


def network(products=PRODUCTS, seed=0):
    """A product of all pairs of 256 codes for each line of a table."""
    rng = np.random.default_rng(seed)
    inputs, outputs, layers = [], {}, {}
    for i, (bits, minimum, first, second, ratio) in enumerate(products):
        operands = []
        for name, shape, low in (
            (f"a{i}", (256, 1), first),
            (f"b{i}", (1, 256), second),
        ):
            inputs.append(keras.Input(shape, name=name))
            step = Constant(rng.uniform(0.01, 0.05))
            layers[name] = kb.QuantIdentity(8, step, minimum=low)
            operands.append(layers[name](inputs[-1]))
        layer = kb.QuantMultiply(bits, minimum=minimum, name=f"product{i}")
        outputs[f"y{i}"] = layer(operands)
        layers[f"y{i}"] = layer
        steps = [float(layers[f"{n}{i}"].alpha) for n in "ab"]
        layer.alpha.assign(ratio * np.prod(steps))
    return keras.Model(inputs, outputs), layers


def all_codes(model, layers):
    """One sample, with all codes of each input."""
    found = {}
    for tensor in model.inputs:
        layer = layers[tensor.name]
        low, high = layer.smallest_and_largest_code
        codes = np.arange(low, high + 1, dtype="float32")
        values = codes * keras.ops.convert_to_numpy(layer.alpha)
        found[tensor.name] = values.reshape(1, *tensor.shape[1:])
    return found


def grid_of(layer):
    alpha = float(keras.ops.convert_to_numpy(layer.alpha))
    return identity_output(alpha, *layer.smallest_and_largest_code).grid


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A model as it comes, and its file."""
    path = str(tmp_path_factory.mktemp("before") / "m.tflite")
    model, layers = network()
    report = kb.export_tflite(model, path, verbose=0, align=False)
    return model, layers, path, report


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("aligned") / "m.tflite")
    model, layers = network()
    kb.align_for_export(model, verbose=0)
    report = kb.export_tflite(model, path, verbose=0, align=False)
    return model, layers, path, report


@pytest.mark.parametrize("which", ["before", "aligned"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_the_emulators_are_the_kernels(kernels, which, request):
    model, layers, path, _ = request.getfixturevalue(which)
    found = codes_in_file(path, all_codes(model, layers), kernels)
    multiply = multiplication.OF_KERNELS[kernels]
    for i in range(len(PRODUCTS)):
        a, b, y = (grid_of(layers[f"{name}{i}"]) for name in "aby")
        first, second = pairs(a, b)
        product = (first - a.zero_point) * (second - b.zero_point)
        expected = multiply(product, a, b, y)
        np.testing.assert_array_equal(found[f"y{i}"][0], expected, f"{i}")


def test_an_unaligned_product_is_off_by_one_at_most(before):
    """Where it lies halfway between two codes, or nearly so.

    Half of the steps of 128 are whole products: XNNPACK takes the even code
    as Keras does, the others the code that is farther from 0.
    """
    model, layers, path, report = before
    assert not report.is_exact
    expected = codes_in_keras(model, all_codes(model, layers), report.outputs)
    largest = 0.0
    for kernels in KERNELS:
        found = codes_in_file(path, all_codes(model, layers), kernels)
        for i in range(len(PRODUCTS)):
            apart = np.abs(found[f"y{i}"] - expected[f"y{i}"])
            assert apart.max() <= 1
            assert apart.mean() <= 0.07, (kernels, PRODUCTS[i])
            largest = max(largest, apart.mean())
    assert largest > 0


@pytest.mark.parametrize("kernels", KERNELS)
def test_an_aligned_product_is_equal(kernels, aligned):
    model, layers, path, report = aligned
    assert report.is_exact, str(report)
    expected = codes_in_keras(model, all_codes(model, layers), report.outputs)
    found = codes_in_file(path, all_codes(model, layers), kernels)
    for name, codes in expected.items():
        np.testing.assert_array_equal(found[name], codes, name)
    # The codes are those that there are.
    for i, (bits, *_) in enumerate(PRODUCTS):
        numbers = len(np.unique(expected[f"y{i}"]))
        assert 0.3 * 2**bits < numbers <= 2**bits, i


def test_products_below_the_minimum_are_said_to_be_inexact(tmp_path):
    model, _ = network([TOO_LOW])
    report = kb.export_tflite(model, str(tmp_path / "m.tflite"), verbose=0)
    assert not report.is_exact
    assert "in 'product0'" in str(report)


def test_alignment_moves_a_step_by_less_than_its_bound(before, aligned):
    for name, layer in before[1].items():
        old, new = (float(one.alpha) for one in (layer, aligned[1][name]))
        assert -0.08 < new / old - 1 < (0.2 if name[0] == "y" else 1e-6)
