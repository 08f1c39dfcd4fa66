"""inspect_tflite on files whose contents are known, and on TensorFlow's."""

import gzip

import keras
import numpy as np
import pytest

from keras_bcgd import layers
from keras_bcgd.export import export_tflite
from keras_bcgd.tflite import metadata
from keras_bcgd.tflite import reader
from keras_bcgd.tflite import runtime_needs
from keras_bcgd.tflite.inspection import inspect_tflite
from keras_bcgd.tflite.writer import _VERSIONS
from keras_bcgd.tflite.writer import TFLiteWriter

CONV = {"padding": "valid", "strideH": 1, "strideW": 1}


def entropy_bytes(values):
    _, counts = np.unique(values, return_counts=True)
    p = counts / counts.sum()
    return -np.sum(p * np.log2(p)) * np.size(values) / 8


@pytest.fixture
def two_layers(tmp_path):
    """A convolution in int4 with an odd number of weights, then a dense."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(-7, 8, (3, 1, 1, 1))
    matrix = rng.integers(-127, 128, (5, 12))
    writer = TFLiteWriter("two layers")
    x = writer.add_tensor("x", (1, 2, 2, 1), "int8", 0.5, 3)
    w = writer.add_constant("w", kernel, "int4", [0.1, 0.2, 0.3])
    b = writer.add_constant("b", np.zeros(3), "int32", [0.05, 0.1, 0.15])
    y = writer.add_tensor("y", (1, 2, 2, 3), "int8", 0.25, -128)
    writer.add_operator("CONV_2D", [x, w, b], [y], "Conv2DOptions", **CONV)
    shape = writer.add_constant("shape", np.int32([1, 12]), "int32")
    flat = writer.add_tensor("flat", (1, 12), "int8", 0.25, -128)
    writer.add_operator("RESHAPE", [y, shape], [flat])
    m = writer.add_constant("m", matrix, "int8", [0.4])
    c = writer.add_constant("c", np.zeros(5), "int32", [0.1])
    z = writer.add_tensor("z", (1, 5), "int8", 0.125, 7)
    writer.add_operator(
        "FULLY_CONNECTED", [flat, m, c], [z], "FullyConnectedOptions"
    )
    path = tmp_path / "m.tflite"
    path.write_bytes(writer.finish({"x": x}, {"z": z}))
    return path, kernel, matrix


def test_operators(two_layers):
    path, kernel, matrix = two_layers
    conv, reshape, dense = inspect_tflite(path).operators
    assert [conv.name, reshape.name, dense.name] == [
        "CONV_2D",
        "RESHAPE",
        "FULLY_CONNECTED",
    ]
    assert [conv.version, reshape.version, dense.version] == [7, 1, 4]
    assert conv.inputs == ["int8 1x2x2x1"] and conv.outputs == ["int8 1x2x2x3"]
    assert (conv.output_name, conv.scale, conv.zero_point) == ("y", 0.25, -128)
    assert (conv.weight_dtype, conv.weight_shape) == ("int4", "3x1x1x1")
    np.testing.assert_allclose(conv.weight_scale, (0.1, 0.3), 1e-6)
    assert (conv.weight_bytes, conv.bias_bytes) == (2, 12)
    assert conv.distinct_weights == len(np.unique(kernel))
    assert conv.entropy_bytes == pytest.approx(entropy_bytes(kernel))
    assert (reshape.weight_dtype, reshape.weight_bytes) == (None, 0)
    assert reshape.weight_scale is None
    assert (dense.weight_bytes, dense.bias_bytes) == (60, 20)
    assert dense.distinct_weights == len(np.unique(matrix))
    assert dense.entropy_bytes == pytest.approx(entropy_bytes(matrix))


def test_sizes(two_layers):
    path, kernel, matrix = two_layers
    report = inspect_tflite(path)
    contents = path.read_bytes()
    assert report.file_bytes == len(contents)
    assert (report.weight_bytes, report.bias_bytes) == (62, 32)
    assert report.other_bytes == len(contents) - 94
    assert report.entropy_bytes == pytest.approx(
        entropy_bytes(kernel) + entropy_bytes(matrix)
    )
    assert report.gzip_bytes == len(gzip.compress(contents))
    assert report.is_integer and report.conversions == 0


def test_labels(two_layers):
    path, _, _ = two_layers
    without = inspect_tflite(path)
    assert without.labels is None and "\nlabels" not in str(without)
    contents = metadata.append_labels(path.read_bytes(), ["a", "b c"])
    path.write_bytes(contents)
    report = inspect_tflite(path)
    assert report.labels == ["a", "b c"]
    assert str(report).endswith("\nlabels: 2")
    assert report.other_bytes == len(contents) - 94


def test_report_is_a_table(two_layers):
    text = str(inspect_tflite(two_layers[0]))
    for part in (
        "CONV_2D v7",
        "int4 3x1x1x1",
        "0.1..0.3",
        "everything else",
        "float tensors: 0, QUANTIZE and DEQUANTIZE: 0",
    ):
        assert part in text


def test_shared_weights_are_counted_once(tmp_path):
    writer = TFLiteWriter("shared")
    x = writer.add_tensor("x", (1, 4), "int8", 0.5)
    w = writer.add_constant("w", np.eye(4), "int8", [0.1])
    for name in "yz":
        y = writer.add_tensor(name, (1, 4), "int8", 0.5)
        writer.add_operator(
            "FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions"
        )
        x = y
    path = tmp_path / "m.tflite"
    path.write_bytes(writer.finish({"x": 0}, {"z": x}))
    report = inspect_tflite(path)
    assert [row.weight_bytes for row in report.operators] == [16, 16]
    assert (report.weight_bytes, report.bias_bytes) == (16, 0)
    assert report.entropy_bytes == pytest.approx(entropy_bytes(np.eye(4)))


def test_float_tensors_are_found(tmp_path):
    writer = TFLiteWriter("float inside")
    x = writer.add_tensor("x", (1, 3), "int8", 0.5)
    real = writer.add_tensor("real", (1, 3), "float32", 1.0)
    y = writer.add_tensor("y", (1, 3), "int8", 0.5)
    # The writer has no version for DEQUANTIZE.
    writer.add_operator("QUANTIZE", [x], [real], "QuantizeOptions")
    writer.add_operator("QUANTIZE", [real], [y], "QuantizeOptions")
    path = tmp_path / "m.tflite"
    path.write_bytes(writer.finish({"x": x}, {"y": y}))
    report = inspect_tflite(path)
    assert report.float_tensors == ["real"] and not report.is_integer
    assert report.conversions == 2
    assert "float tensors: 1, QUANTIZE and DEQUANTIZE: 2" in str(report)


@pytest.mark.filterwarnings("ignore")  # the converter is talkative
@pytest.mark.parametrize("integer", [False, True])
def test_files_of_tensorflow(integer, tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow's converter needs its backend")
    import tensorflow as tf

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 5)).astype("float32")

    @tf.function
    def dense(x):
        return x @ kernel

    function = dense.get_concrete_function(tf.TensorSpec((1, 6), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function], tf.Module()
    )
    if integer:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        x = rng.normal(size=(10, 1, 6)).astype("float32")
        converter.representative_dataset = lambda: ([row] for row in x)
    path = tmp_path / "m.tflite"
    path.write_bytes(converter.convert())
    report = inspect_tflite(path)
    (row,) = [r for r in report.operators if r.name == "FULLY_CONNECTED"]
    assert row.weight_dtype == ("int8" if integer else "float32")
    assert row.weight_bytes == 30 * (1 if integer else 4)
    assert report.weight_bytes == row.weight_bytes
    # Its input and output are float in both cases.
    assert not report.is_integer
    assert report.conversions == 2 * integer
    if not integer:
        assert row.distinct_weights == len(np.unique(kernel))


@pytest.mark.parametrize("contents", [b"", b"no model", b"\x08\0\0\0TFL3"])
def test_other_files_are_refused(contents, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match="TFLite file.*path=.*m.tflite"):
        inspect_tflite(path)


@pytest.mark.parametrize("share", np.linspace(0.05, 0.95, 10))
def test_files_that_end_early_are_refused(share, two_layers):
    path = two_layers[0]
    contents = path.read_bytes()
    path.write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(ValueError, match="damaged one: path="):
        inspect_tflite(path)


def test_damaged_files_end_in_no_other_error(two_layers):
    path = two_layers[0]
    contents = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = np.frombuffer(contents, np.uint8).copy()
        places = rng.integers(0, len(damaged), 8)
        damaged[places] = rng.integers(0, 256, 8)
        path.write_bytes(damaged.tobytes())
        try:
            inspect_tflite(path)
        except ValueError as error:
            assert "`path` must be a" in str(error)
            refused += 1
    assert refused > 100


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        inspect_tflite(tmp_path / "missing.tflite")


# What `export_tflite` is given -> the runtimes that run the file.
NEEDS = {
    (): ("1.0.1", "2.10.0", "2.10.0"),
    ("uint8 in",): ("1.0.1", "2.10.0", "2.10.0"),
    ("int16 out",): ("1.0.1", "2.10.0", "2.10.0"),
    ("int4",): ("1.1.0", "2.19.0", None),
    ("int2",): ("2.1.0", "2.21.0", None),
    ("int2", "int16 out"): ("2.1.0", "2.21.0", None),
}
SETTINGS = {
    "uint8 in": {"input_type": "uint8"},
    "int16 out": {"output_type": "int16"},
    "int4": {"weight_format": "int4"},
    "int2": {"weight_format": "int2"},
}


@pytest.mark.parametrize("settings", NEEDS, ids=" ".join)
def test_needs_of_exported_files(settings, tmp_path):
    """As `benchmarks/runtimes.py` found for whole files of these kinds."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.QuantConv2D(3, 3, bits=2),
            layers.QuantReLU(4),
            keras.layers.Flatten(),
            layers.QuantDense(5, bits=2),
        ]
    )
    arguments = {"output_type": "int8", "verbose": 0}
    for name in settings:
        arguments |= SETTINGS[name]
    path = tmp_path / "m.tflite"
    export_tflite(model, path, input_range=(0, 1), **arguments)
    needs = inspect_tflite(path).needs
    assert tuple(needs.oldest.values()) == NEEDS[settings]
    assert not needs.unknown
    if settings == ("int4",):
        (refused,) = needs.refused["tflite-runtime"]
        assert refused.startswith("FULLY_CONNECTED int8, int4/channel")


def test_needs_is_a_line(two_layers):
    text = str(inspect_tflite(two_layers[0]))
    assert text.endswith(
        "\nneeds: ai-edge-litert >= 1.0.1 or tensorflow >= 2.12.0 or "
        "tflite-runtime >= 2.12.0"
    )


def one_operator(tmp_path, name, dtypes, shape=(1, 3), scales=(0.1,)):
    """A file with one operator, with weights of a 3 x 3 matrix or without."""
    writer = TFLiteWriter("one operator")
    x = writer.add_tensor("x", shape, dtypes[0], 0.5)
    inputs = [x]
    if len(dtypes) > 2:
        inputs.append(writer.add_constant("w", np.eye(3), dtypes[1], scales))
    y = writer.add_tensor("y", shape, dtypes[-1], 0.5)
    writer.add_operator(name, inputs, [y])
    path = tmp_path / "m.tflite"
    path.write_bytes(writer.finish({"x": x}, {"y": y}))
    return path


def test_refused_operators_are_named(tmp_path):
    path = one_operator(tmp_path, "QUANTIZE", ["int8", "int16"])
    newest = runtime_needs.TRIED["tensorflow"][1]
    assert (
        f"; tensorflow up to {newest} does not run QUANTIZE int8 -> int16"
        in (str(inspect_tflite(path)))
    )


@pytest.mark.parametrize("is_newer", [False, True])
def test_needs_of_newer_versions_are_not_known(is_newer, tmp_path, monkeypatch):
    if is_newer:
        monkeypatch.setitem(_VERSIONS, "MAX_POOL_2D", 3)
    path = one_operator(tmp_path, "MAX_POOL_2D", ["int8", "int8"])
    assert inspect_tflite(path).needs.unknown == (
        ["MAX_POOL_2D int8 -> int8 (version 3)"] if is_newer else []
    )


def test_needs_of_other_types_are_not_known(tmp_path):
    path = one_operator(tmp_path, "QUANTIZE", ["float32", "int8"])
    report = inspect_tflite(path)
    assert report.needs.oldest == report.needs.refused == {}
    assert "needs: not known for QUANTIZE float32 -> int8" in str(report)


@pytest.mark.parametrize("count, mark", [(1, ""), (3, "/channel")])
def test_signature_tells_scales_per_channel(count, mark, tmp_path):
    path = one_operator(
        tmp_path,
        "FULLY_CONNECTED",
        ["int8", "int4", "int8"],
        scales=np.full(count, 0.1),
    )
    (operator,) = reader.read_tflite(path).operators
    assert runtime_needs.signature(operator) == (
        f"FULLY_CONNECTED int8, int4{mark} -> int8"
    )
