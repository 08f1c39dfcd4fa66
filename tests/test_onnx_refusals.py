"""What `export_onnx` refuses, by name, and that it then writes nothing."""

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd.onnx import file as onnx_file

pytest.importorskip("onnx")
layers = keras.layers


def dense():
    return keras.Sequential([keras.Input((4,)), kb.QuantDense(3)])


def refused(model, tmp_path, match, **settings):
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=match) as error:
        kb.export_onnx(model, path, **settings)
    assert not list(tmp_path.iterdir())
    return str(error.value)


def test_all_that_is_refused_is_named_in_one_error(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kb.QuantConv2D(4, 3, activation="gelu", name="curved"),
            kb.QuantActivation("silu", name="swish"),
            kb.QuantConv2DTranspose(4, 3, name="up"),
            layers.LayerNormalization(name="norm"),
            layers.UpSampling2D(2, name="larger"),
            layers.BatchNormalization(axis=1, name="rows"),
            layers.GlobalAveragePooling2D(),
            kb.QuantDense(3),
        ]
    )
    text = refused(model, tmp_path, "nothing was written")
    lines = text.splitlines()
    assert len(lines) == 7
    for line, start in zip(
        lines[1:],
        (
            "- 'curved' (QuantConv2D): use activation=None and a QuantReLU",
            "- 'swish' (QuantActivation): `export_tflite` writes it",
            "- 'up' (QuantConv2DTranspose): `export_tflite` writes it",
            "- 'norm' (LayerNormalization): it has no integer form here",
            "- 'larger' (UpSampling2D): `export_tflite` writes it",
            "- 'rows' (BatchNormalization): it must normalize the last axis",
        ),
        strict=True,
    ):
        assert line.startswith(start), line


@pytest.mark.parametrize(
    "layer, match",
    [
        (lambda: layers.Softmax(axis=1), "over the last axis"),
        (lambda: layers.ReLU(negative_slope=0.1), "negative_slope=0"),
        (lambda: layers.Concatenate(0), "concatenate the batch"),
        (lambda: layers.Add(), "one shape"),
    ],
)
def test_arguments_of_layers(tmp_path, layer, match):
    x = keras.Input((4, 3))
    layer = layer()
    inputs = x
    if type(layer) is layers.Concatenate:
        inputs = [x, x]
    elif type(layer) is layers.Add:
        inputs = [x, keras.layers.Cropping1D((0, 3))(x)]
    refused(keras.Model(x, layer(inputs)), tmp_path, match)


def test_channels_first_layers(tmp_path):
    layer = layers.MaxPooling2D(2, data_format="channels_first")
    model = keras.Sequential([keras.Input((3, 8, 8)), layer])
    refused(model, tmp_path, "data_format='channels_last'")


def test_layer_called_twice(tmp_path):
    x = keras.Input((4,))
    layer = kb.QuantDense(4, name="twice")
    refused(keras.Model(x, layer(layer(x))), tmp_path, "'twice'.*several times")


def test_operation_that_is_no_layer(tmp_path):
    x = keras.Input((4,))
    refused(keras.Model(x, keras.ops.sin(x)), tmp_path, "Sin")


def test_input_of_unknown_size(tmp_path):
    model = keras.Sequential([keras.Input((None, None, 3)), kb.QuantReLU()])
    refused(model, tmp_path, "size of the input .* must be fixed")


def test_model_that_is_not_built(tmp_path):
    model = keras.Sequential([kb.QuantDense(3)])
    refused(model, tmp_path, "no known input shape")


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"format": "onnx"}, "`format` must be one of qonnx, qcdq"),
        ({"batch_size": 0}, "`batch_size` must be an integer above 0, or None"),
        (
            {"data_format": "NHWC"},
            "`data_format` must be one of channels_first",
        ),
        ({"labels": ["a"]}, "one for each of the 3 outputs"),
    ],
)
def test_arguments(tmp_path, settings, match):
    refused(dense(), tmp_path, match, **settings)


def test_no_model(tmp_path):
    refused(layers.Dense(3), tmp_path, "`model` must be a keras.Model")


def test_weights_that_are_not_finite(tmp_path):
    model = dense()
    model.layers[0].bias.assign([0, np.nan, 0])
    refused(model, tmp_path, "bias of layer .* must be finite.*1 of 3 values")


def test_alpha_of_zero(tmp_path):
    model = keras.Sequential([keras.Input((4,)), kb.QuantReLU(4)])
    model.layers[0].alpha.assign(0.0)
    refused(model, tmp_path, "alpha of layer .* must be above 0")


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder that exists"):
        kb.export_onnx(dense(), tmp_path / "no" / "model.onnx")


def test_old_file_stays_if_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fail(self, *args):
        raise ValueError("no")

    monkeypatch.setattr(onnx_file.OnnxFile, "contents", fail)
    with pytest.raises(ValueError, match="no"):
        kb.export_onnx(dense(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
