"""A run that ends at any step goes on there, to the bit."""

import os
import signal

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the loop is TensorFlow's", True)

import tensorflow as tf

import keras_bcgd as kb
from training import checkpoints as checkpoint_files
from training import replicas
from training import resumable

BATCH, STEPS, EPOCHS = 8, 5, 3


def compiled():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            kb.QuantDense(8, bits=4),
            keras.layers.BatchNormalization(momentum=0.9),
            kb.QuantReLU(2),
            kb.QuantDense(6, bits=2),
        ]
    )
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([4, 8], [1, 2, 3])
    model.compile(
        kb.BlendedOptimizer(keras.optimizers.SGD(rate, momentum=0.9), l2=1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def batches(epoch, first=0, steps=STEPS):
    rng = np.random.default_rng(epoch)
    x = rng.normal(size=(steps, BATCH, 6)).astype("float32")
    y = rng.integers(0, 6, (steps, BATCH))
    for images, labels in list(zip(x, y, strict=True))[first:]:
        yield tf.constant(images), tf.constant(labels)


def run(path, callbacks=(), minutes=1e9, act=lambda step: None, workers=1):
    """One process of the run; `act` is called before each step."""
    checkpoints = checkpoint_files.Checkpoints(path)
    found = checkpoints.load_last()
    if found is None:
        model, state = compiled(), resumable.State()
    else:
        model, state = found[0], resumable.State(**found[1])
    own = resumable.Run(
        replicas.Replicas(
            model, tf.distribute.get_strategy(), BATCH, lambda x: x
        ),
        state,
        checkpoints,
        train_batches=lambda epoch, first: acting(epoch, first, act),
        test_batches=lambda: batches(99),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        test_steps=2,
        minutes=minutes,
        workers=workers,
        callbacks=callbacks,
    )
    own.train()
    return own


def acting(epoch, first, act):
    for step, batch in enumerate(batches(epoch, first), first):
        act(epoch * STEPS + step)
        yield batch


def numbers(model):
    variables = model.variables + model.optimizer.variables
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


def without_time(history):
    timeless = {"seconds": None, "val_seconds": None}
    return [entry | timeless for entry in history]


def assert_same(own, whole):
    for a, b in zip(numbers(own.model), numbers(whole.model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_time(own.state.history) == without_time(whole.state.history)


def test_what_an_epoch_says(whole):
    """Against `evaluate` of Keras, and the schedule."""
    last = whole.state.history[-1]
    x, y = zip(*batches(99, steps=5), strict=True)
    x, y = np.concatenate(x[:2]), np.concatenate(y[:2])
    loss = whole.model.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(last["val_loss"], loss, rtol=1e-5)
    predicted = np.argmax(whole.model.predict(x, verbose=0), axis=1)
    assert last["val_top1"] == np.mean(predicted == y)
    assert last["images"] == STEPS * BATCH
    assert last["val_images"] == 2 * BATCH
    # Of the first steps: 0, 5 and 10.
    rates = [entry["learning_rate"] for entry in whole.state.history]
    assert rates == [1, 2, 3]


@pytest.mark.parametrize(
    ("number", "moments"),
    [
        (signal.SIGTERM, [0]),
        (signal.SIGINT, [3, 7]),
        (signal.SIGTERM, [4, 14]),
    ],
)
def test_stopped_and_gone_on(tmp_path, whole, moments, number):
    """A signal before a step: that step is done and saved."""
    before = signal.getsignal(number)
    for moment in moments:

        def act(step, moment=moment):
            if step == moment:
                os.kill(os.getpid(), number)

        with pytest.raises(resumable.Stopped, match="Saved after step"):
            run(tmp_path, act=act)
        _, state = checkpoint_files.Checkpoints(tmp_path).load_last()
        assert state["epoch"] * STEPS + state["step"] == moment + 1
    assert_same(run(tmp_path), whole)
    assert signal.getsignal(number) is before


def test_several_machines_stop_at_the_end_of_an_epoch(tmp_path, whole):
    """They ask one another after every tenth step, too: these are fewer."""
    with pytest.raises(resumable.Stopped, match=f"step {STEPS} of epoch 1"):
        run(
            tmp_path,
            act=lambda step: step == 2 and os.kill(os.getpid(), signal.SIGTERM),
            workers=2,
        )
    assert_same(run(tmp_path, workers=2), whole)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("moment", "minutes"),
    [(0, 0), (3, 0), (5, 0), (3, 1e9), (5, 1e9), (13, 1e9)],
)
def test_killed_and_gone_on(tmp_path, whole, moment, minutes):
    """With a checkpoint after each step, or after epochs only."""

    def act(step):
        if step == moment:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, act=act, minutes=minutes)
    found = checkpoint_files.Checkpoints(tmp_path).load_last()
    done = 0
    if found is not None:
        done = found[1]["epoch"] * STEPS + found[1]["step"]
    assert done == (moment if minutes == 0 else moment // STEPS * STEPS)
    assert_same(run(tmp_path), whole)


def test_callbacks_see_every_epoch_once(tmp_path):
    class Note(keras.callbacks.Callback):
        epochs = []

        def on_epoch_end(self, epoch, logs=None):
            self.epochs.append((epoch, logs["epoch"]))

    with pytest.raises(resumable.Stopped):
        run(
            tmp_path,
            [Note()],
            act=lambda step: step == 7 and os.kill(os.getpid(), signal.SIGTERM),
        )
    run(tmp_path, [Note()])
    assert Note.epochs == [(0, 1), (1, 2), (2, 3)]


def test_what_a_callback_breaks_is_saved_before(tmp_path, whole):
    """A full disk shows in the logs, perhaps, after the checkpoint."""

    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        run(tmp_path, [Breaks()])
    _, state = checkpoint_files.Checkpoints(tmp_path).load_last()
    assert (state["epoch"], state["step"]) == (1, 0)
    assert_same(run(tmp_path), whole)


def test_a_loss_that_is_no_number(tmp_path):
    own = run(tmp_path)
    state = resumable.State(sums=[float("nan"), 0, 0, 0])
    own.state = state
    with pytest.raises(resumable.Diverged, match="lower learning rate"):
        own.train()
