"""Outputs and inputs of other kinds, and what is refused of them."""

import keras
import numpy as np
import pytest
from ends_networks import SAMPLES
from ends_networks import assert_equal
from ends_networks import assert_equal_on_all_kernels
from ends_networks import block
from ends_networks import data
from ends_networks import dense_block
from ends_networks import export
from ends_networks import functional
from ends_networks import trained
from export_helpers import grid_inputs
from export_helpers import normalize

import keras_bcgd as kb
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner

layers = keras.layers

IMAGE = (8, 8, 4)


def test_logits_and_their_softmax(tmp_path):
    def build(x):
        x = layers.Flatten()(block(x, 8))
        logits = kb.QuantDense(6, bits=8, name="logits")(x)
        return [
            layers.Softmax(name="a")(logits),
            logits,
            layers.Activation("sigmoid", name="b")(logits),
        ]

    report = assert_equal(functional(build, IMAGE), tmp_path)
    dtypes = {name: one.dtype for name, one in report.outputs.items()}
    assert dtypes == {"a": "int16", "logits": "int16", "b": "int16"}


@pytest.mark.parametrize("filters", [6, 400])
def test_two_heads_read_one_mean(filters, tmp_path):
    """Exact for both, by sums of parts or, of too many, in 16 bits."""

    def build(x):
        x = kb.QuantConv2D(filters, 1, bits=4)(x)
        x = layers.GlobalAveragePooling2D()(kb.QuantReLU(4)(x))
        return [
            kb.QuantDense(20, bits=4, name="classes")(x),
            kb.QuantDense(1, bits=8, name="area")(x),
        ]

    report = assert_equal(functional(build, IMAGE), tmp_path)
    assert report.is_exact, report
    path = tmp_path / "m.tflite"
    names = [one.name for one in kb.inspect_tflite(path).operators]
    assert ("CAST" in names[:3]) == (filters == 400), names


def test_a_mean_that_is_an_output_stays_whole(tmp_path):
    def build(x):
        x = kb.QuantReLU(4)(kb.QuantConv2D(6, 1, bits=4)(x))
        x = layers.GlobalAveragePooling2D(name="mean")(x)
        return [x, kb.QuantDense(20, bits=4, name="classes")(x)]

    model = functional(build, IMAGE)
    x = grid_inputs(IMAGE)
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(model, path, (0, 1), x, verbose=0)
    assert "mean rounds: its mean of 64 codes" in str(report.inexact)
    found = kb.verify_tflite(report.model, path, x, verbose=0)
    assert [one.larger_differences for one in found.reports][0] == 0


def test_an_output_that_is_read_inside(tmp_path):
    """8 bits by calibration, as nothing in training rounds it."""

    def build(x):
        inner = kb.QuantConv2D(6, 3, bits=4, name="inner")(block(x, 6))
        return [inner, kb.QuantDense(3, bits=8, name="last")(inner)]

    model = functional(build, IMAGE)
    path = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match="no layer quantizes .* 'inner'"):
        kb.export_tflite(model, path, input_range=(0, 1))
    x = grid_inputs(IMAGE)
    normalize(model, x)
    report = kb.export_tflite(model, path, (0, 1), x, verbose=0)
    assert report.outputs["inner"].dtype == "int8"
    assert report.outputs["last"].dtype == "int16"
    assert "not in training: the outputs of 'inner'" in str(report.inexact)
    for kernels in KERNELS:
        runner = TFLiteRunner(path, kernels)
        codes = runner.run_outputs(runner.quantize(x))
        (place,) = [
            i for i, one in enumerate(runner.outputs) if one.name == "inner"
        ]
        one = runner.outputs[place]
        found = one.scale * (codes[place].astype(float) - one.zero_point)
        expected = report.model.predict(x, verbose=0)[0]
        assert np.abs(found - expected).max() < 0.52 * one.scale


def test_pooled_logits_and_themselves(tmp_path):
    """A pooling keeps logits in 8 bits, for both outputs."""

    def build(x):
        x = kb.QuantConv2D(6, 1, bits=8, name="map")(block(x, 6))
        return [x, layers.MaxPooling2D(2, name="pooled")(x)]

    report = assert_equal(functional(build, IMAGE), tmp_path, task="regression")
    assert {one.dtype for one in report.outputs.values()} == {"int8"}


def test_a_converted_model_rounds_an_output_that_is_read_inside(tmp_path):
    """A QuantIdentity, so that training sees the 8 bits of the file."""

    def build(x):
        x = layers.ReLU()(layers.Conv2D(6, 3)(x))
        inner = layers.Conv2D(6, 3, name="inner")(x)
        y = layers.Flatten()(layers.ReLU()(layers.Conv2D(4, 1)(inner)))
        yes = layers.Dense(1, activation="sigmoid", name="yes")(y)
        last = layers.Conv2D(3, 1, name="last")(inner)
        return {"yes": yes, "map": inner, "last": last}

    model = kb.quantize_model(
        functional(build, IMAGE), weight_bits=4, first_last=4
    )
    x = grid_inputs(IMAGE)
    kb.calibrate(model, x, verbose=0)
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(model, path, (0, 1), x, verbose=0)
    assert report.is_exact, report
    dtypes = {name: one.dtype for name, one in report.outputs.items()}
    assert dtypes == {"last": "int16", "map": "int8", "yes": "int16"}
    task = {"map": "regression", "last": "regression"}
    found = kb.verify_tflite(report.model, path, x, task=task, verbose=0)
    assert found.is_equal, str(found)
    of = {one.output: one for one in found.reports}
    # By the sigmoid, which the key of the dict does not name.
    assert of["yes"].task == "binary" and of["yes"].threshold == 0.5
    with pytest.raises(ValueError, match="`y` must have as keys .* 'no'"):
        kb.verify_tflite(report.model, path, x, {"no": np.ones(16)})


def test_an_input_that_nothing_reads(tmp_path):
    model = functional(lambda a, b: kb.QuantDense(3)(b), (4,), (5,))
    report = assert_equal(model, tmp_path)
    assert list(report.inputs) == ["in0", "in1"]


def test_two_inputs_are_added(tmp_path):
    def build(a, b):
        return kb.QuantAddReLU(4, name="sum")(
            [kb.QuantConv2D(4, 1, bits=4)(a), kb.QuantReLU(4)(b)]
        )

    model = functional(build, IMAGE, IMAGE)
    report = assert_equal(model, tmp_path, task="regression")
    assert list(report.outputs) == ["output"]
    assert list(report.inputs) == ["in0", "in1"]


def test_models_within_the_model(tmp_path):
    """Two inputs and two outputs inside, which are the outputs outside."""

    def inner(a, b):
        a, b = dense_block(a, 4), dense_block(b, 4)
        x = kb.QuantConcatenate()([b, a])
        return [kb.QuantDense(3, name="x")(x), kb.QuantDense(2, name="y")(x)]

    def outer(a, b):
        inside = functional(inner, (6,), (8,))
        return inside([dense_block(b, 6), dense_block(a, 8)])

    model = functional(outer, (5,), (7,))
    for layer in model.layers[-1].layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
        elif isinstance(layer, kb.QuantReLU):
            layer.alpha.assign(0.1)
    report = assert_equal(model, tmp_path, task="regression")
    assert list(report.outputs) == ["net", "net_1"]


def test_inputs_as_a_dict(tmp_path):
    """In whatever order it was made; Keras sorts it by its keys."""
    x = {name: keras.Input((size,), name=name) for name, size in SIZES.items()}
    parts = [dense_block(x[name], 4) for name in SIZES]
    y = kb.QuantDense(3, bits=8)(kb.QuantConcatenate()(parts))
    model = keras.Model(x, y)
    data = {
        "a": np.float32(grid_inputs((5,)) * 255 / 64),
        "b": np.float32((grid_inputs((4,), seed=1) * 255 - 128) / 32),
        "c": np.float32(grid_inputs((3,), seed=2)),
    }
    kb.calibrate(model, data, verbose=0)
    path = tmp_path / "m.tflite"
    ranges = {"c": (0, 1), "a": (0, 255 / 64)}
    report = kb.export_tflite(model, path, ranges, data, verbose=0)
    assert list(report.inputs) == ["a", "b", "c"]
    assert report.inputs["a"].scale == pytest.approx(1 / 64)
    assert report.inputs["c"].scale == pytest.approx(1 / 255)
    assert_equal_on_all_kernels(report.model, path, data)


SIZES = {"c": 3, "a": 5, "b": 4}


def test_one_input_and_output_keep_their_names(tmp_path):
    model = functional(lambda x: kb.QuantDense(3, name="y")(x), (4,))
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(model, path, {"in0": (0, 1)}, verbose=0)
    assert list(report.inputs) == ["input"]
    assert list(report.outputs) == ["output"]
    assert report.input_scale == report.inputs["input"].scale
    assert "\ninput  = 0.00392157 * (code - -128)\noutput = " in str(report)


# What is refused.


@pytest.fixture(scope="module")
def model():
    return trained()


def test_nothing_is_refused_of_it(model):
    kb.check_exportable(model)
    x = keras.Input(IMAGE, name="x"), keras.Input((3,), name="y")
    y = layers.GlobalAveragePooling2D()(
        layers.ReLU()(layers.Conv2D(4, 3)(x[0]))
    )
    y = layers.ReLU()(layers.Dense(4)(layers.Concatenate()([y, x[1]])))
    y = [layers.Dense(4, name="a")(y), layers.Dense(1, name="b")(y)]
    model = keras.Model(x, y)
    assert not kb.conversion_plan(model).not_exportable
    kb.check_exportable(model)


BAD = {
    "ranges": (
        {"input_range": [(0, 1), (0, 1), None]},
        "pair or None for each of 'image', 'a_numbers'.*, of 3",
    ),
    "a range": ({"input_range": [(0, 1), 3]}, "two finite numbers.*=3"),
    "name of a range": (
        {"input_range": {"picture": (0, 1)}},
        "`input_range` must have as keys names of inputs: 'image', "
        "'a_numbers'. Received: 'picture'",
    ),
    "neither": (
        {"input_range": {"a_numbers": (-1, 1)}, "representative_data": None},
        "Received: neither for 'image'",
    ),
    "arrays": (
        {"representative_data": [data()["image"]]},
        "`representative_data` must have 2 arrays, for 'image', 'a_numbers'. "
        "Received: 1",
    ),
    "a name": (
        {
            "representative_data": {
                "image": data()["image"],
                "b": data()["image"],
            }
        },
        "for each of the inputs 'image', 'a_numbers'. Received: 'image', 'b'",
    ),
    "lengths": (
        {"representative_data": data() | {"a_numbers": np.zeros((3, 5))}},
        "as many samples in each of its arrays",
    ),
    "shape": (
        {"representative_data": data() | {"a_numbers": np.zeros((SAMPLES, 4))}},
        r"\(samples, 5\) for the input 'a_numbers'. Received: shape \(48, 4",
    ),
    "task": ({"task": {"kind": None}}, "`task` must have as keys .* 'kind'"),
    "value of a task": ({"task": {"map": "segment"}}, "`task` must be one of"),
    "labels": (
        {"labels": ["a", "b"]},
        "`labels` must be None .* the 3 outputs 'classes', 'a_size', 'map'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(name, model, tmp_path):
    settings, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_bad_inputs_of_a_verification(model, tmp_path):
    path, _ = export(model, tmp_path)
    x = data()
    bad = {
        "for each of the inputs .* Received: 'image'": {"image": x["image"]},
        "must have 2 arrays": x["image"],
        "samples, 5.* for the input 'a_numbers'": x
        | {"a_numbers": x["a_numbers"][:, 1:]},
    }
    for message, given in bad.items():
        with pytest.raises(ValueError, match=message):
            kb.verify_tflite(model, path, given)
    for name in ("task", "threshold"):
        with pytest.raises(ValueError, match=f"`{name}` must have as keys"):
            kb.verify_tflite(model, path, x, **{name: {"kind": None}})

    class Untold:
        def predict(self, x, **settings):
            return model.predict(x, verbose=0)

    found = kb.verify_tflite(Untold(), path, x, trace=False)
    assert len(found.reports) == 3
    with pytest.raises(ValueError, match="those of the model's .*: list"):
        kb.verify_tflite(Untold(), path, (list(x.values()),))
