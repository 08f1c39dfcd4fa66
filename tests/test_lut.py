"""Weights in tables, against TFLM's own compressor and its interpreter."""

import keras
import numpy as np
import pytest
from test_micro_runtime import MODELS
from test_micro_runtime import export

import keras_bcgd as kb
from keras_bcgd.tflite import lut
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.runner import load_interpreter
from keras_bcgd.tflite.writer import TFLiteWriter

tflite_micro = pytest.importorskip(
    "tflite_micro", reason="needs: pip install keras-bcgd[micro]"
)

# The operator, the axis of the channels, and the shape of its weights: none
# that ends at a byte.
OPERATORS = {
    "dense": ("FULLY_CONNECTED", 0, (5, 303)),
    "conv": ("CONV_2D", 0, (7, 3, 3, 33)),
    "depthwise": ("DEPTHWISE_CONV_2D", 3, (1, 5, 7, 51)),
}


def one_layer(kind, weights, scales, dtype):
    """The contents of a file with one operator."""
    name, axis, _ = OPERATORS[kind]
    writer = TFLiteWriter("one layer")
    channels = weights.shape[axis]
    shape, ends = (1, weights.shape[-1]), (1, channels)
    options, settings = "FullyConnectedOptions", {}
    if name != "FULLY_CONNECTED":
        shape, ends = (1, *weights.shape[1:]), (1, 1, 1, channels)
        options = name.title().replace("_", "").replace("2D", "2DOptions")
        settings = {"padding": "valid", "strideH": 1, "strideW": 1}
        settings |= {"dilationHFactor": 1, "dilationWFactor": 1}
    if kind == "depthwise":
        settings["depthMultiplier"] = 1
    x = writer.add_tensor("x", shape, "int8", 0.05, 3)
    w = writer.add_constant("w", weights, dtype, scales, axis)
    bias = np.arange(channels)
    b = writer.add_constant("b", bias, "int32", np.float32(0.05) * scales)
    y = writer.add_tensor("y", ends, "int8", 0.5)
    writer.add_operator(name, [x, w, b], [y], options, **settings)
    return writer.finish({"x": x}, {"y": y})


def decoded(contents):
    """The weights as the interpreter expands them, and the output."""
    runtime = load_interpreter(contents, "micro", keep_tensors=True)
    (x,), (y,) = runtime.get_input_details(), runtime.get_output_details()
    codes = np.random.default_rng(1).integers(-128, 128, x["shape"], np.int8)
    runtime.set_tensor(x["index"], codes)
    runtime.invoke()
    index = {t["name"]: t["index"] for t in runtime.get_tensor_details()}
    return runtime.get_tensor(index["w"]), runtime.get_tensor(y["index"])


def random_weights(kind, bits):
    """Of `2**bits` values."""
    rng = np.random.default_rng(bits)
    values = rng.choice(np.arange(-128, 128), 2**bits, replace=False)
    return rng.choice(values, OPERATORS[kind][2]).astype(np.int8)


def change(weights, axis, variant):
    """Weights as a network may have them."""
    weights = weights.copy()
    rows = np.moveaxis(weights, axis, 0)
    if variant == "a channel of zeros":
        rows[1] = 0
    elif variant == "one value":
        weights[...] = weights.flat[0]
    elif variant == "two values in each channel":
        for i, row in enumerate(rows):
            row[...] = np.where(row < 0, -5 - i, 7 + i)
    return weights


VARIANTS = [
    "as they are",
    "a channel of zeros",
    "one value",
    "two values in each channel",
]


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("kind", OPERATORS)
def test_the_interpreter_expands_them(kind, bits, by_channel):
    _, axis, shape = OPERATORS[kind]
    scales = np.linspace(0.01, 0.02, shape[axis] if by_channel else 1)
    given = random_weights(kind, bits)
    compressed = []
    for variant in VARIANTS:
        weights = change(given, axis, variant)
        found = lut.compress(weights, axis if by_channel else None)
        compressed.append(found is not None)
        if found is None:
            continue
        np.testing.assert_array_equal(lut.expand(found, shape), weights)
        contents = one_layer(kind, weights, scales, "lut")
        (decode, _) = reader.parse(contents).operators
        assert decode.name == "TFLM_DECODE"
        expanded, y = decoded(contents)
        np.testing.assert_array_equal(expanded, weights, variant)
        np.testing.assert_array_equal(
            y, decoded(one_layer(kind, weights, scales, "int8"))[1]
        )
    assert any(compressed)


@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("kind", OPERATORS)
def test_tables_are_those_of_the_compressor_of_tflm(kind, bits):
    _, axis, shape = OPERATORS[kind]
    compression = tflite_micro.compression
    for variant in VARIANTS:
        weights = change(random_weights(kind, bits), axis, variant)
        found = lut.compress(weights, axis)
        if found is None:
            continue
        is_shared = found.ancillary[6] == 0
        scales = np.linspace(0.01, 0.02, shape[axis])
        data = bytearray(one_layer(kind, weights, scales, "int8"))
        (operator,) = reader.parse(bytes(data)).model.subgraphs[0].operators
        spec = compression.SpecBuilder().add_tensor(0, operator.inputs[1])
        mode = compression.spec.PerTensor()
        if not is_shared:
            mode = compression.spec.PerChannel(axis=axis)
        spec = spec.with_lut(found.bits, mode).build()
        theirs = reader.parse(bytes(compression.compress(data, spec)))
        indices, ancillary = theirs.operators[0].inputs
        np.testing.assert_array_equal(found.indices, indices.data)
        compressed = lut.Compressed(indices.data, ancillary.data)
        expanded = lut.expand(compressed, weights.shape)
        np.testing.assert_array_equal(expanded, weights)
        expected = np.array(ancillary.data)
        if is_shared:
            expected[6] = 0  # so that all channels take the same table
        np.testing.assert_array_equal(found.ancillary, expected)


def test_what_would_not_be_smaller_is_no_table():
    values = np.arange(-128, 127, 2)
    assert lut.compress(np.resize(values, (300, 8))) is not None
    assert lut.compress(np.resize(values, (16, 8))) is None
    assert lut.compress(np.resize(np.arange(-128, 1), (300, 8))) is None


def test_the_report_says_where_a_table_pays(tmp_path):
    """The first and the last layer have 8 bits."""
    path = tmp_path / "m.tflite"
    report = export(MODELS["residual"](), path, weight_format="lut")
    names = [operator.name for operator in reader.read_tflite(path).operators]
    types = [row.weight_type for row in report.layers]
    assert types.count("lut") == names.count(lut.OPERATOR) == 2
    assert set(types) == {"lut", "int8", None}
    (row,) = [one for one in report.layers if one.name == "two_bits"]
    assert row.weight_type == "lut"
    (line,) = [one for one in str(report).splitlines() if "two_bits" in one]
    assert line.split()[:4] == ["two_bits", "CONV_2D", "2", "lut"]
    for kernels in KERNELS:
        with pytest.raises(ValueError, match="for TensorFlow Lite Micro"):
            TFLiteRunner(path, kernels)


def test_weights_of_8_bits_alone_are_refused(tmp_path):
    model = keras.Sequential([keras.Input((64,)), kb.QuantDense(32, bits=8)])
    with pytest.raises(ValueError, match=r"at most 7 bits.*\(bits=8\)"):
        export(model, tmp_path / "m.tflite", weight_format="lut")
    assert not list(tmp_path.iterdir())
