"""verify_tflite: what it counts, on files whose answers are known."""

import types

import keras
import numpy as np
import pytest
from tflite_files import add_identity

import keras_bcgd as kb
from keras_bcgd.export import export_tflite
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.writer import TFLiteWriter
from keras_bcgd.utils.files import write_atomically
from keras_bcgd.verification import VerificationReport
from keras_bcgd.verification import verify_tflite
from keras_bcgd.verification import verify_tflite_on_all_kernels


def identity_file(
    path, batch=1, size=3, scale=0.5, zero_point=10, dtype="int8"
):
    """A file that gives its input codes back."""
    writer = TFLiteWriter("identity")
    shape = (batch, 1, 1, size)
    x = writer.add_tensor("x", shape, dtype, scale, zero_point)
    y = writer.add_tensor("y", shape, dtype, scale, zero_point)
    add_identity(writer, x, y)
    write_atomically(path, writer.finish({"x": x}, {"y": y}))
    return path


def model_that_says(outputs):
    """What `verify_tflite` needs of a model: predictions known in advance."""
    outputs = np.float32(outputs).reshape(len(outputs), 1, 1, -1)
    return types.SimpleNamespace(predict=lambda x, **settings: outputs)


def inputs(rows):
    return np.float32(rows).reshape(len(rows), 1, 1, -1)


# Real outputs in steps of 0.5: equal, different, tied (the lower index, as in
# the model), tied (the other one), equal.
FILE_SAYS = [[1, 2, 3], [3, 2, 1], [2, 2, 1], [2, 2, 1], [9, 0, 0]]
MODEL_SAYS = [[1, 2, 3], [1, 2, 3], [3, 2, 1], [1, 3, 2], [9, 0, 0]]


@pytest.mark.parametrize("kernels", KERNELS)
def test_counts(kernels, tmp_path):
    path = identity_file(tmp_path / "m.tflite")
    model = model_that_says(MODEL_SAYS)
    labels = [2, 0, 0, 0, 0]
    report = verify_tflite(model, path, inputs(FILE_SAYS), labels, kernels)
    assert report == VerificationReport(
        path=str(path),
        kernels=kernels,
        output=None,
        samples=5,
        task="classification",
        threshold=None,
        is_task_inferred=True,
        values=15,
        different_values=6,
        larger_differences=6,
        clipped_values=0,
        largest_difference=4.0,
        decisions=5,
        equal=2,
        ties=2,
        equal_ties=1,
        rounding_differences=0,
        inside_differences=3,
        model_accuracy=0.6,
        file_accuracy=1.0,
    )
    assert report.agreement == 0.4 and not report.is_equal


def test_report_reads_as_text(tmp_path):
    path = identity_file(tmp_path / "m.tflite")
    text = str(
        verify_tflite(
            model_that_says(MODEL_SAYS), path, inputs(FILE_SAYS), [2] * 5
        )
    )
    words = " ".join(text.split())
    for part in [
        "m.tflite on xnnpack kernels, 5 samples, task classification (inf",
        "not the nearest code 6",
        "equal decisions 2 (40.00%)",
        "different 1",
        "ties in the file 2",
        "with equal decisions 1",
        "not equal by rounding of the output 0",
        "not equal by differences inside 3",
        "steps of the output 4.00",
        "accuracy in Keras 40.00%",
        "accuracy in the file 20.00%",
    ]:
        assert part in words
    assert words.startswith("NOT equal: 3 of 5 decisions differ inside")


# Outputs of the model in steps of the file, what the file says, and which of
# the two reasons there is for a difference, if any.
REASONS = {
    "equal": ([3, 2, 1], [3, 2, 1], None),
    "rounding makes a tie": ([2, 2.2, 1], [2, 2, 1], "rounding"),
    "the tie has equal predictions": ([2.2, 2, 1], [2, 2, 1], "rounding"),
    "rounding makes a tie of others": ([2.2, 2, 1], [1, 1, 2], "inside"),
    "rounding cannot make this tie": ([3, 2, 1], [3, 3, 1], "inside"),
    "rounding cannot reverse the order": ([3, 2, 1], [2, 3, 1], "inside"),
    "halfway may go down": ([2.5, 2, 1], [2, 2, 1], "rounding"),
    "halfway may go up": ([3, 2.5, 1], [3, 3, 1], "rounding"),
    "both saturate": ([300, 200, 0], [117, 117, 0], "rounding"),
    "below as well": ([-300, -200, -250], [-138] * 3, "rounding"),
}


@pytest.mark.parametrize("name", REASONS)
def test_reasons_of_differences(name, tmp_path):
    """Codes are the steps and 10 more: the largest step is 117."""
    model_steps, file_steps, reason = REASONS[name]
    path = identity_file(tmp_path / "m.tflite")
    model = model_that_says([0.5 * np.float32(model_steps)])
    report = verify_tflite(model, path, inputs([0.5 * np.float32(file_steps)]))
    assert report.equal == (reason is None)
    assert report.rounding_differences == (reason == "rounding")
    assert report.inside_differences == (reason == "inside")
    assert report.is_equal == (reason is None)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    "dtype, zero_point", [("int8", -128), ("uint8", 0), ("uint8", 128)]
)
def test_every_type_of_8_bits(dtype, zero_point, kernels, tmp_path):
    path = tmp_path / "m.tflite"
    identity_file(path, zero_point=zero_point, dtype=dtype)
    limits = np.iinfo(dtype)
    low = 0.5 * (limits.min - zero_point)
    high = 0.5 * (limits.max - zero_point)
    rows = np.float32([[low, low + 0.5, high], [high, low, 0]])
    report = verify_tflite(
        model_that_says(rows), path, inputs(rows), kernels=kernels
    )
    assert report.equal == 2 and report.largest_difference == 0
    codes = TFLiteRunner(path).quantize([low - 9, low, high, high + 9])
    assert codes.dtype == np.dtype(dtype)
    expected = [limits.min, limits.min, limits.max, limits.max]
    np.testing.assert_array_equal(codes, expected)


def test_all_kernels_in_one_table(tmp_path):
    path = identity_file(tmp_path / "m.tflite")
    model, x = model_that_says(MODEL_SAYS), inputs(FILE_SAYS)
    report = verify_tflite_on_all_kernels(model, path, x, [2] * 5)
    assert report.reports == [
        verify_tflite(model, path, x, [2] * 5, kernels) for kernels in KERNELS
    ]
    assert report.agreement == 0.4
    rows = [line.split() for line in str(report).splitlines()]
    assert list(KERNELS) in rows
    assert ["equal", "decisions", *["2", "(40.00%)"] * 3] in rows
    assert ["accuracy", "in", "Keras", *["40.00%"] * 3] in rows


def shifted_model(offset):
    """The identity, in a layer "y", but for the first of three outputs."""
    shift = keras.layers.Rescaling(1.0, [offset, 0.0, 0.0], name="y")
    return keras.Sequential([keras.Input((1, 1, 3)), shift])


@pytest.mark.parametrize(
    "kernels, offset, trace, traced, found",
    [
        ("builtin", 50.0, None, "builtin", True),
        ("reference", 50.0, None, "reference", True),
        ("xnnpack", 50.0, None, "builtin", True),  # shows no tensors itself
        ("xnnpack", 50.0, True, "builtin", True),
        ("builtin", 50.0, False, None, False),
        ("builtin", 0.0, None, None, False),  # nothing to explain
        ("builtin", 0.0, True, "builtin", False),
        ("builtin", 0.5, None, "builtin", True),  # the predictions are equal
    ],
)
def test_trace(kernels, offset, trace, traced, found, tmp_path):
    path = identity_file(tmp_path / "m.tflite")
    x = inputs([[0, 1, 7], [0, 4, 9], [3, 0, 0]])
    report = verify_tflite(
        shifted_model(offset), path, x, kernels=kernels, trace=trace
    )
    assert report.traced == traced
    assert (report.first_divergence is not None) == found
    assert ("first divergence" in str(report)) == (traced is not None)
    if found:
        assert "'y', 3 of 9 codes" in str(report)


def test_trace_begins_with_samples_that_differ(tmp_path):
    path = identity_file(tmp_path / "m.tflite")
    # At the end of the range nothing is shifted.
    x = inputs([[58.5, 0, 0]] * 20 + [[0, 1, 2]])
    model = shifted_model(3.0)
    found = verify_tflite(
        model, path, x, kernels="builtin", trace_samples=1
    ).first_divergence
    assert (found.samples, found.codes, found.different) == (1, 3, 1)
    assert found.largest_difference == 6


@pytest.mark.parametrize(
    "task, is_equal", [(None, True), ("regression", False)]
)
def test_clipped_values_are_counted(task, is_equal, tmp_path):
    """The smallest and largest real output of the file: -69 and 58.5."""
    path = identity_file(tmp_path / "m.tflite")
    x = inputs([[-500, 0, 500]])
    report = verify_tflite(
        model_that_says([[-500, 0, 500]]), path, x, task=task
    )
    assert report.different_values == 0 and report.clipped_values == 2
    assert report.largest_difference == 2 * (500 - 58.5)
    assert report.is_equal == is_equal
    assert ("outside of the file's range" in str(report)) != is_equal


@pytest.mark.parametrize("batch", [1, 3, 4, 8])
def test_last_batch_is_filled_up(batch, tmp_path):
    path = identity_file(tmp_path / "m.tflite", batch)
    codes = np.arange(21, dtype=np.int8).reshape(7, 1, 1, 3)
    outputs = TFLiteRunner(path).run(codes)
    np.testing.assert_array_equal(outputs, codes)


def test_inputs_are_quantized_to_the_nearest_code(tmp_path):
    runner = TFLiteRunner(identity_file(tmp_path / "m.tflite"))
    x = [-1e9, -0.5, 0, 0.2, 0.3, 1.0, 1e9]
    codes = runner.quantize(x)
    np.testing.assert_array_equal(codes, [-128, 9, 10, 10, 11, 12, 127])
    assert codes.dtype == np.int8


def test_inputs_halfway_between_codes_move_together(tmp_path):
    path = identity_file(tmp_path / "m.tflite", scale=0.1, zero_point=0)
    runner = TFLiteRunner(path)
    x = np.float32((np.arange(-100, 100) + 0.5) * 0.1)
    assert np.all(np.diff(runner.quantize(x)) == 1)


@pytest.mark.parametrize("form", ["integers", "column", "one-hot"])
def test_labels(form, tmp_path):
    path = identity_file(tmp_path / "m.tflite")
    labels = {
        "integers": [2, 2],
        "column": [[2], [2]],
        "one-hot": [[0, 0, 1], [0, 0, 1]],
    }[form]
    rows = [[1, 2, 3], [3, 2, 1]]
    report = verify_tflite(model_that_says(rows), path, inputs(rows), labels)
    assert report.file_accuracy == report.model_accuracy == 0.5


def test_progress_bar_is_optional(tmp_path, capsys):
    path = identity_file(tmp_path / "m.tflite")
    model = model_that_says(MODEL_SAYS)
    verify_tflite(model, path, inputs(FILE_SAYS))
    verify_tflite(model, path, inputs(FILE_SAYS), verbose=0)
    assert capsys.readouterr().out == ""
    verify_tflite(model, path, inputs(FILE_SAYS), verbose=1)
    assert "5/5" in capsys.readouterr().out


@pytest.mark.parametrize("kernels", KERNELS)
def test_tensors_inside_can_be_read(kernels, tmp_path):
    path = identity_file(tmp_path / "m.tflite")
    runner = TFLiteRunner(path, kernels, keep_tensors=True)
    codes = runner.run(np.ones((1, 1, 1, 3), np.int8))
    np.testing.assert_array_equal(runner.tensor("y"), codes)


def test_real_model(tmp_path):
    model = keras.Sequential(
        [keras.Input((16,)), kb.QuantReLU(4), kb.QuantDense(5, bits=8)]
    )
    x = np.random.default_rng(0).integers(0, 256, (100, 16)) / 255
    path = tmp_path / "m.tflite"
    model = export_tflite(model, path, (0, 1), x).model
    report = verify_tflite(model, path, x)
    assert report.agreement == 1 and report.model_accuracy is None


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kernels": "gpu"}, "builtin, reference, micro. Received: kernels="),
        ({"x": np.zeros((2, 3))}, r"\(samples, 1, 1, 3\)"),
        ({"x": np.zeros((0, 1, 1, 3))}, "at least one sample"),
        ({"y": [1]}, "1 labels for 5 samples"),
        ({"y": 1}, "one label for each sample"),
        ({"trace": "yes"}, "`trace` must be True, False or None"),
        ({"trace_samples": 0}, "`trace_samples` must be an integer above 0"),
        ({"model": model_that_says(np.zeros((5, 4)))}, "the same shape"),
    ],
)
def test_bad_arguments_are_refused(settings, message, tmp_path):
    settings = {
        "model": model_that_says(MODEL_SAYS),
        "path": identity_file(tmp_path / "m.tflite"),
        "x": inputs(FILE_SAYS),
        **settings,
    }
    with pytest.raises(ValueError, match=message):
        verify_tflite(**settings)


@pytest.mark.parametrize("contents", [None, b"", b"not a model at all"])
def test_files_that_cannot_be_read_are_named(contents, tmp_path):
    path = tmp_path / "m.tflite"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(
        ValueError, match="TFLite file .*Received: path=.*m.tfl"
    ):
        verify_tflite(model_that_says(MODEL_SAYS), path, inputs(FILE_SAYS))


def test_float_files_are_refused(tmp_path):
    writer = TFLiteWriter("float")
    x = writer.add_tensor("x", (1, 3), "float32", 1.0)
    y = writer.add_tensor("y", (1, 3), "float32", 1.0)
    writer.add_operator("SOFTMAX", [x], [y], "SoftmaxOptions", beta=1.0)
    path = tmp_path / "m.tflite"
    write_atomically(path, writer.finish({"x": x}, {"y": y}))
    with pytest.raises(ValueError, match="an integer input and output"):
        TFLiteRunner(path)
