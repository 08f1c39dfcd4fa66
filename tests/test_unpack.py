"""Files with packed weights become files of int8 weights, equal ones."""

import keras
import numpy as np
import pytest
from export_helpers import network
from export_helpers import random_resnet

import keras_bcgd as kb
from keras_bcgd.export import arithmetic
from keras_bcgd.export import unpacked_integers
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.writer import TFLiteWriter

layers = keras.layers
LABELS = ["zero", "one", "two", "three", "four"]


def chain(bits, last=8):
    """Convolutions of each kind, whose weights fill tables."""
    parts = []
    for layer in (
        kb.QuantConv2D(16, 3, bits=bits),
        kb.QuantDepthwiseConv2D(3, bits=bits, padding="same"),
        kb.QuantConv2D(32, 1, bits=bits),
        kb.QuantConv2DTranspose(16, 3, bits=bits),
    ):
        parts += [layer, layers.BatchNormalization(), kb.QuantReLU(4)]
    end = [layers.GlobalAveragePooling2D(), kb.QuantDense(5, bits=last)]
    return network((8, 8, 3), *parts, *end)


def inputs(model, samples=64):
    shape = model.inputs[0].shape[1:]
    return np.random.default_rng(0).integers(0, 256, (samples, *shape)) / 255


def exported(model, path, weight_format, **settings):
    return kb.export_tflite(
        model,
        path,
        (0, 1),
        inputs(model),
        weight_format=weight_format,
        **settings,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"labels": LABELS},
        {"input_type": "uint8", "output_type": "uint8"},
        {"batch_size": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("bits", [1, 4])
def test_tables_become_the_int8_file(bits, settings, tmp_path):
    model = exported(chain(bits), tmp_path / "a", "lut", **settings).model
    settings = {**settings, "align": False}
    exported(model, tmp_path / "lut", "lut", **settings)
    exported(model, tmp_path / "int8", "int8", **settings)
    report = kb.unpack_tflite(tmp_path / "lut", tmp_path / "out")
    assert report.unpacked and report.is_exact
    expected = (tmp_path / "int8").read_bytes()
    assert (tmp_path / "out").read_bytes() == expected
    assert report.file_bytes == len(expected)
    assert report.packed_bytes == (tmp_path / "lut").stat().st_size


def test_what_micro_leaves_out_is_restored(tmp_path):
    """The scales of biases, which LiteRT asks for."""
    model = random_resnet(2, 4)
    for name, target in (("a", "micro"), ("b", None)):
        exported(model, tmp_path / name, "int4", target=target)
        kb.unpack_tflite(tmp_path / name, tmp_path / f"{name}8")
    assert (tmp_path / "a").stat().st_size < (tmp_path / "b").stat().st_size
    found, expected = tmp_path / "a8", tmp_path / "b8"
    assert found.read_bytes() == expected.read_bytes()


def assert_equal_on(kernels, path, out, samples=32, given_on=None):
    found = TFLiteRunner(out, kernels)
    expected = TFLiteRunner(path, given_on or kernels)
    shape = samples, *expected.inputs[0].shape[1:]
    codes = np.random.default_rng(1).integers(-128, 128, shape, np.int8)
    answers = expected.run(codes)
    assert len(np.unique(answers)) > 10
    np.testing.assert_array_equal(found.run(codes), answers)


@pytest.mark.parametrize(
    "make, bits, weight_format",
    [
        (random_resnet, 1, "int4"),
        (random_resnet, 2, "int4"),
        (chain, 1, "int4"),
        (chain, 2, "int2"),
        (chain, 3, "int4"),
        (chain, 4, "int4"),
        (chain, 4, "auto"),
    ],
)
def test_convolutions_have_the_same_answers(
    make, bits, weight_format, tmp_path
):
    """Of an aligned file: int4 ones round twice on the default kernels."""
    path, out = tmp_path / "a", tmp_path / "b"
    exported(make(bits, 4), path, weight_format)
    report = kb.unpack_tflite(path, out)
    assert report.is_exact and report.thresholds > 0
    dtypes = {tensor.dtype for tensor in reader.read_tflite(out).tensors}
    assert not dtypes & {"int4", "int2"}
    assert_equal_on("xnnpack", path, out)


@pytest.mark.parametrize("output_type", ["int8", "int16"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bits, weight_format", [(2, "int2"), (4, "auto")])
def test_strides_of_size_1_are_those_of_the_convolution(
    bits, weight_format, shared, output_type, tmp_path
):
    """As int4 they are a MAX_POOL_2D before it; one of the model stays."""
    settings = {"output_type": output_type}
    x = inputs_ = keras.Input((9, 8, 4))
    x = kb.QuantReLU(4)(kb.QuantConv2D(8, 3, bits=bits, padding="same")(x))
    y, strides = x, (2, 1)
    if shared:
        x = layers.MaxPooling2D(1, strides=2)(x)
        y, strides = layers.Cropping2D(1)(x), 1
    x = kb.QuantConv2D(16, 1, strides=strides, bits=bits)(x)
    x = kb.QuantReLU(4)(layers.BatchNormalization()(x))
    model = keras.Model(inputs_, [x, kb.QuantConv2D(3, 1, bits=bits)(y)])
    exported(model, tmp_path / "a", weight_format, **settings)
    exported(model, tmp_path / "int8", "int8", **settings)
    kb.unpack_tflite(tmp_path / "a", tmp_path / "b")
    found, expected = operators(tmp_path / "b"), operators(tmp_path / "int8")
    if output_type == "int16":  # where the two round otherwise
        expected[-1] = ("FULLY_CONNECTED", 4)
    assert found == expected
    shape = TFLiteRunner(tmp_path / "a").inputs[0].shape
    codes = np.random.default_rng(0).integers(-128, 128, shape, np.int8)
    expected, found = (
        TFLiteRunner(tmp_path / name).run_outputs(codes) for name in "ab"
    )
    for one, other in zip(expected, found, strict=True):
        assert len(np.unique(one)) > 3
        np.testing.assert_array_equal(other, one)


def test_says_where_answers_may_change(tmp_path):
    """256 codes, and weights that leave next to no room between sums."""
    exported(random_resnet(4, 4), tmp_path / "a.tflite", "int4", align=False)
    report = kb.unpack_tflite(tmp_path / "a.tflite")
    assert not report.is_exact and report.equal > 0.99 * report.thresholds
    missed = report.thresholds - report.equal
    assert f"{missed} of {report.thresholds:,} thresholds may" in str(report)


def in_fixed_point(sums, ratio):
    """As LiteRT's builtin kernels round: to 31 bits, then halves up."""
    fraction, shift = np.frexp(ratio)
    factor = int(np.round(fraction * 2.0**31))
    codes = []
    for total in map(int, sums):
        high = (total * factor + (1 << 30)) >> 31
        codes.append((high + (1 << -shift - 1) >> -shift) if shift else high)
    return np.array(codes)


def in_float32(sums, ratio):
    """As XNNPACK rounds: once, halves to even."""
    product = sums.astype(np.float32) * np.float32(ratio)
    return np.rint(product).astype(np.int64)


@pytest.mark.parametrize("largest", [1, 2, 7])
@pytest.mark.parametrize("low", [-128, -3])
def test_rounding_once_gives_what_rounding_twice_did(low, largest):
    """Every sum of many channels, without a file."""
    rng = np.random.default_rng(largest)
    channels, inputs = 40, 30
    codes = rng.integers(-largest, largest + 1, (inputs, channels))
    given = unpacked_integers.Integers(
        (7 // largest * codes).astype(np.int8),
        np.float32(2.0 ** -rng.uniform(1, 7, channels)),
        rng.integers(-2000, 2000, channels),
    )
    grid = arithmetic.Grid(0.03, -128)
    y = arithmetic.Grid(0.02, -3, low=low)
    integers, thresholds, equal = unpacked_integers.int8_integers(
        given, grid, y
    )
    missed = 0
    for c in range(channels):
        step = np.gcd.reduce(given.values[:, c].astype(int))
        mult = integers.values[:, c].astype(int) @ given.values[:, c]
        mult = mult * step // (given.values[:, c].astype(int) ** 2).sum()
        np.testing.assert_array_equal(
            integers.values[:, c] * step, given.values[:, c] * mult
        )
        k = np.arange(-4000, 4001)
        expected = in_fixed_point(
            step * k + given.bias[c],
            np.float64(np.float32(0.03)) * given.scale[c] / np.float32(0.02),
        )
        found = in_float32(
            mult * k + integers.bias[c],
            np.float32(0.03) * integers.scale[c] / np.float32(0.02),
        )
        reached = slice(low + 3, 130)
        pair = np.clip([expected, found], reached.start, reached.stop)
        missed += len(np.unique(pair[0][pair[0] != pair[1]]))
    assert thresholds == channels * (127 - low)
    assert missed <= thresholds - equal <= 0.02 * thresholds


def dense_file(path, dtype, inputs, outputs=1, keeps=True, relu=False):
    """A FULLY_CONNECTED on a map; `outputs` of them with one kernel."""
    writer = TFLiteWriter("at each place")
    rng = np.random.default_rng(inputs)
    channels = 24
    x = writer.add_tensor("x", (1, 6, 5, inputs), "int8", 0.05, -3)
    codes = rng.integers(-1, 2, (channels, inputs))
    scales = rng.uniform(0.005, 0.02, channels)
    w = writer.add_constant("w", codes, dtype, scales)
    settings = {"keepNumDims": keeps}
    if relu:
        settings["fusedActivationFunction"] = "relu"
    ends = {}
    for place in range(outputs):
        bias = rng.integers(-100, 100, channels)
        scale = np.float32(0.05) * np.float32(scales)
        b = writer.add_constant(f"b{place}", bias, "int32", scale)
        shape = (1, 6, 5, channels) if keeps else (30, channels)
        name = f"y{place}"
        step = 0.001 * np.sqrt(inputs)
        ends[name] = writer.add_tensor(name, shape, "int8", step, 5)
        writer.add_operator(
            "FULLY_CONNECTED",
            [x, w, b],
            [ends[name]],
            "FullyConnectedOptions",
            **settings,
        )
    path.write_bytes(writer.finish({"x": x}, ends))


def operators(path):
    return [
        (one.name, one.version) for one in reader.read_tflite(path).operators
    ]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype, inputs", [("int4", 32), ("int2", 64)])
def test_dense_layers_at_each_place_become_convolutions(
    dtype, inputs, relu, tmp_path
):
    path, out = tmp_path / "a", tmp_path / "b"
    dense_file(path, dtype, inputs, relu=relu)
    report = kb.unpack_tflite(path, out)
    assert report.is_exact
    assert report.thresholds == 24 * (122 if relu else 255)
    assert operators(out) == [("CONV_2D", 3)]
    assert_equal_on("xnnpack", path, out)


@pytest.mark.parametrize("bits, weight_format", [(2, "int2"), (4, "auto")])
@pytest.mark.parametrize("kernels", ["builtin", "reference"])
def test_convolutions_of_size_1_are_the_same_on_all_kernels(
    kernels, bits, weight_format, tmp_path
):
    """As with few bits they are on the default ones."""
    path, out = tmp_path / "a", tmp_path / "b"
    parts = []
    for layer in (
        kb.QuantConv2D(16, 3, bits=7),
        kb.QuantConv2D(32, 1, bits=bits),
        kb.QuantConv2D(24, 1, strides=2, bits=bits),
    ):
        parts += [layer, layers.BatchNormalization(), kb.QuantReLU(4)]
    exported(network((8, 8, 3), *parts), path, weight_format)
    kb.unpack_tflite(path, out)
    assert_equal_on(kernels, path, out, given_on="xnnpack")


def test_integers_stay_where_no_others_round_alike():
    """Rounding once, as before, of sums that lie on a threshold."""
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.01, 0.5, 40)
    scales[::10] = 1 / 3  # D is 2: every second sum lies on a threshold
    given = unpacked_integers.Integers(
        rng.integers(-7, 8, (30, 40)).astype(np.int8),
        np.float32(scales),
        rng.integers(-2000, 2000, 40),
    )
    grids = arithmetic.Grid(0.03, -128), arithmetic.Grid(0.02, -3)
    integers, thresholds, equal = unpacked_integers.int8_integers(
        given, *grids, rounds_once=True
    )
    assert thresholds == equal == 40 * 255
    stays = np.all(integers.values == given.values, axis=0)
    assert np.all(stays[::10]) and stays.sum() < 10
    np.testing.assert_array_equal(integers.bias[stays], given.bias[stays])
    np.testing.assert_array_equal(integers.scale[stays], given.scale[stays])
    k = np.arange(-4000, 4001)
    ratios = np.float32(0.03) * given.scale / np.float32(0.02)
    for c in np.flatnonzero(~stays):
        mult = integers.values[:, c].max() // given.values[:, c].max()
        ratio = np.float32(0.03) * integers.scale[c] / np.float32(0.02)
        found = in_float32(mult * k + integers.bias[c], ratio)
        expected = in_float32(k + given.bias[c], ratios[c])
        found, expected = np.clip([found, expected], -125, 130)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype, inputs", [("int4", 31), ("int2", 30)])
def test_rows_that_end_inside_a_byte(dtype, inputs, tmp_path):
    """XNNPACK leaves them to kernels that round twice, but not as int8."""
    path, out = tmp_path / "a", tmp_path / "b"
    dense_file(path, dtype, inputs)
    report = kb.unpack_tflite(path, out)
    # Without alignment some thresholds lie on a sum, nearly.
    assert report.thresholds == 24 * 255
    assert report.equal >= 0.998 * report.thresholds
    assert_equal_on("xnnpack", path, out)


@pytest.mark.parametrize(
    "settings", [{"outputs": 2}, {"keeps": False}], ids=str
)
def test_other_dense_layers_stay(settings, tmp_path):
    path, out = tmp_path / "a", tmp_path / "b"
    dense_file(path, "int4", 32, **settings)
    report = kb.unpack_tflite(path, out)
    count = settings.get("outputs", 1)
    assert report.unpacked == 1
    assert operators(out) == [("FULLY_CONNECTED", 4)] * count
    codes = np.random.default_rng(0).integers(-128, 128, (1, 6, 5, 32), np.int8)
    runners = TFLiteRunner(path), TFLiteRunner(out)
    answers = [runner.run_outputs(codes) for runner in runners]
    for expected, found in zip(*answers, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("target", [None, "micro"])
def test_a_file_of_int8_is_copied(target, tmp_path):
    path = tmp_path / "digits.tflite"
    exported(chain(8), path, "int8", target=target)
    report = kb.unpack_tflite(path)
    assert report.out == str(tmp_path / "digits.int8.tflite")
    assert report.unpacked == 0 and report.is_exact
    assert (tmp_path / "digits.int8.tflite").read_bytes() == path.read_bytes()
    assert str(report) == (
        f"{report.out}: {report.file_bytes:,} bytes, 0 kernels unpacked of "
        f"{path}, {report.file_bytes:,} bytes"
    )


def test_refuses_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        kb.unpack_tflite(tmp_path / "missing.tflite")
    path = tmp_path / "a.tflite"
    path.write_bytes(b"hello, world")
    with pytest.raises(ValueError, match="without its mark 'TFL3'"):
        kb.unpack_tflite(path)
    dense_file(path, "int4", 32)
    contents = path.read_bytes()
    with pytest.raises(OSError):
        kb.unpack_tflite(path, tmp_path / "no" / "b.tflite")
    path.write_bytes(contents[: len(contents) // 2])
    with pytest.raises(ValueError, match="Received a damaged one"):
        kb.unpack_tflite(path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.tflite"]


def test_a_file_may_replace_itself(tmp_path):
    path = tmp_path / "a.tflite"
    dense_file(path, "int4", 32)
    kb.unpack_tflite(path, path)
    assert operators(path) == [("CONV_2D", 3)]


def test_a_threshold_on_a_sum_is_not_proved():
    """With 8 sums in a step, and an input that makes each of them once."""
    given = unpacked_integers.Integers(
        np.int8([[1, 2]]), np.float32([1 / 8, 1 / 16.5]), np.array([3, 0])
    )
    grid, y = arithmetic.Grid(1.0, -128), arithmetic.Grid(1.0, -128)
    _, thresholds, equal = unpacked_integers.int8_integers(given, grid, y)
    # The first channel reaches 255 + 3: the codes up to 32.
    assert (thresholds, equal) == (2 * 255, 2 * 255 - 32)
