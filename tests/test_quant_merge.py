"""QuantAdd, QuantMultiply and QuantConcatenate against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantAdd
from keras_bcgd import QuantConcatenate
from keras_bcgd import QuantMultiply

Constant = keras.initializers.Constant
MERGES = (QuantAdd, QuantConcatenate, QuantMultiply)

# Its multiples by small numbers are exact in float32.
ALPHA = 0.75
# Bits, and where the codes begin.
GRIDS = [(8, None), (5, None), (8, 0.0), (4, 0.0), (8, -20.0), (3, -1.5)]


def numpy_of(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def rounded(x, bits, minimum=None, alpha=ALPHA):
    """The nearest code of all there are, in float64."""
    low = -(2 ** (bits - 1))
    if minimum is not None:
        low = max(low, round(minimum / alpha))
    codes = np.arange(low, low + 2**bits)
    nearest = np.argmin(np.abs(x[..., None] - alpha * codes), axis=-1)
    return codes[nearest]


def operands(*shapes, step=0.125):
    """Multiples of a step; no sum or product of two is halfway."""
    rng = np.random.default_rng(0)
    return [
        np.float32(step * (2 * rng.integers(-80, 80, shape)) + step / 2)
        for shape in shapes
    ]


@pytest.mark.parametrize(("bits", "minimum"), GRIDS)
def test_sum_equals_numpy(compiled, bits, minimum):
    layer = QuantAdd(bits, Constant(ALPHA), minimum=minimum)
    a, b = operands((400, 3), (400, 3))
    a += np.float32(0.03125)
    layer.build([a.shape, b.shape])
    y = numpy_of(compiled(layer)([a, b]))
    codes = rounded(np.float64(a) + b, bits, minimum)
    np.testing.assert_array_equal(y, ALPHA * codes)
    low, high = layer.smallest_and_largest_code
    assert (codes.min(), codes.max()) == (
        max(low, codes.min()),
        min(high, codes.max()),
    )
    assert bits == 8 or (codes.min(), codes.max()) == (low, high)


@pytest.mark.parametrize(
    "shapes",
    [
        ((64, 7, 3), (64, 7, 3)),
        ((64, 7, 3), (64, 1, 3)),
        ((64, 1, 3), (64, 7, 1)),
        ((1, 5), (64, 5)),
    ],
)
@pytest.mark.parametrize(("bits", "minimum"), GRIDS)
def test_product_equals_numpy(compiled, bits, minimum, shapes):
    layer = QuantMultiply(bits, Constant(ALPHA), minimum=minimum)
    a, b = operands(*shapes)
    layer.build([a.shape, b.shape])
    y = numpy_of(compiled(layer)([a, b]))
    product = np.float64(a) * b
    assert y.shape == product.shape
    codes = np.round(y / ALPHA)
    np.testing.assert_array_equal(y, np.float32(ALPHA * codes))
    # Halves, which float32 has exactly, go to the even code.
    steps = product / ALPHA
    clear = np.abs(steps - np.floor(steps) - 0.5) > 1e-6
    expected = rounded(product, bits, minimum)
    np.testing.assert_array_equal(codes[clear], expected[clear])
    assert clear.mean() > 0.9


def test_a_product_in_half_precision_is_taken_in_float32():
    """Of 8-bit codes it has 16 bits: rounded once, at the end."""
    codes = np.arange(-128, 128)
    a, b = np.meshgrid(codes, codes)
    layer = QuantMultiply(8, Constant(128.0), dtype="float16")
    y = numpy_of(layer([np.float16(a), np.float16(b)]))
    assert y.dtype == np.float16
    expected = 128 * np.clip(np.round(a * b / 128), -128, 127)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("axis", [-1, 1])
def test_concatenation_equals_numpy(compiled, axis):
    layer = QuantConcatenate(axis, alpha_initializer=Constant(ALPHA))
    parts = operands((64, 4, 3), (64, 4, 3), (64, 4, 3))
    y = numpy_of(compiled(layer)(parts))
    whole = np.concatenate(parts, axis)
    np.testing.assert_array_equal(y, ALPHA * rounded(np.float64(whole), 8))


@pytest.mark.parametrize(("bits", "minimum"), [(8, None), (4, 0.0), (4, -3.0)])
def test_one_step_of_a_product(bits, minimum):
    """Each operand gets the other, inside; alpha the codes at the ends."""
    a, b = operands((64, 5), (64, 5), step=0.03)
    target = np.ones_like(a)
    inputs = [keras.Input((5,)), keras.Input((5,))]
    factors = [
        keras.layers.Dense(5, use_bias=False, kernel_initializer="identity")
        for _ in inputs
    ]
    layer = QuantMultiply(bits, Constant(0.1), minimum=minimum)
    outputs = layer([f(x) for f, x in zip(factors, inputs, strict=True)])
    model = keras.Model(inputs, outputs)
    rate = 1e-3
    model.compile(BlendedOptimizer(keras.optimizers.SGD(rate)), "mse")
    alpha = float(numpy_of(layer.alpha))
    low, high = layer.smallest_and_largest_code
    model.fit([a, b], target, batch_size=64, shuffle=False, verbose=0)

    a, b = np.float64(a), np.float64(b)
    exact = np.round(a * b / alpha)
    codes = np.clip(exact, low, high)
    upstream = 2 * (alpha * codes - target) / target.size
    inside = exact == codes
    assert 0.02 < np.mean(~inside) < 0.9
    by_product = upstream * inside
    for factor, x, other in zip(factors, (a, b), (b, a), strict=True):
        expected = np.eye(5) - rate * x.T @ (by_product * other)
        np.testing.assert_allclose(
            numpy_of(factor.kernel), expected, 1e-4, 1e-5
        )
    moved = -0.01 * rate * np.sum(upstream * ~inside * codes)
    assert abs(moved) > 1e-6
    np.testing.assert_allclose(float(layer.alpha) - alpha, moved, atol=1e-7)


# Shapes


def test_symbolic_shapes():
    x, gate = keras.Input((6, 6, 3)), keras.Input((1, 1, 3))
    assert QuantAdd()([x, x]).shape == (None, 6, 6, 3)
    assert QuantMultiply()([x, gate]).shape == (None, 6, 6, 3)
    assert QuantMultiply()([gate, x]).shape == (None, 6, 6, 3)
    assert QuantConcatenate()([x, x, x]).shape == (None, 6, 6, 9)
    assert QuantConcatenate(1)([x, x]).shape == (None, 12, 6, 3)
    unknown = keras.Input((None, None, 3))
    assert QuantMultiply()([unknown, gate]).shape == (None, None, None, 3)
    # Which of the two is known says nothing against the other.
    assert QuantMultiply()([unknown, x]).shape[-1] == 3


@pytest.mark.parametrize(
    "shapes",
    [[(5, 3)], [(5, 3)] * 3, (5, 3), (2, 5, 3), (None, 3), [(5, 3), 3]],
)
@pytest.mark.parametrize("cls", [QuantAdd, QuantMultiply])
def test_other_than_two_tensors_are_refused(cls, shapes):
    with pytest.raises(ValueError) as raised:
        cls(name="it").build(shapes)
    assert str(raised.value) == (
        "Layer 'it' must be called with a list of two tensors. "
        f"Received: shapes {shapes}"
    )


@pytest.mark.parametrize("shapes", [[(5, 3)], (5, 3), (None, 3)])
def test_a_single_tensor_is_not_concatenated(shapes):
    with pytest.raises(ValueError) as raised:
        QuantConcatenate(name="it").build(shapes)
    assert str(raised.value) == (
        "Layer 'it' must be called with a list of two tensors or more. "
        f"Received: shapes {shapes}"
    )


@pytest.mark.parametrize("cls", MERGES)
def test_a_tensor_in_the_place_of_a_list(cls):
    with pytest.raises(ValueError, match="must be called with a list of two"):
        cls()(np.ones((2, 3), "float32"))


@pytest.mark.parametrize(
    "shapes", [((5, 3), (5, 4)), ((5, 3), (5, 1, 3)), ((5, 3), (4, 3))]
)
def test_shapes_that_do_not_broadcast(shapes):
    with pytest.raises(ValueError) as raised:
        QuantMultiply(name="it").build(list(shapes))
    assert str(raised.value) == (
        "Layer 'it' must be called with two tensors of as many axes, whose "
        f"sizes are equal or 1. Received: shapes {shapes[0]} and {shapes[1]}"
    )


@pytest.mark.parametrize(
    "shapes", [((5, 3), (5, 4)), ((5, 3), (5, 1, 3)), ((5, 3), (5, 1))]
)
def test_sums_of_several_shapes_are_refused(shapes):
    with pytest.raises(ValueError) as raised:
        QuantAdd(name="it").build(list(shapes))
    assert str(raised.value) == (
        "Layer 'it' must be called with two tensors of one shape. "
        f"Received: shapes {shapes[0]} and {shapes[1]}"
    )
