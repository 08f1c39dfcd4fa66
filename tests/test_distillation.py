"""A quantized student in Keras' Distiller: it trains as it does alone."""

import csv

import keras
import numpy as np
import pytest
import training_helpers
from keras import layers
from keras import ops

import keras_bcgd as kb

if not hasattr(keras, "distillation"):
    pytest.skip("keras.distillation came with Keras 3.12", True)

TEMPERATURE, STUDENT_WEIGHT = 3.0, 0.25
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")


def numpy_of(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def values(model):
    return [numpy_of(v) for v in model.variables]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def data():
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 256, (48, 6)) / 255).astype("float32")
    return x, rng.integers(0, 4, 48)


def student(policy="float32"):
    return keras.Sequential(
        [
            keras.Input((6,), dtype="float32"),
            # Without a bias, whose gradient would be rounding alone: Adam
            # makes steps of the same size of that.
            kb.QuantDense(
                8, bits=2, use_bias=False, name="hidden", dtype=policy
            ),
            layers.BatchNormalization(name="bn", dtype=policy),
            kb.QuantReLU(bits=4, name="relu", dtype=policy),
            kb.QuantDense(4, bits=8, name="logits", dtype="float32"),
        ],
        name="student",
    )


def teacher():
    """Of other widths; its logits are large, as those of trained ones."""
    scale = keras.initializers.RandomNormal(stddev=2.0, seed=1)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, name="hidden"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.Dense(4, name="logits", kernel_initializer=scale),
        ],
        name="teacher",
    )


def compiled(distiller):
    distiller.compile(
        kb.BlendedOptimizer(keras.optimizers.Adam(0.01)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller


def distiller(policy="float32", new_teacher=teacher):
    keras.utils.set_random_seed(0)
    loss = keras.distillation.LogitsDistillation(
        # The string, which is the default, would be of the logits themselves.
        temperature=TEMPERATURE,
        loss=keras.losses.KLDivergence(),
    )
    return compiled(
        keras.distillation.Distiller(
            new_teacher(),
            student(policy),
            loss,
            student_loss_weight=STUDENT_WEIGHT,
        )
    )


def fit(model, first=0, last=2, **kwargs):
    return model.fit(
        *data(),
        batch_size=16,
        shuffle=False,
        initial_epoch=first,
        epochs=last,
        verbose=0,
        **kwargs,
    )


# Written out, and apart from Keras


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def losses(y, logits, logits_of_teacher):
    """Of the student, and of Hinton et al.: T^2 KL(teacher || student)."""
    p = softmax(logits.astype("float64"))
    supervised = -np.mean(np.log(p[np.arange(len(y)), y]))
    p = softmax(logits.astype("float64") / TEMPERATURE)
    q = softmax(logits_of_teacher.astype("float64") / TEMPERATURE)
    divergence = np.mean(np.sum(q * np.log(q / p), -1))
    return supervised, TEMPERATURE**2 * divergence


def test_the_loss_is_that_of_numpy():
    model, (x, y) = distiller(), data()
    found = model.evaluate(x, y, batch_size=48, verbose=0, return_dict=True)
    logits = numpy_of(model.student(x)), numpy_of(model.teacher(x))
    supervised, distilled = losses(y, *logits)
    assert distilled > 0.1
    expected = {
        "student_loss": supervised,
        "distillation_loss": distilled,
        "loss": STUDENT_WEIGHT * supervised + (1 - STUDENT_WEIGHT) * distilled,
        "accuracy": np.mean(logits[0].argmax(-1) == y),
    }
    for name, value in expected.items():
        # Keras adds 1e-7 to each probability.
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_the_student_trains_as_it_does_alone():
    """Its twin gets what the teacher says in its labels."""
    model, (x, y) = distiller(), data()
    alone = student()
    alone.set_weights(model.student.get_weights())
    logits = numpy_of(model.teacher(x))

    def loss(targets, p):
        soft = ops.softmax(targets[:, 1:] / TEMPERATURE)
        divergence = ops.sum(
            soft * (ops.log(soft) - ops.log_softmax(p / TEMPERATURE)),
            axis=-1,
        )
        supervised = ops.sparse_categorical_crossentropy(
            targets[:, 0], p, from_logits=True
        )
        return (
            STUDENT_WEIGHT * supervised
            + (1 - STUDENT_WEIGHT) * TEMPERATURE**2 * divergence
        )

    alone.compile(kb.BlendedOptimizer(keras.optimizers.Adam(0.01)), loss)
    targets = np.column_stack([y, logits]).astype("float32")
    before = values(model.teacher)
    history = fit(model).history
    expected = alone.fit(
        x, targets, batch_size=16, shuffle=False, epochs=2, verbose=0
    ).history
    # Six steps of Adam, with the 1e-7 of Keras in one of the losses.
    tolerance = {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-4)
    for a, b in zip(model.student.weights, alone.weights, strict=True):
        np.testing.assert_allclose(
            numpy_of(a), numpy_of(b), **tolerance, err_msg=a.path
        )
    for name in ("hidden", "logits"):
        y_distilled = kb.shadow(model, model.student.get_layer(name).kernel)
        y_alone = kb.shadow(alone, alone.get_layer(name).kernel)
        np.testing.assert_allclose(
            numpy_of(y_distilled), numpy_of(y_alone), **tolerance
        )
    assert_equal(values(model.teacher), before)


class GridAfterEachStep(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        layer = self.model.student.get_layer("hidden")
        w = numpy_of(layer.kernel)
        assert len(np.unique(np.abs(w[w != 0]))) == 1
        assert numpy_of(layer.kernel.kernel_is_quantized) == 2
        y = numpy_of(kb.shadow(self.model, layer.kernel))
        scale, codes = kb.project(y, bits=2)
        expected = numpy_of(scale) * numpy_of(codes)
        np.testing.assert_allclose(w, expected, rtol=1e-5)


def test_each_step_projects():
    fit(distiller(), last=1, callbacks=[GridAfterEachStep()])


# Callbacks


def test_callbacks_find_the_kernels_of_the_student(tmp_path):
    model = distiller()
    monitor = kb.QuantizationMonitor()
    logger = kb.QuantizationCSVLogger(tmp_path / "codes.csv")
    watch = kb.WarnOnDeadLayers(data()[0])
    fit(model, callbacks=[monitor, logger, watch])
    layer = model.student.get_layer("hidden")
    y = numpy_of(kb.shadow(model, layer.kernel))
    w = numpy_of(layer.kernel)
    expected = np.linalg.norm(y - w) / np.linalg.norm(y)
    np.testing.assert_allclose(
        monitor.latest["distance/student/hidden"], expected, rtol=1e-5
    )
    alpha = float(numpy_of(model.student.get_layer("relu").alpha))
    assert monitor.latest["alpha/student/relu"] == alpha
    with open(tmp_path / "codes.csv", newline="") as file:
        *_, row = csv.DictReader(file)
    assert float(row["alpha/student/relu"]) == alpha
    assert not [tag for tag in monitor.latest if "teacher" in tag]


def test_a_teacher_may_be_quantized_as_well():
    model = distiller(
        new_teacher=lambda: keras.Sequential(
            [keras.Input((6,)), *student().layers], name="teacher"
        )
    )
    before = values(model.teacher)
    monitor = kb.QuantizationMonitor()
    fit(model, callbacks=[monitor])
    assert_equal(values(model.teacher), before)
    assert monitor.latest["changed_codes/teacher/hidden"] == 0
    assert "distance/student/hidden" in monitor.latest


def test_a_dead_layer_of_the_student_is_found():
    model = distiller()
    model.student.get_layer("relu").alpha.assign(0.0)
    with pytest.warns(UserWarning, match="'student/relu': alpha has collapsed"):
        fit(model, last=1, callbacks=[kb.WarnOnDeadLayers()])


# Files


@pytest.mark.parametrize("policy", POLICIES)
def test_training_goes_on_from_a_file(policy, tmp_path):
    """As if it had never stopped, to the last bit; so does the teacher."""
    if policy == "mixed_float16" and keras.backend.backend() != "tensorflow":
        pytest.skip("float16 is for TensorFlow here")
    model = distiller(policy)
    before = values(model.teacher)
    fit(model, last=2)
    model.save(tmp_path / "model.keras")
    fit(model, first=2, last=3)
    # Keras leaves a Distiller uncompiled; `load_weights` also reads the
    # optimizer's state, of an optimizer that has its variables.
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    compiled(loaded)
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.load_weights(tmp_path / "model.keras")
    fit(loaded, first=2, last=3)
    training_helpers.assert_same(model, loaded)
    assert_equal(values(loaded.teacher), before)
    assert not loaded.teacher.trainable


def test_keras_own_backup_goes_on(tmp_path):
    """BackupAndRestore needs a model that is built."""
    whole = distiller()
    fit(whole, last=3)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    model = distiller()
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    model.build((None, 6))
    with pytest.raises(KeyboardInterrupt):
        fit(model, last=3, callbacks=[backup, Stop()])
    again = distiller()
    again.build((None, 6))
    fit(again, last=3, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])
    training_helpers.assert_same(whole, again)


def test_the_student_alone_is_the_plain_model(tmp_path):
    model = distiller()
    fit(model, last=1)
    model.student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    x, _ = data()
    assert_equal(values(loaded), values(model.student))
    assert_equal([numpy_of(loaded(x))], [numpy_of(model(x))])
    if keras.backend.backend() == "tensorflow":
        pytest.importorskip("ai_edge_litert", reason="the export needs it")
        path = tmp_path / "student.tflite"
        report = kb.export_tflite(model.student, path, (0, 1), x)
        assert report.is_exact
        kb.verify_tflite(report.model, path, x)


# What else trains and measures


class Draws(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.arange(16 * index, 16 * index + 16)


def test_on_the_device():
    """The same weights as `fit`, but for sums in another order."""
    expected, model = distiller(), distiller()
    fit(expected)
    history = kb.fit_on_device(
        model,
        data(),
        Draws(),
        lambda arrays, i: tuple(ops.take(a, i, axis=0) for a in arrays),
        steps_per_execution=3,
        epochs=2,
        validation_data=data(),
        verbose=0,
    ).history
    assert {"val_accuracy", "val_distillation_loss"} <= set(history)
    for a, b in zip(values(model), values(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_validation_is_that_of_evaluate():
    model = distiller()
    history = fit(model, validation_data=data()).history
    # In batches of the same size: the losses are means of those of batches.
    found = model.evaluate(*data(), batch_size=16, verbose=0, return_dict=True)
    for name, value in found.items():
        np.testing.assert_allclose(history[f"val_{name}"][-1], value, rtol=1e-5)


def test_batch_norm_of_the_student_alone_is_measured():
    model = distiller()
    model(data()[0])
    before = values(model.teacher)
    kb.reestimate_batch_norm(model, data())
    assert_equal(values(model.teacher), before)
    x = model.student.get_layer("hidden")(data()[0])
    layer = model.student.get_layer("bn")
    np.testing.assert_allclose(
        numpy_of(layer.moving_mean), numpy_of(x).mean(0), rtol=1e-4, atol=1e-6
    )
