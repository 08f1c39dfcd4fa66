"""Convolutions of size 1 with weights of 4 and 2 bits: FULLY_CONNECTED."""

import keras
import numpy as np
import pytest
from export_helpers import INPUT_RANGE
from export_helpers import grid_inputs
from export_helpers import normalize
from export_helpers import outputs_of
from export_helpers import quantizers
from export_helpers import read_file

import keras_bcgd as kb
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner

layers = keras.layers

SHAPE = (8, 8, 6)
IMAGES = grid_inputs(SHAPE, samples=24)


def block(layer, x):
    return kb.QuantReLU(4)(layers.BatchNormalization()(layer(x)))


def mobilenet(bits, others=7):
    """Of the convolutions only those of size 1 have few bits."""
    x = inputs = keras.Input(SHAPE)
    x = block(kb.QuantConv2D(8, 3, bits=others, padding="same"), x)
    for filters in (12, 16):
        depthwise = kb.QuantDepthwiseConv2D(3, bits=others, padding="same")
        x = block(depthwise, x)
        x = block(kb.QuantConv2D(filters, 1, bits=bits), x)
    return normalize(keras.Model(inputs, x), IMAGES)


def residual(bits):
    """Blocks with a projection, the second one with strides."""
    x = inputs = keras.Input(SHAPE)
    x = block(kb.QuantConv2D(8, 3, bits=7, padding="same"), x)
    for strides in (1, 2):
        y = block(kb.QuantConv2D(16, 1, bits=bits), x)
        y = kb.QuantConv2D(8, 1, strides=strides, bits=bits, padding="same")(y)
        y = layers.BatchNormalization()(y)
        x = kb.QuantConv2D(8, 1, strides=strides, bits=bits)(x)
        x = layers.BatchNormalization()(x)
        add = kb.QuantAddReLU(4, branch_bits=8, shortcut_is_branch=True)
        x = add([y, x])
    return normalize(keras.Model(inputs, x), IMAGES)


NETWORKS = {"mobilenet": mobilenet, "residual": residual}


def export(model, path, weight_format="auto", **settings):
    settings.setdefault("output_type", "int8")
    return kb.export_tflite(
        model,
        path,
        INPUT_RANGE,
        weight_format=weight_format,
        batch_size=len(IMAGES),
        verbose=0,
        **settings,
    )


def codes(path, kernels, x=IMAGES):
    runner = TFLiteRunner(path, kernels)
    return runner.run(runner.quantize(x)) - runner.output_zero_point


def trained_codes(model, x=IMAGES):
    alpha = float(quantizers(model)[-1].alpha)
    return np.round(outputs_of(model, x) / alpha)


def operators(path):
    """`(operator, type of its weights, shape of its output)` of each."""
    return [
        (one.name, one.inputs[1].dtype, one.outputs[0].shape[1:])
        for one in reader.read_tflite(path).operators
        if len(one.inputs) == 3
    ]


# Sums of few bits in int4, or in int2, are nearly whole numbers: no bias lies
# between those at a threshold for the kernels that round twice as well, which
# for dense layers are the builtin ones alone.
FORMATS = [(1, "auto"), (2, "auto"), (3, "auto"), (4, "auto")]
FORMATS += [(1, "int2"), (2, "int2")]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bits, weight_format", FORMATS)
def test_codes_are_the_trained_ones(network, bits, weight_format, tmp_path):
    path = str(tmp_path / "m.tflite")
    report = export(NETWORKS[network](bits), path, weight_format)
    assert report.is_exact
    names = [name for name, dtype, _ in operators(path) if dtype != "int8"]
    assert set(names) == {"FULLY_CONNECTED"}
    expected = trained_codes(report.model)
    assert len(np.unique(expected)) > 8
    for kernels in ("xnnpack", "reference"):
        np.testing.assert_array_equal(codes(path, kernels), expected, kernels)


@pytest.mark.parametrize("bits", [1, 2])
def test_codes_with_room_are_the_same_on_all_kernels(bits, tmp_path):
    path = str(tmp_path / "m.tflite")
    report = export(mobilenet(bits), path)
    expected = trained_codes(report.model)
    np.testing.assert_array_equal(codes(path, "builtin"), expected)


@pytest.mark.parametrize("bits, weight_format", FORMATS)
def test_builtin_kernels_are_off_by_one(bits, weight_format, tmp_path):
    x = inputs = keras.Input(SHAPE)
    x = block(kb.QuantConv2D(8, 3, bits=7, padding="same"), x)
    x = block(kb.QuantConv2D(12, 1, bits=bits), x)
    path = str(tmp_path / "m.tflite")
    model = normalize(keras.Model(inputs, x), IMAGES)
    report = export(model, path, weight_format)
    found, expected = codes(path, "builtin"), trained_codes(report.model)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    "bits, weight_format", [(2, "auto"), (4, "auto"), (2, "int2")]
)
def test_equal_to_int8(bits, weight_format, tmp_path):
    path, of_int8 = str(tmp_path / "m.tflite"), str(tmp_path / "int8.tflite")
    report = export(mobilenet(bits), path, weight_format)
    export(report.model, of_int8, "int8", align=False)
    packed = "int2" if weight_format == "int2" else "int4"
    maps = [(8, 8, 12), (8, 8, 16)]
    assert [one for one in operators(path) if one[1] != "int8"] == [
        ("FULLY_CONNECTED", packed, shape) for shape in maps
    ]
    found = [one for one in operators(of_int8) if one[0] == "CONV_2D"]
    assert found[1:] == [("CONV_2D", "int8", shape) for shape in maps]
    found = codes(path, "xnnpack")
    assert len(np.unique(found)) > 8
    np.testing.assert_array_equal(found, codes(of_int8, "xnnpack"))


def test_counts_are_those_of_the_convolutions(tmp_path):
    """Multiplications, RAM and needs of an operator at each place."""
    path, of_int8 = str(tmp_path / "m.tflite"), str(tmp_path / "int8.tflite")
    model = mobilenet(4)
    report = export(model, path)
    export(model, of_int8, "int8")
    names = {row.name: row.op for row in report.layers}
    assert list(names.values()).count("FULLY_CONNECTED") == 2
    found, expected = map(kb.inspect_tflite, (path, of_int8))
    assert [row.macs for row in found.operators] == [
        row.macs for row in expected.operators
    ]
    assert [row.ram_bytes for row in found.operators] == [
        row.ram_bytes for row in expected.operators
    ]
    row = found.operators[2]
    assert (row.name, row.version) == ("FULLY_CONNECTED", 10)
    assert (row.weight_shape, row.weight_bytes) == ("12x8", 12 * 8 // 2)
    assert row.macs == len(IMAGES) * 8 * 8 * 12 * 8
    assert found.needs.oldest == {
        "ai-edge-litert": "1.1.0",
        "tensorflow": "2.19.0",
        "tflite-runtime": None,
    }
    timed = kb.benchmark_tflite(path, runs=2, per_op=True).files[0]
    assert None not in [row.latency for row in timed.operators]


def test_operators_keep_the_height_and_width(tmp_path):
    path = str(tmp_path / "m.tflite")
    export(residual(2), path)
    (graph,) = read_file(path).subgraphs
    keeps = [
        one.builtinOptions.keepNumDims
        for one in graph.operators
        if hasattr(one.builtinOptions, "keepNumDims")
    ]
    assert keeps == [True] * 6


def test_micro_has_no_dense_layers_of_few_bits(tmp_path):
    path = str(tmp_path / "m.tflite")
    export(mobilenet(4, others=4), path, "int4", target="micro")
    found = operators(path)
    assert ("CONV_2D", "int4", (8, 8, 16)) in found
    assert "FULLY_CONNECTED" not in [name for name, *_ in found]


def test_depthwise_weights_are_int4_by_name_alone(tmp_path):
    path = str(tmp_path / "m.tflite")
    for weight_format, *expected in (("auto", 3, "int8"), ("int4", 6, "int4")):
        export(mobilenet(4, others=4), path, weight_format, align=False)
        found = {
            (row.version, row.weight_dtype)
            for row in kb.inspect_tflite(path).operators
            if row.name == "DEPTHWISE_CONV_2D"
        }
        assert found == {tuple(expected)}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bits, weight_format", [(4, "auto"), (2, "int2")])
def test_logits_of_16_bits_at_each_place(
    kernels, bits, weight_format, tmp_path
):
    x = inputs = keras.Input(SHAPE)
    x = block(kb.QuantConv2D(8, 3, bits=8, padding="same"), x)
    model = keras.Model(inputs, kb.QuantConv2D(5, 1, bits=bits)(x))
    path = str(tmp_path / "m.tflite")
    report = export(
        normalize(model, IMAGES),
        path,
        weight_format,
        output_type="int16",
        representative_data=IMAGES,
    )
    assert operators(path)[-1][0] == "FULLY_CONNECTED"
    found = codes(path, kernels) * report.output_scale
    error = np.abs(found - outputs_of(report.model, IMAGES)).max()
    assert error < 2 * report.output_scale


def over_time():
    x = inputs = keras.Input((12, 6))
    x = block(kb.QuantConv1D(8, 3, bits=7), x)
    x = block(kb.QuantConv1D(7, 1, strides=3, bits=2, padding="causal"), x)
    return inputs, block(kb.QuantDense(5, bits=2), x)


def dense_at_each_place():
    x = inputs = keras.Input(SHAPE)
    x = block(kb.QuantDense(6, bits=2), x)
    return inputs, block(kb.QuantDense(5, bits=2), x)


def behind_an_offset():
    """0.0 is not the zero point, and strides leave out the border."""
    inputs = keras.Input((7, 8, 6))
    x = layers.Rescaling(2.0, -1.0)(inputs)
    conv = kb.QuantConv2D(8, 1, strides=(2, 3), bits=2, padding="same")
    return inputs, block(conv, x)


@pytest.mark.parametrize(
    "build", [over_time, dense_at_each_place, behind_an_offset]
)
@pytest.mark.parametrize("weight_format", ["auto", "int2"])
def test_other_layers_of_size_1(build, weight_format, tmp_path):
    path = str(tmp_path / "m.tflite")
    model = keras.Model(*build())
    x = grid_inputs(model.input_shape[1:], samples=len(IMAGES))
    report = export(normalize(model, x), path, weight_format)
    low_bit = [name for name, dtype, _ in operators(path) if dtype != "int8"]
    assert set(low_bit) == {"FULLY_CONNECTED"}
    expected = trained_codes(report.model, x)
    assert len(np.unique(expected)) > 5
    # Some rows end inside of a byte: the default kernels round these twice.
    np.testing.assert_array_equal(codes(path, "xnnpack", x), expected)


def test_strides_leave_out_places_before_the_multiplication(tmp_path):
    path = str(tmp_path / "m.tflite")
    model = keras.Model(*behind_an_offset())
    export(normalize(model, grid_inputs((7, 8, 6))), path, align=False)
    pooled, dense = reader.read_tflite(path).operators
    assert (pooled.name, dense.name) == ("MAX_POOL_2D", "FULLY_CONNECTED")
    assert pooled.outputs[0].shape[1:] == (4, 3, 6)
    macs = [row.macs for row in kb.inspect_tflite(path).operators]
    assert macs == [0, len(IMAGES) * 4 * 3 * 8 * 6]
