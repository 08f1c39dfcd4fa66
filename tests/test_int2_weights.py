"""Weights in two bits: how kernels run them, and what the files hold."""

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd.export import alignment
from keras_bcgd.export import bias_intervals
from keras_bcgd.tflite import packing
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.runner import load_interpreter
from keras_bcgd.tflite.writer import TFLiteWriter

layers = keras.layers


def packed(codes):
    """Four codes to a byte, written out."""
    stored = [0] * -(-len(codes) // 4)
    for i, code in enumerate(codes):
        stored[i // 4] += (code % 4) * 4 ** (i % 4)
    return stored


@pytest.mark.parametrize("size", range(10))
def test_packing(size):
    codes = np.arange(size) % 4 - 2
    assert packing.pack_int2(codes).tolist() == packed(codes)


def dense_file(dtype, codes, scales):
    """The contents of a file with one FULLY_CONNECTED."""
    writer = TFLiteWriter("one layer")
    rng = np.random.default_rng(1)
    channels, inputs = codes.shape
    x = writer.add_tensor("x", (4, inputs), "int8", 0.05, -3)
    w = writer.add_constant("w", codes, dtype, scales)
    bias = rng.integers(-100, 100, channels)
    b = writer.add_constant("b", bias, "int32", np.float32(0.05) * scales)
    step = 0.001 * np.sqrt(inputs)
    y = writer.add_tensor("y", (4, channels), "int8", step, 5)
    writer.add_operator(
        "FULLY_CONNECTED", [x, w, b], [y], "FullyConnectedOptions"
    )
    return writer.finish({"x": x}, {"y": y})


def outputs(contents, kernels):
    interpreter = load_interpreter(contents, kernels)
    (x,) = interpreter.get_input_details()
    (y,) = interpreter.get_output_details()
    codes = np.random.default_rng(2).integers(-128, 128, x["shape"], np.int8)
    interpreter.set_tensor(x["index"], codes)
    interpreter.invoke()
    return interpreter.get_tensor(y["index"])


@pytest.mark.parametrize("dtype, in_a_byte", [("int2", 4), ("int4", 2)])
@pytest.mark.parametrize("inputs", [1, 5, 8, 30, 64, 1024])
@pytest.mark.parametrize("kernels", KERNELS)
def test_kernels_compute_as_with_int8(kernels, inputs, dtype, in_a_byte):
    """XNNPACK leaves rows that end inside of a byte to "builtin"."""
    rng = np.random.default_rng(inputs)
    codes = rng.integers(-1, 2, (33, inputs))
    scales = rng.uniform(0.005, 0.02, 33)
    found = outputs(dense_file(dtype, codes, scales), kernels)
    if kernels == "xnnpack" and inputs % in_a_byte:
        kernels = "builtin"
    expected = outputs(dense_file("int8", codes, scales), kernels)
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(found, expected)


def network(dense_bits=(1, 2, 8), conv_bits=4):
    keras.utils.set_random_seed(0)
    first, second, last = dense_bits
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            kb.QuantConv2D(5, 3, bits=conv_bits, name="conv"),
            kb.QuantReLU(4),
            layers.Flatten(),
            kb.QuantDense(12, bits=first, name="first"),
            layers.BatchNormalization(),
            kb.QuantReLU(2),
            kb.QuantDense(7, bits=second, name="second"),
            kb.QuantReLU(2),
            kb.QuantDense(3, bits=last, name="last"),
        ]
    )
    return model


def export(model, path, weight_format="int2", **settings):
    return kb.export_tflite(
        model,
        path,
        input_range=(0, 1),
        weight_format=weight_format,
        batch_size=16,
        align=False,
        **settings,
    )


def weights(path):
    """Names to the types and bytes of the weights of a file."""
    tensors = reader.read_tflite(path).tensors
    return {
        tensor.name.removesuffix("/weights"): tensor
        for tensor in tensors
        if tensor.name.endswith("/weights")
    }


def test_dense_layers_of_two_bits_are_int2(tmp_path):
    path = tmp_path / "m.tflite"
    report = export(network(), path)
    found = {name: tensor.dtype for name, tensor in weights(path).items()}
    assert found == {
        "conv": "int4",
        "first": "int2",
        "second": "int2",
        "last": "int8",
    }
    multipliers = {row.name: row.multiplier for row in report.layers}
    assert multipliers == {"conv": 1, "first": 1, "second": 1, "last": 1}
    versions = [
        operator.version
        for operator in reader.read_tflite(path).operators
        if operator.name == "FULLY_CONNECTED"
    ]
    assert versions == [14, 14, 4]


def test_file_holds_the_trained_codes(tmp_path):
    path = tmp_path / "m.tflite"
    model = network()
    export(model, path)
    for name, bits in (("first", 1), ("second", 2)):
        kernel = model.get_layer(name).kernel
        _, codes = kb.project(kernel, bits=bits)
        codes = np.int64(keras.ops.convert_to_numpy(codes)).T
        stored = weights(path)[name]
        assert stored.shape == codes.shape
        assert stored.data.tolist() == packed(codes.reshape(-1))


def test_inspection_reads_int2(tmp_path):
    path = tmp_path / "m.tflite"
    export(network(), path)
    rows = kb.inspect_tflite(path).operators
    second = [row for row in rows if row.weight_shape == "7x12"][0]
    assert (second.weight_dtype, second.weight_bytes) == ("int2", 21)
    assert second.distinct_weights == 3


# The largest difference to the trained codes: a sum at the edge of a step.
@pytest.mark.parametrize("units", [32, 30])
@pytest.mark.parametrize("bits", [1, 2])
def test_codes_are_nearly_the_trained_ones(bits, units, tmp_path):
    keras.utils.set_random_seed(bits)
    model = keras.Sequential(
        [
            keras.Input((units,)),
            kb.QuantDense(40, bits=bits, use_bias=False),
            layers.BatchNormalization(),
            kb.QuantReLU(4),
        ]
    )
    model.layers[-1].alpha.assign(0.1)
    report = export(model, tmp_path / "m.tflite")
    (row,) = report.layers
    assert row.thresholds == 600 and row.exact_by_default > 0.85 * 600
    codes = np.random.default_rng(0).integers(0, 256, (160, units))
    expected = model.predict(codes / 255, verbose=0) / 0.1
    assert len(np.unique(np.round(expected))) > 8
    for kernels in KERNELS:
        runner = TFLiteRunner(tmp_path / "m.tflite", kernels)
        found = runner.run(np.int8(codes - 128)) - runner.output_zero_point
        difference = np.abs(found - np.round(expected))
        assert difference.max() <= 1 and difference.mean() < 0.01, kernels


@pytest.mark.parametrize(
    "units, weight_format, rounds_once",
    [
        (32, "int2", True),
        (30, "int2", False),
        (30, "int4", True),
        (31, "int4", False),
        (31, "int8", True),
    ],
)
def test_default_kernels_count_first(
    units, weight_format, rounds_once, monkeypatch
):
    """Which of the kernels XNNPACK runs is that of the test above."""
    jobs = []
    monkeypatch.setattr(alignment, "align", jobs.append)
    model = keras.Sequential([keras.Input((units,)), kb.QuantDense(4, bits=2)])
    kb.align_for_export(model, (0, 1), weight_format=weight_format)
    (job,) = jobs
    assert (job.roundings[0] == bias_intervals.ONCE) == rounds_once
    assert sorted(job.roundings) == sorted(bias_intervals.ALL)


@pytest.mark.parametrize("kernels", KERNELS)
def test_int16_logits(kernels, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((30,)), kb.QuantDense(10, bits=2, use_bias=False)]
    )
    path = tmp_path / "m.tflite"
    x = np.random.default_rng(0).integers(0, 256, (64, 30)) / 255
    report = export(model, path, output_type="int16", representative_data=x)
    runner = TFLiteRunner(path, kernels)
    found = runner.run(runner.quantize(x)) * report.output_scale
    expected = model.predict(x, verbose=0)
    best = expected.max(axis=1)
    np.testing.assert_allclose(found.max(axis=1), best, atol=1e-3)


def test_auto_does_not_take_int2(tmp_path):
    path = tmp_path / "m.tflite"
    export(network(), path, "auto")
    assert {t.dtype for t in weights(path).values()} == {"int4", "int8"}


@pytest.mark.parametrize("bits", [(3, 4, 8), (8, 8, 8)])
def test_needs_a_dense_layer_of_two_bits(bits, tmp_path):
    with pytest.raises(ValueError, match="convolutions of size 1, of 1 or 2"):
        export(network(bits, conv_bits=1), tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


def test_operators_are_timed_one_by_one(tmp_path):
    path = tmp_path / "m.tflite"
    export(network(), path)
    report = kb.benchmark_tflite([str(path)], runs=2, per_op=True)
    assert "FULLY_CONNECTED" in str(report)
