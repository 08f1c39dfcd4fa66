"""The staircase and its coarse derivatives against the slides' tables."""

import math
import warnings

import keras
import numpy as np
import pytest
from keras import ops

from keras_bcgd import AlphaBound
from keras_bcgd import QuantReLU
from keras_bcgd import quant_relu
from keras_bcgd.activations import ALPHA_GRADIENTS
from keras_bcgd.activations import HALF_GAUSSIAN_ALPHA
from keras_bcgd.activations import quant_relu_codes

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
# JAX computes in float32 unless told otherwise.
DTYPES = ["float32", "float64"] if ON_TENSORFLOW else ["float32"]
# NumPy has it from a package that Keras needs.
BFLOAT16 = np.dtype("bfloat16")

# Bits and alpha of the tables: a sum of few powers of two, and others, whose
# multiples are rounded.
STAIRCASES = [
    (1, 0.75),
    (1, 0.3),
    (2, 0.3),
    (4, 0.166641),
    (4, 1 / 3),
    (8, 0.015377),
    (8, 0.1),
]

# Arguments of QuantReLU that differ from the defaults.
LAYER_ARGUMENTS = [
    {},
    {"bits": 1, "alpha_gradient": "two_valued"},
    {"bits": 8, "alpha_gradient": "ae", "alpha_initializer": "slides"},
    {"alpha_initializer": "ones"},
    {"alpha_initializer": keras.initializers.Constant(0.25)},
    {"alpha_initializer": keras.initializers.RandomUniform(0.1, 0.2, seed=1)},
    {"alpha_constraint": AlphaBound(0.01)},
]

MIXED = [
    ("mixed_float16", np.float16),
    ("mixed_bfloat16", BFLOAT16),
]


def levels(alpha, bits, dtype):
    """The products k alpha, k = 0..2^b - 1, each rounded to `dtype`."""
    return np.arange(2**bits, dtype=dtype) * np.dtype(dtype).type(alpha)


def points(alpha, bits, dtype="float32"):
    """Every jump, its two neighbours, the middle of every step, both ends."""
    jumps = levels(alpha, bits, dtype)
    # The neighbours of 0 are subnormal, and count as 0 on either backend.
    tiny = np.finfo(dtype).tiny
    return np.concatenate(
        [
            jumps,
            [-tiny, tiny],
            np.nextafter(jumps[1:], -np.inf),
            np.nextafter(jumps[1:], np.inf),
            jumps - np.dtype(dtype).type(alpha / 2),
            np.array([-1e30, -1.0, 2 * jumps[-1], 1e30], dtype),
        ]
    )


def table(x, alpha, bits, below, on_step, above):
    """A function that is piecewise constant in x, as the slides print them."""
    jumps = levels(alpha, bits, x.dtype)
    value = np.full(x.shape, np.nan)
    value[x <= 0] = below
    for k in range(1, 2**bits):
        value[(jumps[k - 1] < x) & (x <= jumps[k])] = on_step(k)
    value[x > jumps[-1]] = above
    return value


def alpha_table(x, alpha, bits, alpha_gradient):
    top = 2**bits - 1
    on_step = {
        "ae": lambda k: k,
        "three_valued": lambda k: 2 ** (bits - 1),
        "two_valued": lambda k: 0,
    }[alpha_gradient]
    return table(x, alpha, bits, 0, on_step, top)


def tensors(x, alpha):
    x = ops.convert_to_tensor(x)
    return x, ops.convert_to_tensor(alpha, dtype=x.dtype)


def pull_back(x, alpha, upstream, *args):
    """The derivatives of sum(upstream * sigma) by x and alpha, tensors."""
    if ON_TENSORFLOW:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch([x, alpha])
            total = tf.reduce_sum(upstream * quant_relu(x, alpha, *args))
        return tape.gradient(total, [x, alpha])
    import jax

    _, function = jax.vjp(lambda *xa: quant_relu(*xa, *args), x, alpha)
    return function(upstream)


def derivatives(x, alpha, upstream, *args):
    """`pull_back` from and to NumPy arrays."""
    upstream = ops.convert_to_tensor(upstream)
    by_x, by_alpha = pull_back(*tensors(x, alpha), upstream, *args)
    assert tuple(by_alpha.shape) == ()
    return ops.convert_to_numpy(by_x), float(by_alpha)


def random_alphas(count):
    exponents = np.random.default_rng(0).uniform(-3, 1, count)
    return (10**exponents).astype("float32")


def half_gaussian_error(alpha, bits):
    """E[(sigma(x, alpha) - x)^2 for x > 0], x ~ N(0, 1), in closed form."""
    top = 2**bits - 1
    edges = [k * alpha for k in range(top + 1)] + [math.inf]
    total = 0
    for k, (low, high) in enumerate(
        zip(edges[:-1], edges[1:], strict=True), start=1
    ):
        level = min(k, top) * alpha
        p = (math.erfc(low / 2**0.5) - math.erfc(high / 2**0.5)) / 2
        pdf_low, pdf_high = (
            math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) for x in (low, high)
        )
        x_pdf_high = 0 if math.isinf(high) else high * pdf_high
        mean = pdf_low - pdf_high
        mean_square = p + low * pdf_low - x_pdf_high
        total += level**2 * p - 2 * level * mean + mean_square
    return total


# The value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bits", "alpha"), STAIRCASES)
def test_value(bits, alpha, dtype):
    x = points(alpha, bits, dtype)
    jumps = levels(alpha, bits, dtype)
    expected = table(x, alpha, bits, 0, lambda k: jumps[k], jumps[-1])
    output = ops.convert_to_numpy(quant_relu(*tensors(x, alpha), bits))
    assert output.dtype == dtype
    np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("bits", range(1, 9))
def test_each_jump_has_its_own_code(compiled, bits):
    alphas = random_alphas(10_000)[:, None]
    k = np.arange(2**bits, dtype="float32")
    codes = compiled(lambda x, alpha: quant_relu_codes(x, alpha, bits))(
        ops.convert_to_tensor(k * alphas), ops.convert_to_tensor(alphas)
    )
    wrong = np.sum(ops.convert_to_numpy(codes) != k)
    assert wrong == 0


@pytest.mark.parametrize("bits", [4, 8])
def test_each_jump_has_its_own_code_for_a_scalar_alpha(compiled, bits):
    k = np.arange(2**bits, dtype="float32")
    codes = compiled(lambda x, alpha: quant_relu_codes(x, alpha, bits))
    # Compilers may treat the division by one number as a multiplication.
    for alpha in random_alphas(200):
        np.testing.assert_array_equal(codes(*tensors(k * alpha, alpha)), k)


def test_plain_ceil_is_wrong_at_some_jumps():
    """The reason for the correction, which the tests above rely on."""
    alphas = random_alphas(10_000)[:, None]
    k = np.arange(256, dtype="float32")
    wrong = np.mean(np.ceil((k * alphas) / alphas) != k)
    assert 0.03 < wrong < 0.06


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_no_output_is_off_the_grid(compiled, bits):
    alpha = HALF_GAUSSIAN_ALPHA[bits]
    x = np.random.default_rng(0).standard_normal(10**6).astype("float32")
    staircase = compiled(lambda x, alpha: quant_relu(x, alpha, bits))
    output = ops.convert_to_numpy(staircase(*tensors(x, alpha)))
    grid = levels(alpha, bits, "float32")
    assert np.sum(~np.isin(output, grid)) == 0
    # As far up as the ReLU, by less than a step, as long as it can.
    relu = np.clip(x, 0, grid[-1])
    assert np.all((relu <= output) & (output - relu < 1.000001 * grid[1]))


def test_nan_and_infinity(compiled):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], "float32")
    staircase = compiled(lambda x, alpha: quant_relu(x, alpha, 4))
    output = ops.convert_to_numpy(staircase(*tensors(x, 0.5)))
    np.testing.assert_array_equal(output, [np.nan, 7.5, 0, 0, 0])


def test_nan_alpha_reaches_the_output(compiled):
    staircase = compiled(lambda x, alpha: quant_relu(x, alpha, 4))
    output = staircase(*tensors(np.ones(3, "float32"), np.nan))
    assert np.all(np.isnan(ops.convert_to_numpy(output)))


def test_integers_give_floats():
    output = quant_relu([-1, 1, 2], 0.75, bits=4)
    np.testing.assert_array_equal(output, [0, 1.5, 2.25])


# The derivatives


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha_gradient", ALPHA_GRADIENTS)
@pytest.mark.parametrize(("bits", "alpha"), STAIRCASES)
def test_derivatives(bits, alpha, alpha_gradient, dtype):
    x = points(alpha, bits, dtype)
    # Whole numbers, whose sums with the table are exact in float32 too. No
    # wrong entry of the table cancels another one.
    rng = np.random.default_rng(0)
    upstream = rng.choice([-7, -5, -3, 2, 4, 6, 8], x.shape).astype(dtype)
    by_x, by_alpha = derivatives(x, alpha, upstream, bits, alpha_gradient)
    x_table = table(x, alpha, bits, 0, lambda k: 1, 0)
    np.testing.assert_array_equal(by_x, upstream * x_table)
    expected = alpha_table(x, alpha, bits, alpha_gradient)
    assert by_alpha == np.sum(upstream * expected)


@pytest.mark.parametrize("alpha_gradient", ALPHA_GRADIENTS)
def test_alpha_derivative_of_each_point(alpha_gradient):
    x = points(0.3, 2)
    expected = alpha_table(x, 0.3, 2, alpha_gradient)
    for i in range(len(x)):
        one = np.eye(len(x), dtype="float32")[i]
        _, by_alpha = derivatives(x, 0.3, one, 2, alpha_gradient)
        assert by_alpha == expected[i]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_ae_is_the_derivative_away_from_jumps(bits):
    alpha = 0.3
    # The middles of all steps and beyond: for a change of alpha by h the jumps
    # move by k h, less than half a step.
    x = (np.arange(-2, 2**bits + 2) + 0.5).astype("float32") * alpha
    h = np.float32(2.0**-12)
    above, below = (
        ops.convert_to_numpy(quant_relu(*tensors(x, a), bits))
        for a in (alpha + h, alpha - h)
    )
    quotient = (above - below) / (2 * h)
    ones = np.ones_like(x)
    _, by_alpha = derivatives(x, alpha, ones, bits, "ae")
    # float32 values up to 77 are rounded by 4e-6, beside 2 h = 5e-4.
    np.testing.assert_allclose(np.sum(quotient), by_alpha, rtol=1e-2)
    np.testing.assert_allclose(
        quotient, alpha_table(x, alpha, bits, "ae"), atol=2e-2
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_three_valued_is_the_mean_of_ae_on_the_steps(bits):
    x = points(0.3, bits)[3 * 2**bits :][1 : 2**bits]
    ae, three_valued = (
        alpha_table(x, 0.3, bits, name) for name in ("ae", "three_valued")
    )
    assert len(x) == 2**bits - 1
    assert np.mean(ae) == np.mean(three_valued) == 2 ** (bits - 1)


@pytest.mark.parametrize("alpha_gradient", ALPHA_GRADIENTS)
def test_derivatives_when_compiled(compiled, alpha_gradient):
    x = points(0.3, 4)
    upstream = np.ones_like(x)
    expected = derivatives(x, 0.3, upstream, 4, alpha_gradient)
    by_x, by_alpha = compiled(lambda *a: pull_back(*a, 4, alpha_gradient))(
        *tensors(x, 0.3), ops.convert_to_tensor(upstream)
    )
    np.testing.assert_array_equal(ops.convert_to_numpy(by_x), expected[0])
    assert float(by_alpha) == expected[1]


@pytest.mark.parametrize("bad", ["ste", "AE", "", None, 3])
def test_unknown_alpha_gradient(bad):
    message = (
        "`alpha_gradient` must be one of three_valued, two_valued, ae. "
        f"Received: alpha_gradient={bad!r}"
    )
    with pytest.raises(ValueError) as raised:
        quant_relu([1.0], 0.5, 4, alpha_gradient=bad)
    assert str(raised.value) == message
    with pytest.raises(ValueError) as raised:
        QuantReLU(4, alpha_gradient=bad)
    assert str(raised.value) == message


# The first alpha


@pytest.mark.parametrize("bits", range(1, 9))
def test_half_gaussian_alpha_has_the_smallest_error(bits):
    alpha = HALF_GAUSSIAN_ALPHA[bits]
    best = half_gaussian_error(alpha, bits)
    # The table has five or six digits.
    for factor in (1 - 1e-4, 1 + 1e-4):
        assert half_gaussian_error(factor * alpha, bits) > best
    for factor in np.geomspace(0.2, 5, 60):
        assert half_gaussian_error(factor * alpha, bits) > best


@pytest.mark.parametrize("bits", [1, 2, 4, 6])
def test_half_gaussian_error_is_that_of_the_staircase(bits):
    """The closed form above against Monte Carlo."""
    alpha = HALF_GAUSSIAN_ALPHA[bits]
    x = np.random.default_rng(0).standard_normal(10**6).astype("float32")
    output = ops.convert_to_numpy(quant_relu(*tensors(x, alpha), bits))
    squares = (output - np.maximum(x, 0)).astype("float64") ** 2
    # Five standard errors of the mean.
    error_bar = 5 * np.std(squares) / 1000
    expected = half_gaussian_error(alpha, bits)
    assert abs(np.mean(squares) - expected) < error_bar < 0.1 * expected


@pytest.mark.parametrize(
    ("initializer", "expected"),
    [
        ("half_gaussian", 0.166641),
        ("slides", 1 / 15),
        ("ones", 1.0),
        (keras.initializers.Constant(0.25), 0.25),
        # Below the bound of 1e-3.
        ("zeros", 1e-3),
        (keras.initializers.Constant(-5.0), 1e-3),
    ],
)
def test_alpha_initializer(initializer, expected):
    layer = QuantReLU(4, alpha_initializer=initializer)
    layer.build((None, 3))
    assert layer.alpha.shape == ()
    assert float(layer.alpha) == np.float32(expected)


def test_alpha_initializer_with_another_bound():
    layer = QuantReLU(8, alpha_constraint=AlphaBound(0.5))
    layer.build((None, 3))
    assert float(layer.alpha) == 0.5


@pytest.mark.parametrize("bad", ["half-gaussian", 0.5])
def test_unknown_alpha_initializer(bad):
    with pytest.raises(ValueError, match="Could not interpret initializer"):
        QuantReLU(alpha_initializer=bad)


def test_no_alpha_initializer():
    with pytest.raises(ValueError) as raised:
        QuantReLU(alpha_initializer=None)
    assert str(raised.value) == (
        '`alpha_initializer` must be "half_gaussian", "slides" or a Keras '
        "initializer. Received: alpha_initializer=None"
    )


@pytest.mark.parametrize("bad", ["non_neg", keras.constraints.MaxNorm(1)])
def test_alpha_constraint_must_be_an_alpha_bound(bad):
    with pytest.raises(ValueError) as raised:
        QuantReLU(alpha_constraint=bad)
    assert str(raised.value) == (
        "`alpha_constraint` must be a keras_bcgd.AlphaBound or a subclass of "
        "it: that is how BlendedOptimizer recognises an alpha. "
        f"Received: alpha_constraint={bad}"
    )


@pytest.mark.parametrize("bits", [0, 9, 32, 2.5, "4", True, None])
def test_bad_bits(bits):
    with pytest.raises(ValueError) as raised:
        QuantReLU(bits)
    assert str(raised.value) == (
        f"`bits` must be an integer from 1 to 8. Received: bits={bits!r}"
    )


# The layer


@pytest.mark.parametrize("kwargs", LAYER_ARGUMENTS)
def test_config_round_trip(kwargs):
    layer = QuantReLU(name="relu", dtype="mixed_bfloat16", **kwargs)
    copy = QuantReLU.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    assert (copy.bits, copy.alpha_gradient) == (
        layer.bits,
        layer.alpha_gradient,
    )
    assert type(copy.alpha_initializer) is type(layer.alpha_initializer)
    assert copy.alpha_constraint.min_value == layer.alpha_constraint.min_value
    with warnings.catch_warnings():
        # 8 bits in bfloat16; tested below.
        warnings.simplefilter("ignore")
        for each in (layer, copy):
            each.build((None, 3))
    assert float(copy.alpha) == float(layer.alpha)


def test_numpy_bits_are_stored_as_an_int():
    assert type(QuantReLU(np.int64(3)).get_config()["bits"]) is int


def test_layer_is_the_function():
    x = points(0.166641, 4)
    expected = quant_relu(*tensors(x, 0.166641), 4)
    layer = QuantReLU(bits=4)
    np.testing.assert_array_equal(layer(x), expected)


def test_shape_and_mask():
    layer = QuantReLU()
    symbolic = layer(keras.Input((5, 5, 3)))
    assert symbolic.shape == (None, 5, 5, 3)
    assert symbolic.dtype == "float32"
    assert layer.supports_masking
    assert len(layer.trainable_weights) == 1


@pytest.mark.parametrize("kwargs", LAYER_ARGUMENTS)
def test_save_and_load(kwargs, tmp_path):
    x = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), QuantReLU(**kwargs)]
    )
    model.layers[1].alpha.assign(0.125)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.layers[1].alpha) == 0.125
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize("alpha_gradient", ALPHA_GRADIENTS)
def test_one_training_step(alpha_gradient):
    rng = np.random.default_rng(0)
    x = (0.4 * rng.standard_normal((32, 6))).astype("float32")
    target = rng.standard_normal((32, 6)).astype("float32")
    layer = QuantReLU(2, alpha_gradient, "slides")
    model = keras.Sequential([layer])
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    model.fit(x, target, batch_size=32, epochs=1, verbose=0)
    alpha = np.float32(1 / 3)
    sigma = alpha * np.clip(np.ceil(x / alpha), 0, 3)
    derivative = alpha_table(x, alpha, 2, alpha_gradient)
    step = 0.1 * np.mean(2 * (sigma - target) * derivative)
    # One float32 sum of 192 terms.
    np.testing.assert_allclose(float(layer.alpha), alpha - step, rtol=1e-5)


def test_alpha_stays_at_its_bound_in_training():
    x = np.ones((4, 3), "float32")
    layer = QuantReLU(4)
    model = keras.Sequential([layer])
    # Pulls alpha far below 0.
    model.compile(keras.optimizers.SGD(10.0), loss="mse")
    model.fit(x, -x, batch_size=4, epochs=1, verbose=0)
    assert float(layer.alpha) == np.float32(1e-3)


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize(("policy", "narrow"), MIXED)
def test_mixed_precision_rounds_a_level_once(policy, narrow, bits, compiled):
    layer = QuantReLU(bits, dtype=policy)
    layer.build((None,))
    alpha = np.float32(HALF_GAUSSIAN_ALPHA[bits])
    assert float(layer.alpha) == alpha
    # float32 inputs reach the layer rounded.
    x = points(alpha, bits)[:-4].astype(narrow)
    jumps = levels(alpha, bits, "float32")
    expected = table(
        x.astype("float32"), alpha, bits, 0, lambda k: jumps[k], jumps[-1]
    )
    output = compiled(layer)(ops.convert_to_tensor(x))
    assert (
        keras.backend.standardize_dtype(output.dtype)
        == layer.dtype_policy.compute_dtype
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(output, "float32")),
        expected.astype("float32").astype(narrow).astype("float32"),
    )


@pytest.mark.parametrize(
    ("policy", "narrow", "bits"),
    [
        ("mixed_bfloat16", BFLOAT16, 8),
        ("bfloat16", BFLOAT16, 8),
    ],
)
def test_8_bits_in_bfloat16_warn(policy, narrow, bits):
    with pytest.warns(UserWarning, match="cannot hold all 256 levels"):
        QuantReLU(bits, dtype=policy).build((None, 3))
    alpha = HALF_GAUSSIAN_ALPHA[bits]
    assert len(set(levels(alpha, bits, "float32").astype(narrow))) < 256


@pytest.mark.parametrize(
    ("policy", "narrow", "bits"),
    [
        ("mixed_bfloat16", BFLOAT16, 7),
        ("mixed_float16", np.float16, 8),
        ("float32", np.float32, 8),
    ],
)
def test_other_precisions_hold_all_levels(policy, narrow, bits):
    # A warning would be an error here.
    QuantReLU(bits, dtype=policy).build((None, 3))
    alpha = HALF_GAUSSIAN_ALPHA[bits]
    assert len(set(levels(alpha, bits, "float32").astype(narrow))) == 2**bits


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX has no float64 by default")
def test_a_float64_layer_computes_in_float64():
    layer = QuantReLU(4, alpha_initializer="slides", dtype="float64")
    x = points(1 / 15, 4, "float64")
    output = ops.convert_to_numpy(layer(x))
    assert layer.alpha.dtype == "float64"
    assert output.dtype == "float64"
    jumps = levels(1 / 15, 4, "float64")
    expected = table(x, 1 / 15, 4, 0, lambda k: jumps[k], jumps[-1])
    np.testing.assert_array_equal(output, expected)
