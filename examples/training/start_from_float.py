"""The start of a quantized network: its twin's weights, and its alphas.

Slide "Blended Coarse Gradient Descent" starts every alpha at 1 / (2**b - 1),
which cuts activations at 1. A batch of images tells better.
"""

import keras
import numpy as np

import keras_bcgd

# Where an alpha starts; the first two are `alpha_initializer`s of QuantReLU.
ALPHA_STARTS = ("slides", "half_gaussian", "mse", "max")


def start_from_float(model, source, images, alpha_start):
    """Gives a network its float twin's weights, and alphas that fit them.

    The twin may be quantized as well, to more bits: then its float weights y
    are taken (`keras_bcgd.shadow`), and every alpha of as many bits.

    Args:
        model: The network to train, with layers of the twin's names.
        source: The trained twin. A quantized one is compiled, as
            `keras.models.load_model` returns it.
        images: Array, normalized images from which alphas are calibrated.
        alpha_start: One of `ALPHA_STARTS`; see `best_alpha`. The first two
            are left as the network was built with them.

    Raises:
        ValueError: If only one of the two has a certain layer with weights, or
            a quantized twin is not compiled with a `BlendedOptimizer`.
    """
    relus = _quantized_relus(model)
    source_relus = _quantized_relus(source)
    others = _with_weights(model, relus) ^ _with_weights(source, source_relus)
    if others:
        raise ValueError(
            f"{source.name} is no float twin of {model.name}: only one "
            f"of them has the layers {', '.join(sorted(others))}"
        )
    for layer in source.layers:
        if layer.name not in source_relus:
            for weight in layer.weights:
                _copy_weight(source, weight, model.get_layer(layer.name))
    learned = [
        name
        for name, relu in source_relus.items()
        if name in relus and relu.bits == relus[name].bits
    ]
    for name in learned:
        relus.pop(name).alpha.assign(np.array(source_relus[name].alpha))
    if alpha_start not in ("mse", "max") or not relus:
        return
    inputs = [_sum(source.get_layer(name).input) for name in relus]
    features = keras.Model(source.inputs, inputs)
    for relu, value in zip(
        relus.values(), features.predict_on_batch(images), strict=True
    ):
        alpha = keras_bcgd.best_alpha(value, relu.bits, alpha_start)
        relu.alpha.assign(alpha)


def _quantized_relus(model):
    """`{name: layer}`."""
    return {
        layer.name: layer
        for layer in model.layers
        if isinstance(layer, keras_bcgd.QuantReLU)
    }


def _sum(inputs):
    """The sum of a QuantAddReLU's two inputs; another layer's only one."""
    return keras.layers.add(inputs) if isinstance(inputs, list) else inputs


def _copy_weight(source, weight, layer):
    """Gives `layer` a weight of its twin: of a quantized kernel its y."""
    if weight.name == "kernel_is_quantized":
        return
    value = weight
    if isinstance(weight.constraint, keras_bcgd.QuantProjection):
        value = keras_bcgd.shadow(source, weight)
    # A copy: JAX gives a buffer up with the first model that runs.
    getattr(layer, weight.name).assign(np.array(value))


def _with_weights(model, besides):
    """The names of the layers that have weights."""
    return {
        layer.name
        for layer in model.layers
        if layer.weights and layer.name not in besides
    }
