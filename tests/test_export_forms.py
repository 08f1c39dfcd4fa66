"""Forms of models and of data, the report, a trained network."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from export_helpers import assert_same_codes
from export_helpers import exported
from export_helpers import grid_inputs
from export_helpers import randomize
from export_networks import classifier
from export_networks import two_convolutions
from keras import layers

import keras_bcgd as kb
from keras_bcgd.export import export_tflite
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.verification import verify_tflite


def test_report_is_a_table(tmp_path):
    path, report = exported(classifier(), tmp_path)
    text = str(report)
    assert path in text and f"{os.path.getsize(path):,} bytes" in text
    assert all(row.name in text for row in report.layers)
    assert report.layers[0].flips == 2
    assert "120 of 120" in text


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
