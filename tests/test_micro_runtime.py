"""Files on TensorFlow Lite Micro: how it rounds, what it runs and refuses."""

import re
import sys

import ends_networks
import keras
import numpy as np
import pytest
from export_helpers import grid_inputs
from export_helpers import normalize
from test_addition import branch_of
from test_addition import codes_of
from test_addition import run_add
from test_export_pointwise import codes_in_file
from test_export_pointwise import codes_in_keras
from test_multiplication import PRODUCTS
from test_multiplication import all_codes
from test_multiplication import network as products

import keras_bcgd as kb
from keras_bcgd.export import addition
from keras_bcgd.export import arithmetic
from keras_bcgd.export import multiplication
from keras_bcgd.tflite import lut
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.runner import load_interpreter
from keras_bcgd.tflite.writer import TFLiteWriter
from keras_bcgd.verification.tolerance import tolerance

pytest.importorskip(
    "tflite_micro", reason="needs: pip install keras-bcgd[micro]"
)

layers = keras.layers


def block(x, filters=8, bits=4, layer=kb.QuantConv2D, size=3, **settings):
    settings.setdefault("padding", "same")
    x = layer(filters, size, bits=bits, **settings)(x)
    return kb.QuantReLU(4)(layers.BatchNormalization()(x))


def classes(x, activation=None):
    return kb.QuantDense(5, bits=8, activation=activation)(layers.Flatten()(x))


def residual(x):
    x = block(block(x, bits=8), bits=1)
    branch = kb.QuantConv2D(8, 3, bits=2, padding="same", name="two_bits")(x)
    x = kb.QuantAddReLU(4)([layers.BatchNormalization()(branch), x])
    return classes(layers.GlobalAveragePooling2D()(x))


def copies(x):
    x = block(x, layer=kb.QuantConv2DTranspose, strides=2)
    x = layers.Permute((2, 1, 3))(layers.Cropping2D(3)(x))
    x = layers.UpSampling2D(2)(layers.ZeroPadding2D(1)(x))
    return classes(layers.MaxPooling2D(4)(block(x, bits=3)))


def merged(x):
    x = block(x)
    x = layers.Concatenate()([x, kb.QuantMultiply(minimum=0.0)([x, x])])
    return classes(block(x, strides=4))


def pointwise(x):
    for function in ("swish", "tanh", "hard_swish"):
        x = kb.QuantConv2D(8, 3, bits=4, strides=2)(x)
        x = kb.QuantActivation(function)(kb.QuantIdentity()(x))
        x = layers.ZeroPadding2D(2)(x)
    return classes(kb.QuantLeakyReLU()(kb.QuantConv2D(8, 3, bits=4)(x)))


def convolutions(x):
    x = block(block(x), groups=4)
    x = kb.QuantReLU(4)(kb.QuantDepthwiseConv2D(3, bits=4)(x))
    return classes(kb.QuantReLU(4)(kb.QuantSeparableConv2D(8, 3, bits=4)(x)))


def over_time(x):
    x = layers.Reshape((24, 8))(x)
    x = block(x, layer=kb.QuantConv1D, padding="causal")
    x = layers.MaxPooling1D(2)(x)
    return classes(layers.AveragePooling1D(3)(block(x, layer=kb.QuantConv1D)))


def mean_in_16_bits(x):
    return classes(layers.GlobalAveragePooling2D()(block(block(x), 64)))


def built(build):
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 3))
    return normalize(keras.Model(x, build(x)), grid_inputs((8, 8, 3), seed=1))


MODELS = {
    build.__name__: lambda build=build: built(build)
    for build in (
        residual,
        copies,
        merged,
        pointwise,
        convolutions,
        over_time,
        mean_in_16_bits,
    )
} | {
    "softmax": lambda: built(lambda x: classes(block(x), "softmax")),
    "sigmoid": lambda: built(lambda x: classes(block(x), "sigmoid")),
    "several ends": ends_networks.network,
}


def data(model):
    """For each input by its name."""
    inputs = {one.name: grid_inputs(one.shape[1:]) for one in model.inputs}
    return inputs if len(inputs) > 1 else inputs.popitem()[1]


def export(model, path, **settings):
    settings.setdefault("representative_data", data(model))
    return kb.export_tflite(model, path, batch_size=8, verbose=0, **settings)


def random_codes(path, samples=40):
    """Some smooth, some not: any codes of each input."""
    codes = {}
    rng = np.random.default_rng(0)
    for one in TFLiteRunner(path, "micro").inputs:
        shape = (samples, *one.shape[1:])
        x = rng.integers(-128, 128, shape)
        middle = rng.integers(-128, 128, (samples, *[1] * (x.ndim - 1)))
        x = np.where(np.arange(samples).reshape(middle.shape) % 2, x, x // 8)
        codes[one.name] = np.clip(x + middle, -128, 127).astype(one.dtype)
    return codes


def tensors_of(path, kernels, codes):
    """The codes of all computed tensors, by name."""
    names = [
        operator.outputs[0].name
        for operator in reader.read_tflite(path).operators
        if not operator.outputs[0].name.endswith("/weights")
    ]
    runner = TFLiteRunner(path, kernels, keep_tensors=True)
    return runner.run_tensors(codes, names)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The aligned file of each of `MODELS`, and its report."""
    folder, made = tmp_path_factory.mktemp("micro"), {}

    def file_of(name):
        if name not in made:
            path = folder / f"{len(made)}.tflite"
            made[name] = path, export(MODELS[name](), path)
        return made[name]

    return file_of


# What no alignment can make equal to LiteRT, in what share of values, by one
# step: logits, which dense layers of LiteRT round in float64, and the softmax,
# whose table LiteRT makes in float64.
INEXACT = {
    ("FULLY_CONNECTED", "int16"): 0.002,
    ("FULLY_CONNECTED", "int8"): 0.2,
    ("SOFTMAX", "int16"): 0.03,
}


def assert_equal_tensors(path):
    """Of what was computed from equal tensors."""
    codes = random_codes(path)
    found = tensors_of(path, "micro", codes)
    for kernels in ("reference", "builtin"):
        expected = tensors_of(path, kernels, codes)
        different = set()
        for operator in reader.read_tflite(path).operators:
            (output,) = operator.outputs
            apart = found[output.name].astype(int) - expected[output.name]
            if not apart.any():
                continue
            if not any(one.name in different for one in operator.inputs):
                share = INEXACT[operator.name, output.dtype]
                assert np.abs(apart).max() == 1, output.name
                assert np.mean(apart != 0) < share, output.name
            different.add(output.name)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_an_aligned_file_is_that_of_litert(name, files):
    path, _ = files(name)
    assert_equal_tensors(path)


@pytest.mark.parametrize("name", MODELS)
def test_weights_in_tables_compute_the_same(name, files, tmp_path, monkeypatch):
    """Every tensor; also of weights so few that a table would not pay."""
    monkeypatch.setattr(lut, "_LEAST_SAVING", -(10**6))
    found, model = {}, files(name)[1].model
    for weight_format in ("int8", "lut"):
        path = tmp_path / f"{weight_format}.tflite"
        settings = {"weight_format": weight_format, "align": False}
        report = export(model, path, **settings)
        found[weight_format] = tensors_of(path, "micro", random_codes(path))
    # 255 values need 8 bits.
    types = {row.weight_type for row in report.layers if row.weight_bits != 8}
    assert types - {None} == {"lut"}
    assert found["int8"].keys() == found["lut"].keys()
    for tensor, codes in found["int8"].items():
        np.testing.assert_array_equal(found["lut"][tensor], codes, tensor)


@pytest.mark.parametrize("name", ["residual", "convolutions"])
def test_logits_in_8_bits_are_one_step_from_litert(name, files, tmp_path):
    model = files(name)[1].model
    export(model, tmp_path / "m.tflite", output_type="int8", align=False)
    assert_equal_tensors(tmp_path / "m.tflite")


@pytest.mark.parametrize(
    "name", ["residual", "mean_in_16_bits", "over_time", "softmax", "sigmoid"]
)
def test_the_answers_are_those_of_the_model(name, files):
    path, report = files(name)
    assert report.is_exact, str(report)
    x = data(report.model)
    result = kb.verify_tflite(
        report.model, path, x, kernels="micro", trace=False, verbose=0
    )
    assert not result.inside_differences, str(result)
    assert not result.different_values, str(result)


def test_a_divergence_is_found(files):
    path, report = files("over_time")
    x = data(report.model)
    assert kb.first_divergence(report.model, path, x, kernels="micro") is None
    model = keras.models.clone_model(report.model)
    model.set_weights(report.model.get_weights())
    first = next(one for one in model.layers if type(one) is kb.QuantReLU)
    first.alpha.assign(1.2 * first.alpha)
    found = kb.first_divergence(model, path, x, kernels="micro")
    assert found.name == first.name


# How it rounds.


@pytest.mark.parametrize("ratio", [0.01, 0.3217, 1.0, 1.7, 90.3])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_sums_are_those_of_the_runtime(bits, ratio):
    first, second = branch_of(0.1733, bits), codes_of(ratio * 0.1733, 4)
    grid = codes_of(0.1733, bits)
    np.testing.assert_array_equal(
        addition.OF_KERNELS["micro"](first, second, grid),
        run_add(first, second, grid, "micro"),
    )


def test_an_aligned_product_is_equal(tmp_path):
    model, by_name = products(PRODUCTS[3:7])
    path = str(tmp_path / "m.tflite")
    kb.align_for_export(model, verbose=0)
    report = kb.export_tflite(model, path, verbose=0, align=False)
    assert report.is_exact, str(report)
    x = all_codes(model, by_name)
    found = codes_in_file(path, x, "micro")
    for name, codes in codes_in_keras(model, x, report.outputs).items():
        np.testing.assert_array_equal(found[name], codes, name)


def single_operator(name, dtype, shape, scale, output, options=None, **more):
    """The contents of a file with one operator of one input."""
    writer = TFLiteWriter("one operator")
    x = writer.add_tensor("x", shape, dtype, scale)
    y = writer.add_tensor("y", shape, dtype, *output)
    writer.add_operator(name, [x], [y], options, **more)
    return writer.finish({"x": x}, {"y": y})


def run(contents, codes, kernels):
    """The output for the codes of each input."""
    runtime = load_interpreter(contents, kernels)
    (y,) = runtime.get_output_details()
    for x, part in zip(runtime.get_input_details(), codes, strict=True):
        runtime.set_tensor(x["index"], part.astype(x["dtype"]))
    runtime.invoke()
    return runtime.get_tensor(y["index"]).astype(int)


def test_products_are_those_of_the_runtime():
    """Its ratio of scales is in float64: as if aligned, LiteRT has others."""
    first, second = arithmetic.Grid(0.0173, 3), arithmetic.Grid(0.0311, -7)
    a, b = np.broadcast_arrays(*addition.pairs(first, second))
    product = (a - first.zero_point) * (b - second.zero_point)
    different = 0
    for ratio in np.linspace(2, 2.001, 40):
        output = arithmetic.Grid(ratio * first.scale * second.scale, 5)
        writer = TFLiteWriter("product")
        x, y, z = (
            writer.add_tensor(
                name, a.shape, "int8", grid.file_scale, grid.zero_point
            )
            for name, grid in zip("xyz", (first, second, output), strict=True)
        )
        writer.add_operator("MUL", [x, y], [z], "MulOptions")
        contents = writer.finish({"x": x, "y": y}, {"z": z})
        found = {}
        for kernels in ("micro", "reference"):
            found[kernels] = run(contents, [a, b], kernels)
            np.testing.assert_array_equal(
                found[kernels],
                multiplication.OF_KERNELS[kernels](
                    product, first, second, output
                ),
            )
        different += np.sum(found["micro"] != found["reference"])
    assert different


@pytest.mark.parametrize(
    "name, function, output",
    [
        ("LOGISTIC", lambda x: 1 / (1 + np.exp(-x)), (1 / 256, -128)),
        ("TANH", np.tanh, (1 / 128, 0)),
    ],
)
def test_tables_hold_the_nearest_codes(name, function, output):
    codes = np.arange(-128, 128, dtype=np.int8).reshape(1, 256)
    step, zero_point = output
    rng = np.random.default_rng(0)
    for scale in np.float32(np.exp(rng.uniform(np.log(2e-3), 0, 60))):
        contents = single_operator(name, "int8", codes.shape, scale, output)
        real = function(np.float64(scale) * codes) / step + zero_point
        real = np.clip(real, -128, 127)
        error = np.abs(run(contents, [codes], "micro") - real)
        # As `operators.table` has it.
        assert np.max(error) < 0.5 + 1e-3


@pytest.mark.parametrize(
    "function, alpha, is_other",
    [
        ("sigmoid", 1.99, False),
        ("sigmoid", 2.03, True),
        ("sigmoid", 4.5, True),
        ("tanh", 7.9, False),
        ("tanh", 8.1, True),
    ],
)
def test_a_table_of_large_steps_is_said_to_differ(
    function, alpha, is_other, tmp_path
):
    """From such steps on, it looks at too few of them around 0."""
    x = keras.Input((256,))
    y = kb.QuantIdentity(8, keras.initializers.Constant(alpha))(x)
    model = keras.Model(x, kb.QuantActivation(function, name="it")(y))
    model.weights[-1].assign(alpha)  # of the codes that the table reads
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(model, path, verbose=0, align=False)
    codes = np.arange(-128, 128, dtype=np.int8).reshape(1, 256)
    found, expected = (
        TFLiteRunner(path, kernels).run(codes)
        for kernels in ("micro", "reference")
    )
    assert np.any(found != expected) == is_other
    assert any("'it" in why for why in report.inexact_elsewhere) == is_other


@pytest.mark.parametrize("classes", [2, 5, 10, 100])
@pytest.mark.parametrize("reach", [2.0, 10.0, 30.0])
@pytest.mark.parametrize("kernels", ["micro", "reference", "xnnpack"])
def test_a_softmax_is_within_its_tolerance(kernels, reach, classes):
    rng = np.random.default_rng(classes)
    codes = np.clip(rng.normal(0, 0.25, (500, classes)), -1, 1)
    codes = np.round(codes * 32767).astype(np.int16)
    scale = np.float32(reach / 32767)
    contents = single_operator(
        "SOFTMAX",
        "int16",
        codes.shape,
        scale,
        (1 / 32768, 0),
        "SoftmaxOptions",
        beta=1.0,
    )
    x = np.float64(scale) * codes
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    real = 32768 * powers / powers.sum(axis=1, keepdims=True)
    error = run(contents, [codes], kernels) - np.minimum(real, 32767)
    file = reader.parse(contents)
    (output,) = file.operators[0].outputs
    allowed = tolerance(file, output, kernels, 32767.0)
    assert np.abs(error).max() < allowed


# What it refuses, with what it says.

REFUSED = {
    "int2": ({"weight_format": "int2"}, "filter != nullptr was not true"),
    "int4, a scale for each channel": (
        {"weight_format": "int4", "output_type": "int8"},
        "filter->type != kTfLiteInt4) was not true",
    ),
    "int4, 16 bits": (
        {"weight_format": "int4", "output_type": "int16"},
        "Input type: INT16 with filter type: INT4 not supported",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_it_refuses(name, tmp_path):
    settings, message = REFUSED[name]
    model = keras.Sequential([keras.Input((12,)), kb.QuantDense(4, bits=2)])
    path = tmp_path / "m.tflite"
    export(model, path, **settings)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        TFLiteRunner(path, "micro")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_int4_convolutions_are_those_of_int8(kind, tmp_path):
    def build(x):
        layer = kb.QuantDepthwiseConv2D if kind == "depthwise" else None
        y = layer(3, bits=4)(x) if layer else kb.QuantConv2D(5, 3, bits=4)(x)
        return kb.QuantReLU(4)(y)

    path = tmp_path / "m.tflite"
    report = export(built(build), path, weight_format="int4")
    assert {row.weight_type for row in report.layers} == {"int4"}
    assert_equal_tensors(path)


# The interpreter.


def test_its_ends_are_those_of_litert(files):
    path, _ = files("several ends")
    runners = [TFLiteRunner(path, kernels) for kernels in ("micro", *KERNELS)]
    for ends in ("inputs", "outputs"):
        found = {
            one.name: (one.shape, one.dtype, one.scale, one.zero_point)
            for one in getattr(runners[0], ends)
        }
        assert len(found) > 1
        for other in runners[1:]:
            for one in getattr(other, ends):
                assert found[one.name][:2] == (one.shape, one.dtype)
                assert found[one.name][2:] == (one.scale, one.zero_point)


def test_tensors_inside_need_keep_tensors(files):
    path, _ = files("residual")
    name = reader.read_tflite(path).operators[0].outputs[0].name
    runner = TFLiteRunner(path, "micro")
    with pytest.raises(RuntimeError, match="interpreter_config"):
        runner.run_tensors(random_codes(path), [name])


def test_without_the_package(files, monkeypatch):
    path, _ = files("residual")
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ImportError, match=r"pip install keras-bcgd\[micro\]"):
        TFLiteRunner(path, "micro")
