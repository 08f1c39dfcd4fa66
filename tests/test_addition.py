"""The integer addition in NumPy against that of the runtime."""

import numpy as np
import pytest

from keras_bcgd import branches
from keras_bcgd.export import addition
from keras_bcgd.export import arithmetic
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import load_interpreter
from keras_bcgd.tflite.writer import TFLiteWriter


def run_add(first, second, grid, kernels):
    """The codes of the runtime for all pairs of codes of two grids."""
    pairs = np.broadcast_arrays(*addition.pairs(first, second))
    writer = TFLiteWriter("sum")
    inputs = {
        name: writer.add_tensor(
            name, pairs[0].shape, "int8", operand.file_scale, operand.zero_point
        )
        for name, operand in [("first", first), ("second", second)]
    }
    output = writer.add_tensor(
        "sum", pairs[0].shape, "int8", grid.file_scale, grid.zero_point
    )
    writer.add_operator(
        "ADD",
        list(inputs.values()),
        [output],
        "AddOptions",
        fusedActivationFunction="relu",
    )
    runtime = load_interpreter(writer.finish(inputs, {"sum": output}), kernels)
    details = {d["name"]: d["index"] for d in runtime.get_input_details()}
    for name, codes in zip(inputs, pairs, strict=True):
        runtime.set_tensor(details[name], codes.astype(np.int8))
    runtime.invoke()
    total = runtime.get_tensor(runtime.get_output_details()[0]["index"])
    return total.astype(int)


def branch_of(alpha, bits):
    return arithmetic.branch_output(alpha, bits, half=True).grid


def codes_of(alpha, bits):
    return arithmetic.staircase_output(alpha, bits).grid


# The branch and its sum have one alpha, the shortcut another: from much
# smaller to much larger.
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("stretch", [0.0, 2.0**-18, 2.0**-11])
@pytest.mark.parametrize("ratio", [0.01, 0.3217, 1.0, 1.7, 16.0, 90.3])
@pytest.mark.parametrize("bits", [1, 4, 6, 8])
def test_sums_are_those_of_the_runtime(bits, ratio, stretch, kernels):
    alpha = 0.1733
    first, second = branch_of(alpha, bits), codes_of(ratio * alpha, 4)
    grid = codes_of(alpha, bits)
    grid.stored = float(np.float32(alpha * (1 + stretch)))
    np.testing.assert_array_equal(
        addition.OF_KERNELS[kernels](first, second, grid),
        run_add(first, second, grid, kernels),
    )


@pytest.mark.parametrize("kernels", KERNELS)
def test_sums_of_two_branches(kernels):
    first, second = branch_of(0.2, 4), arithmetic.identity_output(0.031).grid
    grid = codes_of(0.2, 4)
    np.testing.assert_array_equal(
        addition.OF_KERNELS[kernels](first, second, grid),
        run_add(first, second, grid, kernels),
    )


def staircase_of_the_sum(first, second, alpha, bits):
    """The ceil of the definition, which stays below on a tie."""
    a, b = addition.pairs(first, second)
    total = first.scale * (a - first.zero_point) - alpha / 2
    total = total + second.scale * (b - second.zero_point)
    return np.clip(np.ceil(total / alpha - 1e-9), 0, 2**bits - 1)


# Powers of 2 put sums exactly on thresholds: the ceil stays below.
@pytest.mark.parametrize("ratio", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 7, 8])
def test_every_pair_is_the_trained_code(bits, ratio):
    alpha = 0.5
    first, second = branch_of(alpha, bits), codes_of(ratio * alpha, 4)
    output = arithmetic.staircase_output(alpha, bits)
    grid, right = addition.best_grid(first, second, alpha / 2, output)
    expected = staircase_of_the_sum(first, second, alpha, bits)
    assert right == expected.size
    for kernels in KERNELS:
        codes = run_add(first, second, grid, kernels)
        np.testing.assert_array_equal(codes - grid.zero_point, expected)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_count_is_of_the_pairs_right_on_all_kernels(bits):
    rng = np.random.default_rng(bits)
    for ratio in rng.uniform(0.2, 5, 5):
        alpha = float(rng.uniform(0.05, 2))
        first, second = branch_of(alpha, bits), codes_of(ratio * alpha, 4)
        output = arithmetic.staircase_output(alpha, bits)
        grid, right = addition.best_grid(first, second, alpha / 2, output)
        expected = staircase_of_the_sum(first, second, alpha, bits)
        is_right = np.ones(expected.shape, bool)
        for kernels in KERNELS:
            codes = run_add(first, second, grid, kernels)
            is_right &= codes - grid.zero_point == expected
        assert right == is_right.sum()
        assert right > 0.999 * expected.size


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_grid_of_a_branch_is_that_of_training(bits):
    """Every code stands for what training can give, plus alpha / 2."""
    alpha = 0.75
    output = arithmetic.branch_output(alpha, bits, half=True)
    codes = np.arange(-128, 128)
    real = output.grid.scale * (codes - output.grid.zero_point) - alpha / 2
    trained = np.array(branches.quant_branch(np.float32(real), alpha, bits))
    np.testing.assert_allclose(trained, real, atol=1e-6)
