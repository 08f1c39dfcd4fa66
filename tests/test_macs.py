"""MACs of the operators of a file against loops, Keras' count and Vela's."""

import itertools

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd.export import export_tflite
from keras_bcgd.tflite import macs
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.inspection import inspect_tflite
from keras_bcgd.tflite.writer import TFLiteWriter


def one_operator(name, image, weights, output):
    """An operator with an image, weights and no bias."""
    writer = TFLiteWriter("one operator")
    x = writer.add_tensor("x", image, "int8", 0.5)
    w = writer.add_constant("w", np.ones(weights), "int8", [0.5])
    y = writer.add_tensor("y", output, "int8", 0.5)
    inputs = [x, w, -1]
    if name == "TRANSPOSE_CONV":
        shape = writer.add_constant("shape", np.int32(output), "int32")
        inputs = [shape, w, x]
    writer.add_operator(name, inputs, [y])
    (operator,) = reader.parse(writer.finish({"x": x}, {"y": y})).operators
    return operator


def ranges(*sizes):
    return itertools.product(*map(range, sizes))


def conv_by_loops(batch, positions, kernel, channels, filters, groups=1):
    """One multiplication after the other."""
    count = 0
    for _ in ranges(batch, positions, positions, kernel, kernel):
        for channel, out in ranges(channels, filters):
            count += channel * groups // channels == out * groups // filters
    return count


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_convolution(groups):
    image, output = (2, 5, 5, 6), (2, 3, 3, 12)
    weights = (12, 3, 3, 6 // groups)
    operator = one_operator("CONV_2D", image, weights, output)
    assert macs.macs(operator) == conv_by_loops(2, 3, 3, 6, 12, groups)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolution(multiplier):
    out = 4 * multiplier
    operator = one_operator(
        "DEPTHWISE_CONV_2D", (1, 5, 5, 4), (1, 3, 3, out), (1, 3, 3, out)
    )
    # As many groups as channels.
    assert macs.macs(operator) == conv_by_loops(1, 3, 3, 4, out, groups=4)


def test_dense():
    operator = one_operator("FULLY_CONNECTED", (3, 7), (5, 7), (3, 5))
    assert macs.macs(operator) == sum(1 for _ in ranges(3, 7, 5))


@pytest.mark.parametrize("stride", [1, 2])
def test_transposed_convolution(stride):
    """Every number of the image goes to every place of the filter."""
    size = 4 * stride
    operator = one_operator(
        "TRANSPOSE_CONV", (1, 4, 4, 3), (2, 5, 5, 3), (1, size, size, 2)
    )
    assert macs.macs(operator) == sum(1 for _ in ranges(4, 4, 3, 5, 5, 2))


def test_other_operators_have_none():
    assert macs.macs(one_operator("ADD", (1, 8), (1, 8), (1, 8))) == 0


def rows_of(model, path):
    export_tflite(model, path, input_range=(0, 1), align=False, verbose=0)
    return inspect_tflite(path)


def test_files_have_the_macs_of_the_model(tmp_path):
    """`summary` counts the calls of the layers of Keras."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            kb.QuantConv2D(8, 3, bits=2, strides=2, padding="same"),
            kb.QuantReLU(4),
            kb.QuantConv2D(8, 3, bits=2, groups=2),
            kb.QuantReLU(4),
            kb.QuantConv2DTranspose(4, 2, bits=2, strides=2),
            kb.QuantReLU(4),
            kb.QuantDepthwiseConv2D(3, bits=2),
            kb.QuantReLU(4),
            keras.layers.Flatten(),
            kb.QuantDense(5, bits=2),
        ]
    )
    report = rows_of(model, tmp_path / "m.tflite")
    counted = [row.macs for row in report.operators if row.macs]
    assert counted == [row["macs"] for row in kb.summary(model).rows[::2]]
    assert report.macs == kb.summary(model).totals["macs"]
    assert f"  {report.macs:,}" in str(report)


def test_resnet_has_the_macs_that_vela_prints(tmp_path):
    """Vela 5.2 says 12,254,208 of this file, on an Ethos-U55-128.

    That is with 12,800 for pooling and copies, and without the average, which
    it leaves to the CPU.
    """
    model = kb.models.resnet_cifar(8)
    report = rows_of(model, tmp_path / "m.tflite")
    counted = sum(
        row.macs
        for row in report.operators
        if row.name in ("CONV_2D", "FULLY_CONNECTED")
    )
    assert counted == 12_254_208 - 12_800
