"""Integer TFLite files against the trained network in float64."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from export_helpers import INPUT_RANGE
from export_helpers import assert_same_codes
from export_helpers import exported
from export_helpers import file_codes
from export_helpers import grid_inputs
from export_helpers import network
from export_helpers import numpy_of
from export_helpers import outputs_of
from export_helpers import randomize
from export_helpers import read_file
from export_helpers import reference
from export_helpers import run

import keras_bcgd as kb
from keras_bcgd.export import arithmetic
from keras_bcgd.export import bias_intervals
from keras_bcgd.export import export_tflite
from keras_bcgd.tflite import packing
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.schema import load_schema
from keras_bcgd.verification import verify_tflite

layers = keras.layers


def two_convolutions(weight_bits, activation_bits):
    def block(filters, **settings):
        return [
            kb.QuantConv2D(filters, 3, bits=weight_bits, **settings),
            layers.BatchNormalization(),
            kb.QuantReLU(activation_bits),
        ]

    return network((8, 8, 3), *block(8, padding="same"), *block(12, strides=2))


@pytest.mark.parametrize("activation_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("weight_bits", [1, 2, 3, 4])
def test_every_code_is_the_trained_one(weight_bits, activation_bits, tmp_path):
    model = two_convolutions(weight_bits, activation_bits)
    report = assert_same_codes(model, tmp_path)
    assert report.inexact_thresholds == 0
    assert not report.notes


# At 5 bits and more the multiplier is 8 or less, at 8 bits 1; and 8-bit
# activations have 255 thresholds. What the report calls exact is exact, and
# elsewhere a code is off by one at most.
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    "weight_bits, activation_bits",
    [(1, 8), (2, 8), (4, 8), (5, 4), (6, 4), (8, 1), (8, 4), (8, 8)],
)
def test_wide_codes_are_off_by_one_at_most(
    weight_bits, activation_bits, kernels, tmp_path
):
    model = network(
        (8, 8, 3),
        kb.QuantConv2D(12, 3, bits=weight_bits),
        layers.BatchNormalization(),
        kb.QuantReLU(activation_bits),
    )
    x = grid_inputs((8, 8, 3))
    path, report = exported(model, tmp_path)
    alpha = numpy_of(model.layers[-1].alpha)
    difference = (run(path, x, kernels) - reference(model, x)) / alpha
    (row,) = report.layers
    exact = row.exact_by_default if kernels == "xnnpack" else row.exact
    assert np.max(np.abs(difference)) < 1.001
    assert np.mean(np.abs(difference) > 0.5) < 0.01
    if exact == row.thresholds:
        assert np.max(np.abs(difference)) < 0.001


NETWORKS = {
    "no normalization": [kb.QuantConv2D(4, 3, bits=4), kb.QuantReLU(4)],
    "per channel": [
        kb.QuantConv2D(4, 3, bits=4, per_channel=True),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "same, stride 2": [
        kb.QuantConv2D(4, 3, bits=4, strides=2, padding="same"),
        kb.QuantReLU(4),
    ],
    "oblong, dilated": [
        kb.QuantConv2D(4, (2, 3), bits=2, dilation_rate=(1, 2)),
        kb.QuantReLU(2),
    ],
    "depthwise": [
        kb.QuantDepthwiseConv2D(3, bits=4, padding="same"),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "depthwise, multiplier": [
        kb.QuantDepthwiseConv2D(3, bits=1, depth_multiplier=2, strides=2),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "depthwise, per channel": [
        kb.QuantDepthwiseConv2D(
            3, bits=4, depth_multiplier=2, per_channel=True
        ),
        layers.BatchNormalization(),
        kb.QuantReLU(2),
    ],
    "dense": [
        layers.Flatten(),
        kb.QuantDense(9, bits=4),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "no scale, no center": [
        kb.QuantConv2D(4, 3, bits=4),
        layers.BatchNormalization(scale=False),
        kb.QuantReLU(4),
        kb.QuantConv2D(4, 3, bits=4, use_bias=False),
        layers.BatchNormalization(center=False),
        kb.QuantReLU(4),
    ],
    "padding": [
        layers.ZeroPadding2D(((1, 2), (0, 1))),
        kb.QuantConv2D(4, 3, bits=4, strides=2),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ],
    "padding before the staircase": [
        kb.QuantConv2D(4, 3, bits=4),
        layers.BatchNormalization(),
        layers.ZeroPadding2D(1),
        kb.QuantReLU(4),
    ],
    "pooling before the staircase": [
        kb.QuantConv2D(4, 3, bits=4),
        layers.BatchNormalization(),
        layers.MaxPooling2D(),
        kb.QuantReLU(4),
    ],
    "max pooling": [
        kb.QuantReLU(4),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        kb.QuantConv2D(4, 1, bits=4),
        kb.QuantReLU(4),
    ],
    "global max pooling": [
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
        layers.GlobalMaxPooling2D(),
        kb.QuantDense(5, bits=4),
        kb.QuantReLU(4),
    ],
    "average": [
        kb.QuantReLU(4),
        layers.AveragePooling2D(2),
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
    ],
    "average that divides": [
        kb.QuantReLU(2),
        layers.AveragePooling2D(2, padding="same"),
        kb.QuantReLU(3),
    ],
    "overlapping average": [
        kb.QuantReLU(4),
        layers.AveragePooling2D(3, strides=1),
        kb.QuantReLU(4),
    ],
    "global average": [
        kb.QuantReLU(2),
        layers.GlobalAveragePooling2D(),
        kb.QuantDense(5, bits=4),
        kb.QuantReLU(4),
    ],
    "staircase alone": [kb.QuantReLU(4)],
    "staircase of a vector": [layers.Flatten(), kb.QuantReLU(4)],
    "staircase twice": [
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
        kb.QuantReLU(2),
    ],
    "reshape": [
        layers.Reshape((4, 16, 3)),
        kb.QuantConv2D(4, 3, bits=4),
        kb.QuantReLU(4),
    ],
    "training only": [
        layers.GaussianNoise(0.1),
        layers.RandomFlip(),
        kb.QuantConv2D(4, 3, bits=4),
        layers.SpatialDropout2D(0.5),
        layers.Activation("linear"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        kb.QuantReLU(4),
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers(name, tmp_path):
    parts = [type(p).from_config(p.get_config()) for p in NETWORKS[name]]
    assert_same_codes(network((8, 8, 3), *parts), tmp_path)


def test_augmentation_does_not_reach_the_scale_of_the_output(tmp_path):
    model = network(
        (8, 8, 3),
        layers.RandomFlip(),
        layers.Flatten(),
        kb.QuantDense(5, bits=8),
    )
    x = np.random.default_rng(0).uniform(size=(20, 8, 8, 3)).astype("float32")
    files = []
    for name in ("a.tflite", "b.tflite"):
        kb.export_tflite(model, tmp_path / name, representative_data=x)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def dyadic_network(bits, activation_bits):
    """Sums, alpha and input steps are powers of 2: many exact ties."""
    model = keras.Sequential(
        [
            keras.Input((8,)),
            kb.QuantDense(6, bits=bits, use_bias=False),
            kb.QuantReLU(activation_bits),
        ]
    )
    rng = np.random.default_rng(0)
    codes = rng.choice([-1, 1] if bits == 1 else [-1, 0, 1], (8, 6))
    model.layers[0].kernel.assign(codes * 0.5)
    model.layers[1].alpha.assign(0.25)
    return model


@pytest.mark.parametrize("bits", [1, 2])
def test_ties_go_down(bits, tmp_path):
    x = np.random.default_rng(0).integers(-8, 9, (64, 8)) / 16
    model = dyadic_network(bits, 4)
    sums = x @ numpy_of(model.layers[0].quantized_kernel)
    assert np.mean(sums % 0.25 == 0) > 0.05
    assert_same_codes(model, tmp_path, x, input_range=(-1, 127 / 128))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_zero_gives_zero(bits, kernels, tmp_path):
    path, _ = exported(dyadic_network(2, bits), tmp_path, 1)
    assert not np.any(run(path, np.zeros((1, 8)), kernels))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_saturation_at_both_ends(bits, kernels, tmp_path):
    model = dyadic_network(1, bits)
    model.layers[0].kernel.assign(np.repeat([[1, 1, 1, -1, -1, -1]], 8, 0))
    model.layers[1].alpha.assign(0.01)
    path, _ = exported(model, tmp_path, 1)
    runner = TFLiteRunner(path, kernels)
    codes = runner.run(runner.quantize(np.ones((1, 8))))
    bottom = 127 - (2**bits - 1)
    np.testing.assert_array_equal(codes, [[127] * 3 + [bottom] * 3])


def test_zero_and_tiny_gamma_leave_a_constant(tmp_path):
    model = two_convolutions(4, 4)
    norm = model.layers[1]
    norm.gamma.assign([0, 1e-30, -1e-12, 1e-6, 1, 1, 1, 1])
    report = assert_same_codes(model, tmp_path)
    assert report.layers[0].constant == 4


def test_huge_gamma(tmp_path):
    model = two_convolutions(1, 1)
    model.layers[1].gamma.assign([1e3, -1e3, 1e8, -1e9, 1, 1, 1, 1])
    assert_same_codes(model, tmp_path)


def test_zero_kernel(tmp_path):
    model = two_convolutions(4, 4)
    kernel = numpy_of(model.layers[0].kernel)
    kernel[..., :2] = 0
    model.layers[0].kernel.assign(kernel)
    assert_same_codes(model, tmp_path)


def test_zero_between_two_input_codes(tmp_path):
    """The offset of the grid goes into the bias."""
    model = network((6, 6, 2), kb.QuantConv2D(4, 3, bits=4), kb.QuantReLU(4))
    low, high = -0.4703, 0.9
    x = low + (high - low) * grid_inputs((6, 6, 2))
    report = assert_same_codes(model, tmp_path, x, input_range=(low, high))
    assert "between two input codes" in report.notes[0]


@pytest.mark.parametrize("size", [1, 2])
def test_average_of_signed_inputs(size, tmp_path):
    model = network((8, 8, 3), layers.AveragePooling2D(size))
    x = 2 * grid_inputs((8, 8, 3)) - 1
    path, report = exported(model, tmp_path, input_range=(-1, 1))
    for kernels in KERNELS:
        difference = run(path, x, kernels) - reference(model, x)
        assert np.max(np.abs(difference)) < 1.1 * report.output_scale


# The contents of the file.


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
        ("DEPTHWISE_CONV_2D", 6),
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


# The arithmetic by itself: every sum, in a model of the two ways to round.


def levels_of(total, step, zero_point, rounding, levels):
    """The level of each accumulator in one of the two kinds of kernel."""
    ratio = 1 / step
    if rounding == bias_intervals.ONCE:
        code = np.rint(np.float32(total) * np.float32(ratio)).astype(int)
    else:
        mantissa, exponent = np.frexp(ratio)
        fixed = int(np.round(mantissa * 2**31))
        product = (total.astype(int) * fixed + 2**30) >> 31
        shift = -int(exponent)
        code = (product + ((1 << shift) >> 1)) >> shift
    return np.clip(code, 0, levels)


def staircase(levels):
    grid = arithmetic.Grid(1.0, 127 - levels, low=127 - levels)
    return arithmetic.Output(grid, np.arange(levels))


@pytest.mark.parametrize(
    "rounding", [bias_intervals.ONCE, bias_intervals.TWICE_UP]
)
@pytest.mark.parametrize("mult, levels", [(127, 255), (18, 15), (7, 3), (1, 1)])
def test_exact_means_every_sum(mult, levels, rounding):
    rng = np.random.default_rng(0)
    step = rng.uniform(mult, 40 * mult, 50)
    start = rng.normal(size=50) * step
    low, high = np.full(50, -1000.0), np.full(50, 1000.0)
    if levels == 255:
        high[:] = 20000
    both = (bias_intervals.ONCE, bias_intervals.TWICE_UP)
    output = staircase(levels)
    search = bias_intervals.BiasIntervals(
        step, start, mult, low, high, output, both
    )
    bias, file_step = search.place(step)
    file_step = 1 / np.float64(np.float32(1 / file_step))
    full = search.count(bias, file_step) == levels
    assert np.mean(full) > (0.3 if mult == 1 else 0.5)
    for c in np.flatnonzero(full):
        n = np.arange(low[c], high[c] + 1)
        j = np.arange(levels)
        trained = np.sum((mult * n + start[c])[:, None] > j * step[c], axis=1)
        found = levels_of(mult * n + bias[c], file_step[c], 0, rounding, levels)
        np.testing.assert_array_equal(found, trained)


def test_first_rounding_counts_where_both_cannot_fit():
    """Without room (mult = 1) one kind of kernel is nearly exact."""
    rng = np.random.default_rng(0)
    step = rng.uniform(20, 100, 50)
    start = rng.normal(size=50) * step
    bounds = np.full(50, -2000.0), np.full(50, 2000.0)
    for first, other in [
        (bias_intervals.ONCE, bias_intervals.TWICE_UP),
        (bias_intervals.TWICE_UP, bias_intervals.ONCE),
    ]:
        roundings = (first, other)
        search = bias_intervals.BiasIntervals(
            step, start, 1, *bounds, staircase(15), roundings
        )
        bias, file_step = search.place(step)
        assert search.count(bias, file_step, (first,)).mean() > 0.9 * 15


@pytest.mark.parametrize("low, high", [(0, 1), (-1, 1), (-3, 0), (-0.1, 7)])
def test_input_grid_spans_the_range(low, high):
    grid = arithmetic.input_grid(low, high)
    ends = grid.scale * (np.array([-128, 127]) - grid.zero_point) + grid.offset
    np.testing.assert_allclose(ends, [low, high], atol=1e-9)


@pytest.mark.parametrize("low, high", [(3, 9), (-5, 11), (-9, -2), (0, 0)])
def test_range_grid_holds_zero_and_the_range(low, high):
    grid = arithmetic.range_grid(low, high)
    ends = grid.scale * (np.array([-128, 127]) - grid.zero_point)
    assert -128 <= grid.zero_point <= 127
    assert ends[0] <= low + grid.scale and high - grid.scale <= ends[1]


# Outputs: logits, softmax and their scale.


def classifier(bits=8, **settings):
    return network(
        (8, 8, 3),
        kb.QuantConv2D(8, 3, bits=4),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
        layers.Flatten(),
        kb.QuantDense(10, bits=bits, **settings),
    )


@pytest.mark.parametrize("kernels", KERNELS)
def test_logits_are_the_nearest_steps(kernels, tmp_path):
    """Between the smallest runner-up and the largest; others saturate."""
    model, x = classifier(), grid_inputs((8, 8, 3), 64)
    path, report = exported(
        model,
        tmp_path,
        64,
        representative_data=x,
        task="classification",
    )
    assert "saturate" in report.notes[0]
    expected = reference(model, x)
    runner_up = np.sort(expected, axis=1)[:, -2].min()
    assert report.output_scale * 255 < 1.2 * max(
        expected.max() - runner_up, expected.max()
    )
    low = report.output_scale * (-128 - report.output_zero_point)
    difference = run(path, x, kernels) - np.maximum(expected, low)
    assert np.max(np.abs(difference)) < 0.6 * report.output_scale
    assert np.any(expected < low - report.output_scale)


@pytest.mark.parametrize("kernels", KERNELS)
def test_data_without_spread(kernels, tmp_path):
    """Logits of 0 would ask for steps finer than the kernels can make."""
    model = network((4,), kb.QuantDense(3, bits=8, use_bias=False))
    model.layers[0].kernel.assign(1e5 * numpy_of(model.layers[0].kernel))
    path, _ = exported(model, tmp_path, 1, representative_data=np.zeros((1, 4)))
    assert not np.any(run(path, np.zeros((1, 4)), kernels))


@pytest.mark.parametrize("bits, weight_format", [(8, "int8"), (4, "int4")])
@pytest.mark.parametrize("kernels", KERNELS)
def test_int16_logits(kernels, bits, weight_format, tmp_path):
    model, x = classifier(bits), grid_inputs((8, 8, 3))
    path, report = exported(
        model,
        tmp_path,
        output_type="int16",
        weight_format="auto" if weight_format == "int4" else "int8",
        representative_data=x,
    )
    if weight_format == "int8":
        difference = run(path, x, kernels) - reference(model, x)
        assert np.max(np.abs(difference)) < 2.5 * report.output_scale
    assert report.output_scale < 1e-3


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("kernels", KERNELS)
def test_int16_logits_of_a_convolution(kernels, size, tmp_path):
    """The classifier of MobileNet; the mean of 64 codes is split, exactly."""
    model = network(
        (size, size, 3),
        kb.QuantConv2D(8, 3, bits=4, padding="same"),
        kb.QuantReLU(4),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Dropout(0.1),
        kb.QuantConv2D(10, 1, bits=8, padding="same"),
        layers.Reshape((10,)),
    )
    x = grid_inputs((size, size, 3))
    path, report = exported(
        model, tmp_path, output_type="int16", representative_data=x
    )
    assert [row.op for row in report.layers][-1] == "FULLY_CONNECTED"
    assert not report.notes
    steps = (run(path, x, kernels) - outputs_of(model, x)) / report.output_scale
    assert np.max(np.abs(steps)) < 2.5


def test_bounds_hold_without_data(tmp_path):
    model, x = classifier(), grid_inputs((8, 8, 3))
    path, report = exported(model, tmp_path)
    assert "finer" in report.notes[-1]
    expected = reference(model, x)
    best = expected.max(axis=1)
    outputs = run(path, x, "xnnpack").max(axis=1)
    assert np.max(np.abs(outputs - best)) < 0.6 * report.output_scale


SOFTMAXES = {
    "argument": lambda: [kb.QuantDense(10, bits=8, activation="softmax")],
    "layer": lambda: [kb.QuantDense(10, bits=8), layers.Softmax()],
    "activation": lambda: [
        kb.QuantDense(10, bits=8),
        layers.Activation("softmax"),
    ],
}


@pytest.mark.parametrize("form", SOFTMAXES)
def test_softmax(form, tmp_path):
    model = network((12,), kb.QuantReLU(4), *SOFTMAXES[form]())
    x = grid_inputs((12,), 64)
    path, report = exported(model, tmp_path, 64, representative_data=x)
    assert report.output_scale == 1 / 256
    expected = model.predict(x, verbose=0)
    for kernels in KERNELS:
        assert np.max(np.abs(run(path, x, kernels) - expected)) < 0.01


def test_range_of_the_data_is_that_of_the_input(tmp_path):
    x = 2 * grid_inputs((8, 8, 3)) - 0.5
    path, report = exported(
        classifier(), tmp_path, input_range=None, representative_data=x
    )
    assert report.input_scale == pytest.approx(2 / 255)


def test_data_outside_of_the_range_is_told(tmp_path):
    x = 2 * grid_inputs((8, 8, 3))
    _, report = exported(classifier(), tmp_path, representative_data=x)
    assert "outside of `input_range`" in report.notes[0]


# The mean of 64 codes of 4 bits has 961 values.


@pytest.mark.parametrize("kernels", KERNELS)
def test_average_before_the_last_layer_is_exact(kernels, tmp_path):
    model = network(
        (8, 8, 3),
        kb.QuantReLU(4),
        layers.GlobalAveragePooling2D(),
        kb.QuantDense(3, bits=8),
    )
    x = grid_inputs((8, 8, 3))
    path, report = exported(model, tmp_path, representative_data=x)
    assert not report.notes
    low = report.output_scale * (-128 - report.output_zero_point)
    difference = run(path, x, kernels) - np.maximum(reference(model, x), low)
    assert np.max(np.abs(difference)) < 0.51 * report.output_scale


def test_average_inside_is_told_to_round(tmp_path):
    model = network(
        (16, 16, 3),
        kb.QuantReLU(4),
        layers.AveragePooling2D(8),
        kb.QuantConv2D(3, 1, bits=8),
    )
    x = grid_inputs((16, 16, 3))
    path, report = exported(model, tmp_path, representative_data=x)
    assert "rounds: its mean of 64 codes" in report.inexact[0]
    low = report.output_scale * (-128 - report.output_zero_point)
    difference = run(path, x, "xnnpack") - np.maximum(reference(model, x), low)
    step = 15 * numpy_of(model.layers[0].alpha) / 255
    weights = np.abs(numpy_of(model.layers[-1].quantized_kernel)).sum(2).max()
    bound = 0.51 * (step * weights + report.output_scale)
    assert np.max(np.abs(difference)) < bound


def test_report_is_a_table(tmp_path):
    path, report = exported(classifier(), tmp_path)
    text = str(report)
    assert path in text and f"{os.path.getsize(path):,} bytes" in text
    assert all(row.name in text for row in report.layers)
    assert report.layers[0].flips == 2
    assert "120 of 120" in text


# Models in other forms, and the same file from each.


def functional(model):
    x = outputs = keras.Input(model.input_shape[1:])
    for layer in model.layers:
        outputs = layer(outputs)
    return keras.Model(x, outputs)


def nested(model):
    x = keras.Input(model.input_shape[1:])
    return keras.Model(x, keras.Sequential([model])(x))


def reloaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def test_each_form_of_a_model_gives_the_same_bytes(tmp_path):
    model = classifier()
    models = {
        "sequential": model,
        "functional": functional(model),
        "nested": nested(model),
        "reloaded": reloaded(model, tmp_path),
    }
    contents = {}
    for name, form in models.items():
        path, _ = exported(form, tmp_path)
        with open(path, "rb") as file:
            contents[name] = file.read()
    assert len(set(contents.values())) == 1


def test_trained_weights_are_those_of_the_layer(tmp_path):
    """Once the optimizer has stepped, the kernel itself is quantized."""
    model = two_convolutions(4, 4)
    inner = keras.optimizers.SGD(0.1)
    model.compile(kb.BlendedOptimizer(inner, blending=1e-5), "mse")
    x = grid_inputs((8, 8, 3))
    model.fit(x, np.ones((16, 3, 3, 12)), verbose=0)
    assert_same_codes(randomize(model), tmp_path)


def test_export_runs_without_tensorflow(tmp_path):
    pytest.importorskip("jax")
    code = (
        "import sys\n"
        "sys.modules['tensorflow'] = None  # as if it were not installed\n"
        "import keras, keras_bcgd as kb\n"
        "from keras_bcgd.export import export_tflite\n"
        "model = keras.Sequential([keras.Input((4,)), kb.QuantReLU(4),\n"
        "                          kb.QuantDense(3, bits=4)])\n"
        f"export_tflite(model, {str(tmp_path / 'm.tflite')!r}, (0, 1))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "m.tflite").exists()


# Errors: a sentence that names what to do, and no file.


@keras.saving.register_keras_serializable(package="test_export")
class Custom(layers.Layer):
    def call(self, x):
        return x


def with_layer_twice():
    x = keras.Input((8, 8, 3))
    relu = kb.QuantReLU(4, name="twice")
    return keras.Model(x, relu(relu(x)))


def with_operation():
    x = keras.Input((8, 8, 3))
    return keras.Model(x, kb.QuantReLU(4)(keras.ops.sqrt(x)))


def with_two_outputs():
    x = keras.Input((8, 8, 3))
    y = kb.QuantReLU(4)(x)
    return keras.Model(x, [y, kb.QuantReLU(4)(y)])


def chain_of(*parts, shape=(8, 8, 3)):
    return lambda: keras.Sequential([keras.Input(shape), *parts])


def with_nan(layer, attribute):
    def build():
        model = two_convolutions(4, 4)
        variable = getattr(model.layers[layer], attribute)
        variable.assign(np.full(variable.shape, np.nan))
        return model

    return build


def named(layer, name, *args, **settings):
    return layer(*args, name=name, **settings)


def conv(name="conv", **settings):
    return kb.QuantConv2D(4, 3, name=name, **settings)


BAD_MODELS = {
    "unknown layer": (
        chain_of(kb.QuantReLU(4), layers.LayerNormalization(name="n")),
        r"'n' \(LayerNormalization\): use a BatchNormalization",
    ),
    "custom layer": (chain_of(Custom(name="own")), r"'own' \(Custom\)"),
    "lambda": (chain_of(layers.Lambda(abs, name="l")), r"'l' \(Lambda\)"),
    "layer called twice": (with_layer_twice, "'twice' .* called several times"),
    "operation": (with_operation, r"\(Sqrt\): an operation that is not"),
    "two outputs": (with_two_outputs, r"it has 2 outputs \('.*', '.*'\)"),
    "normalized axis": (
        chain_of(conv(), named(layers.BatchNormalization, "bn", axis=1)),
        "'bn' .*last axis",
    ),
    "activation": (
        chain_of(conv(activation="tanh"), kb.QuantReLU(4)),
        "'conv' .*activation=None and a QuantReLU",
    ),
    "channels first": (
        chain_of(
            layers.ZeroPadding2D(1, data_format="channels_first", name="z")
        ),
        "'z' .*channels_last",
    ),
    "groups": (
        chain_of(kb.QuantConv2D(4, 3, groups=2, name="g"), shape=(8, 8, 4)),
        "'g' .*groups=1",
    ),
    "dense of a sequence": (
        chain_of(kb.QuantDense(4, name="d"), shape=(8, 3)),
        r"'d' .*put a Reshape before it, to \(height, width, channels\)",
    ),
    "average at the border": (
        chain_of(
            kb.QuantReLU(4),
            layers.AveragePooling2D(3, padding="same", name="p"),
        ),
        "'p' .*padding='valid'",
    ),
    "softmax inside": (
        chain_of(layers.Softmax(name="s"), kb.QuantReLU(4)),
        "'s' .*last of the model",
    ),
    "softmax of another axis": (
        chain_of(kb.QuantReLU(4), layers.Softmax(axis=1, name="s")),
        "'s' .*over the last axis",
    ),
    "nothing": (chain_of(layers.Dropout(0.5)), "nothing to compute"),
    "not built": (
        lambda: keras.Sequential([kb.QuantReLU(4)]),
        "no known input shape",
    ),
    "open size": (
        chain_of(kb.QuantReLU(4), shape=(None, None, 3)),
        "size of the input must be fixed",
    ),
    "not a model": (lambda: "model.keras", "Received: model='model.keras'"),
    "NaN kernel": (with_nan(3, "kernel"), "The kernel of layer 'quant_conv"),
    "NaN bias": (with_nan(0, "bias"), "The bias of layer 'quant_conv"),
    "NaN gamma": (with_nan(1, "gamma"), "The gamma of layer 'batch_norm"),
    "NaN statistics": (
        with_nan(4, "moving_variance"),
        "The moving_variance of layer 'batch_norm",
    ),
    "NaN alpha": (with_nan(5, "alpha"), "The alpha of layer 'quant_re_lu"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models_are_refused(name, tmp_path):
    build, message = BAD_MODELS[name]
    model = build()
    with pytest.raises(ValueError, match=message):
        export_tflite(model, tmp_path / "model.tflite", INPUT_RANGE)
    assert not os.listdir(tmp_path)


DATA = np.zeros((4, 8, 8, 3))
BAD_ARGUMENTS = {
    "no range": ({"input_range": None}, "is required"),
    "reversed": ({"input_range": (1, 0)}, r"Received: input_range=\(1, 0\)"),
    "empty range": ({"input_range": (0, 0)}, "two finite numbers"),
    "NaN range": ({"input_range": (0, np.nan)}, "two finite numbers"),
    "infinite range": ({"input_range": (0, np.inf)}, "two finite numbers"),
    "one number": ({"input_range": 1.0}, "two finite numbers"),
    "strings": ({"input_range": ("a", "b")}, "two finite numbers"),
    "without zero": ({"input_range": (1, 2)}, "0.0 between them"),
    "no samples": ({"representative_data": DATA[:0]}, "at least one sample"),
    "constant data": (
        {"representative_data": DATA, "input_range": None},
        "two finite numbers",
    ),
    "shape": ({"representative_data": DATA[..., 0]}, r"\(samples, 8, 8, 3\)"),
    "NaN data": ({"representative_data": DATA * np.nan}, "768 values NaN"),
    "text data": ({"representative_data": np.array("a")}, "array of numbers"),
    "format": ({"weight_format": "int1"}, "int8, int4, int2, auto"),
    "wide int4": ({"weight_format": "int4"}, r"'quant_dense.* \(bits=8\)"),
    "output": ({"output_type": "int32"}, "int8, int16"),
    "batch": ({"batch_size": 0}, "Received: batch_size=0"),
    "batch float": ({"batch_size": 1.5}, "Received: batch_size=1.5"),
    "batch None": ({"batch_size": None}, "Received: batch_size=None"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(name, tmp_path):
    settings, message = BAD_ARGUMENTS[name]
    settings = {"input_range": INPUT_RANGE, **settings}
    with pytest.raises(ValueError, match=message):
        export_tflite(classifier(), tmp_path / "model.tflite", **settings)
    assert not os.listdir(tmp_path)


def test_sums_that_overflow_are_refused(tmp_path):
    model = network((70000,), kb.QuantDense(1, bits=1), kb.QuantReLU(4))
    with pytest.raises(ValueError, match="'quant_dense.*fit in 32 bits"):
        exported(model, tmp_path)
    assert not os.listdir(tmp_path)


def test_int16_is_for_logits(tmp_path):
    with pytest.raises(ValueError, match="needs a QuantDense"):
        exported(two_convolutions(4, 4), tmp_path, output_type="int16")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "path, error",
    [("no/folder/m.tflite", FileNotFoundError), (".", IsADirectoryError)],
)
def test_unwritable_paths_are_named(path, error, tmp_path):
    with pytest.raises(error, match=r"`path` must be .* Received: path="):
        export_tflite(classifier(), tmp_path / path, INPUT_RANGE)
    assert not os.listdir(tmp_path)


def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left .*model.tflite"):
        export_tflite(classifier(), path, INPUT_RANGE)
    assert os.listdir(tmp_path) == ["model.tflite"]
    assert path.read_bytes() == b"old"


def test_missing_runtime_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ImportError, match=r"keras-bcgd\[export\]"):
        exported(classifier(), tmp_path)


# The whole way: train on real images, export, compare.


@pytest.fixture(scope="module")
def digits():
    from sklearn import datasets

    data = datasets.load_digits()
    x = np.float32(np.round(data.images[..., None] * 255 / 16) / 255)
    return x, data.target


@pytest.fixture(scope="module", params=[1, 4])
def trained(request, digits):
    keras.utils.set_random_seed(0)
    bits = request.param
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            kb.QuantConv2D(16, 3, bits=bits, padding="same"),
            layers.BatchNormalization(),
            kb.QuantReLU(4),
            kb.QuantConv2D(32, 3, bits=bits, padding="same"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            kb.QuantReLU(4),
            layers.Flatten(),
            kb.QuantDense(10, bits=8),
        ]
    )
    model.compile(
        kb.BlendedOptimizer(keras.optimizers.SGD(0.05, momentum=0.9), 1e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x, y = digits
    model.fit(x[:1297], y[:1297], batch_size=32, epochs=3, verbose=0)
    return model


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("output_type", ["int8", "int16"])
def test_trained_digits(trained, digits, output_type, kernels, tmp_path):
    x, y = digits
    path, report = exported(
        trained,
        tmp_path,
        500,
        representative_data=x[:1297],
        output_type=output_type,
    )
    # 720 (channel, level) pairs; one may be exact on the default kernels only.
    assert report.inexact_thresholds <= 3
    assert all(row.exact_by_default == row.thresholds for row in report.layers)
    result = verify_tflite(trained, path, x[1297:], y[1297:], kernels)
    assert result.model_accuracy > 0.8
    assert result.equal + result.ties >= 499
    assert result.inside_differences == 0
    if output_type == "int16":
        assert result.agreement >= 0.998
    # A file of 256 steps cannot tell logits apart that share a step: how many
    # do so is up to the network, which each processor trains a little apart.
    best, second = np.sort(trained.predict(x[1297:], verbose=0))[:, :-3:-1].T
    close = best - second < 1.1 * report.output_scale
    assert result.samples - result.equal <= np.sum(close)


# Representative data in other forms than an array.


@pytest.mark.parametrize("form", ["tf.data", "batches", "TFLite", "list"])
def test_forms_of_representative_data(form, tmp_path):
    """The same file as from the array."""
    model, x = classifier(), np.float32(grid_inputs((8, 8, 3), 24))
    if form == "tf.data":
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((x, np.zeros(24))).batch(7)
    elif form == "batches":
        data = (x[i : i + 7] for i in range(0, 24, 7))
    elif form == "TFLite":
        data = lambda: ([image[None]] for image in x)  # noqa: E731
    else:
        data = list(x)
    paths = [tmp_path / "array.tflite", tmp_path / "other.tflite"]
    for path, given in zip(paths, (x, data), strict=True):
        export_tflite(model, path, representative_data=given)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_wrong_representative_data_is_named(tmp_path):
    with pytest.raises(ValueError, match="`representative_data` must be an ar"):
        export_tflite(
            classifier(), tmp_path / "m", representative_data=iter([1, 2])
        )
    assert not os.listdir(tmp_path)
