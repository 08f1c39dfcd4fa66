"""What is in a file: types, versions, weights, the signature."""

import numpy as np
import pytest
from export_helpers import assert_same_codes
from export_helpers import exported
from export_helpers import file_codes
from export_helpers import grid_inputs
from export_helpers import network
from export_helpers import numpy_of
from export_helpers import read_file
from export_helpers import reference
from export_helpers import run
from export_networks import two_convolutions
from keras import layers

import keras_bcgd as kb
from keras_bcgd.tflite import packing
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.schema import load_schema


@pytest.mark.parametrize("weight_format", ["int8", "int4"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_file_holds_the_trained_codes(bits, weight_format, tmp_path):
    model = two_convolutions(bits, 4)
    path, report = exported(model, tmp_path, weight_format=weight_format)
    largest = max(1, 2 ** (bits - 1) - 1)
    multiplier = {"int8": 127, "int4": 7}[weight_format] // largest
    for conv, norm, row in zip(
        model.layers[::3], model.layers[1::3], report.layers, strict=True
    ):
        assert row.multiplier == multiplier
        _, codes = conv.kernel_scale_and_codes()
        expected = np.sign(numpy_of(norm.gamma)) * codes * multiplier
        values = file_codes(path, f"{conv.name}/weights")
        np.testing.assert_array_equal(values, np.moveaxis(expected, -1, 0))


def test_every_tensor_is_an_integer(tmp_path):
    model = network((8, 8, 3), *every_kind_of_layer())
    path, _ = exported(model, tmp_path)
    types = load_schema().TensorType
    (graph,) = read_file(path).subgraphs
    assert {t.type for t in graph.tensors} == {types.INT8, types.INT32}
    details = TFLiteRunner(path, "reference").interpreter.get_tensor_details()
    integers = (np.int8, np.int32)
    assert all(d["dtype"] in integers for d in details)


def every_kind_of_layer():
    return [
        layers.ZeroPadding2D(1),
        kb.QuantConv2D(6, 3, bits=4),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
        kb.QuantDepthwiseConv2D(3, bits=4),
        layers.MaxPooling2D(),
        kb.QuantReLU(4),
        layers.AveragePooling2D(1),
        layers.Flatten(),
        layers.Dropout(0.5),
        kb.QuantDense(5, bits=8),
        layers.Softmax(),
    ]


def test_operators_have_the_versions_of_their_types(tmp_path):
    model = network((8, 8, 3), *every_kind_of_layer())
    path, _ = exported(model, tmp_path, weight_format="auto")
    names = {
        code: name
        for name, code in vars(load_schema().BuiltinOperator).items()
        if not name.startswith("_")
    }
    versions = {
        (names[code.builtinCode], code.version)
        for code in read_file(path).operatorCodes
    }
    assert versions == {
        ("PAD", 2),
        ("CONV_2D", 7),
        ("DEPTHWISE_CONV_2D", 3),
        ("MAX_POOL_2D", 2),
        ("RESHAPE", 1),
        ("FULLY_CONNECTED", 4),
        ("SOFTMAX", 2),
    }


def test_signature(tmp_path):
    path, _ = exported(two_convolutions(1, 1), tmp_path)
    runner = TFLiteRunner(path)
    assert runner.interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["input"], "outputs": ["output"]}
    }


def test_constants_are_aligned(tmp_path):
    """The format demands 16 bytes; kernels may read whole vectors."""
    path, _ = exported(two_convolutions(4, 4), tmp_path)
    with open(path, "rb") as file:
        contents = file.read()
    model = load_schema().Model.GetRootAs(contents, 0)
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if not buffer.DataIsNone():
            assert buffer._tab.Vector(buffer._tab.Offset(4)) % 16 == 0


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_int4_packing(size):
    codes = np.random.default_rng(0).integers(-8, 8, size)
    packed = packing.pack_int4(codes)
    assert packed.size == (size + 1) // 2
    np.testing.assert_array_equal(packing.unpack_int4(packed, size), codes)


# int4 leaves a multiplier of 7 at 1 and 2 bits and none at 4.
@pytest.mark.parametrize("bits", [1, 2])
def test_int4_is_smaller_and_equal(bits, tmp_path):
    model = network(
        (8, 8, 3),
        kb.QuantConv2D(64, 3, bits=bits),
        layers.BatchNormalization(),
        kb.QuantReLU(2),
        kb.QuantConv2D(64, 3, bits=bits),
        layers.BatchNormalization(),
        kb.QuantReLU(2),
    )
    wide = exported(model, tmp_path)[1].file_bytes
    narrow = assert_same_codes(model, tmp_path, weight_format="int4")
    assert narrow.file_bytes < 0.6 * wide
    assert narrow.inexact_thresholds == 0


def test_int4_at_4_bits_is_nearly_equal(tmp_path):
    model = two_convolutions(4, 4)
    x = grid_inputs((8, 8, 3))
    path, report = exported(model, tmp_path, weight_format="int4")
    assert report.layers[0].exact / report.layers[0].thresholds > 0.9
    assert "may give the next code" in report.inexact[0]
    alpha = numpy_of(model.layers[-1].alpha)
    expected = np.round(reference(model, x) / alpha)
    for kernels in KERNELS:
        codes = np.round(run(path, x, kernels) / alpha)
        assert np.mean(codes == expected) > 0.98


def test_auto_takes_int4_where_it_fits(tmp_path):
    model = network(
        (8, 8, 3),
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
        layers.Flatten(),
        kb.QuantDense(3, bits=8),
    )
    path, _ = exported(model, tmp_path, weight_format="auto")
    types = load_schema().TensorType
    (graph,) = read_file(path).subgraphs
    of = {t.name.decode(): t.type for t in graph.tensors}
    assert of[f"{model.layers[0].name}/weights"] == types.INT4
    assert of[f"{model.layers[3].name}/weights"] == types.INT8
