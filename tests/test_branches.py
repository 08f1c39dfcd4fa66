"""The signed grid of residual branches against its definition."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_bcgd.branches import branch_offset
from keras_bcgd.branches import branch_step
from keras_bcgd.branches import quant_branch
from keras_bcgd.branches import quant_identity
from keras_bcgd.branches import smallest_and_largest_code

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"

# Bits and step: powers of two, and steps whose multiples are rounded.
GRIDS = [(2, 0.3), (4, 0.25), (8, 0.125), (8, 0.1)]
# Bits of the staircase and of the branch.
BRANCHES = [(bits, branch) for branch in range(4, 9) for bits in range(1, 9)]
# Its multiples by small numbers and powers of two are exact in float32.
ALPHA = 0.75


def grid(step, bits):
    """All products code * step in float32, the smallest first."""
    codes = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype="float32")
    return codes * np.float32(step)


def nearest(x, values):
    """The nearest of `values` to each x, by trying all of them."""
    distances = np.abs(x[:, None].astype("float64") - values)
    return values[np.argmin(distances, axis=1)]


def points(values):
    """Around each value of a grid and beyond both ends, but no ties."""
    step = values[1] - values[0]
    start, end = values[0], values[-1]
    around = np.arange(start - 3 * step, end + 3.5 * step, step)
    offsets = step * np.array([-0.49, -0.2, 0, 0.3, 0.49])
    x = (around[:, None] + offsets).ravel()
    return np.append(x, [0.0, -1e9, 1e9]).astype("float32")


def sides(x, values):
    """-1 where x rounds to less than the smallest value, 1 above, else 0."""
    half = (values[1] - values[0]) / 2
    return 1 * (x > values[-1] + half) - 1 * (x < values[0] - half)


def tensors(*arrays):
    return [ops.convert_to_tensor(a, dtype="float32") for a in arrays]


def pull_back(function, x, step, upstream):
    """The derivatives of sum(upstream * function(x, step)) by x and step."""
    if ON_TENSORFLOW:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch([x, step])
            total = tf.reduce_sum(upstream * function(x, step))
        return tape.gradient(total, [x, step])
    import jax

    return jax.vjp(function, x, step)[1](upstream)


def derivatives(function, x, step, upstream):
    """`pull_back` from and to NumPy arrays."""
    by_x, by_step = pull_back(function, *tensors(x, step, upstream))
    assert tuple(by_step.shape) == ()
    return ops.convert_to_numpy(by_x), float(by_step)


def whole_numbers(shape):
    """Factors whose products and sums are exact and cancel nowhere."""
    rng = np.random.default_rng(0)
    return rng.choice([-7, -5, -3, 2, 4, 6, 8], shape).astype("float32")


# quant_identity


@pytest.mark.parametrize(("bits", "step"), GRIDS)
def test_value(compiled, bits, step):
    values = grid(step, bits)
    x = points(values)
    rounding = compiled(lambda x, step: quant_identity(x, step, bits))
    output = ops.convert_to_numpy(rounding(*tensors(x, step)))
    assert output.dtype == "float32"
    np.testing.assert_array_equal(output, nearest(x, values))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_ties_go_to_the_even_code(compiled, bits):
    low, high = smallest_and_largest_code(bits)
    below = np.arange(low - 1, high + 1)
    even = below + below % 2
    x = 0.25 * (below + 0.5)
    rounding = compiled(lambda x, step: quant_identity(x, step, bits))
    output = rounding(*tensors(x, 0.25))
    np.testing.assert_array_equal(output, 0.25 * np.clip(even, low, high))


@pytest.mark.parametrize(("bits", "step"), GRIDS)
def test_a_value_of_the_grid_stays(compiled, bits, step):
    values = grid(step, bits)
    rounding = compiled(lambda x, step: quant_identity(x, step, bits))
    np.testing.assert_array_equal(rounding(*tensors(values, step)), values)


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_are_those_of_signed_integers(bits):
    low, high = smallest_and_largest_code(bits)
    assert high - low + 1 == 2**bits
    assert low == -high - 1
    if bits == 8:
        assert (low, high) == (np.iinfo("int8").min, np.iinfo("int8").max)


def test_nan_and_infinity(compiled):
    x = np.array([np.nan, np.inf, -np.inf])
    rounding = compiled(lambda x, step: quant_identity(x, step, 4))
    np.testing.assert_array_equal(
        rounding(*tensors(x, 0.5)), [np.nan, 3.5, -4.0]
    )


def test_integers_give_floats():
    np.testing.assert_array_equal(
        quant_identity([-1, 1, 2, 50], 0.75, bits=4), [-0.75, 0.75, 2.25, 5.25]
    )


def test_narrow_floats_are_rounded_once():
    values = grid(0.1, 8)
    x = ops.cast(values, "float16")
    output = quant_identity(x, ops.convert_to_tensor(0.1))
    assert keras.backend.standardize_dtype(output.dtype) == "float16"
    np.testing.assert_array_equal(
        ops.convert_to_numpy(output), values.astype("float16")
    )


@pytest.mark.parametrize(("bits", "step"), GRIDS)
def test_derivatives(compiled, bits, step):
    values = grid(step, bits)
    x = points(values)
    upstream = whole_numbers(x.shape)
    side = sides(x, values)
    by_x, by_step = compiled(
        lambda *args: pull_back(lambda *xs: quant_identity(*xs, bits), *args)
    )(*tensors(x, step, upstream))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(by_x), upstream * (side == 0)
    )
    low, high = smallest_and_largest_code(bits)
    table = np.where(side < 0, low, high) * (side != 0)
    assert {-1, 0, 1} == set(side)
    assert float(by_step) == np.sum(upstream * table)


def test_step_derivative_of_each_point():
    values = grid(0.3, 3)
    x = points(values)
    table = np.array([-4, 0, 3])[sides(x, values) + 1]
    for i in range(len(x)):
        one = np.eye(len(x), dtype="float32")[i]
        _, by_step = derivatives(
            lambda *xs: quant_identity(*xs, bits=3), x, 0.3, one
        )
        assert by_step == table[i]


# The grid of a branch


@pytest.mark.parametrize(("bits", "branch_bits"), BRANCHES)
def test_grid_covers_the_staircase(bits, branch_bits):
    ends = quant_branch(
        *tensors([-1e9, 1e9], ALPHA), bits=bits, branch_bits=branch_bits
    )
    low, high = ops.convert_to_numpy(ends) / ALPHA
    top = 2**bits - 1
    assert low <= -(2**bits)
    assert high < 2**bits
    assert high >= 2**bits - 1.5 * branch_step(1.0, bits, branch_bits)
    # A branch of no more bits than the staircase does not reach its last step.
    assert (np.ceil(high) >= top) == (bits < branch_bits)


@pytest.mark.parametrize(("bits", "branch_bits"), BRANCHES)
def test_half_step_is_a_whole_number_of_codes(bits, branch_bits):
    codes = ALPHA / 2 / branch_step(ALPHA, bits, branch_bits)
    is_fine = bits <= branch_bits - 2
    assert (codes == int(codes)) == is_fine
    assert (branch_offset(ALPHA, bits, branch_bits) == 0) == is_fine


@pytest.mark.parametrize(("bits", "branch_bits"), BRANCHES)
def test_with_the_half_step_it_is_a_multiple_of_the_step(bits, branch_bits):
    step = ALPHA * 2.0 ** (bits + 1 - branch_bits)
    x = np.linspace(-1, 1, 1001) * 2 ** (bits + 1) * ALPHA
    output = quant_branch(*tensors(x, ALPHA), bits, branch_bits)
    codes = (ops.convert_to_numpy(output) + ALPHA / 2) / step
    np.testing.assert_array_equal(codes, np.round(codes))
    assert len(np.unique(codes)) == 2**branch_bits


@pytest.mark.parametrize(("bits", "branch_bits"), BRANCHES)
def test_branch_value_and_derivatives(bits, branch_bits):
    offset = 0 if bits <= branch_bits - 2 else ALPHA / 2
    values = grid(branch_step(ALPHA, bits, branch_bits), branch_bits) - offset
    x = points(values)

    def branch(x, alpha):
        return quant_branch(x, alpha, bits, branch_bits)

    np.testing.assert_array_equal(
        branch(*tensors(x, ALPHA)), nearest(x, values)
    )
    upstream = whole_numbers(x.shape)
    side = sides(x, values)
    by_x, by_alpha = derivatives(branch, x, ALPHA, upstream)
    np.testing.assert_array_equal(by_x, upstream * (side == 0))
    # The ends of the grid are multiples of alpha.
    ends = np.where(side < 0, values[0], values[-1]) / ALPHA
    assert by_alpha == np.sum(upstream * ends * (side != 0))


@pytest.mark.parametrize("bits", [4, 8])
def test_branch_of_a_list(bits):
    output = quant_branch([0.3, -1e9], ALPHA, bits)
    x = np.array([0.3, -1e9])
    np.testing.assert_array_equal(
        output, quant_branch(*tensors(x, ALPHA), bits)
    )
