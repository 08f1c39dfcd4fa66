"""Layers, ReLUs and models that are called in several places."""

import keras
import numpy as np
import pytest
from conversion_helpers import FLOAT
from conversion_helpers import assert_equal_outputs
from conversion_helpers import becomes
from conversion_helpers import conv_bn
from conversion_helpers import images
from conversion_helpers import layer_at
from conversion_helpers import nested
from conversion_helpers import numpy_of
from conversion_helpers import quantized
from conversion_helpers import shaken
from conversion_helpers import shared
from conversion_helpers import shared_by_models
from conversion_helpers import shared_model
from keras import layers

import keras_bcgd as kb


def test_a_shared_relu_becomes_one_for_each_call():
    model = quantized(shared())
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("QuantReLU") == 3
    names = {layer.name for layer in model.layers}
    assert {"relu", "relu_1", "relu_2", "twice", "once"} <= names
    assert kinds.count("QuantConv2D") == 2


@pytest.mark.parametrize(
    "build, paths",
    [
        (shared_by_models, ["first/shared", "second/shared"]),
        (shared_model, ["encoder/a_conv", "parent/encoder/a_conv"]),
    ],
)
def test_what_models_share_stays_shared(build, paths, tmp_path):
    source = shaken(build())
    assert quantized(source, **FLOAT).count_params() == source.count_params()
    model = quantized(source, 2, 2)
    kernels = [
        [weight for weight in m.weights if weight.name == "kernel"]
        for m in (source, model)
    ]
    assert len(kernels[0]) == len(kernels[1])
    model.compile(kb.BlendedOptimizer(keras.optimizers.SGD(0.01)), loss="mse")
    model.fit(images(), np.ones((4, 3)), verbose=0)
    assert layer_at(model, paths[0]) is layer_at(model, paths[1])
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = quantized(build(), 2, 2)
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert_equal_outputs(model, loaded)


def test_one_decision_for_what_models_share():
    """First or last, and exceptions: by any of its paths."""
    for build, name in (
        (shared_by_models, "first/shared"),
        (shared_model, "parent/encoder/a_conv"),
    ):
        found = becomes(build())
        assert found[name][1] == 8
        assert sum(path.endswith(name[-6:]) for path in found) == 1
    source = shared_by_models()
    found = becomes(source, overrides={"second/*": {"weight_bits": 3}})
    assert found["first/shared"][1] == 3
    plan = str(kb.conversion_plan(source)).splitlines()
    (line,) = [line for line in plan if line.startswith("first/shared")]
    assert line.endswith("also second/shared")


def test_a_shared_relu_has_an_alpha_in_each_model():
    model = quantized(shared_by_models())
    one, other = (layer_at(model, path) for path in ("first/relu", "relu"))
    assert type(one) is type(other) is kb.QuantReLU
    assert one is not other


def test_weights_that_cannot_stay_shared_are_refused():
    """A wrapper is copied by its config: it gets a layer of its own."""
    dense = layers.Dense(3, name="dense")
    inputs = keras.Input((2, 4))
    x = layers.Concatenate()(
        [layers.TimeDistributed(dense, name="wrapper")(inputs), dense(inputs)]
    )
    with pytest.raises(ValueError, match="'wrapper'.*'dense'"):
        kb.quantize_model(keras.Model(inputs, x))


def names_taken():
    """Names that new layers would have: of ReLUs, sums and a model."""
    relu = layers.ReLU(name="relu")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, activation="relu", name="conv")(inputs)
    x = relu(layers.Conv2D(3, 3, name="conv_relu")(x))
    x = relu(layers.Conv2D(3, 1, name="relu_1")(x))
    y = layers.SeparableConv2D(3, 1, name="conv_relu_1")(x)
    x = layers.Add(name="conv_relu_1_codes")([x, y])
    x = layers.Conv2D(3, 1, name="conv_relu_1_depthwise")(x)
    x = layers.Flatten(name="conv_relu_1_depthwise_codes")(x)
    return keras.Model(inputs, layers.Dense(3, name="relu_2")(x))


def names_taken_in_a_sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="conv_relu_1"),
            layers.Conv2D(3, 3, activation="relu", name="conv"),
            layers.Conv2D(3, 3, activation="relu", name="conv_relu"),
            layers.Flatten(),
            layers.Dense(3, name="conv_relu_relu"),
        ]
    )


@pytest.mark.parametrize("build", [names_taken, names_taken_in_a_sequential])
def test_new_names_are_not_taken(build):
    source = shaken(build())
    model = quantized(source)
    old = {layer.name: type(layer).__name__ for layer in source.layers}
    for layer in model.layers:
        kind = old.get(layer.name, type(layer).__name__)
        assert kind.removeprefix("Separable") in type(layer).__name__
    assert len(model.layers) > len(source.layers)
    assert_equal_outputs(source, quantized(source, **FLOAT))


def test_new_names_are_those_of_their_own_model():
    """What is taken in one model is free in another."""
    parts = [
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(3, 3, padding="same", activation="relu", name=n),
            ],
            name=f"conv{i}",
        )
        for i, n in enumerate(["conv", "conv", "conv1_relu"])
    ]
    model = quantized(keras.Sequential([keras.Input((8, 8, 3)), *parts]))
    assert all(layer_at(model, f"conv{i}/conv_relu") for i in (0, 1))


def test_layers_called_by_keyword():
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="relu")(inputs=conv_bn(inputs, 3, "a"))
    y = conv_bn(x, 3, "b")
    x = layers.Add(name="add")(inputs=[x, y])
    x = layers.Activation("relu", name="last_relu")(inputs=x)
    x = layers.SeparableConv2D(3, 1, activation="relu")(inputs=x)
    x = layers.Flatten()(inputs=x)
    source = shaken(
        keras.Model(inputs, layers.Dense(3, name="classifier")(inputs=x))
    )
    assert_equal_outputs(source, quantized(source, **FLOAT))
    model = quantized(source)
    layer = model.get_layer("last_relu")
    assert type(layer) is kb.QuantAddReLU
    branch, _ = layer.input
    np.testing.assert_array_equal(
        numpy_of(keras.Model(model.input, branch)(images())),
        numpy_of(
            keras.Model(model.input, model.get_layer("b_bn").output)(images())
        ),
    )


def test_models_within_the_model():
    model = quantized(nested(), 2, 3)
    assert type(layer_at(model, "stem/conv")) is kb.QuantConv2D
    assert layer_at(model, "stem/conv").bits == 8
    assert layer_at(model, "block/a_conv").bits == 2
    assert type(layer_at(model, "block/a_relu")) is kb.QuantAddReLU
    assert isinstance(model.get_layer("stem"), keras.Sequential)
