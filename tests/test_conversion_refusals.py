"""What quantize_model refuses, and layers it does not know."""

import warnings

import keras
import numpy as np
import pytest
from conversion_helpers import Doubles
from conversion_helpers import becomes
from conversion_helpers import numpy_of
from conversion_helpers import plain
from conversion_helpers import quantized
from conversion_helpers import with_layer
from keras import layers

import keras_bcgd as kb


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"weight_bits": 9}, "`weight_bits` must be an integer from 1 to 8"),
        ({"activation_bits": 0}, "Received: activation_bits=0"),
        ({"branch_bits": 3}, "Received: branch_bits=3"),
        ({"first_last": "float"}, "Received: first_last='float'"),
        ({"projection": "best"}, "Received: 'best'"),
        ({"per_channel": 1}, "Received: per_channel=1"),
        ({"alpha_gradient": "x"}, "Received: alpha_gradient='x'"),
        ({"alpha_initializer": None}, "Received: alpha_initializer=None"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError) as raised:
        kb.quantize_model(plain(), **kwargs)
    assert message in str(raised.value)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


class WithoutConfig(layers.Layer):
    def __init__(self, function, name=None):
        super().__init__(name=name)
        self.function = function

    def call(self, x):
        return self.function(x)


class ForgetsItsConfig(layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return super().get_config()


def quantized_by_keras():
    model = with_layer(layers.Dense(4, name="mine"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.quantize("int8")
    return model


@pytest.mark.parametrize(
    "build, messages",
    [
        (lambda: "model.keras", ["`model` must be", "'model.keras'"]),
        (lambda: keras.Sequential([layers.Dense(2)]), ["no known input shape"]),
        (Subclassed, ["Only Sequential and functional", "Subclassed"]),
        (
            lambda: with_layer(WithoutConfig(abs, name="mine")),
            ["'mine' (WithoutConfig)", "get_config"],
        ),
        (
            lambda: with_layer(ForgetsItsConfig(2.0, name="mine")),
            ["'mine' (ForgetsItsConfig)", "factor"],
        ),
        (
            lambda: with_layer(layers.Lambda(lambda x: 2 * x, name="mine")),
            ["'mine' (Lambda)", "enable_unsafe_deserialization"],
        ),
        (
            lambda: with_layer(kb.QuantReLU(name="mine")),
            ["quantized already", "the layers mine"],
        ),
        (
            lambda: with_layer(kb.QuantDense(3, bits=2, name="mine")),
            ["quantized already", "the layers mine"],
        ),
        (quantized_by_keras, ["quantized already", "the layers mine, dense"]),
        (
            lambda: with_layer(layers.ReLU(max_value=0, name="mine")),
            ["'mine'", "`max_value` above 0", "max_value=0"],
        ),
    ],
)
def test_models_that_are_refused(build, messages):
    with pytest.raises(ValueError) as raised:
        kb.quantize_model(build())
    for message in messages:
        assert message in str(raised.value)


class Backbone(keras.Model):
    """A functional model with a class of its own, as in Keras Hub."""

    def __init__(self, width):
        inputs = keras.Input((4,))
        x = layers.Dense(width, activation="relu", name="hidden")(inputs)
        super().__init__(inputs, layers.Dense(2, name="last")(x))
        self.width = width


def test_functional_models_of_a_class_of_their_own():
    source = Backbone(3)
    found = quantized(source, first_last=32, activation_bits=32)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(numpy_of(found(x)), numpy_of(source(x)))
    assert becomes(source)["hidden"] == ("QuantDense + QuantReLU", 8, 4)


def test_layers_of_ones_own_are_copied():
    own = Subclassed(name="own")
    source = keras.Sequential(
        [keras.Input((4,)), Doubles(), own, layers.Dense(2)]
    )
    with pytest.warns(UserWarning, match="weights stay float: 'own'"):
        found = kb.quantize_model(source, first_last=32)
    kinds = [type(layer) for layer in found.layers]
    assert kinds == [Doubles, Subclassed, layers.Dense]
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(numpy_of(found(x)), numpy_of(source(x)))
