"""What tests of training share: data, and how two models are compared."""

import keras
import numpy as np


def data():
    """Inputs and targets of a regression."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6)).astype("float32")
    return x, rng.standard_normal((64, 3)).astype("float32")


def assert_same(first, second):
    """All weights and the whole optimizer state agree to the last bit."""
    for a, b in zip(
        first.variables + first.optimizer.variables,
        second.variables + second.optimizer.variables,
        strict=True,
    ):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), a.path
        )


def quantized_layers(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def shadows(model):
    return [
        keras.ops.convert_to_numpy(model.optimizer.shadow(layer.kernel))
        for layer in quantized_layers(model)
    ]


def apart(first, second):
    """The largest relative difference of two models' shadows."""
    return max(
        np.max(np.abs(a - b)) / np.max(np.abs(a))
        for a, b in zip(shadows(first), shadows(second), strict=True)
    )
