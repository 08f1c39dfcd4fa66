"""benchmark_tflite: what it reports and in which order it calls, no timings."""

import numpy as np
import pytest

from keras_bcgd.tflite import latency
from keras_bcgd.tflite import reader
from keras_bcgd.tflite import single_operators
from keras_bcgd.tflite.latency import benchmark_tflite
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import load_interpreter
from keras_bcgd.tflite.writer import TFLiteWriter


def small_file(path):
    """A convolution, a reshape and a dense, with random weights."""
    rng = np.random.default_rng(0)
    writer = TFLiteWriter("small")
    x = writer.add_tensor("x", (1, 4, 4, 2), "int8", 0.5, 3)
    kernel = rng.integers(-7, 8, (3, 3, 3, 2))
    w = writer.add_constant("w", kernel, "int8", [0.1, 0.2, 0.3])
    bias = rng.integers(-50, 50, 3)
    b = writer.add_constant("b", bias, "int32", [0.05, 0.1, 0.15])
    y = writer.add_tensor("conv", (1, 2, 2, 3), "int8", 1.5, -10)
    writer.add_operator(
        "CONV_2D",
        [x, w, b],
        [y],
        "Conv2DOptions",
        padding="valid",
        strideH=1,
        strideW=1,
        dilationHFactor=1,
        dilationWFactor=1,
    )
    shape = writer.add_constant("shape", np.int32([1, 12]), "int32")
    flat = writer.add_tensor("flat", (1, 12), "int8", 1.5, -10)
    writer.add_operator("RESHAPE", [y, shape], [flat])
    matrix = rng.integers(-127, 128, (5, 12))
    m = writer.add_constant("m", matrix, "int8", [0.4])
    z = writer.add_tensor("dense", (1, 5), "int8", 20.0, 7)
    writer.add_operator(
        "FULLY_CONNECTED", [flat, m, -1], [z], "FullyConnectedOptions"
    )
    path.write_bytes(writer.finish({"x": x}, {"z": z}))
    return path


@pytest.fixture
def path(tmp_path):
    return small_file(tmp_path / "small.tflite")


def run(source, kernels, values):
    """`{output name: values}` of a file with one input."""
    interpreter = load_interpreter(source, kernels, keep_tensors=True)
    (details,) = interpreter.get_input_details()
    interpreter.set_tensor(details["index"], values)
    interpreter.invoke()
    return {
        details["name"]: interpreter.get_tensor(details["index"])
        for details in interpreter.get_tensor_details()
    }


@pytest.mark.parametrize("kernels", ["builtin", "reference"])
def test_operators_on_their_own_compute_the_same(kernels, path):
    rng = np.random.default_rng(1)
    x = rng.integers(-128, 128, (1, 4, 4, 2), np.int8)
    whole = run(path, kernels, x)
    assert len(np.unique(whole["dense"])) > 1
    file = reader.read_tflite(path)
    for operator, given in zip(
        file.operators, ["x", "conv", "flat"], strict=True
    ):
        name = operator.outputs[0].name
        contents, indices = single_operators.single_operator_file(
            file, operator
        )
        assert len(indices) == 1
        single = run(contents, kernels, whole[given])
        np.testing.assert_array_equal(single[name], whole[name], name)


def test_contents_of_single_operators_are_aligned(path):
    """At multiples of 16 bytes, as the format demands."""
    file = reader.read_tflite(path)
    contents, _ = single_operators.single_operator_file(file, file.operators[0])
    for tensor in file.operators[0].inputs[1:]:
        stored = tensor.data.tobytes()
        assert contents.count(stored) == 1
        assert contents.index(stored) % 16 == 0


@pytest.mark.parametrize("kernels", KERNELS)
def test_report_of_one_file(kernels, path):
    report = benchmark_tflite(path, runs=4, kernels=kernels, per_op=True)
    assert (report.kernels, report.threads, report.runs) == (kernels, 1, 4)
    (file,) = report.files
    assert file.path == str(path) and file.ratio == 1
    assert 0 < file.latency.lower_quartile <= file.latency.median
    assert file.latency.median <= file.latency.upper_quartile
    assert [(op.name, op.output_name) for op in file.operators] == [
        ("CONV_2D", "conv"),
        ("RESHAPE", "flat"),
        ("FULLY_CONNECTED", "dense"),
    ]
    assert all(operator.latency.median > 0 for operator in file.operators)


def test_report_is_a_table(path, tmp_path):
    other = small_file(tmp_path / "other.tflite")
    text = str(benchmark_tflite([path, other], runs=3, per_op=True))
    assert text.startswith("xnnpack kernels, 1 thread, 3 rounds; milliseconds")
    assert f"{other}: operators one by one" in text
    assert text.count("FULLY_CONNECTED  dense") == 2
    plain = str(benchmark_tflite([path], runs=1, threads=2))
    assert "2 threads, 1 round;" in plain and "operators" not in plain


def test_files_take_turns():
    """Every round, an untimed and a timed call of each file."""
    calls = []
    progress = type("Progress", (), {"add": lambda self, count: None})()
    times = latency._time(
        [lambda: calls.append("a"), lambda: calls.append("b")],
        3,
        progress,
        warm_caches=True,
    )
    assert "".join(calls[2 * latency._WARM_UP :]) == 3 * "aabb"
    assert times.shape == (2, 3) and np.all(times > 0)


def test_statistics_against_numpy(path, monkeypatch):
    """A clock that says how long each call took: 1, 2, 3, ... and twice."""
    ticks = [0]
    durations = iter(np.repeat(np.arange(1, 6), 2) * np.tile([1, 2], 5))

    def clock():
        if len(ticks) % 2:
            ticks.append(ticks[-1])
        else:
            ticks.append(ticks[-1] + int(next(durations)) * 1_000_000)
        return ticks[-1]

    monkeypatch.setattr(latency.time, "perf_counter_ns", clock)
    first, second = benchmark_tflite([path, path], runs=5).files
    assert first.latency == latency.Latency(3.0, 2.0, 4.0)
    assert second.latency == latency.Latency(6.0, 4.0, 8.0)
    assert (first.ratio, second.ratio) == (1.0, 2.0)


def test_an_operator_that_cannot_run_alone_has_no_time(path, monkeypatch):
    original = single_operators.single_operator_file

    def without_reshape(file, operator):
        if operator.name == "RESHAPE":
            return b"no file", []
        return original(file, operator)

    monkeypatch.setattr(
        single_operators, "single_operator_file", without_reshape
    )
    report = benchmark_tflite(path, runs=2, per_op=True)
    found = [op.latency is None for op in report.files[0].operators]
    assert found == [False, True, False]
    rows = [line.split() for line in str(report).splitlines()]
    assert ["RESHAPE", "flat", "-", "-", "-"] in rows


def test_progress_bar_is_optional(path, capsys):
    benchmark_tflite(path, runs=2)
    assert capsys.readouterr().out == ""
    benchmark_tflite(path, runs=2, per_op=True, verbose=1)
    assert "4/4" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"threads": 0}, "`threads` must be an integer above 0"),
        (
            {"runs": 1.5},
            "`runs` must be an integer above 0. Received: runs=1.5",
        ),
        ({"kernels": "gpu"}, "xnnpack, builtin, reference. Received: kernels="),
        # What it takes on this machine says nothing about a microcontroller.
        ({"kernels": "micro"}, "builtin, reference. Received: kernels="),
        ({"paths": []}, "`paths` must have a file"),
    ],
)
def test_bad_arguments_are_refused(settings, message, path):
    with pytest.raises(ValueError, match=message):
        benchmark_tflite(**{"paths": path, **settings})


def test_damaged_files_are_refused(path):
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="damaged one: path=.*small.tflite"):
        benchmark_tflite(path)
