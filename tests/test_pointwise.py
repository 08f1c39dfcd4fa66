"""Sigmoid, tanh, hard sigmoid and grids with a minimum, against NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_bcgd import AlphaBound
from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantIdentity
from keras_bcgd import QuantLeakyReLU
from keras_bcgd import QuantPReLU
from keras_bcgd.branches import quant_identity
from keras_bcgd.layers import QuantTable
from keras_bcgd.pointwise import quant_hard_sigmoid
from keras_bcgd.pointwise import quant_table

Constant = keras.initializers.Constant

SCALES = np.exp(np.random.default_rng(0).uniform(np.log(2e-3), np.log(1), 20))
# All 256 codes of 20 scales, in float64.
CODES = np.arange(-128, 128.0)
INPUTS = np.float64(np.float32(SCALES[:, None]) * np.float32(CODES))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def hard_sigmoid(x):
    return np.clip(x / 6 + 0.5, 0, 1)


# The smooth function, its derivative, and the step and the ends of its grid.
TABLES = {
    "sigmoid": (sigmoid, lambda y: y * (1 - y), 1 / 256, 0, 255),
    "tanh": (np.tanh, lambda y: 1 - y**2, 1 / 128, -128, 127),
}


def numpy_of(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def gradient(layer, x, upstream):
    """The derivative by x of the sum of upstream * layer(x), by training."""
    shift = Shift(x.shape)
    inputs = keras.Input(batch_shape=x.shape)
    outputs = layer(shift(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(1.0), loss=weighted_sum)
    x, upstream = x.astype("float32"), upstream.astype("float32")
    model.fit(x, upstream, batch_size=len(x), shuffle=False, verbose=0)
    return -numpy_of(shift.shift)


class Shift(keras.layers.Layer):
    """Adds weights that are 0: their derivatives are those by the input."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def build(self, input_shape):
        self.shift = self.add_weight(shape=self.shape, initializer="zeros")

    def call(self, x):
        return x + self.shift


def weighted_sum(upstream, y):
    """Without the mean over samples that Keras takes."""
    return ops.sum(upstream * y, axis=-1) * y.shape[0]


# sigmoid and tanh


@pytest.mark.parametrize("function", TABLES)
def test_table_equals_numpy(compiled, function):
    smooth, _, step, low, high = TABLES[function]
    f = compiled(lambda x: quant_table(x, function))
    y = numpy_of(f(ops.convert_to_tensor(INPUTS, "float32")))
    exact = smooth(INPUTS) / step
    expected = step * np.clip(np.round(exact), low, high)
    # Float32 decides where the exact value is halfway between two codes.
    certain = np.abs(exact - np.floor(exact) - 0.5) > 1e-4
    assert certain.mean() > 0.999
    np.testing.assert_array_equal(y[certain], expected[certain])
    assert np.max(np.abs(y - expected)) <= step
    assert y.min() == step * low
    assert y.max() == step * high


@pytest.mark.parametrize("function", TABLES)
def test_coarse_derivative_of_a_table(function):
    smooth, by_value, step, low, high = TABLES[function]
    upstream = np.random.default_rng(1).uniform(0.5, 2, INPUTS.shape)
    found = gradient(QuantTable(function), INPUTS, upstream) / upstream
    y = smooth(INPUTS) / step
    inside = (y >= low - 0.5) & (y <= high + 0.5)
    expected = by_value(smooth(INPUTS)) * inside
    # Float32, near the ends of tanh by 1 - y**2 of a y near 1.
    np.testing.assert_allclose(found, expected, atol=3e-6)
    assert np.all(found[~inside] == 0)
    assert 0 < np.mean(~inside) < 0.5
    e = 1e-5  # in float64: the error of both kinds is some 1e-10
    difference = (smooth(INPUTS + e) - smooth(INPUTS - e)) / (2 * e)
    np.testing.assert_allclose(
        found[inside], difference[inside], rtol=0, atol=3e-6
    )


def test_a_float64_or_float16_is_kept():
    for dtype in ("float64", "float16"):
        if (keras.backend.backend(), dtype) == ("jax", "float64"):
            continue  # which it has only if it is told to
        x = ops.convert_to_tensor(INPUTS, dtype)
        for y in (quant_table(x, "tanh"), quant_hard_sigmoid(x)):
            assert keras.backend.standardize_dtype(y.dtype) == dtype


# The hard sigmoid


@pytest.mark.parametrize("bits", range(2, 9))
def test_hard_sigmoid_equals_numpy(compiled, bits):
    f = compiled(lambda x: quant_hard_sigmoid(x, bits))
    y = numpy_of(f(ops.convert_to_tensor(INPUTS, "float32")))
    levels = 2**bits - 2
    exact = levels * hard_sigmoid(INPUTS)
    certain = np.abs(exact - np.floor(exact) - 0.5) > 1e-4
    assert certain.mean() > 0.995
    # Compiled, a division may be the product with the reciprocal.
    codes = np.round(y * levels)
    np.testing.assert_array_equal(codes[certain], np.round(exact)[certain])
    np.testing.assert_allclose(y, codes / levels, rtol=2e-7)
    assert len(np.unique(codes)) == levels + 1
    assert numpy_of(quant_hard_sigmoid(0.0, bits)) == 0.5


def test_coarse_derivative_of_the_hard_sigmoid():
    upstream = np.random.default_rng(1).uniform(0.5, 2, INPUTS.shape)
    layer = keras.layers.Lambda(lambda x: quant_hard_sigmoid(x, 4))
    found = gradient(layer, INPUTS, upstream) / upstream
    inside = np.abs(INPUTS) < 3
    np.testing.assert_allclose(found, inside / 6, rtol=1e-6)
    assert np.all(found[~inside] == 0)
    e = 1e-5
    smooth = np.abs(np.abs(INPUTS) - 3) > e
    difference = (hard_sigmoid(INPUTS + e) - hard_sigmoid(INPUTS - e)) / (2 * e)
    np.testing.assert_allclose(found[smooth], difference[smooth], atol=1e-7)


# A signed grid with a minimum


def nearest(x, step, bits, minimum):
    """The nearest code of the grid, of all codes there are, and its ends."""
    low = -(2 ** (bits - 1))
    if minimum is not None:
        first = int(np.round(np.float32(minimum) / np.float32(step)))
        low = max(low, first)
    codes = np.arange(low, low + 2**bits)
    distance = np.abs(x[:, None] - codes * np.float64(step))
    return codes[np.argmin(distance, axis=1)], low, low + 2**bits - 1


MINIMA = [
    (8, None, 0.0625),
    (8, 0.0, 0.0625),
    (8, -0.375, 0.03),
    (8, -3.0, 0.03),
    (8, -100.0, 0.05),
    (4, -0.28, 0.1),
    (4, 0.0, 0.7),
    (2, -0.4, 0.3),
]


def inputs_of(step, bits, minimum):
    """Beyond both ends, and never halfway between two codes."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.5 * 2**bits, 1.5 * 2**bits, 3000)
    x = x[np.abs(x - np.floor(x) - 0.5) > 1e-3]
    return np.float32(x * step)


@pytest.mark.parametrize(("bits", "minimum", "step"), MINIMA)
def test_a_grid_with_a_minimum(compiled, bits, minimum, step):
    x = inputs_of(step, bits, minimum)
    codes, low, high = nearest(x, step, bits, minimum)
    f = compiled(lambda x: quant_identity(x, step, bits, minimum))
    y = numpy_of(f(ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(y, np.float32(step) * np.float32(codes))
    layer = QuantIdentity(bits, Constant(step), minimum=minimum)
    np.testing.assert_array_equal(numpy_of(layer(x)), y)
    assert layer.smallest_and_largest_code == (low, high)
    assert (codes.min(), codes.max()) == (low, high)


@pytest.mark.parametrize(("bits", "minimum", "step"), MINIMA)
def test_one_step_of_a_grid_with_a_minimum(bits, minimum, step):
    """alpha gets the codes at the end, x passes inside of the grid."""
    x = inputs_of(step, bits, minimum)[:2400].reshape(-1, 8)
    upstream = np.random.default_rng(1).uniform(-1, 1, x.shape)
    layer = QuantIdentity(bits, Constant(step), minimum=minimum)
    layer.trainable = False
    found = gradient(layer, x, upstream)
    codes, low, high = nearest(x.reshape(-1), step, bits, minimum)
    exact = np.round(x.reshape(-1) / np.float64(step))
    inside = (codes == exact).reshape(x.shape)
    np.testing.assert_allclose(found, upstream * inside, rtol=1e-6)

    layer = QuantIdentity(
        bits, Constant(step), AlphaBound(1e-9), minimum=minimum
    )
    model = keras.Sequential([keras.Input(batch_shape=x.shape), layer])
    rate = 1e-6
    optimizer = BlendedOptimizer(
        keras.optimizers.SGD(rate), alpha_learning_rate_multiplier=1.0
    )
    model.compile(optimizer, loss=weighted_sum)
    before = float(layer.alpha)
    upstream = np.float32(upstream)
    model.fit(x, upstream, batch_size=len(x), shuffle=False, verbose=0)
    ends = codes.reshape(x.shape) * ~inside
    moved = -rate * np.sum(upstream * ends)
    assert abs(moved) > 1e-6
    np.testing.assert_allclose(float(layer.alpha) - before, moved, atol=1e-7)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("minimum", [0.0, -0.5, -3.0])
def test_first_alpha_reaches_from_the_minimum_to_four(bits, minimum):
    layer = QuantIdentity(bits, minimum=minimum)
    layer.build((None, 3))
    low, high = layer.smallest_and_largest_code
    alpha = float(layer.alpha)
    assert high - low == 2**bits - 1
    assert alpha == pytest.approx((4 - minimum) / (2**bits - 1))
    if minimum == 0:
        assert low == 0


# The leaky ReLU


def leaky(x, slope, step):
    """In steps, in float64: below 0 the product, its halves downwards."""
    codes = np.clip(np.round(x / step), -128, 127)
    scaled = codes * slope
    down = np.round(scaled - 1e-5 * (np.abs(scaled) > 0))
    return np.where(codes < 0, np.clip(down, -128, 127), codes)


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.3, 0.5, 0.77, 1.0])
def test_leaky_relu_equals_numpy(slope):
    layer = QuantLeakyReLU(slope)
    layer.build((None,))
    for step, x in zip(SCALES, INPUTS, strict=True):
        layer.codes.alpha.assign(step)
        y = numpy_of(layer(ops.convert_to_tensor(x, "float32")))
        codes = np.round(y / np.float32(step))
        np.testing.assert_array_equal(codes, leaky(CODES, slope, 1.0))
        np.testing.assert_array_equal(y, np.float32(step) * np.float32(codes))


def test_derivatives_of_the_parametric_relu():
    """x passes with the slope below 0; the slope gets x, within the grid."""
    rng = np.random.default_rng(0)
    x, step = rng.uniform(-200, 200, (300, 4)), 0.05
    x *= step
    slopes = np.float32([-0.5, 0.0, 0.25, 1.0])
    upstream = rng.uniform(-1, 1, x.shape)

    def initializer(shape, dtype=None):
        return ops.convert_to_tensor(slopes, dtype)

    layer = QuantPReLU(initializer)
    layer.codes.alpha_initializer = Constant(step)
    found = gradient(layer, x, upstream)
    codes = np.round(np.float32(x) / np.float32(step))
    inside = np.abs(codes + 0.5) < 128
    slope = np.where(codes < 0, slopes, 1.0)
    np.testing.assert_allclose(found, upstream * slope * inside, atol=1e-5)
    by_slope = upstream * np.clip(codes, -128, 127) * step * (codes < 0)
    moved = numpy_of(layer.negative.slopes)
    # The rate is 1; no slope goes above 1.
    expected = np.minimum(slopes - by_slope.sum(axis=0), 1.0)
    np.testing.assert_allclose(moved, expected, atol=1e-3)
