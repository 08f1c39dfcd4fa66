"""What verify_tflite makes of each kind of output, against plain NumPy."""

import keras
import numpy as np
import pytest
from test_verify import identity_file
from test_verify import model_that_says

import keras_bcgd as kb
from keras_bcgd.tflite.writer import TFLiteWriter
from keras_bcgd.utils.files import write_atomically

layers = keras.layers

# Of `identity_file`: real = 0.5 * (code - 10).
SCALE, ZERO_POINT = 0.5, 10


def file_and_model(tmp_path, shape, seed=0, spread=8.0):
    """A file that answers x, and a model near it: `(path, model, x)`."""
    writer = TFLiteWriter("identity")
    of = {}
    for name in ("x", "y"):
        of[name] = writer.add_tensor(
            name, (4, *shape[1:]), "int8", SCALE, ZERO_POINT
        )
    writer.add_operator(
        "RESHAPE",
        [
            of["x"],
            writer.add_constant("shape", np.int32((4, *shape[1:])), "int32"),
        ],
        [of["y"]],
        "ReshapeOptions",
        newShape=[4, *shape[1:]],
    )
    path = tmp_path / "m.tflite"
    contents = writer.finish({"x": of["x"]}, {"y": of["y"]})
    write_atomically(path, contents)
    rng = np.random.default_rng(seed)
    codes = np.round(rng.normal(size=shape) * spread)
    # Within half a step, but for one value in ten.
    off = rng.uniform(-0.4, 0.4, shape)
    off = np.where(rng.uniform(size=shape) < 0.1, 3 * np.sign(off), off)
    expected = np.float32(SCALE * (codes + off))

    class Model:
        """Answers what belongs to each input, batch after batch."""

        start = 0

        def predict(self, x, **settings):
            part = expected[self.start : self.start + len(x)]
            self.start = (self.start + len(x)) % len(expected)
            return part

    return path, Model(), np.float32(SCALE * codes), expected, np.abs(off) > 1


def verify(path, model, x, *args, **settings):
    return kb.verify_tflite(model, path, x, *args, **settings)


@pytest.mark.parametrize("shape", [(50, 5), (30, 3, 4, 5)])
def test_classes_and_maps_of_them(shape, tmp_path):
    path, model, x, expected, different = file_and_model(tmp_path, shape)
    labels = np.random.default_rng(1).integers(0, 5, shape[:-1])
    report = verify(path, model, x, labels, batch_size=7)
    assert report.task == "classification" and report.is_task_inferred
    ours, files = expected.argmax(-1), x.argmax(-1)
    tie = (x == x.max(-1, keepdims=True)).sum(-1) > 1
    assert report.samples == shape[0] and report.decisions == ours.size
    assert report.values == x.size
    assert report.different_values == different.sum() > 0
    assert report.equal == np.sum((ours == files) & ~tie)
    assert report.ties == tie.sum()
    assert report.equal_ties == np.sum((ours == files) & tie)
    inside = ((ours != files) | tie) & different.any(-1)
    assert report.inside_differences == inside.sum()
    assert report.model_accuracy == pytest.approx(np.mean(ours == labels))
    assert report.file_accuracy == pytest.approx(np.mean(files == labels))
    for form in (labels[..., None], np.eye(5)[labels]):
        again = verify(path, model, x, form)
        assert again.model_accuracy == report.model_accuracy


@pytest.mark.parametrize("threshold", [None, 0.5, -1.25])
@pytest.mark.parametrize(
    "task, shape", [("binary", (300, 1)), ("multilabel", (100, 4))]
)
def test_signs_and_thresholds(task, shape, threshold, tmp_path):
    path, model, x, expected, different = file_and_model(tmp_path, shape)
    labels = np.random.default_rng(1).integers(0, 2, shape)
    report = verify(path, model, x, labels, threshold=threshold)
    assert report.task == task and report.is_task_inferred
    at = threshold or 0.0
    ours, files, tie = expected > at, x > at, x == at
    assert report.threshold == at and report.decisions == x.size
    assert report.equal == np.sum((ours == files) & ~tie)
    assert report.ties == tie.sum() and (tie.sum() > 0) == (threshold != -1.25)
    inside = ((ours != files) | tie) & different
    assert report.inside_differences == inside.sum() > 0
    assert report.model_accuracy == pytest.approx(np.mean(ours == labels))
    assert report.file_accuracy == pytest.approx(np.mean(files == labels))


def test_regression(tmp_path):
    path, model, x, expected, different = file_and_model(tmp_path, (80, 3))
    labels = np.random.default_rng(1).normal(size=(80, 3))
    report = verify(path, model, x, labels)
    assert report.task == "regression" and report.decisions == 0
    assert report.different_values == different.sum()
    assert report.agreement == pytest.approx(1 - different.mean())
    error = np.mean(np.abs(expected - labels))
    assert report.model_error == pytest.approx(error)
    assert report.file_error == pytest.approx(np.mean(np.abs(x - labels)))
    assert report.model_accuracy is None
    assert "mean absolute error in Keras" in str(report)


# Output shape, labels, activation at the end: the task.
INFERRED = [
    ((1,), None, None, "regression"),
    ((1,), [[0], [1]], None, "binary"),
    ((1,), [0.0, 1.0], None, "binary"),
    ((1,), [0.5, 2.0], None, "regression"),
    ((1,), None, "sigmoid", "binary"),
    ((4, 4, 1), np.ones((2, 4, 4)), None, "binary"),
    ((3,), None, None, "classification"),
    ((3,), [0, 2], None, "classification"),
    ((3,), [[0, 0, 1], [1, 0, 0]], None, "classification"),
    ((3,), [[0.2, 0.3, 0.5], [1, 0, 0]], None, "classification"),
    ((3,), [[0, 1, 1], [1, 0, 0]], None, "multilabel"),
    ((3,), None, "sigmoid", "multilabel"),
    ((3,), [[0.5, 3, -1], [1, 0, 0]], None, "regression"),
    ((3,), None, "softmax", "classification"),
]


@pytest.mark.parametrize("shape, labels, activation, task", INFERRED)
def test_inference(shape, labels, activation, task):
    from keras_bcgd.verification import tasks

    model = keras.Sequential(
        [keras.Input(shape), layers.Activation(activation or "linear")]
    )
    labels = None if labels is None else np.array(labels)
    found = tasks.choose(
        None, None, shape, labels, tasks.final_activation(model, 0)
    )
    assert found.name == task and found.is_inferred
    assert found.threshold == (0.5 if activation == "sigmoid" else 0.0)


@pytest.mark.parametrize(
    "shape, settings, message",
    [
        ((8, 3), {"task": "ranking"}, "`task` must be one of classification"),
        ((8, 3), {"task": "binary"}, "one. Received: task='binary'"),
        ((8, 1), {"task": "classification"}, "needs two outputs or more"),
        ((8, 3), {"y": np.zeros((8, 2))}, r"\(samples\) or \(samples, 1\) or"),
        ((8, 3), {"y": np.full(8, 3)}, "integers from 0 to 2"),
        ((8, 2, 2, 3), {"y": np.zeros(8)}, r"\(samples, 2, 2\) or"),
        ((8, 1), {"y": np.zeros((8, 4)), "task": "binary"}, r"\(samples\) or"),
        ((8, 1), {"y": np.full(8, 2.0), "task": "binary"}, "must hold 0 and 1"),
        ((8, 3), {"y": np.zeros(8), "task": "multilabel"}, r"\(samples, 3\)"),
    ],
)
def test_wrong_tasks_and_labels_are_refused(shape, settings, message, tmp_path):
    path, model, x, *_ = file_and_model(tmp_path, shape)
    with pytest.raises(ValueError, match=message):
        verify(path, model, x, **settings)


# The faults that the argmax of flattened outputs did not see.


def test_negated_binary_classifier_is_noticed(tmp_path):
    model = keras.Sequential([keras.Input((8,)), kb.QuantDense(1, bits=8)])
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (200, 8)) / 255
    path = tmp_path / "m.tflite"
    model = kb.export_tflite(model, path, (0, 1), x).model
    labels = model.predict(x, verbose=0)[:, 0] > 0
    fine = kb.verify_tflite(model, path, x, labels)
    assert fine.is_equal and fine.task == "binary"
    assert fine.file_accuracy == 1.0

    model.layers[0].kernel.assign(-np.array(model.layers[0].kernel))
    report = kb.verify_tflite(model, path, x, labels)
    assert report.equal == 0 and report.inside_differences == 200
    assert report.different_values == 200
    assert (report.model_accuracy, report.file_accuracy) == (0.0, 1.0)
    assert str(report).startswith("NOT equal: 200 of 200 decisions differ ins")


def test_clipped_regression_is_noticed(tmp_path):
    """(5x, 5x, -5x), with the scale that a classification asks for."""
    model = keras.Sequential(
        [keras.Input((1,)), kb.QuantDense(3, bits=8, use_bias=False)]
    )
    model.layers[0].kernel.assign([[5.0, 5.0, -5.0]])
    x = np.arange(256)[:, None] / 255
    path = tmp_path / "m.tflite"
    settings = {"output_type": "int8"}
    kb.export_tflite(model, path, (0, 1), x, **settings)
    report = kb.verify_tflite(model, path, x, task="regression")
    assert report.is_equal and report.largest_difference < 0.6

    kb.export_tflite(model, path, (0, 1), x, task="classification", **settings)
    report = kb.verify_tflite(model, path, x, task="regression")
    assert not report.is_equal
    assert report.clipped_values > 200 and report.largest_difference > 100
    assert "outside of the file's range" in report.verdict


def test_map_has_the_accuracy_of_its_pixels(tmp_path):
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), kb.QuantConv2D(2, 3, bits=4, padding="same")]
    )
    x = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3)) / 255
    path = tmp_path / "m.tflite"
    model = kb.export_tflite(model, path, (0, 1), x).model
    labels = model.predict(x, verbose=0).argmax(-1)
    report = kb.verify_tflite(model, path, x, labels)
    assert report.model_accuracy == 1.0 and report.decisions == 50 * 16
    assert report.file_accuracy >= 0.999


# Data in other forms than arrays.


def dataset(x, y, batch):
    return [
        (x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)
    ]


@pytest.mark.parametrize("form", ["batches", "tf.data", "TFLite", "with y"])
def test_forms_of_data(form, tmp_path):
    path, model, x, *_ = file_and_model(tmp_path, (50, 5))
    labels = np.random.default_rng(1).integers(0, 5, 50)
    expected = verify(path, model, x, labels)
    if form == "tf.data":
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((x, labels)).batch(8)
        found = verify(path, model, data)
    elif form == "batches":
        found = verify(path, model, iter(dataset(x, labels, 8)))
    elif form == "with y":
        with pytest.raises(ValueError, match="a dataset has the labels itself"):
            verify(path, model, iter(dataset(x, labels, 8)), labels)
        return
    else:
        found = verify(path, model, lambda: ([row[None]] for row in x))
        assert found.model_accuracy is None
        found.model_accuracy = expected.model_accuracy
        found.file_accuracy = expected.file_accuracy
    assert found == expected


def two_outputs(path, names=("a", "b")):
    """A file that gives its input as it is, and as a column."""
    writer = TFLiteWriter("two")
    x = writer.add_tensor("x", (1, 1, 1, 3), "int8", SCALE, ZERO_POINT)
    outputs = {}
    for name, shape in zip(names, [(1, 3), (1, 3, 1)], strict=True):
        y = writer.add_tensor(name, shape, "int8", SCALE, ZERO_POINT)
        size = writer.add_constant(f"{name}/s", np.int32(shape), "int32")
        writer.add_operator(
            "RESHAPE", [x, size], [y], "ReshapeOptions", newShape=list(shape)
        )
        outputs[name] = y
    contents = writer.finish({"x": x}, outputs)
    write_atomically(path, contents)
    return path


@pytest.mark.parametrize("swapped", [False, True])
def test_each_of_several_outputs_is_reported(swapped, tmp_path):
    """By the names of the model's outputs, whatever their order."""
    path = two_outputs(tmp_path / "m.tflite")
    x = inputs = keras.Input((1, 1, 3))
    a = layers.Flatten(name="a")(x)
    b = layers.Reshape((3, 1), name="b")(layers.Rescaling(2.0)(x))
    model = keras.Model(inputs, [b, a] if swapped else [a, b])
    data = np.float32([[[[1, 2, 3]]], [[[3, 2, 1]]], [[[5, 0, 2]]]])
    report = kb.verify_tflite(model, path, data)
    assert [one.output for one in report.reports] == ["a", "b"]
    first, second = report.reports
    assert first.is_equal and not second.is_equal
    assert first.task == "classification" and second.task == "regression"
    assert second.different_values == 8  # all but the zero
    assert report.agreement == second.agreement < 1 and not report.is_equal
    assert "xnnpack/b: NOT equal: 8 of 9 values" in str(report)


def test_as_many_outputs_as_the_model(tmp_path):
    path = two_outputs(tmp_path / "m.tflite")
    model = model_that_says([[1, 2, 3]])
    with pytest.raises(ValueError, match="as many outputs. Received: 1 and 2"):
        kb.verify_tflite(model, path, np.zeros((1, 1, 1, 3)))


def test_tolerance_is_tight(tmp_path):
    """A value is wrong once its code is .51 steps away."""
    path = identity_file(tmp_path / "m.tflite")
    for off, wrong in ((0.49, 0), (0.56, 1)):
        model = model_that_says([[0.5 * (4 + off), 0, 0]])
        x = np.float32([[[[2.0, 0, 0]]]])
        report = kb.verify_tflite(model, path, x)
        assert report.different_values == wrong
