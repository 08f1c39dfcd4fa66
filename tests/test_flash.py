"""What weights take in flash: in the file, as int8, as int4 and in tables."""

import re

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd.export import export_tflite
from keras_bcgd.tflite import lut
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.inspection import inspect_tflite
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.writer import TFLiteWriter

# Of the header of a table.
HEADER = 16


def convolutions(path, kernels, dtype, scales=(0.5,)):
    """A file of 3x3 convolutions of one width, one after the other."""
    writer = TFLiteWriter("convolutions")
    channels = kernels[0].shape[0]
    x = first = writer.add_tensor("x", (1, 4, 4, channels), "int8", 0.5)
    for i, kernel in enumerate(kernels):
        w = writer.add_constant(f"w{i}", kernel, dtype, np.array(scales))
        bias = np.zeros(channels, np.int32)
        b = writer.add_constant(f"b{i}", bias, "int32")
        y = writer.add_tensor(f"y{i}", (1, 4, 4, channels), "int8", 0.5)
        writer.add_operator(
            "CONV_2D",
            [x, w, b],
            [y],
            "Conv2DOptions",
            padding="same",
            strideH=1,
            strideW=1,
        )
        x = y
    path.write_bytes(writer.finish({"x": first}, {"y": x}))
    return inspect_tflite(path)


def kernels_of(values, count=2, channels=16):
    rng = np.random.default_rng(len(values))
    shape = (channels, 3, 3, channels)
    return [rng.choice(values, shape).astype(np.int8) for _ in range(count)]


@pytest.fixture
def both(tmp_path):
    """The reports of the same weights as int8 and in tables they share."""
    kernels = kernels_of([-64, 0, 64])
    return [
        convolutions(tmp_path / f"{dtype}.tflite", kernels, dtype)
        for dtype in ("int8", "lut")
    ]


def test_weights_in_tables_are_those_of_their_operator(both):
    plain, compressed = both
    assert [row.name for row in compressed.operators] == ["CONV_2D"] * 2
    assert compressed.decoders == 2 and plain.decoders == 0
    for old, new in zip(plain.operators, compressed.operators, strict=True):
        assert (old.weight_dtype, new.weight_dtype) == ("int8", "lut2")
        # 2 bits for each weight; a header and 3 values.
        assert new.weight_bytes == 16 * 9 * 16 // 4 + HEADER + 3
        for name in (
            "inputs",
            "weight_shape",
            "weight_scale",
            "bias_bytes",
            "distinct_weights",
            "entropy_bytes",
            "int8_bytes",
            "int4_bytes",
            "table_bytes",
            "macs",
        ):
            assert getattr(old, name) == getattr(new, name), name


def test_sizes_of_a_file_with_tables(both):
    plain, compressed = both
    # The two convolutions share the header and the 3 values.
    assert compressed.weight_bytes == 2 * 16 * 9 * 16 // 4 + HEADER + 3
    with open(compressed.path, "rb") as file:
        contents = file.read()
    assert compressed.file_bytes == len(contents)
    assert compressed.file_bytes == (
        compressed.weight_bytes + compressed.bias_bytes + compressed.other_bytes
    )
    for name in ("bias_bytes", "entropy_bytes", "int8_bytes", "int4_bytes"):
        assert getattr(plain, name) == getattr(compressed, name)


@pytest.mark.parametrize("values", [2, 3, 15, 60])
def test_bytes_in_tables_are_those_of_a_file(values, tmp_path):
    """Foretold of the file in int8: its size with tables, to some bytes.

    The first TFLM_DECODE brings the operator's name; the format puts buffers
    at multiples of 16 bytes.
    """
    kernels = kernels_of(np.arange(values), count=12)
    plain, compressed = (
        convolutions(tmp_path / f"{dtype}.tflite", kernels, dtype)
        for dtype in ("int8", "lut")
    )
    saved = plain.file_bytes - compressed.file_bytes
    assert plain.int8_bytes - plain.table_bytes == pytest.approx(saved, abs=200)
    assert compressed.decoders == 12
    assert compressed.table_bytes == (
        compressed.weight_bytes + 12 * lut.OPERATOR_BYTES
    )


def test_tables_that_are_not_worth_it(tmp_path):
    kernels = [*kernels_of([-1, 1], 1), *kernels_of(np.arange(-99, 99), 1)]
    report = convolutions(tmp_path / "m.tflite", kernels, "int8")
    first, second = report.operators
    size = 16 * 9 * 16
    in_tables = size // 8 + HEADER + 2 + lut.OPERATOR_BYTES
    assert (first.table_bytes, second.table_bytes) == (in_tables, None)
    assert report.table_bytes == in_tables + size
    assert report.int8_bytes == 2 * size
    # What is printed of them; a dash, and the sum.
    text = str(report)
    assert f"{in_tables + size:,} bytes" in text
    assert re.search(rf"{size:,} +{size // 2:,} +{in_tables} ", text)
    assert re.search(rf"{size:,} +- +- ", text)


def fits_in_int4(row):
    """Whether one of all possible steps divides the values of a row."""
    return any(
        all(v % step == 0 and -8 <= v // step <= 7 for v in map(int, row))
        for step in range(1, 129)
    )


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_what_fits_in_int4(seed, by_channel, tmp_path):
    """Each channel has codes of 4 or 5 bits times some integer, or zeros."""
    rng = np.random.default_rng(seed)
    bits = 4 + seed % 2
    half = 2 ** (bits - 1)
    kernel = rng.integers(-half, half, (3, 3, 3, 3))
    step = rng.integers(0, 127 // half + 1, 3 if by_channel else 1)
    kernel = (kernel * step.reshape(-1, 1, 1, 1)).astype(np.int8)
    scales = np.linspace(0.1, 0.2, 3) if by_channel else (0.1,)
    path = tmp_path / "m.tflite"
    (row,) = convolutions(path, [kernel], "int8", scales).operators
    rows = kernel.reshape(3 if by_channel else 1, -1)
    expected = 41 if all(map(fits_in_int4, rows)) else None
    assert row.int4_bytes == expected
    assert row.int8_bytes == 81


@pytest.mark.parametrize(
    "values, fit",
    [
        ([-8, 7], True),
        ([-9, 7], False),
        ([-7, 8], False),
        ([-8, 8], True),
        ([-120, 105], True),
        ([0], True),
    ],
)
def test_ends_of_int4(values, fit, tmp_path):
    kernel = np.resize(np.int8(values), (2, 3, 3, 2))
    path = tmp_path / "m.tflite"
    (row,) = convolutions(path, [kernel], "int8").operators
    assert row.int4_bytes == (18 if fit else None)


@pytest.mark.parametrize("dtype, limit", [("int4", 8), ("int2", 2)])
def test_packed_weights_are_those_unpacked(dtype, limit, tmp_path):
    """Also those with an odd number of weights, or with the lowest code."""
    rng = np.random.default_rng(0)
    kernel = rng.integers(-limit, limit, (33, 45)).astype(np.int8)
    rows = []
    for name in ("int8", dtype):
        writer = TFLiteWriter("dense")
        x = writer.add_tensor("x", (1, 45), "int8", 0.5)
        w = writer.add_constant("w", kernel, name, [0.5])
        y = writer.add_tensor("y", (1, 33), "int8", 0.5)
        writer.add_operator("FULLY_CONNECTED", [x, w, -1], [y])
        path = tmp_path / "m.tflite"
        path.write_bytes(writer.finish({"x": x}, {"y": y}))
        rows += inspect_tflite(path).operators
    plain, packed = rows
    assert packed.weight_bytes < plain.weight_bytes == packed.int8_bytes
    assert packed.int4_bytes == plain.int4_bytes == -(-kernel.size // 2)
    assert packed.table_bytes == plain.table_bytes is not None


def test_exported_files(tmp_path):
    """A file in tables shows what the same in int8 foretells."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 8)),
            kb.QuantConv2D(24, 3, bits=1),
            kb.QuantReLU(4),
            kb.QuantDepthwiseConv2D(5, depth_multiplier=2, bits=2),
            kb.QuantReLU(4),
            kb.QuantConv2D(24, 1, bits=4, per_channel=True),
            kb.QuantReLU(4),
            keras.layers.Flatten(),
            kb.QuantDense(9, bits=8),
        ]
    )
    reports = []
    for weight_format in ("int8", "lut"):
        path = tmp_path / f"{weight_format}.tflite"
        export_tflite(
            model,
            path,
            input_range=(0, 1),
            weight_format=weight_format,
            align=False,
            verbose=0,
        )
        reports.append(inspect_tflite(path))
    plain, compressed = reports
    kinds = [one.weight_dtype for one in compressed.operators]
    assert kinds[:3] == ["lut1", "lut2", "lut4"]
    assert plain.table_bytes == compressed.table_bytes
    assert compressed.table_bytes == (
        compressed.weight_bytes + compressed.decoders * lut.OPERATOR_BYTES
    )
    for old, new in zip(plain.operators, compressed.operators, strict=True):
        assert old.distinct_weights == new.distinct_weights


def test_needs_of_a_file_with_tables(both):
    plain, compressed = both
    assert not plain.needs.micro_alone and compressed.needs.micro_alone
    assert set(compressed.needs.oldest.values()) == {None}
    assert set(map(tuple, compressed.needs.refused.values())) == {
        ("TFLM_DECODE",)
    }
    assert (
        "\nneeds: TensorFlow Lite Micro; ai-edge-litert, tensorflow and "
        "tflite-runtime do not run TFLM_DECODE"
    ) in str(compressed)
    assert "by 2 TFLM_DECODE operators" in str(compressed)


def test_needs_are_true(both):
    """LiteRT refuses the file, TFLM runs it as the one in int8."""
    pytest.importorskip("tflite_micro")
    plain, compressed = (one.path for one in both)
    codes = np.random.default_rng(0).integers(-128, 128, (3, 4, 4, 16))
    codes = codes.astype(np.int8)
    with pytest.raises(
        ValueError, match="compressed for TensorFlow Lite Micro"
    ):
        TFLiteRunner(compressed, "reference")
    expected = TFLiteRunner(plain, "micro").run(codes)
    found = TFLiteRunner(compressed, "micro").run(codes)
    np.testing.assert_array_equal(found, expected)


def decode(path, ancillary, dtype="int8"):
    """A file of one TFLM_DECODE and a sum that reads what it expands."""
    writer = TFLiteWriter("decode")
    x = writer.add_tensor("x", (1, 64), "int8", 0.5)
    indices = writer.add_constant("i", np.full(8, 255), "uint8")
    tables = writer.add_constant("t", np.uint8(ancillary), "uint8")
    w = writer.add_tensor("w", (1, 64), dtype, 0.5)
    writer.add_operator(lut.OPERATOR, [indices, tables], [w])
    y = writer.add_tensor("y", (1, 64), "int8", 0.5)
    writer.add_operator("ADD", [x, w], [y], "AddOptions")
    path.write_bytes(writer.finish({"x": x}, {"y": y}))
    return path


TABLE = [0, 1, 0, 0, 1, 1, 0, 0, *[0] * 8, 3, 5]


def test_constants_of_other_operators(tmp_path):
    """Summands are no kernel: only their bytes are told."""
    report = inspect_tflite(decode(tmp_path / "m", TABLE))
    (row,) = report.operators
    assert (row.name, row.weight_dtype) == ("ADD", "lut1")
    assert row.inputs == ["int8 1x64"]
    assert (row.weight_bytes, row.distinct_weights) == (8 + 18, 1)
    assert (row.int8_bytes, row.int4_bytes, row.table_bytes) == (64, None, None)


def test_large_constants_of_other_operators(tmp_path):
    writer = TFLiteWriter("sum")
    x = writer.add_tensor("x", (1, 4096), "int8", 0.5)
    c = writer.add_constant("c", np.ones((1, 4096)), "int8", [0.5])
    y = writer.add_tensor("y", (1, 4096), "int8", 0.5)
    writer.add_operator("ADD", [x, c], [y], "AddOptions")
    path = tmp_path / "m.tflite"
    path.write_bytes(writer.finish({"x": x}, {"y": y}))
    report = inspect_tflite(path)
    (row,) = report.operators
    assert (row.int8_bytes, row.int4_bytes, row.table_bytes) == (
        4096,
        None,
        None,
    )
    assert report.table_bytes == report.int4_bytes == 4096


@pytest.mark.parametrize(
    "ancillary, dtype", [([1, *TABLE[1:]], "int8"), (TABLE, "int16")]
)
def test_other_codes_of_tflm_are_rows_of_their_own(ancillary, dtype, tmp_path):
    report = inspect_tflite(decode(tmp_path / "m", ancillary, dtype))
    assert [row.name for row in report.operators] == ["TFLM_DECODE", "ADD"]
    assert report.decoders == 0 and report.needs.micro_alone


def test_tables_of_too_few_values(tmp_path):
    path = decode(tmp_path / "m", TABLE[:-1])
    with pytest.raises(ValueError, match="damaged one: path=") as error:
        inspect_tflite(path)
    assert isinstance(error.value.__cause__, IndexError)


def test_operators_without_their_weights(tmp_path):
    writer = TFLiteWriter("damaged")
    x = writer.add_tensor("x", (1, 4), "int8", 0.5)
    y = writer.add_tensor("y", (1, 4), "int8", 0.5)
    writer.add_operator("FULLY_CONNECTED", [x], [y])
    path = tmp_path / "m.tflite"
    path.write_bytes(writer.finish({"x": x}, {"y": y}))
    with pytest.raises(ValueError, match="damaged one: path="):
        inspect_tflite(path)


def test_float_weights_would_be_bytes(tmp_path):
    writer = TFLiteWriter("float")
    x = writer.add_tensor("x", (1, 64), "float32", 1.0)
    w = writer.add_constant("w", np.ones((32, 64)), "float32")
    y = writer.add_tensor("y", (1, 32), "float32", 1.0)
    writer.add_operator("FULLY_CONNECTED", [x, w, -1], [y])
    path = tmp_path / "m.tflite"
    path.write_bytes(writer.finish({"x": x}, {"y": y}))
    report = inspect_tflite(path)
    assert (report.weight_bytes, report.int8_bytes) == (4 * 2048, 2048)
    assert report.int4_bytes == report.table_bytes == 2048
    (row,) = report.operators
    assert row.int4_bytes is row.table_bytes is None


def test_tensors_know_their_place(tmp_path):
    path = tmp_path / "m.tflite"
    convolutions(path, kernels_of([-1, 1], 1), "int8", np.full(16, 0.5))
    file = reader.read_tflite(path)
    assert [t.name for t in file.inputs + file.outputs] == ["x", "y0"]
    (operator,) = file.operators
    names = [t.name.decode() for t in file.model.subgraphs[0].tensors]
    for tensor in (*operator.inputs, *operator.outputs):
        assert names[tensor.index] == tensor.name
