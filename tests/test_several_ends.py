"""Networks with several inputs and outputs, in one file."""

import keras
import numpy as np
import pytest
from export_helpers import grid_inputs
from export_helpers import normalize

import keras_bcgd as kb
from keras_bcgd.cli import main
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.runner import load_interpreter

layers = keras.layers

SAMPLES = 48
CLASSES = 4


def block(x, filters, strides=1, name=None):
    x = kb.QuantConv2D(
        filters, 3, bits=4, strides=strides, padding="same", use_bias=False
    )(x)
    return kb.QuantReLU(4, name=name)(layers.BatchNormalization()(x))


def dense_block(x, units):
    x = kb.QuantDense(units, bits=4, use_bias=False)(x)
    return kb.QuantReLU(4)(layers.BatchNormalization()(x))


def network(outputs_as=list):
    """Bytes of images and numbers in; classes, a number and a map out."""
    image = keras.Input((8, 8, 3), name="image")
    numbers = keras.Input((5,), name="a_numbers")
    codes = block(block(layers.Rescaling(1 / 255)(image), 8), 12, 2, "map")
    parts = [
        layers.GlobalAveragePooling2D()(codes),
        dense_block(kb.QuantIdentity(8)(numbers), 8),
    ]
    x = dense_block(kb.QuantConcatenate()(parts), 16)
    classes = layers.Softmax(name="classes")(kb.QuantDense(CLASSES, bits=8)(x))
    size = kb.QuantDense(1, bits=8, name="a_size")(x)
    outputs = [classes, size, codes]
    if outputs_as is dict:
        outputs = {"kind": classes, "area": size, "codes": codes}
    return keras.Model([image, numbers], outputs, name="net")


def data():
    rng = np.random.default_rng(0)
    return {
        "image": np.float32(rng.integers(0, 256, (SAMPLES, 8, 8, 3))),
        "a_numbers": np.float32(rng.normal(size=(SAMPLES, 5))),
    }


def labels():
    rng = np.random.default_rng(1)
    return [
        rng.integers(0, CLASSES, SAMPLES),
        rng.normal(size=(SAMPLES, 1)),
        np.zeros((SAMPLES, 4, 4, 12)),
    ]


def trained(outputs_as=list):
    """After a few steps of fit, with data and labels by name."""
    keras.utils.set_random_seed(0)
    model = network(outputs_as)
    losses, y = ["sparse_categorical_crossentropy", "mse", "mse"], labels()
    if outputs_as is dict:
        names = ["kind", "area", "codes"]
        losses = dict(zip(names, losses, strict=True))
        y = dict(zip(names, y, strict=True))
    model.compile(
        kb.BlendedOptimizer(keras.optimizers.SGD(0.01), blending=1e-4),
        loss=losses,
    )
    kb.calibrate(model, data(), verbose=0)
    model.fit(data(), y, epochs=2, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return trained()


def export(model, folder, **settings):
    settings = {
        "input_range": {"image": (0, 255)},
        "representative_data": data(),
        "verbose": 0,
    } | settings
    path = folder / "m.tflite"
    return path, kb.export_tflite(model, path, **settings)


def assert_equal_on_all_kernels(model, path, x, **settings):
    found = kb.verify_tflite_on_all_kernels(
        model, path, x, verbose=0, **settings
    )
    assert found.is_equal, str(found)
    return found


def answers(path, x, kernels):
    """Real outputs by name, from the signature of the file alone."""
    interpreter = load_interpreter(path, kernels)
    run = interpreter.get_signature_runner()
    codes = {}
    for name, details in run.get_input_details().items():
        scale, zero_point = details["quantization"]
        limits = np.iinfo(details["dtype"])
        values = np.ceil(x[name] / scale + zero_point - 0.5 - 1e-4)
        values = np.clip(values, limits.min, limits.max)
        codes[name] = values.astype(details["dtype"])
    rows = []
    for i in range(len(x["image"])):
        one = {name: part[i : i + 1] for name, part in codes.items()}
        rows.append(run(**one))
    found = {}
    for name, details in run.get_output_details().items():
        scale, zero_point = details["quantization"]
        values = np.concatenate([row[name] for row in rows]).astype(float)
        found[name] = scale * (values - zero_point)
    return found


# The trained network, whole.

MAP = {"map": "regression"}


def test_a_trained_network_computes_the_same_codes(model, tmp_path):
    path, report = export(model, tmp_path)
    assert report.is_exact, report
    found = assert_equal_on_all_kernels(report.model, path, data(), task=MAP)
    assert len(found.reports) == 9
    tasks = {one.output: one.task for one in found.reports}
    assert tasks == {
        "classes": "classification",
        "a_size": "regression",
        "map": "regression",
    }


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_signature_has_the_names_of_the_model(kernels, model, tmp_path):
    """Without the runner of this package, in whatever order a runtime has."""
    path, report = export(model, tmp_path)
    found = answers(path, data(), kernels)
    expected = report.model.predict(data(), verbose=0)
    expected = dict(zip(["classes", "a_size", "map"], expected, strict=True))
    assert found.keys() == expected.keys() == report.outputs.keys()
    for name, values in found.items():
        step = report.outputs[name].scale
        # The softmax is a table of the runtime: some steps of 1/32,768.
        steps = 8 if name == "classes" else 0.52
        np.testing.assert_allclose(values, expected[name], atol=steps * step)


def test_each_end_has_a_grid_of_its_own(model, tmp_path):
    _, report = export(model, tmp_path)
    assert list(report.inputs) == ["image", "a_numbers"]
    assert report.inputs["image"].scale == pytest.approx(1)
    alpha = report.model.get_layer("quant_identity").alpha
    assert report.inputs["a_numbers"].scale == pytest.approx(float(alpha))
    outputs = report.outputs
    assert [one.dtype for one in outputs.values()] == ["int16", "int16", "int8"]
    alpha = report.model.get_layer("map").alpha
    assert outputs["map"].scale == pytest.approx(float(alpha))
    assert "input  a_numbers = " in str(report)
    assert "output map     = " in str(report)
    with pytest.raises(ValueError, match="several inputs: use `report.inputs"):
        report.input_scale  # noqa: B018
    with pytest.raises(ValueError, match="outputs.*'classes', 'a_size', 'map'"):
        report.output_zero_point  # noqa: B018


@pytest.mark.parametrize("output_type", ["int8", "uint8", "int16"])
def test_types_of_all_ends(output_type, model, tmp_path):
    path, report = export(
        model, tmp_path, output_type=output_type, input_type="uint8"
    )
    assert {one.dtype for one in report.inputs.values()} == {"uint8"}
    wide = {"int16": ["int16", "int16", "int8"]}
    expected = wide.get(output_type, [output_type] * 3)
    assert [one.dtype for one in report.outputs.values()] == expected
    runner = TFLiteRunner(path)
    names = [t["name"] for t in runner.interpreter.get_tensor_details()]
    assert len(names) == len(set(names))
    found = kb.verify_tflite_on_all_kernels(
        report.model, path, data(), task=MAP
    )
    for one in found.reports:
        assert not one.different_values, found


def test_outputs_as_a_dict(tmp_path):
    """By its keys, which Keras sorts."""
    model = trained(dict)
    path, report = export(model, tmp_path)
    assert list(report.outputs) == ["area", "codes", "kind"]
    found = assert_equal_on_all_kernels(
        report.model, path, data(), task={"codes": "regression"}
    )
    assert {one.output for one in found.reports} == {"area", "codes", "kind"}
    classes = answers(path, data(), "builtin")["kind"]
    expected = report.model.predict(data(), verbose=0)["kind"]
    np.testing.assert_array_equal(classes.argmax(-1), expected.argmax(-1))


def test_aligned_in_place_the_file_is_exact(tmp_path):
    model = trained()
    settings = {
        "input_range": [(0, 255), None],
        "representative_data": list(data().values()),
    }
    report = kb.align_for_export(model, verbose=0, **settings)
    assert report.is_exact, report
    path, report = export(model, tmp_path, align=False, **settings)
    assert report.is_exact and report.model is model
    assert_equal_on_all_kernels(model, path, data(), task=MAP)


@pytest.mark.parametrize("form", ["list", "dict", "tuple", "batches", "tf"])
def test_forms_of_data(form, model, tmp_path):
    x = data()
    rows = list(x.values())
    if form == "tf":
        tf = pytest.importorskip("tensorflow")
        given = tf.data.Dataset.from_tensor_slices(x).batch(10)
    else:
        given = {
            "list": rows,
            "dict": dict(reversed(x.items())),
            "tuple": (x, labels()),
            "batches": [
                [part[:20] for part in rows],
                [part[20:] for part in rows],
            ],
        }[form]
    path, report = export(model, tmp_path, representative_data=given)
    expected = path.read_bytes()
    export(model, tmp_path)
    assert path.read_bytes() == expected
    if form == "batches":
        given = iter(given)
    found = kb.verify_tflite(report.model, path, given, task=MAP, verbose=0)
    assert found.is_equal and found.reports[0].samples == SAMPLES, found


def test_labels_of_each_output(model, tmp_path):
    path, report = export(model, tmp_path)
    y = labels()
    by_name = dict(zip(["classes", "a_size", "map"], y, strict=True))
    x = data()
    expected = report.model.predict(x, verbose=0)
    reports = [
        kb.verify_tflite(report.model, path, x, given, task=MAP, verbose=0)
        for given in (y, tuple(y), by_name, {"classes": y[0]})
    ]
    for found in reports:
        of = {one.output: one for one in found.reports}
        share = np.mean(expected[0].argmax(-1) == y[0])
        assert of["classes"].model_accuracy == pytest.approx(share)
    for found in reports[:3]:
        of = {one.output: one for one in found.reports}
        error = np.abs(expected[1] - y[1]).mean()
        assert of["a_size"].model_error == pytest.approx(error, rel=1e-5)
    assert of["map"].model_error is not None


def test_a_divergence_is_traced_through_all_inputs(model, tmp_path):
    path, report = export(model, tmp_path)
    changed = keras.models.clone_model(report.model)
    changed.set_weights(report.model.get_weights())
    (norm,) = [
        layer
        for layer in changed.layers
        if isinstance(layer, layers.BatchNormalization)
        and layer.input.shape[1:] == (8,)
    ]
    norm.beta.assign(norm.beta + 1.0)
    found = kb.verify_tflite(changed, path, data(), task=MAP, verbose=0)
    of = {one.output: one for one in found.reports}
    assert of["map"].is_equal and not of["a_size"].is_equal
    # The next tensor behind it that has the name of a layer.
    assert of["a_size"].first_divergence.name == "quant_concatenate"
    assert kb.first_divergence(report.model, path, data()) is None


# Outputs of other kinds.


def functional(build, *shapes):
    keras.utils.set_random_seed(0)
    inputs = [
        keras.Input(shape, name=f"in{i}") for i, shape in enumerate(shapes)
    ]
    return keras.Model(inputs, build(*inputs), name="net")


def assert_equal(model, tmp_path, task=None, **settings):
    """Of random inputs between 0 and 1; returns the report of the export."""
    x = [
        np.float32(grid_inputs(tensor.shape[1:], seed=i))
        for i, tensor in enumerate(model.inputs)
    ]
    x = x if len(x) > 1 else x[0]
    normalize(model, x)
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(model, path, (0, 1), x, verbose=0, **settings)
    assert_equal_on_all_kernels(report.model, path, x, task=task)
    return report


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


# Other tools.


def test_labels_of_two_inputs(tmp_path):
    def build(a, b):
        return kb.QuantDense(2)(kb.QuantConcatenate()([a, b]))

    model = functional(build, (3,), (4,))
    path = tmp_path / "m.tflite"
    kb.export_tflite(model, path, (-1, 1), labels=["a", "b"], verbose=0)
    assert kb.inspect_tflite(path).labels == ["a", "b"]
    TFLiteRunner(path)


def test_inspection_and_times(model, tmp_path):
    path, report = export(model, tmp_path)
    assert kb.inspect_tflite(path).is_integer
    found = kb.benchmark_tflite(path, runs=1, per_op=True)
    assert all(one.latency is not None for one in found.files[0].operators)


def test_the_command(model, tmp_path, capsys):
    of = {name: str(tmp_path / name) for name in ("m.keras", "m.tflite")}
    model.save(of["m.keras"])
    x = str(tmp_path / "x.npz")
    np.savez(x, **data())
    words = ["--input_range_of", "image", "0", "255", "--data", x]
    assert main(["export", *of.values(), *words]) == 0
    aligned = f"{of['m.tflite']}.aligned.keras"
    capsys.readouterr()
    words = [aligned, of["m.tflite"], "--data", x, "--kernels", "all"]
    assert main(["verify", *words, "--task", "regression"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": equal: all") == 9
    np.savez(x, **data(), classes=labels()[0])
    assert main(["verify", *words]) == 0
    assert "accuracy in Keras" in capsys.readouterr().out
    bad = ["--input_range", "0", "1", "--input_range_of", "image", "0", "255"]
    for words, message in (
        (["--data", x, *bad], "--input_range or --input_range_of, not both"),
        (["--input_range_of", "image", "0", "x"], "a name and two numbers"),
    ):
        assert main(["export", *of.values(), *words]) == 1
        assert message in capsys.readouterr().err
    np.savez(x, image=data()["image"])
    assert main(["export", *of.values(), "--data", x]) == 1
    assert "arrays `image`, `a_numbers`" in capsys.readouterr().err
