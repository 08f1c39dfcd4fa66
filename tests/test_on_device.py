"""fit_on_device: the steps of `fit`, in a compiled loop over data it holds."""

import keras
import numpy as np
import pytest
from keras import ops
from training_helpers import assert_same

import keras_bcgd as kb

COUNT, BATCH = 44, 8  # 5 batches, and a rest that fills none
STEPS = COUNT // BATCH

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (COUNT, 6, 6, 3)).astype("uint8")
LABELS = np.arange(COUNT) % 4


class Draws(keras.utils.PyDataset):
    """Which images, and which of them are mirrored."""

    def __init__(self, seed=0):
        super().__init__()
        self.seed, self.epoch = seed, 0

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        chosen = rng.choice(COUNT, BATCH, replace=False)
        return {"chosen": chosen, "flips": rng.random(BATCH) < 0.5}

    def callback(self):
        return keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: setattr(self, "epoch", epoch)
        )


class Batches(Draws):
    """What they are, by NumPy."""

    def __getitem__(self, index):
        chosen, flips = super().__getitem__(index).values()
        x = IMAGES[chosen]
        x[flips] = x[flips, :, ::-1]
        return (x.astype("float32") - 128) / 64, LABELS[chosen]


def make_batch(arrays, draws):
    images, labels = arrays
    x = ops.take(images, draws["chosen"], axis=0)
    flips = ops.reshape(draws["flips"], (-1, 1, 1, 1))
    x = ops.cast(ops.where(flips, ops.flip(x, axis=2), x), "float32")
    return (x - 128) / 64, ops.take(labels, draws["chosen"], axis=0)


def optimizer(**kwargs):
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 2 * STEPS)
    sgd = keras.optimizers.SGD(schedule, momentum=0.9, **kwargs)
    return kb.BlendedOptimizer(sgd, blending=1e-3, l2=1e-3)


def make_model(bits=4, **kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            kb.QuantConv2D(8, 3, bits=bits, use_bias=False),
            keras.layers.BatchNormalization(),
            kb.QuantReLU(bits=bits) if bits < 32 else keras.layers.ReLU(),
            keras.layers.Flatten(),
            kb.QuantDense(4, bits=8 if bits < 32 else 32),
        ]
    )
    compile_model(model, **kwargs)
    return model


def compile_model(model, **kwargs):
    model.compile(
        optimizer(**kwargs),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def train(model, steps_per_execution=2, epochs=2, callbacks=(), **kwargs):
    draws = Draws()
    return kb.fit_on_device(
        model,
        (IMAGES, LABELS),
        draws,
        make_batch,
        steps_per_execution,
        epochs=epochs,
        callbacks=[draws.callback(), *callbacks],
        verbose=0,
        **kwargs,
    )


def train_plainly(model, epochs=2, **kwargs):
    batches = Batches()
    return model.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        callbacks=[batches.callback()],
        verbose=0,
        **kwargs,
    )


def values(model):
    variables = model.variables + model.optimizer.variables
    return {v.path: ops.convert_to_numpy(v) for v in variables}


def assert_close(found, expected):
    """Equal but for rounding.

    Compilers fuse the operations of a loop in their own way: sums round
    otherwise, some units in the last place after ten steps.
    """
    for (path, a), b in zip(
        values(found).items(), values(expected).values(), strict=True
    ):
        size = np.max(np.abs(b), initial=1e-6)
        np.testing.assert_allclose(a / size, b / size, atol=2e-5, err_msg=path)


def assert_same_logs(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


# The same training


@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("steps_per_execution", [1, 2, 5, 9])
def test_weights_state_and_logs_are_those_of_fit(bits, steps_per_execution):
    """Also where the steps of a call do not divide those of an epoch."""
    validation = {
        "validation_data": ((IMAGES[:10] - 128.0) / 64, LABELS[:10]),
        "validation_batch_size": 4,
    }
    expected = make_model(bits)
    expected_logs = train_plainly(expected, **validation).history
    model = make_model(bits)
    logs = train(model, steps_per_execution, **validation).history
    assert_close(model, expected)
    assert_same_logs(logs, expected_logs)
    assert int(model.optimizer.iterations) == 2 * STEPS


def test_gradient_accumulation():
    expected = make_model(gradient_accumulation_steps=3)
    train_plainly(expected)
    model = make_model(gradient_accumulation_steps=3)
    before = values(model)
    train(model)
    assert_close(model, expected)
    kernel = model.layers[0].kernel
    assert np.any(values(model)[kernel.path] != before[kernel.path])


def test_sample_weights_and_structures():
    """Draws of several kinds, arrays in a dict, an input that has a name."""

    class Weighted(Draws):
        def __getitem__(self, index):
            chosen = super().__getitem__(index)["chosen"]
            return chosen, {"weight": np.float32(index)}

    def weighted(arrays, draws):
        chosen, others = draws
        x = ops.cast(ops.take(arrays["x"], chosen, axis=0), "float32")
        weights = ops.zeros((BATCH,)) + others["weight"]
        y = ops.take(arrays["y"], chosen, axis=0)
        return {"image": x / 255}, y, weights

    class Plain(Weighted):
        def __getitem__(self, index):
            chosen, others = super().__getitem__(index)
            x = IMAGES[chosen].astype("float32") / 255
            weights = np.full(BATCH, others["weight"], "float32")
            return {"image": x}, LABELS[chosen], weights

    def model():
        keras.utils.set_random_seed(1)
        image = keras.Input((6, 6, 3), name="image")
        x = keras.layers.Flatten()(image)
        model = keras.Model({"image": image}, kb.QuantDense(4, bits=4)(x))
        compile_model(model)
        return model

    expected, found = model(), model()
    expected.fit(Plain(), shuffle=False, verbose=0)
    arrays = {"x": IMAGES, "y": LABELS}
    kb.fit_on_device(found, arrays, Weighted(), weighted, 3, verbose=0)
    assert_close(found, expected)


def test_a_model_that_is_not_built():
    model, expected = make_model(32), make_model(32)
    unbuilt = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(4)], name="unbuilt"
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    unbuilt.compile("adam", loss, metrics=["accuracy"])
    train(unbuilt)
    assert unbuilt.built
    # A model without metrics, and one that was trained before.
    model.compile("sgd", loss)
    train(model, epochs=1)
    train(model, epochs=1)
    expected.compile("sgd", loss)
    train_plainly(expected, epochs=1)
    train_plainly(expected, epochs=1)
    assert_close(model, expected)


def test_a_train_step_of_ones_own():
    class Twice(keras.Sequential):
        """Two steps with each batch."""

        def train_step(self, *args):
            if keras.backend.backend() == "jax":
                state, data = args
                _, state = super().train_step(state, data)
                return super().train_step(state, data)
            super().train_step(*args)
            return super().train_step(*args)

    models = []
    for trained_by in (train, train_plainly):
        keras.utils.set_random_seed(1)
        layers = [keras.Input((6, 6, 3)), keras.layers.Flatten()]
        model = Twice([*layers, keras.layers.Dense(4)])
        compile_model(model)
        trained_by(model)
        assert int(model.optimizer.iterations) == 4 * STEPS
        models.append(model)
    assert_close(*models)


# Between and after


def test_resumed_from_a_file_bit_for_bit(tmp_path):
    """With another number of steps in a call, after any epoch."""
    whole = make_model()
    train(whole, epochs=3)
    model = make_model()
    train(model, steps_per_execution=5, epochs=1)
    model.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    assert type(resumed) is keras.Sequential
    train(resumed, epochs=3, initial_epoch=1)
    assert_same(resumed, whole)


def test_saved_in_the_middle_it_is_the_plain_model(tmp_path):
    """By a callback: `fit` goes on with it."""
    path = tmp_path / "model.keras"
    save = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: epoch or model.save(path)
    )
    model = make_model()
    train(model, callbacks=[save])
    loaded = keras.models.load_model(path)
    assert loaded.steps_per_execution == 1
    train_plainly(loaded, initial_epoch=1)
    assert_close(loaded, model)
    for layer in loaded.layers:
        if isinstance(layer, kb.QuantConv2D):
            scale, codes = layer.kernel_scale_and_codes()
            kernel = ops.convert_to_numpy(layer.kernel)
            np.testing.assert_allclose(kernel, scale * codes, rtol=1e-6)


def test_afterwards_fit_is_fit_again():
    model, expected = make_model(), make_model()
    train(model)
    train_plainly(expected)
    assert "train_step" not in vars(model)
    for trained in (model, expected):
        train_plainly(trained, epochs=3, initial_epoch=2)
    assert_close(model, expected)


def test_also_after_an_error():
    def fail(batch, logs):
        raise RuntimeError("stop")

    model = make_model()
    with pytest.raises(RuntimeError, match="stop"):
        train(
            model,
            callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=fail)],
        )
    assert "train_step" not in vars(model)
    train_plainly(model)


def test_callbacks_count_calls_and_see_the_logs_of_the_last_step():
    class Watch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_train_batch_end(self, batch, logs=None):
            found = {name: float(value) for name, value in logs.items()}
            self.seen.append((batch, found))

    calls, steps = Watch(), Watch()
    train(make_model(), 2, callbacks=[calls], epochs=1)
    train(make_model(), 1, callbacks=[steps], epochs=1)
    assert [batch for batch, _ in calls.seen] == [0, 1, 2]
    for (_, found), step in zip(calls.seen, (1, 3, 4), strict=True):
        assert found == pytest.approx(steps.seen[step][1], rel=1e-5)


def test_draws_are_told_where_an_epoch_begins_and_ends():
    told = []

    class Told(Draws):
        def on_epoch_begin(self):
            told.append("begin")

        def on_epoch_end(self):
            told.append("end")

    kb.fit_on_device(
        make_model(), (IMAGES, LABELS), Told(), make_batch, epochs=2, verbose=0
    )
    # Keras ends an epoch before the first one too.
    assert told == ["end"] + 2 * ["begin", "end"]


def test_the_data_are_no_part_of_the_compiled_function():
    """On JAX a closed-over array would be a literal, compiled each time."""
    if keras.backend.backend() != "jax":
        pytest.skip("TensorFlow hands on what a function closes over")
    sizes = []

    class Size(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            import jax

            step = self.model.train_step
            model = self.model
            state = tuple(
                [v.value for v in variables]
                for variables in (
                    model.trainable_variables,
                    model.non_trainable_variables,
                    model.optimizer.variables,
                    model.metrics_variables,
                )
            )
            draws = keras.tree.map_structure(lambda a: a[None], Draws()[0])
            arrays = keras.tree.map_structure(
                ops.convert_to_tensor, (IMAGES, LABELS)
            )
            lowered = jax.jit(step).lower(state, (arrays, draws))
            sizes.append(len(lowered.as_text()))

    global IMAGES
    before = IMAGES
    try:
        for factor in (1, 20):
            IMAGES = np.concatenate([before] * factor)
            train(make_model(32), callbacks=[Size()])
    finally:
        IMAGES = before
    assert sizes[1] < 1.1 * sizes[0]


# Refusals


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "a"}, "`model` must be a keras.Model. Received: model='a'"),
        ({"model": keras.Sequential()}, "`model` must be compiled"),
        (
            {"steps_per_execution": 0},
            "`steps_per_execution` must be an integer above 0. "
            "Received: steps_per_execution=0",
        ),
        (
            {"draws": [1]},
            r"(?s)`draws` must be a keras.utils.PyDataset .* draws=\[1\]",
        ),
        ({"shuffle": True}, "does not accept `shuffle`: .* shuffle=True"),
        ({"make_batch": lambda *_: 3}, r"tuple \(x, y\) .* Received: int"),
    ],
)
def test_refusals(changes, message):
    arguments = {
        "model": changes.pop("model", None) or make_model(),
        "arrays": (IMAGES, LABELS),
        "draws": Draws(),
        "make_batch": make_batch,
        "verbose": 0,
    }
    with pytest.raises(ValueError, match=message):
        kb.fit_on_device(**arguments | changes)


def test_refuses_a_loop_around_the_loop():
    model = make_model()
    model.compile("sgd", "mse", steps_per_execution=3)
    with pytest.raises(ValueError, match="Received: steps_per_execution=3"):
        train(model)


def test_refuses_a_last_batch_of_another_size():
    class Rest(Draws):
        def __getitem__(self, index):
            found = super().__getitem__(index)
            if index == STEPS - 1:
                found["chosen"] = found["chosen"][:3]
            return found

    draws = Rest()
    with pytest.raises(Exception, match="leave out what does not fill one"):
        kb.fit_on_device(
            make_model(), (IMAGES, LABELS), draws, make_batch, 5, verbose=0
        )
