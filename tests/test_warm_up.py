"""The schedule that starts low."""

import keras
import numpy as np

from training import warm_up


def schedule():
    later = keras.optimizers.schedules.PiecewiseConstantDecay(
        [3, 5], [8.0, 4.0, 2.0]
    )
    return warm_up.WarmUp(later, 4)


def rates(schedule, steps):
    return [keras.ops.convert_to_numpy(schedule(step)) for step in steps]


def test_it_rises_to_the_other_schedule_and_follows_it():
    expected = [2, 4, 6, 8, 4, 4, 2, 2]
    np.testing.assert_allclose(rates(schedule(), range(8)), expected)


def test_config():
    config = keras.optimizers.schedules.serialize(schedule())
    again = keras.optimizers.schedules.deserialize(config)
    assert isinstance(again, warm_up.WarmUp)
    steps = range(8)
    np.testing.assert_array_equal(rates(again, steps), rates(schedule(), steps))


def test_a_saved_optimizer_goes_on_with_it(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule()), "mse")
    model.train_on_batch(np.ones((1, 2)), np.ones((1, 1)))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert float(model.optimizer.learning_rate) == 4
    assert float(again.optimizer.learning_rate) == 4
