"""MobileNet for small images."""

import keras

from keras_bcgd.models.layers import Layers
from keras_bcgd.models.recipe import Recipe

_MOBILENET = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))


def mobilenet_cifar(
    weight_bits=4,
    activation_bits=4,
    branch_bits=None,
    classes=10,
    input_shape=(32, 32, 3),
    classifier_bits=None,
    **recipe,
):
    """A small MobileNet for CIFAR-10: five depthwise separable blocks.

    136,778 trained parameters and 11 alphas.

    Args:
        weight_bits: See `vgg11`.
        activation_bits: See `vgg11`.
        branch_bits: See `vgg11`.
        classes: Int. Defaults to `10`.
        input_shape: Tuple of 3 ints. Defaults to `(32, 32, 3)`.
        classifier_bits: See `vgg11`.
        **recipe: See `vgg11`.

    Returns:
        A functional `keras.Model` with logits as output.

    Example:

    >>> model = keras_bcgd.models.mobilenet_cifar(weight_bits=4)
    >>> model.get_layer("block1_depthwise").bits
    4

    References:
        - [Howard et al., 2017](https://arxiv.org/abs/1704.04861)
    """
    recipe = Recipe(**recipe)
    layers = Layers(
        weight_bits,
        activation_bits,
        branch_bits,
        classifier_bits,
        recipe,
        has_branches=False,
    )
    inputs = keras.Input(input_shape)
    x = layers.relu(layers.conv(inputs, 32, 3, "conv1"), "relu1")
    for block, (filters, strides) in enumerate(_MOBILENET, 1):
        name = f"block{block}"
        x = layers.depthwise(x, f"{name}_depthwise", strides)
        x = layers.relu(x, f"{name}_depthwise_relu")
        x = layers.conv(x, filters, 1, f"{name}_pointwise")
        x = layers.relu(x, f"{name}_pointwise_relu")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.classifier(x, classes)
    return keras.Model(inputs, outputs, name="mobilenet_cifar")
