"""A trained network with two inputs and three outputs, in one file."""

import keras
import numpy as np
import pytest
from ends_networks import SAMPLES
from ends_networks import assert_equal_on_all_kernels
from ends_networks import data
from ends_networks import export
from ends_networks import functional
from ends_networks import labels
from ends_networks import trained

import keras_bcgd as kb
from keras_bcgd.cli import main
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.runner import load_interpreter

layers = keras.layers


@pytest.fixture(scope="module")
def model():
    return trained()


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
    alpha = report.model.get_layer("codes_in").alpha
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
    first = changed.get_layer(of["a_size"].first_divergence.name)
    assert isinstance(first, kb.QuantReLU) and first.output.shape == (None, 8)
    assert kb.first_divergence(report.model, path, data()) is None


# Other tools.


def test_labels_of_two_inputs(tmp_path):
    def build(a, b):
        return kb.QuantDense(2)(kb.QuantConcatenate()([a, b]))

    model = functional(build, (3,), (4,))
    path = tmp_path / "m.tflite"
    kb.export_tflite(model, path, (-1, 1), labels=["a", "b"], verbose=0)
    assert kb.inspect_tflite(path).labels == ["a", "b"]
    # Of the tensor, of the signature and of the metadata.
    contents = path.read_bytes()
    assert contents.count(b"in0") == contents.count(b"in1") == 3
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
