"""A rho that changes during training, against a loop in NumPy."""

import keras
import numpy as np
import pytest
import reference
from keras import ops
from training_helpers import assert_same

import keras_bcgd
from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantDense
from keras_bcgd import QuantProjection
from keras_bcgd import QuantReLU

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
PRECISE = "float64" if ON_TENSORFLOW else "float32"
TOLERANCE = 1e-9 if ON_TENSORFLOW else 2e-5
RISING = keras.optimizers.schedules.PolynomialDecay(0.0, 8, 0.5)


@keras.saving.register_keras_serializable(package="test_blending_schedule")
def a_quarter():
    return 0.25


@keras.saving.register_keras_serializable(package="test_blending_schedule")
class BeyondOne(keras.optimizers.schedules.LearningRateSchedule):
    """-1, 0, 1, 2, ...: most of that is no rho."""

    def __call__(self, step):
        return step - 1

    def get_config(self):
        return {}


def network(dtype="float32"):
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            QuantDense(8, bits=2, dtype=dtype),
            QuantReLU(4, dtype=dtype),
            QuantDense(3, bits=2, dtype=dtype),
        ]
    )


def fit(model, data, epochs=1, batch_size=8):
    kwargs = {"batch_size": batch_size, "epochs": epochs}
    model.fit(*data, shuffle=False, verbose=0, **kwargs)


def shadows(model):
    layers = [model.layers[0], model.layers[2]]
    return [
        ops.convert_to_numpy(keras_bcgd.shadow(model, layer.kernel))
        for layer in layers
    ]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(32, 6)), rng.normal(size=(32, 3))


SCHEDULES = {
    "rising": (RISING, lambda updates: updates / 8 * 0.5),
    "clipped": (BeyondOne(), lambda updates: min(max(updates - 1, 0), 1)),
    "callable": (a_quarter, lambda updates: 0.25),
}


@pytest.mark.parametrize("floatx", [PRECISE], indirect=True)
@pytest.mark.parametrize("name", SCHEDULES)
def test_fit_equals_numpy(data, floatx, name):
    blending, rho = SCHEDULES[name]
    model = network(floatx)
    variables = model.trainable_variables
    names = ["w1", "b1", "alpha", "w2", "b2"]
    start = dict(zip(names, map(ops.convert_to_numpy, variables), strict=True))
    settings = {"learning_rate": 0.05, "momentum": 0.875, "l2": 0.0}
    loop = reference.TwoLayerBCGD(start, 2, 4, multiplier=0.01, **settings)
    inner = keras.optimizers.SGD(0.05, momentum=0.875)
    model.compile(BlendedOptimizer(inner, blending), "mse")
    fit(model, data)
    for step in range(4):
        loop.settings["blending"] = rho(step)
        loop.step(*(each[8 * step : 8 * step + 8] for each in data))
    for name, variable in zip(names, variables, strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable),
            loop.w[name],
            TOLERANCE,
            TOLERANCE,
            err_msg=name,
        )
    for name, y in zip(("w1", "w2"), shadows(model), strict=True):
        np.testing.assert_allclose(y, loop.y[name], TOLERANCE, TOLERANCE)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_saved_and_resumed_training_equals_uninterrupted(
    data, tmp_path, policy
):
    def compiled_model():
        model = network(policy)
        inner = keras.optimizers.SGD(0.05, momentum=0.9)
        model.compile(BlendedOptimizer(inner, RISING), "mse")
        return model

    whole, first = compiled_model(), compiled_model()
    fit(whole, data, 2)
    fit(first, data, 1)
    assert float(first.optimizer.blending) == 0.25
    first.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    assert float(resumed.optimizer.blending) == 0.25
    fit(resumed, data, 1)
    assert_same(whole, resumed)
    assert float(resumed.optimizer.blending) == 0.5


def test_accumulation_counts_updates(data):
    """Micro-batches of 4 make the mean gradient of batches of 8."""
    small, large = network(), network()
    accumulating = keras.optimizers.SGD(0.05, gradient_accumulation_steps=2)
    small.compile(BlendedOptimizer(accumulating, RISING), "mse")
    fit(small, data, batch_size=4)
    large.compile(BlendedOptimizer(keras.optimizers.SGD(0.05), RISING), "mse")
    fit(large, data)
    assert float(small.optimizer.blending) == 0.25
    for a, b in zip(shadows(small), shadows(large), strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-6)


def test_a_loss_scale_around_it_counts_no_skipped_step(data):
    model = network()
    inner = keras.optimizers.SGD(0.05)
    blended = BlendedOptimizer(inner, RISING)
    model.compile(keras.optimizers.LossScaleOptimizer(blended), "mse")
    fit(model, data)
    assert float(blended.blending) == 0.25
    fit(model, (data[0], np.full_like(data[1], np.inf)))
    assert float(blended.blending) == 0.25


@pytest.mark.skipif(not ON_TENSORFLOW, reason="strategies are TensorFlow's")
@pytest.mark.usefixtures("float64")
def test_two_replicas_equal_one_device(data, two):
    def trained():
        model = network("float64")
        model.compile(
            BlendedOptimizer(keras.optimizers.SGD(0.05), RISING), "mse"
        )
        fit(model, data)
        return model

    one = trained()
    with two.scope():
        other = trained()
    for a, b in zip(shadows(one), shadows(other), strict=True):
        np.testing.assert_allclose(a, b, 1e-9, 1e-12)


@pytest.mark.parametrize("blending", [RISING, BeyondOne(), a_quarter])
def test_config_round_trip(blending):
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1), blending)
    config = keras.saving.serialize_keras_object(optimizer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == optimizer.get_config()
    for each in (optimizer, copy):
        each.build([keras.Variable([1.0])])
        for _ in range(3):
            each.apply([ops.array([0.0])])
    assert float(copy.blending) == float(optimizer.blending) > 0


def test_custom_objects_reach_a_schedule():
    class Mine(BeyondOne):
        pass

    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1), Mine())
    config = optimizer.get_config()
    copy = BlendedOptimizer.from_config(config, {"Mine": Mine})
    assert type(copy._blending) is Mine


def test_a_number_stays_a_float():
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1), 1)
    assert type(optimizer.blending) is float
    assert optimizer.get_config()["blending"] == 1.0


def test_it_can_be_set():
    kernel = keras.Variable([1.0, 3.0])
    kernel.constraint = QuantProjection(1)
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1), 0.0)
    optimizer.build([kernel])
    optimizer.blending = lambda: 0.5
    optimizer.apply([ops.zeros(2)])
    # Halfway to w = (2, 2).
    y = ops.convert_to_numpy(optimizer.shadow(kernel))
    np.testing.assert_allclose(y, [1.5, 2.5])
    with pytest.raises(ValueError, match="Received: blending=2.0"):
        optimizer.blending = 2.0
