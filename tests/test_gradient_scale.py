"""The step size gradient scale of LSQ, against its formula in NumPy."""

import keras
import numpy as np
import pytest
import reference
from keras import ops
from training_helpers import assert_same

from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantAdd
from keras_bcgd import QuantAddReLU
from keras_bcgd import QuantDense
from keras_bcgd import QuantIdentity
from keras_bcgd import QuantReLU

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
PRECISE = "float64" if ON_TENSORFLOW else "float32"
SHAPE = (5, 4, 3)
ALPHA = keras.initializers.Constant(0.25)

# The layer, its arguments and the largest code of its grid.
LAYERS = [
    (QuantReLU, {"bits": 1}, 1),
    (QuantReLU, {"bits": 4}, 15),
    (QuantReLU, {"bits": 8, "alpha_gradient": "ae"}, 255),
    (QuantAddReLU, {"bits": 2}, 3),
    (QuantAddReLU, {"bits": 4, "branch_bits": None}, 15),
    (QuantAddReLU, {"bits": 8, "shortcut_is_branch": True}, 255),
    (QuantIdentity, {"bits": 3}, 3),
    (QuantIdentity, {"bits": 2, "minimum": 0.0}, 3),
    (QuantAdd, {"bits": 4}, 7),
]


def network(cls, scale, shape=SHAPE, dtype="float32", **kwargs):
    layer = cls(
        alpha_initializer=ALPHA,
        alpha_gradient_scale=scale,
        dtype=dtype,
        name="quantized",
        **kwargs,
    )
    if cls in (QuantAdd, QuantAddReLU):
        inputs = [keras.Input(shape), keras.Input(shape)]
    else:
        inputs = keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def batch(model, seed=0):
    rng = np.random.default_rng(seed)
    draws = [rng.normal(size=(8, *SHAPE)) for _ in model.inputs]
    x = draws if len(draws) > 1 else draws[0]
    return x, rng.normal(size=(8, *SHAPE))


def derivative(model, data=None):
    """By alpha: the first velocity of gradient descent with rate 1."""
    optimizer = keras.optimizers.SGD(1.0, momentum=0.5)
    model.compile(optimizer, "mse")
    x, target = batch(model) if data is None else data
    model.fit(x, target, batch_size=len(target), verbose=0)
    (velocity,) = (v for v in optimizer.variables if "momentum" in v.path)
    return -float(velocity)


def two_layers(scale="lsq", policy="float32", bits=2):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            QuantDense(8, bits=bits, dtype=policy),
            QuantReLU(4, alpha_gradient_scale=scale, dtype=policy),
            QuantDense(3, bits=bits, dtype=policy),
        ]
    )


def fit(model, data, epochs=2):
    model.fit(*data, batch_size=8, shuffle=False, verbose=0, epochs=epochs)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 6)), rng.normal(size=(32, 3))


@pytest.mark.parametrize(("cls", "kwargs", "largest_code"), LAYERS)
def test_factor_is_one_by_root_of_features_times_largest_code(
    cls, kwargs, largest_code
):
    plain = derivative(network(cls, None, **kwargs))
    scaled = derivative(network(cls, "lsq", **kwargs))
    features = 5 * 4 * 3
    assert abs(plain) > 1e-2
    # One float32 sum and one factor.
    np.testing.assert_allclose(
        scaled, plain / np.sqrt(features * largest_code), rtol=1e-6
    )


def test_the_batch_is_no_feature():
    one, twice = network(QuantReLU, "lsq"), network(QuantReLU, "lsq")
    # The mean over what is there twice is that over one; summed otherwise.
    data = [np.concatenate([each, each]) for each in batch(one)]
    np.testing.assert_allclose(derivative(twice, data), derivative(one), 1e-5)


def test_sizes_that_are_unknown_until_the_step():
    known, unknown = (
        network(QuantReLU, "lsq", shape=shape)
        for shape in (SHAPE, (None, None, 3))
    )
    assert unknown.output_shape == (None, None, None, 3)
    np.testing.assert_allclose(derivative(unknown), derivative(known), 1e-5)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX traces every shape anew")
@pytest.mark.parametrize("shape", [(None, None, 3), (4, None, 3)])
def test_sizes_that_are_unknown_in_the_graph(shape):
    import tensorflow as tf

    layer = QuantReLU(4, alpha_initializer=ALPHA, alpha_gradient_scale="lsq")
    layer.build((None, *shape))

    @tf.function(input_signature=[tf.TensorSpec((None, *shape))])
    def gradient(x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(x))
        return tape.gradient(total, layer.alpha.value)

    for width in (5, 7):
        x = np.full((2, 4, width, 3), 0.1, "float32")
        # 8 for each that lies on a step, over the root of N * 15.
        expected = 8 * x.size / np.sqrt(4 * width * 3 * 15)
        np.testing.assert_allclose(gradient(x), expected, rtol=1e-6)


@pytest.mark.parametrize(("cls", "kwargs", "largest_code"), LAYERS)
def test_outputs_are_those_of_today(cls, kwargs, largest_code, compiled):
    x, _ = batch(network(cls, None, **kwargs))
    plain, scaled = (
        compiled(network(cls, scale, **kwargs).get_layer("quantized"))
        for scale in (None, "lsq")
    )
    x = keras.tree.map_structure(lambda each: ops.cast(each, "float32"), x)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(plain(x)), ops.convert_to_numpy(scaled(x))
    )


@pytest.mark.parametrize("floatx", [PRECISE], indirect=True)
def test_fit_equals_numpy(data, floatx):
    model = two_layers(policy=floatx)
    names = ["w1", "b1", "alpha", "w2", "b2"]
    variables = model.trainable_variables
    start = dict(zip(names, map(ops.convert_to_numpy, variables), strict=True))
    loop = reference.TwoLayerBCGD(
        start,
        2,
        4,
        blending=0.01,
        multiplier=1.0,
        learning_rate=0.05,
        momentum=0.875,
        l2=0.0,
        # 8 features, 15 steps.
        alpha_gradient_scale=1 / np.sqrt(8 * 15),
    )
    inner = keras.optimizers.SGD(0.05, momentum=0.875)
    optimizer = BlendedOptimizer(
        inner, blending=0.01, alpha_learning_rate_multiplier=1.0
    )
    model.compile(optimizer, "mse")
    fit(model, data, epochs=1)
    for first in range(0, 32, 8):
        loop.step(*(each[first : first + 8] for each in data))
    tolerance = 1e-9 if ON_TENSORFLOW else 2e-5
    for name, variable in zip(names, variables, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable),
            loop.w[name],
            tolerance,
            tolerance,
            err_msg=name,
        )
    assert abs(start["alpha"] - loop.w["alpha"]) > 100 * tolerance


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_scales_in_the_precision_of_alpha(policy):
    plain, scaled = (
        derivative(network(QuantReLU, scale, dtype=policy))
        for scale in (None, "lsq")
    )
    # A factor rounded to half precision would be 1e-4 or more away: 1/30 in
    # binary has no end.
    np.testing.assert_allclose(scaled, plain / np.sqrt(60 * 15), rtol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_saved_and_resumed_training_equals_uninterrupted(
    data, tmp_path, policy
):
    def compiled_model():
        model = two_layers(policy=policy)
        inner = keras.optimizers.SGD(0.05, momentum=0.9)
        optimizer = BlendedOptimizer(inner, alpha_learning_rate_multiplier=1.0)
        model.compile(optimizer, "mse")
        return model

    whole, first = compiled_model(), compiled_model()
    fit(whole, data, 4)
    fit(first, data, 2)
    first.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    assert resumed.layers[1].alpha_gradient_scale == "lsq"
    fit(resumed, data, 2)
    assert_same(whole, resumed)


@pytest.mark.parametrize("cls", [QuantReLU, QuantAddReLU, QuantIdentity])
def test_config_round_trip(cls):
    assert cls().get_config()["alpha_gradient_scale"] is None
    layer = cls(alpha_gradient_scale="lsq")
    copy = cls.from_config(layer.get_config())
    assert copy.alpha_gradient_scale == "lsq"
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize("bad", ["LSQ", "none", 1.0, True])
@pytest.mark.parametrize("cls", [QuantReLU, QuantAddReLU, QuantIdentity])
def test_bad_scale(cls, bad):
    with pytest.raises(ValueError) as raised:
        cls(alpha_gradient_scale=bad)
    assert str(raised.value) == (
        "`alpha_gradient_scale` must be one of None, lsq. "
        f"Received: alpha_gradient_scale={bad!r}"
    )
