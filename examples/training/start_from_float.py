"""The start of a quantized network: its float twin's weights, and its alphas.

Slide "Blended Coarse Gradient Descent" starts every alpha at 1 / (2**b - 1),
which cuts activations at 1. A batch of images tells better.
"""

import keras
import numpy as np

import keras_bcgd

# Where an alpha starts; the first two are `alpha_initializer`s of QuantReLU.
ALPHA_STARTS = ("slides", "half_gaussian", "mse", "max")


def start_from_float(model, float_model, images, alpha_start):
    """Gives a network its float twin's weights, and alphas that fit them.

    Args:
        model: The network to train, with layers of the twin's names.
        float_model: The trained twin.
        images: Array, normalized images from which alphas are calibrated.
        alpha_start: One of `ALPHA_STARTS`; see `best_alpha`. The first two
            are left as the network was built with them.

    Raises:
        ValueError: If only one of the two has a certain layer with weights.
    """
    relus = [
        layer
        for layer in model.layers
        if isinstance(layer, keras_bcgd.QuantReLU)
    ]
    others = _with_weights(model, relus) ^ _with_weights(float_model)
    if others:
        raise ValueError(
            f"{float_model.name} is no float twin of {model.name}: only one "
            f"of them has the layers {', '.join(sorted(others))}"
        )
    for source in float_model.layers:
        for weight in source.weights:
            target = getattr(model.get_layer(source.name), weight.name)
            # A copy: JAX gives a buffer up with the first model that runs.
            target.assign(np.array(weight))
    if alpha_start not in ("mse", "max") or not relus:
        return
    inputs = [float_model.get_layer(relu.name).input for relu in relus]
    features = keras.Model(float_model.inputs, inputs)
    for relu, value in zip(
        relus, features.predict_on_batch(images), strict=True
    ):
        alpha = keras_bcgd.best_alpha(value, relu.bits, alpha_start)
        relu.alpha.assign(alpha)


def _with_weights(model, besides=()):
    """The names of the layers that have weights."""
    return {
        layer.name
        for layer in model.layers
        if layer.weights and layer not in besides
    }
