"""Layers that move, copy or average pixels: resizings, Permute, borders."""

import keras
import numpy as np
import pytest
from export_helpers import assert_all_codes
from export_helpers import exported
from export_helpers import grid_inputs
from export_helpers import normalize
from export_helpers import numpy_of
from export_helpers import outputs_of
from export_helpers import quantizers
from export_helpers import run
from keras import layers

import keras_bcgd as kb
from keras_bcgd.analysis.call_trace import trace_calls
from keras_bcgd.export import exporter
from keras_bcgd.export.operators import resize
from keras_bcgd.network import borders
from keras_bcgd.network import interpolation
from keras_bcgd.network.calls import INPUT
from keras_bcgd.network.calls import read_calls
from keras_bcgd.network.calls import run_calls
from keras_bcgd.tflite.runner import KERNELS

SHAPE = (9, 7, 3)


def block(x, filters=5, size=3, bits=4):
    x = kb.QuantConv2D(filters, size, bits=4, padding="same")(x)
    return kb.QuantReLU(bits)(layers.BatchNormalization()(x))


def trained(build, shape=SHAPE):
    """A model as after training."""
    keras.utils.set_random_seed(0)
    start = keras.Input(shape)
    model = keras.Model(start, build(start))
    return normalize(model, grid_inputs(shape, seed=1))


def between(layer):
    """The layer between two blocks."""
    return lambda x: block(layer()(block(x)))


def before_staircase(layer):
    """The layer between a sum and the QuantReLU that rounds it."""
    return lambda x: kb.QuantReLU(3)(layer()(kb.QuantConv2D(4, 3)(x)))


COPIES = {
    **{
        f"UpSampling2D {size}": (lambda size=size: layers.UpSampling2D(size))
        for size in (1, 2, 3, (1, 4), (5, 2))
    },
    **{
        f"Resizing to {size}": (
            lambda size=size: layers.Resizing(*size, "nearest")
        )
        for size in ((18, 14), (5, 11), (13, 3), (1, 1), (9, 7), (16, 29))
    },
    **{
        f"Permute {dims}": (lambda dims=dims: layers.Permute(dims))
        for dims in ((2, 1, 3), (3, 1, 2), (1, 3, 2), (3, 2, 1), (1, 2, 3))
    },
    **{
        f"MaxPooling2D {size} {strides}": (
            lambda size=size, strides=strides: layers.MaxPooling2D(
                size, strides, padding="same"
            )
        )
        for size, strides in (
            (3, 1),
            (3, 2),
            (2, 2),
            (5, 3),
            ((2, 3), (2, 1)),
            (12, 12),
        )
    },
    "GlobalMaxPooling2D": lambda: layers.GlobalMaxPooling2D(keepdims=True),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_have_the_same_codes(name, tmp_path):
    report = assert_all_codes(trained(between(COPIES[name])), tmp_path)
    assert not report.inexact


@pytest.mark.parametrize(
    "name", ["UpSampling2D 2", "Resizing to (5, 11)", "Permute (3, 1, 2)"]
)
def test_a_quantizer_moves_through_copies(name, tmp_path):
    model = trained(before_staircase(COPIES[name]))
    report = assert_all_codes(model, tmp_path)
    assert [row.op for row in report.layers] == ["CONV_2D"]


@pytest.mark.parametrize(
    "name", ["UpSampling2D (5, 2)", "Resizing to (5, 11)", "Permute (2, 1, 3)"]
)
def test_copies_of_the_input(name, tmp_path):
    model = trained(lambda x: block(COPIES[name]()(x)))
    assert_all_codes(model, tmp_path)


def test_permuted_before_dense(tmp_path):
    def build(x):
        x = layers.Flatten()(layers.Permute((3, 1, 2))(block(x)))
        return kb.QuantReLU(3)(kb.QuantDense(7)(x))

    assert_all_codes(trained(build), tmp_path)


def test_nearest_pixels_are_those_of_keras():
    """Of all sizes on TensorFlow; JAX rounds some centers otherwise."""
    wrong = []
    for old in range(1, 17):
        numbers = np.arange(old, dtype="float32").reshape(1, old, 1, 1)
        for new in range(1, 23):
            found = layers.Resizing(new, 1, "nearest")(numbers)
            found = keras.ops.convert_to_numpy(found).ravel()
            if not np.array_equal(found, resize.nearest_pixels(old, new)):
                wrong.append((old, new))
    is_jax = keras.backend.backend() == "jax"
    assert len(wrong) < 5 if is_jax else not wrong


def test_repeated_pixels_are_the_nearest():
    for factor in (2, 3, 5, 7, 8):
        for old in (*range(1, 40), 224, 1000):
            np.testing.assert_array_equal(
                resize.nearest_pixels(old, factor * old),
                np.repeat(np.arange(old), factor),
            )


def test_other_pixels_are_refused(monkeypatch):
    monkeypatch.setattr(
        resize, "nearest_pixels", lambda old, new: np.zeros(new, int)
    )
    start = keras.Input(SHAPE)
    x = layers.Resizing(5, 11, "nearest", name="it")(start)
    model = keras.Model(start, block(x))
    with pytest.raises(ValueError, match=r"'it' .*from \(9, 7\) to \(5, 11\)"):
        kb.check_exportable(model)


# Averages of fewer values at the border.

AVERAGES = [
    (3, 1),
    (3, 2),
    (2, 1),
    (5, 3),
    ((2, 3), (2, 1)),
    ((1, 5), 1),
    (12, 12),
]


@pytest.mark.parametrize("size, window, stride", [
    (size, window, stride)
    for size in (1, 2, 5, 9)
    for window in (1, 2, 3, 6)
    for stride in (1, 2, 4)
])  # fmt: skip
def test_runs_of_a_border(size, window, stride):
    """Against windows one by one."""
    found = []
    for run_ in borders.runs(size, window, stride):
        last = run_.stop - run_.window
        for start in range(run_.start, last + 1, stride):
            found.append((start, start + run_.window))
    count = -(-size // stride)
    before = max((count - 1) * stride + window - size, 0) // 2
    expected = []
    for start in range(-before, count * stride - before, stride):
        inside = [i for i in range(start, start + window) if 0 <= i < size]
        expected.append((inside[0], inside[-1] + 1))
    assert found == expected


def assert_parts_are_the_layer(layer):
    start = keras.Input(SHAPE)
    model = keras.Model(start, layer(start))
    calls, keys = read_calls(model, None)
    assert calls[-1].layer is not layer
    assert calls[-1].layer.name == layer.name
    x = grid_inputs(SHAPE, 3).astype("float32")
    (values,) = run_calls(calls, keys, {INPUT: x})
    expected = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(values[keys[0]], expected, atol=2e-6)


@pytest.mark.parametrize("size, strides", AVERAGES)
def test_parts_of_an_average(size, strides):
    layer = layers.AveragePooling2D(size, strides, padding="same")
    assert_parts_are_the_layer(layer)


@pytest.mark.parametrize("size, strides", AVERAGES)
def test_averages_at_the_border_are_exact(size, strides, tmp_path):
    def average():
        return layers.AveragePooling2D(size, strides, padding="same")

    model = trained(lambda x: block(kb.QuantIdentity()(average()(block(x)))))
    report = assert_all_codes(model, tmp_path)
    assert not report.inexact
    model = trained(lambda x: kb.QuantReLU(4)(average()(block(x))))
    assert_all_codes(model, tmp_path)


def test_an_average_that_nothing_rounds_is_said_to_be_inexact(tmp_path):
    average = layers.AveragePooling2D(3, 1, padding="same")
    model = trained(lambda x: block(average(block(x))))
    _, report = exported(model, tmp_path)
    assert any("different scales" in why for why in report.inexact)


# Interpolation.

FACTORS = [1, 2, 3, 4, 5, (1, 2), (2, 3), (4, 1)]


@pytest.mark.parametrize("factor", FACTORS)
def test_parts_of_an_interpolation(factor):
    layer = layers.UpSampling2D(factor, interpolation="bilinear")
    assert_parts_are_the_layer(layer)


def test_parts_of_a_bilinear_resizing():
    assert_parts_are_the_layer(layers.Resizing(18, 21))


def test_other_resizings_have_no_parts():
    start = keras.Input(SHAPE)
    for layer in (
        layers.Resizing(18, 20),
        layers.Resizing(3, 7),
        layers.Resizing(18, 21, antialias=True),
        layers.Resizing(18, 21, crop_to_aspect_ratio=True),
        layers.UpSampling2D(2),
        layers.UpSampling2D(2, interpolation="bicubic"),
    ):
        layer(start)
        assert not interpolation.has_parts(layer)


@pytest.mark.parametrize("factor", [2, 3, 4, (2, 3)])
def test_interpolations_are_exact_on_default_kernels(factor, tmp_path):
    def larger():
        return layers.UpSampling2D(factor, interpolation="bilinear")

    for build in (
        lambda x: block(kb.QuantIdentity()(larger()(block(x)))),
        lambda x: kb.QuantReLU(4)(larger()(block(x))),
    ):
        model = trained(build)
        report = assert_all_codes(model, tmp_path, kernel_sets=["xnnpack"])
        assert not report.inexact
        # Where others may differ, the report says so.
        path, _ = exported(model, tmp_path)
        alpha = numpy_of(quantizers(model)[-1].alpha)
        x = grid_inputs(SHAPE)
        expected = np.round(outputs_of(model, x) / alpha)
        for kernels in KERNELS:
            codes = np.round(run(path, x, kernels) / alpha)
            share = np.mean(codes != expected)
            assert share == 0 or report.inexact_elsewhere
            assert share < 0.01


@pytest.mark.parametrize("factor", [2, (1, 4), 3])
def test_a_sum_of_codes_that_fits_needs_no_rounding(factor, tmp_path):
    larger = layers.UpSampling2D(factor, interpolation="bilinear")
    model = trained(lambda x: block(larger(block(x))))
    assert not assert_all_codes(model, tmp_path).inexact


def test_too_many_values_are_said_to_round(tmp_path):
    larger = layers.UpSampling2D(4, interpolation="bilinear", name="it")
    model = trained(lambda x: block(larger(block(x))))
    _, report = exported(model, tmp_path)
    (why,) = report.inexact
    assert why.startswith("it rounds: its mean of 64 codes")


# Maps of logits.

HEADS = {
    "alone": lambda x: x,
    "softmax": lambda x: layers.Softmax()(x),
    "larger": lambda x: layers.UpSampling2D(2)(x),
    "larger, softmax": lambda x: layers.Softmax()(layers.UpSampling2D()(x)),
    "resized": lambda x: layers.Resizing(5, 11, "nearest")(x),
    "cropped": lambda x: layers.Cropping2D(1)(x),
    "permuted": lambda x: layers.Permute((2, 1, 3))(x),
    "of a sequence": lambda x: layers.Softmax()(layers.Reshape((63, 4))(x)),
}


@pytest.mark.parametrize("name", HEADS)
def test_maps_of_logits_have_16_bits(name, tmp_path):
    def build(x):
        bias = keras.initializers.RandomUniform(-1, 1)
        x = kb.QuantConv2D(4, 1, bits=8, bias_initializer=bias)(block(x))
        return HEADS[name](x)

    model = trained(build)
    x = grid_inputs(SHAPE)
    path, report = exported(
        model, tmp_path, output_type="auto", representative_data=x
    )
    assert report.output_scale < 1e-2
    for kernels in KERNELS:
        result = kb.verify_tflite(
            model, path, x, kernels=kernels, trace=False, verbose=0
        )
        assert result.decisions == np.prod(model.output_shape[1:-1]) * len(x)
        assert not result.inside_differences
        assert result.agreement > 0.98, str(result)


# What is known before training, and training.


def float_block(x, filters):
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.5)(x))


BETWEEN = {
    "nearest": lambda: layers.UpSampling2D(),
    "bilinear": lambda: layers.UpSampling2D(interpolation="bilinear"),
    "resized": lambda: layers.Resizing(8, 8, "nearest"),
    "bilinear resizing": lambda: layers.Resizing(8, 8),
}


def unet(layer, pool=layers.MaxPooling2D):
    keras.utils.set_random_seed(0)
    start = keras.Input((8, 8, 3))
    full = float_block(start, 6)
    half = float_block(pool(2)(full), 8)
    x = layers.Concatenate(name="both")([full, layer()(half)])
    end = layers.Conv2D(4, 1, name="head")(float_block(x, 6))
    return keras.Model(start, end)


@pytest.mark.parametrize("name", BETWEEN)
def test_a_small_unet_from_float_to_file(name, tmp_path):
    model = unet(BETWEEN[name])
    kb.check_exportable(model)
    assert not kb.conversion_plan(model).not_exportable
    new = kb.quantize_model(model, weight_bits=4, activation_bits=4)
    assert any(type(layer) is kb.QuantIdentity for layer in new.layers)
    rng = np.random.default_rng(0)
    x = grid_inputs((8, 8, 3), 32).astype("float32")
    kb.calibrate(new, x, verbose=0)
    new.compile(
        kb.BlendedOptimizer(keras.optimizers.SGD(0.01)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    new.fit(x, rng.integers(0, 4, (32, 8, 8)), epochs=2, verbose=0)
    assert "both" in str(kb.summary(new))
    new.save(tmp_path / "unet.keras")
    again = keras.models.load_model(tmp_path / "unet.keras")
    np.testing.assert_array_equal(outputs_of(new, x), outputs_of(again, x))
    path = str(tmp_path / "unet.tflite")
    report = kb.export_tflite(again, path, (0, 1), x, verbose=0)
    assert not report.inexact
    result = kb.verify_tflite(report.model, path, x, trace=False, verbose=0)
    assert not result.inside_differences
    assert not result.different_values
    stock = kb.to_stock_layers(report.model, (0, 1))
    found = np.argmax(outputs_of(stock, x), -1)
    expected = np.argmax(outputs_of(report.model, x), -1)
    assert np.mean(found == expected) > 0.97


def test_a_quantizer_is_put_where_codes_are_averaged():
    def build(average):
        start = keras.Input((8, 8, 3))
        x = float_block(average(float_block(start, 4)), 4)
        return keras.Model(start, layers.Conv2D(2, 1)(x))

    def rounded(average, bits):
        plan = kb.conversion_plan(
            build(average), weight_bits=4, activation_bits=bits
        )
        return [row.name for row in plan.layers if row.identity]

    same = lambda: layers.AveragePooling2D(3, 1, padding="same", name="it")  # noqa: E731
    assert rounded(same(), 2) == ["it"]
    whole = layers.AveragePooling2D(2, padding="same", name="it")
    assert rounded(whole, 4) == []
    twice = lambda: layers.UpSampling2D(interpolation="bilinear", name="it")  # noqa: E731
    assert rounded(twice(), 4) == []
    assert rounded(twice(), 8) == ["it"]
    assert rounded(layers.UpSampling2D(name="it"), 8) == []


def test_what_is_interpolated_is_on_another_grid():
    """Codes and means of the same codes, concatenated."""

    def plan_of(interpolation):
        start = keras.Input((8, 8, 3))
        x = float_block(start, 4)
        larger = layers.UpSampling2D(interpolation=interpolation)
        both = layers.Concatenate(name="both")(
            [x, larger(layers.MaxPooling2D()(x))]
        )
        end = layers.Conv2D(2, 1)(float_block(both, 4))
        plan = kb.conversion_plan(keras.Model(start, end))
        return [row.name for row in plan.layers if row.identity]

    assert plan_of("nearest") == []
    assert plan_of("bilinear") == ["both"]


def test_bits_pass_through_copies():
    model = trained(between(COPIES["UpSampling2D 2"]))
    *_, call = [
        call
        for call in trace_calls(model, grid_inputs(SHAPE, 1))
        if isinstance(call.layer, kb.QuantConv2D)
    ]
    assert call.input_bits == 4


def test_the_parts_leave_the_model_as_it_is():
    model = trained(lambda x: layers.AveragePooling2D(3, 1, "same")(block(x)))
    before = [layer.name for layer in model.layers]
    exporter.read_graph(model)
    assert [layer.name for layer in model.layers] == before
