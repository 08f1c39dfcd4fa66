"""Coupled L2 of alphas, against its formula and a loop in NumPy."""

import keras
import numpy as np
import pytest
import reference
from keras import ops
from training_helpers import assert_same

from keras_bcgd import AlphaBound
from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantDense
from keras_bcgd import QuantIdentity
from keras_bcgd import QuantProjection
from keras_bcgd import QuantReLU

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
PRECISE = "float64" if ON_TENSORFLOW else "float32"
TOLERANCE = 1e-9 if ON_TENSORFLOW else 2e-5


def variable_with(constraint, value):
    variable = keras.Variable(value, dtype="float32")
    variable.constraint = constraint
    return variable


def network(policy="float32"):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            QuantDense(8, bits=2, dtype=policy),
            QuantReLU(4, dtype=policy),
            QuantDense(3, bits=2, dtype=policy),
        ]
    )


def fit(model, data, epochs):
    model.fit(*data, batch_size=8, shuffle=False, verbose=0, epochs=epochs)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 6)), rng.normal(size=(32, 3))


@pytest.mark.parametrize("floatx", [PRECISE], indirect=True)
@pytest.mark.parametrize(("l2", "alpha_l2"), [(0.0, 0.5), (1e-2, 5.0)])
def test_fit_equals_numpy(data, floatx, l2, alpha_l2):
    model = network(floatx)
    variables = model.trainable_variables
    names = ["w1", "b1", "alpha", "w2", "b2"]
    start = dict(zip(names, map(ops.convert_to_numpy, variables), strict=True))
    settings = {"blending": 0.01, "l2": l2, "alpha_l2": alpha_l2}
    loop = reference.TwoLayerBCGD(
        start,
        2,
        4,
        multiplier=0.1,
        learning_rate=0.05,
        momentum=0.875,
        **settings,
    )
    inner = keras.optimizers.SGD(0.05, momentum=0.875)
    optimizer = BlendedOptimizer(
        inner, alpha_learning_rate_multiplier=0.1, **settings
    )
    model.compile(optimizer, "mse")
    fit(model, data, 1)
    for first in range(0, 32, 8):
        loop.step(*(each[first : first + 8] for each in data))
    for name, variable in zip(names, variables, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable),
            loop.w[name],
            TOLERANCE,
            TOLERANCE,
            err_msg=name,
        )


def test_it_acts_on_alphas_alone():
    start = np.array([1.0, -2.0])
    weight = keras.Variable(start)
    alphas = [variable_with(AlphaBound(1e-3), 1.0) for _ in range(2)]
    kernel = variable_with(QuantProjection(1), [0.5, -2.0])
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1), 0.0, alpha_l2=0.5)
    optimizer.build([weight, *alphas, kernel])
    # The second alpha has no gradient: it is not trained.
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply(
            [ops.zeros(2), ops.zeros(()), None, ops.zeros(2)],
            [weight, *alphas, kernel],
        )
    np.testing.assert_array_equal(ops.convert_to_numpy(weight), start)
    y = ops.convert_to_numpy(optimizer.shadow(kernel))
    np.testing.assert_array_equal(y, np.array([0.5, -2.0], "float32"))
    # A hundredth of the step 0.1 * 0.5 * alpha.
    np.testing.assert_allclose(float(alphas[0]), 1 - 0.0005, rtol=1e-7)
    assert float(alphas[1]) == 1.0


def test_it_survives_a_loss_scale():
    alpha = variable_with(AlphaBound(1e-3), 1.0)
    inner = keras.optimizers.SGD(0.1, loss_scale_factor=128.0)
    optimizer = BlendedOptimizer(
        inner, alpha_learning_rate_multiplier=1.0, alpha_l2=0.5
    )
    optimizer.build([alpha])
    optimizer.apply([ops.array(128.0)])
    np.testing.assert_allclose(float(alpha), 1 - 0.1 * 1.5, rtol=1e-6)


def test_it_reaches_every_kind_of_alpha(data):
    model = keras.Sequential(
        [keras.Input((6,)), QuantIdentity(8), QuantReLU(4), QuantDense(3)]
    )
    before = [float(layer.alpha) for layer in model.layers[:2]]
    # No loss: L2 is all that moves an alpha.
    optimizer = BlendedOptimizer(
        keras.optimizers.SGD(0.1),
        alpha_learning_rate_multiplier=1.0,
        alpha_l2=0.5,
    )
    model.compile(optimizer, "mse", loss_weights=0.0)
    fit(model, data, 1)
    after = [float(layer.alpha) for layer in model.layers[:2]]
    # Four steps.
    np.testing.assert_allclose(after, np.multiply(before, 0.95**4), rtol=1e-6)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="strategies are TensorFlow's")
@pytest.mark.usefixtures("float64")
def test_two_replicas_equal_one_device(data, two):
    def trained():
        model = network("float64")
        optimizer = BlendedOptimizer(
            keras.optimizers.SGD(0.05), l2=1e-3, alpha_l2=2.0
        )
        model.compile(optimizer, "mse")
        fit(model, data, 1)
        return model

    one = trained()
    with two.scope():
        other = trained()
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(a), ops.convert_to_numpy(b), 1e-9, 1e-12
        )


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_saved_and_resumed_training_equals_uninterrupted(
    data, tmp_path, policy
):
    def compiled_model():
        model = network(policy)
        inner = keras.optimizers.SGD(0.05, momentum=0.9)
        model.compile(BlendedOptimizer(inner, alpha_l2=0.5), "mse")
        return model

    whole, first = compiled_model(), compiled_model()
    fit(whole, data, 4)
    fit(first, data, 2)
    first.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    assert resumed.optimizer.alpha_l2 == 0.5
    fit(resumed, data, 2)
    assert_same(whole, resumed)
