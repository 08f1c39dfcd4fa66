"""Integer files of graphs: branches, float layers, rescaled inputs.

The reference is Keras itself, in float64.
"""

import os

import keras
import numpy as np
import pytest
from export_helpers import INPUT_RANGE
from export_helpers import assert_all_codes
from export_helpers import exported as exported_file
from export_helpers import grid_inputs
from export_helpers import normalize
from export_helpers import numpy_of
from export_helpers import outputs_of
from export_helpers import random_resnet
from export_helpers import read_file
from export_helpers import run

import keras_bcgd as kb
from keras_bcgd.export import export_tflite
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.schema import load_schema

layers = keras.layers

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (8, 8, 3)


def graph(build, shape=SHAPE, x=None):
    """A functional model, as after training."""
    keras.utils.set_random_seed(0)
    start = keras.Input(shape)
    x = grid_inputs(shape, seed=1) if x is None else x
    return normalize(keras.Model(start, build(start)), x)


def conv(x, filters=8, bits=4, **settings):
    settings = {"padding": "same", "use_bias": False, **settings}
    x = kb.QuantConv2D(filters, 3, bits=bits, **settings)(x)
    return layers.BatchNormalization()(x)


def codes_of(x, filters=8, bits=4):
    return kb.QuantReLU(bits)(conv(x, filters))


def operators(path):
    """The names of the operators, in the order in which they run."""
    names = {
        code: name
        for name, code in vars(load_schema().BuiltinOperator).items()
        if not name.startswith("_")
    }
    contents = read_file(path)
    (main,) = contents.subgraphs
    codes = contents.operatorCodes
    return [names[codes[o.opcodeIndex].builtinCode] for o in main.operators]


def exported(model, tmp_path, samples=16, **settings):
    """`(path, report)` of a file of integers, from input to output."""
    path, report = exported_file(model, tmp_path, samples, **settings)
    types = load_schema().TensorType
    integers = ("INT4", "INT8", "UINT8", "INT16", "INT32", "INT64")
    (main,) = read_file(path).subgraphs
    found = {tensor.type for tensor in main.tensors}
    assert found <= {getattr(types, name) for name in integers}
    assert "DEQUANTIZE" not in operators(path)
    return path, report


def aligned(model, **settings):
    kb.align_for_export(model, settings.pop("input_range", INPUT_RANGE))
    return model


def steps_off(model, path, x, kernels, step):
    """How far each output is from that of Keras, in steps."""
    return np.abs(run(path, x, kernels) - outputs_of(model, x)) / step


# Residual networks.


@pytest.mark.parametrize(
    "weight_bits, activation_bits", [(1, 1), (2, 2), (1, 4)]
)
def test_residual_codes_on_the_default_kernels(
    weight_bits, activation_bits, tmp_path
):
    model = random_resnet(weight_bits, activation_bits)
    exported(model, tmp_path)
    assert_all_codes(model, tmp_path, kernel_sets=["xnnpack"])


def shortcut_b(x):
    x = codes_of(x)
    shortcut = kb.QuantConv2D(16, 1, strides=2, bits=4, use_bias=False)(x)
    shortcut = layers.BatchNormalization()(shortcut)
    branch = conv(codes_of(layers.MaxPooling2D(2)(x), 16), 16)
    return kb.QuantAddReLU(4, shortcut_is_branch=True)([branch, shortcut])


def shortcut_a(x):
    x = codes_of(x)
    shortcut = layers.MaxPooling2D(1, strides=2)(x)
    shortcut = kb.PadChannels(16)(shortcut)
    branch = conv(codes_of(layers.MaxPooling2D(2)(x), 16), 16)
    return kb.QuantAddReLU(4)([branch, shortcut])


def dropout_on_a_branch(x):
    x = codes_of(x)
    branch = layers.Dropout(0.5)(conv(x))
    return kb.QuantAddReLU(2)([branch, layers.SpatialDropout2D(0.1)(x)])


def codes_read_three_times(x):
    x = codes_of(x)
    y = kb.QuantAddReLU(4)([conv(x), x])
    return kb.QuantAddReLU(4)([conv(y), x])


def models_in_models(x):
    start = keras.Input((8, 8, 8))
    inner = keras.Model(start, kb.QuantAddReLU(4)([conv(start), start]))
    tail = keras.Sequential([keras.Input((8, 8, 8)), kb.QuantReLU(4)])
    return tail(conv(inner(codes_of(x))))


def concatenated_on_one_grid(x):
    x = codes_of(x)
    return codes_of(layers.Concatenate()([x, layers.MaxPooling2D(1)(x)]))


def normalized_after_a_pool(x):
    x = layers.MaxPooling2D(2)(codes_of(x))
    return kb.QuantReLU(4)(layers.BatchNormalization()(x))


def identity(x):
    return kb.QuantIdentity(8)(conv(x))


def identity_alone(x):
    return kb.QuantIdentity(8)(codes_of(x))


def identity_between(x):
    return codes_of(kb.QuantIdentity(8)(conv(x)))


GRAPHS = {
    function.__name__: function
    for function in [
        shortcut_a,
        shortcut_b,
        dropout_on_a_branch,
        codes_read_three_times,
        models_in_models,
        concatenated_on_one_grid,
        normalized_after_a_pool,
        identity,
        identity_alone,
        identity_between,
    ]
}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_code_of_an_aligned_graph(name, tmp_path):
    model = graph(GRAPHS[name])
    if name == "shortcut_b":
        # One sum in eight ends on a threshold: there the floating point of
        # Keras is only right if alpha is a power of 2.
        model.layers[-1].alpha.assign(0.5)
    report = assert_all_codes(aligned(model), tmp_path)
    assert not [why for why in report.inexact if "rounds" in why]
    exported(model, tmp_path)


def test_nested_models_are_aligned_inside():
    model = graph(models_in_models)
    names = [moved.name for moved in kb.align_for_export(model, INPUT_RANGE)]
    assert len(names) >= 2  # what is exact by chance stays


# What training did not round: the file does, and says so.


def slides_network(x):
    x = codes_of(x)
    return kb.QuantReLU(4)(layers.Add()([conv(x), x]))


def sum_of_codes(x):
    first, second = codes_of(x), codes_of(x)
    return kb.QuantReLU(4)(layers.Add()([first, second]))


def shortcut_first(x):
    x = codes_of(x)
    return kb.QuantReLU(4)(layers.Add()([x, conv(x)]))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    "build", [slides_network, sum_of_codes, shortcut_first]
)
def test_float_branches_are_rounded_and_told(build, kernels, tmp_path):
    model, x = aligned(graph(build)), grid_inputs(SHAPE)
    path, report = exported(model, tmp_path)
    (note,) = [why for why in report.inexact if "not in training" in why]
    assert any(not row.trained and row.name in note for row in report.layers)
    alpha = numpy_of(model.layers[-1].alpha)
    off = steps_off(model, path, x, kernels, alpha)
    # A branch step is 1/8 of alpha: half of it moves a sum in 16 over the
    # next threshold, at most.
    assert np.max(off) < 1.001
    assert np.mean(off > 0.5) < 0.07


def test_concatenation_of_two_grids(tmp_path):
    def build(x):
        parts = [codes_of(x, 4), codes_of(x, 4)]
        return layers.Concatenate()(parts)

    model, x = aligned(graph(build)), grid_inputs(SHAPE)
    path, report = exported(model, tmp_path)
    assert "rounds: what it concatenates has different scales" in str(report)
    for kernels in KERNELS:
        off = steps_off(model, path, x, kernels, report.output_scale)
        assert np.max(off) < 0.51


QUANTIZERS = {
    "identity": lambda: kb.QuantIdentity(8),
    "relu": lambda: kb.QuantReLU(4),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_follows_a_concatenation_rounds_its_parts(name, tmp_path):
    """A convolution, and a tensor of another grid that is read elsewhere."""

    def build(x):
        x = codes_of(x, 4)
        y = layers.Concatenate()([x, conv(x, 4), layers.MaxPooling2D(1)(x)])
        y = QUANTIZERS[name]()(y)
        return kb.QuantAddReLU(4)([conv(y, 4), x])

    report = assert_all_codes(aligned(graph(build)), tmp_path)
    assert "different scales" not in str(report)


@pytest.mark.parametrize("kernels", KERNELS)
def test_concatenation_of_a_sum_with_the_same_alpha(kernels, tmp_path):
    """The stored scale of a sum is another one; the codes stay the same."""

    def build(x):
        x = codes_of(x)
        return layers.Concatenate()([x, kb.QuantAddReLU(4)([conv(x), x])])

    model = graph(build)
    for layer in model.layers:
        if isinstance(layer, kb.QuantReLU):
            layer.alpha.assign(0.2)
    x = grid_inputs(SHAPE)
    path, report = exported(model, tmp_path)
    assert "different scales" not in str(report)
    shortcut = outputs_of(model, x)[..., :8] / 0.2
    found = run(path, x, kernels)[..., :8] / 0.2
    np.testing.assert_array_equal(np.round(found), np.round(shortcut))


def test_concatenation_of_widths(tmp_path):
    def build(x):
        x = codes_of(x)
        return layers.Concatenate(axis=2)([x, x, x])

    model, x = aligned(graph(build)), grid_inputs(SHAPE)
    path, report = exported(model, tmp_path)
    assert operators(path)[-1] == "CONCATENATION"
    for kernels in KERNELS:
        np.testing.assert_allclose(
            run(path, x, kernels), outputs_of(model, x), atol=1e-5
        )


# Additions that end otherwise.


def add_relu(x):
    x = codes_of(x)
    return codes_of(layers.ReLU()(layers.Add()([conv(x), x])))


def add_identity(x):
    x = codes_of(x)
    return kb.QuantIdentity(8)(layers.Add()([conv(x), x]))


def add_nothing(x):
    x = codes_of(x)
    return layers.Add()([conv(x), x])


def add_in_the_middle(x):
    x = codes_of(x)
    return codes_of(layers.Add()([conv(x), x]))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    "build", [add_relu, add_identity, add_nothing, add_in_the_middle]
)
def test_sums_are_near(build, kernels, tmp_path):
    """Each rounding to 8 bits costs half a step; the sum has three."""
    model, x = graph(build), grid_inputs(SHAPE)
    path, report = exported(model, tmp_path, representative_data=x)
    off = steps_off(model, path, x, kernels, report.output_scale)
    assert np.mean(off) < 0.6
    assert np.max(off) < 3
    assert "ADD" in operators(path)


# Float layers of Keras, in 8 bits by calibration.


def stock(x):
    x = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 1, use_bias=False)(x)
    x = layers.Activation("relu6")(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 3, strides=2)(x)
    x = layers.Dense(6, activation="relu")(layers.Flatten()(x))
    return layers.Dense(5)(x)


@pytest.mark.parametrize("kernels", KERNELS)
def test_stock_network_is_near_its_float(kernels, tmp_path):
    data = grid_inputs(SHAPE, 200, seed=2)
    model, x = graph(stock), grid_inputs(SHAPE, 64)
    path, report = exported(
        model, tmp_path, 64, representative_data=data, output_type="int16"
    )
    expected = outputs_of(model, x)
    difference = np.abs(run(path, x, kernels) - expected)
    spread = np.ptp(expected)
    assert np.max(difference) < 0.06 * spread
    assert np.mean(difference) < 0.01 * spread
    assert [row.weight_bits for row in report.layers] == [8] * 6
    assert not any(row.trained for row in report.layers[:-1])
    (note,) = report.inexact
    assert all(row.name in note for row in report.layers[:-1])


def test_stock_network_needs_data(tmp_path):
    model = graph(stock)
    with pytest.raises(ValueError) as error:
        export_tflite(model, tmp_path / "model.tflite", INPUT_RANGE)
    message = str(error.value)
    assert "`representative_data` is required" in message
    *inner, logits = [
        layer.name
        for layer in model.layers
        if isinstance(layer, layers.Conv2D)
        or isinstance(layer, (layers.DepthwiseConv2D, layers.Dense))
    ]
    assert len(inner) == 5
    assert all(f"'{name}'" in message for name in inner)
    assert f"'{logits}'" not in message
    assert not os.listdir(tmp_path)


def test_stock_first_layer_of_a_quantized_network(tmp_path):
    """Its weights are rounded to 8 bits; the QuantReLU is as trained."""

    def build(x):
        x = layers.BatchNormalization()(layers.Conv2D(8, 3)(x))
        return kb.QuantReLU(4)(x)

    model, x = graph(build), grid_inputs(SHAPE)
    path, report = exported(model, tmp_path)
    alpha = numpy_of(model.layers[-1].alpha)
    for kernels in KERNELS:
        off = steps_off(model, path, x, kernels, alpha)
        assert np.max(off) < 1.001
        assert np.mean(off > 0.5) < 0.03


# Images as they are: bytes.


def images(shape=SHAPE, samples=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (samples, *shape)).astype("uint8")


RESCALINGS = {
    "to 0..1": lambda: layers.Rescaling(1 / 255),
    "to -2..2": lambda: layers.Rescaling(1 / 64, offset=-2),
    "to -2..2 in 2": lambda: keras.Sequential(
        [layers.Rescaling(0.5), layers.Rescaling(1 / 32, offset=-2)]
    ),
    "scalar": lambda: layers.Normalization(
        axis=None, mean=120.0, variance=900.0
    ),
}


@pytest.mark.parametrize("input_type", ["int8", "uint8"])
@pytest.mark.parametrize("name", RESCALINGS)
def test_rescaled_images(name, input_type, tmp_path):
    """ "same" pads with what stands for 0.0, which is not the byte 0."""

    def build(x):
        x = RESCALINGS[name]()(x)
        return codes_of(kb.QuantReLU(4)(conv(x, strides=2)))

    model = graph(build, x=images(seed=1))
    aligned(model, input_range=(0, 255))
    x = images()
    report = assert_all_codes(
        model, tmp_path, x, input_range=(0, 255), input_type=input_type
    )
    path, _ = exported(
        model, tmp_path, input_range=(0, 255), input_type=input_type
    )
    is_shifted = name != "to 0..1"
    assert ("PADV2" in operators(path)) == is_shifted
    assert report.input_scale == 1
    if input_type == "uint8":
        assert operators(path)[0] == "QUANTIZE"
        assert report.input_zero_point == 0
        runner = TFLiteRunner(path)
        np.testing.assert_array_equal(runner.quantize(x), x)


def test_zero_between_two_bytes(tmp_path):
    """0.0 is 127.5: exact without padding, and told with it."""

    def rescaled(padding):
        def build(x):
            x = layers.Rescaling(1 / 127.5, offset=-1)(x)
            return kb.QuantReLU(4)(conv(x, padding=padding))

        model = graph(build, x=images(seed=1))
        return aligned(model, input_range=(0, 255))

    x, settings = images(), {"input_range": (0, 255)}
    report = assert_all_codes(rescaled("valid"), tmp_path, x, **settings)
    assert report.is_exact
    model = rescaled("same")
    path, report = exported(model, tmp_path, **settings)
    (note,) = report.inexact
    assert "pads with the code next to 0.0, which is 0.500 of a step" in note
    alpha = numpy_of(model.layers[-1].alpha)
    off = steps_off(model, path, x, "xnnpack", alpha)
    assert np.max(off[:, 1:-1, 1:-1]) < 1e-3
    assert np.max(off) < 1.001


def test_channels_rescaled_each_by_its_own_numbers(tmp_path):
    def build(x):
        x = layers.Normalization(
            mean=[120.0, 100.0, 90.0], variance=[900.0, 1600.0, 2500.0]
        )(x)
        return codes_of(x)

    model, x = graph(build, x=images(seed=1)), images()
    path, report = exported(model, tmp_path, input_range=(0, 255))
    assert "rescales each channel by its own numbers" in report.inexact[0]
    alpha = numpy_of(model.layers[-1].alpha)
    for kernels in KERNELS:
        off = steps_off(model, path, x, kernels, alpha)
        assert np.max(off) < 1.001
        assert np.mean(off > 0.5) < 0.05


@pytest.mark.parametrize("kernels", KERNELS)
def test_unsigned_outputs_are_the_signed_ones(kernels, tmp_path):
    model, x = graph(codes_of), grid_inputs(SHAPE)
    path, signed = exported(model, tmp_path)
    expected = TFLiteRunner(path, kernels)
    expected = expected.run(expected.quantize(x)).astype(int)
    path, report = exported(model, tmp_path, output_type="uint8")
    runner = TFLiteRunner(path, kernels)
    codes = runner.run(runner.quantize(x))
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, expected + 128)
    assert report.output_zero_point == signed.output_zero_point + 128
    assert report.output_scale == signed.output_scale


# Averages and logits.


def classifier(x, bits=4):
    x = layers.GlobalAveragePooling2D()(codes_of(x, bits=bits))
    return kb.QuantDense(10, bits=8)(x)


@pytest.mark.parametrize("output_type", ["int8", "int16"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_global_average_before_the_logits_is_exact(
    output_type, kernels, tmp_path
):
    """The mean of 64 codes of 4 bits has 961 values."""
    data = grid_inputs(SHAPE, 64, seed=2)
    model, x = aligned(graph(classifier)), grid_inputs(SHAPE)
    path, report = exported(
        model, tmp_path, representative_data=data, output_type=output_type
    )
    assert not report.notes
    expected = outputs_of(model, x)
    if output_type == "int8":
        low, high = np.array([-128, 127]) - report.output_zero_point
        step = report.output_scale
        expected = np.clip(expected, low * step, high * step)
    difference = np.abs(run(path, x, kernels) - expected)
    assert np.max(difference) < 0.51 * report.output_scale


# Formats.


def test_latency_keeps_whole_bytes(tmp_path):
    model = graph(classifier)
    settings = {"weight_format": "auto"}
    _, small = exported(model, tmp_path, minimize="size", **settings)
    path, fast = exported(model, tmp_path, minimize="latency", **settings)
    _, default = exported(model, tmp_path, weight_format="int8")
    assert small.layers[0].multiplier == 1 < fast.layers[0].multiplier
    assert fast.file_bytes == default.file_bytes > small.file_bytes


# Errors.


def refused(build, tmp_path, **settings):
    keras.utils.set_random_seed(0)
    start = keras.Input(SHAPE)
    model = keras.Model(start, build(start))
    with pytest.raises(ValueError) as error:
        export_tflite(model, tmp_path / "m.tflite", INPUT_RANGE, **settings)
    assert not os.listdir(tmp_path)
    return str(error.value)


def test_every_offending_layer_is_listed(tmp_path):
    def build(x):
        x = layers.Activation("tanh", name="curved")(x)
        x = layers.UpSampling2D(interpolation="bicubic", name="larger")(
            codes_of(x)
        )
        x = layers.LeakyReLU(name="leaky")(conv(x, groups=1))
        x = kb.QuantIdentity(4, name="narrow")(x)
        return layers.ReLU(negative_slope=0.1, name="sloped")(x)

    message = refused(build, tmp_path)
    assert "nothing was written" in message
    for line in [
        r"'curved' (Activation): use a QuantActivation",
        r"'larger' (UpSampling2D): only 'bilinear' by an integer",
        r"'leaky' (LeakyReLU): use a QuantLeakyReLU in its place",
        r"'narrow' (QuantIdentity): use bits=8",
        r"'sloped' (ReLU): use negative_slope=0",
    ]:
        assert line in message


def three_terms(x):
    x = codes_of(x)
    return layers.Add(name="a")([x, x, conv(x)])


def broadcast_terms(x):
    x = codes_of(x)
    one = layers.Reshape((1, 1, 8))(layers.GlobalMaxPooling2D()(x))
    return layers.Add(name="a")([x, one])


def rescaled_inside(x):
    return kb.QuantReLU(4)(layers.Rescaling(2.0, name="a")(codes_of(x)))


def narrow_branch(x):
    x = codes_of(x)
    return kb.QuantAddReLU(2, branch_bits=6, name="a")([conv(x), x])


def inverted(x):
    layer = layers.Normalization(
        axis=None, mean=1.0, variance=1.0, invert=True, name="a"
    )
    return codes_of(layer(x))


def softmax_inside(x):
    x = layers.Flatten()(codes_of(x))
    return kb.QuantReLU(4)(layers.Dense(4, "softmax", name="a")(x))


def batch_concatenated(x):
    x = codes_of(x)
    return layers.Concatenate(axis=0, name="a")([x, x])


@pytest.mark.parametrize(
    "build, advice",
    [
        (three_terms, "add two tensors at a time"),
        (broadcast_terms, "add tensors of one shape"),
        (rescaled_inside, "put it directly after the input"),
        (narrow_branch, "use branch_bits=8"),
        (inverted, "use invert=False"),
        (softmax_inside, "a softmax must be the last"),
        (batch_concatenated, "must not concatenate the batch"),
    ],
)
def test_bad_graphs_are_refused(build, advice, tmp_path):
    message = refused(build, tmp_path)
    assert "'a' (" in message and advice in message


@pytest.mark.parametrize(
    "settings, advice",
    [
        ({"input_type": "int16"}, "`input_type` must be one of int8, uint8"),
        ({"minimize": "power"}, "`minimize` must be one of size, latency"),
        ({"output_type": "int16"}, "needs a QuantDense, Dense, "),
    ],
)
def test_bad_arguments_are_refused(settings, advice, tmp_path):
    assert advice in refused(codes_of, tmp_path, **settings)
