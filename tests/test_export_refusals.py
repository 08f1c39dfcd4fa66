"""Models, arguments and paths that are refused."""

import os
import sys

import keras
import numpy as np
import pytest
from export_helpers import INPUT_RANGE
from export_helpers import exported
from export_helpers import network
from export_networks import classifier
from export_networks import two_convolutions
from keras import layers

import keras_bcgd as kb
from keras_bcgd.export import export_tflite


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


def with_an_output_twice():
    x = keras.Input((8, 8, 3))
    y = kb.QuantReLU(4, name="codes")(x)
    return keras.Model(x, [y, layers.Dropout(0.5, name="same")(y)])


def with_an_input_as_output():
    x = keras.Input((8, 8, 3))
    y = layers.Rescaling(2.0, name="twice")(x)
    return keras.Model(x, [y, kb.QuantReLU(4)(y)])


def with_an_input_of_any_size():
    x, y = keras.Input((8, 8, 3)), keras.Input((None, 8, 3), name="any")
    return keras.Model([x, y], [kb.QuantReLU(4)(x), kb.QuantReLU(4)(y)])


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
    "an output twice": (
        with_an_output_twice,
        "its outputs 'codes' and 'same' are the same tensor",
    ),
    "an input as output": (
        with_an_input_as_output,
        "its output 'twice' is an input as it was given",
    ),
    "an input of any size": (
        with_an_input_of_any_size,
        r"the size of the input 'any' must be fixed.* \(None, 8, 3\)",
    ),
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
    "output padding": (
        chain_of(
            kb.QuantConv2DTranspose(4, 3, strides=2, output_padding=1, name="t")
        ),
        "'t' .*output_padding=None",
    ),
    "dilated and transposed": (
        chain_of(kb.QuantConv2DTranspose(4, 3, dilation_rate=2, name="t")),
        "'t' .*dilation_rate=1",
    ),
    "transposed after a rescaling": (
        chain_of(
            layers.Rescaling(2, -1),
            kb.QuantConv2DTranspose(4, 3, name="t"),
            kb.QuantReLU(4),
        ),
        "'t' .*must not follow a Rescaling",
    ),
    "dense of a video": (
        chain_of(kb.QuantDense(4, name="d"), shape=(2, 8, 8, 3)),
        r"'d' .*put a Reshape before it, to \(height, width, channels\)",
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
    "format": ({"weight_format": "int1"}, "int8, int4, int2, lut, auto"),
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
