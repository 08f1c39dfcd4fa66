"""Files on TensorFlow Lite Micro, and compressed ones that need it."""

import sys

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd import cli
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.writer import TFLiteWriter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, its files with and without tables, and data."""
    folder = tmp_path_factory.mktemp("micro")
    keras.utils.set_random_seed(0)
    parts = [kb.QuantDense(40, bits=2), kb.QuantReLU(4)]
    model = keras.Sequential(
        [keras.Input((40,)), *parts, kb.QuantDense(5, bits=8)]
    )
    x = np.random.default_rng(0).integers(0, 256, (30, 40)) / 255
    for kind in ("int8", "lut"):
        report = kb.export_tflite(
            model, folder / f"{kind}.tflite", (0, 1), x, weight_format=kind
        )
        report.model.save(folder / f"{kind}.keras")
    np.save(folder / "x.npy", x)
    return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture
def tflm():
    reason = "TensorFlow Lite Micro runs the file"
    return pytest.importorskip("tflite_micro", reason=reason)


def model_and_data(kind):
    return keras.saving.load_model(f"{kind}.keras"), np.load("x.npy")


@pytest.mark.parametrize("kind", ["int8", "lut"])
def test_file_is_equal_to_its_model(kind, tflm):
    model, x = model_and_data(kind)
    report = kb.verify_tflite(
        model, f"{kind}.tflite", x, kernels="micro", trace=True
    )
    assert report.is_equal and report.samples == 30
    assert (report.kernels, report.traced) == ("micro", "micro")


def test_other_weights_are_found(tflm):
    model, x = model_and_data("lut")
    model.layers[0].kernel.assign(-np.array(model.layers[0].kernel))
    report = kb.verify_tflite(model, "lut.tflite", x, kernels="micro")
    assert report.different_values > 0
    assert report.first_divergence.name == model.layers[1].name


@pytest.mark.parametrize(
    "settings, expected",
    [({}, [*KERNELS]), ({"micro": True}, [*KERNELS, "micro"])],
)
def test_all_kernels(settings, expected, tflm):
    model, x = model_and_data("int8")
    report = kb.verify_tflite_on_all_kernels(
        model, "int8.tflite", x, **settings
    )
    assert [one.kernels for one in report.reports] == expected
    assert report.is_equal


REASON = (
    "its weights are compressed for TensorFlow Lite Micro, which LiteRT cannot "
    'run: give `verify_tflite` `kernels="micro"`, or export with another '
    "`weight_format`. Received: path='lut.tflite'"
)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("function", ["verify", "benchmark"])
def test_litert_cannot_run_compressed_weights(function, kernels):
    model, x = model_and_data("lut")
    calls = {
        "verify": lambda: kb.verify_tflite(
            model, "lut.tflite", x, None, kernels
        ),
        "benchmark": lambda: kb.benchmark_tflite("lut.tflite", kernels=kernels),
    }
    with pytest.raises(ValueError) as raised:
        calls[function]()
    assert str(raised.value).endswith(REASON)


def test_what_else_is_wrong_is_said_by_the_runtime(tmp_path):
    """Of a file that LiteRT cannot load for another reason."""
    writer = TFLiteWriter("unknown")
    x, y = (writer.add_tensor(name, (1, 4), "int8", 1.0) for name in "xy")
    writer.add_operator("SOMETHING", [x], [y])
    (tmp_path / "m.tflite").write_bytes(writer.finish({"x": x}, {"y": y}))
    with pytest.raises(ValueError, match="SOMETHING"):
        kb.benchmark_tflite(tmp_path / "m.tflite")


@pytest.mark.parametrize(
    "line",
    [
        "verify lut.keras lut.tflite --data x.npy",
        "verify lut.keras lut.tflite --data x.npy --kernels all",
        "benchmark lut.tflite",
    ],
)
def test_command_says_it_in_one_line(line, capsys):
    assert cli.main(line.split()) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.endswith(f"{REASON}\n") and err.count("\n") == 1


@pytest.mark.parametrize(
    "kind, kernels, columns",
    [
        ("lut", "micro", "micro"),
        ("int8", "all --micro", "xnnpack builtin reference micro"),
    ],
)
def test_command_runs_it(kind, kernels, columns, tflm, capsys):
    line = f"verify {kind}.keras {kind}.tflite --data x.npy --kernels {kernels}"
    assert cli.main([*line.split(), "--at_least", "1"]) == 0
    out, _ = capsys.readouterr()
    assert columns in " ".join(out.split())


@pytest.mark.parametrize("command", ["export", "align"])
def test_commands_take_the_format(command, tmp_path, capsys):
    written = tmp_path / {"export": "m.tflite", "align": "m.keras"}[command]
    line = f"{command} int8.keras {written} --input_range 0 1 --data x.npy"
    assert cli.main([*line.split(), "--weight_format", "lut"]) == 0
    assert written.exists()
    if command == "export":
        assert kb.inspect_tflite(written).decoders > 0


def test_without_tflite_micro(monkeypatch):
    model, x = model_and_data("int8")
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ImportError, match=r"pip install keras-bcgd\[micro\]"):
        kb.verify_tflite(model, "int8.tflite", x, kernels="micro")
    with pytest.raises(ImportError, match=r"pip install keras-bcgd\[micro\]"):
        kb.verify_tflite_on_all_kernels(model, "int8.tflite", x, micro=True)
