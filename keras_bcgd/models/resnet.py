"""Residual networks, for CIFAR-10 and for ImageNet."""

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.models.layers import Layers
from keras_bcgd.models.recipe import Recipe
from keras_bcgd.utils.checks import check_choice

_RESNET18 = ((64, 1), (128, 2), (256, 2), (512, 2))


def resnet_cifar(
    depth=20,
    weight_bits=4,
    activation_bits=4,
    branch_bits=None,
    classes=10,
    input_shape=(32, 32, 3),
    shortcut="A",
    classifier_bits=None,
    **recipe,
):
    """Residual network for CIFAR-10.

    At depth 20: 269,722 trained parameters and 19 alphas.

    Args:
        depth: Int, `6 n + 2`: 20, 32, 44, 56 or 110. Defaults to `20`.
        weight_bits: See `vgg11`.
        activation_bits: See `vgg11`.
        branch_bits: See `vgg11`.
        classes: Int. Defaults to `10`.
        input_shape: Tuple of 3 ints. Defaults to `(32, 32, 3)`.
        shortcut: String, how the two shortcuts get more channels: `"A"`,
            zeros after the others and no weights, as in the paper, or `"B"`,
            a convolution of size 1. Defaults to `"A"`.
        classifier_bits: See `vgg11`.
        **recipe: See `vgg11`.

    Returns:
        A functional `keras.Model` with logits as output.

    Raises:
        ValueError: If `depth` is not `6 n + 2`, or `shortcut` another letter.

    Example:

    >>> model = keras_bcgd.models.resnet_cifar(20, weight_bits=2, branch_bits=8)
    >>> model.output_shape
    (None, 10)
    >>> sum(isinstance(x, keras_bcgd.QuantAddReLU) for x in model.layers)
    9

    References:
        - [He et al., 2015](https://arxiv.org/abs/1512.03385)
    """
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise ValueError(
            "`depth` must be 6 n + 2, n > 0: 20, 32, 44, 56 or 110, say. "
            f"Received: depth={depth!r}"
        )
    check_choice("shortcut", shortcut, ("A", "B"))
    recipe = Recipe(**recipe)
    layers = Layers(
        weight_bits, activation_bits, branch_bits, classifier_bits, recipe
    )
    inputs = keras.Input(input_shape)
    x = layers.relu(layers.conv(inputs, 16, 3, "conv1"), "relu1")
    for stage, filters in enumerate((16, 32, 64), 1):
        for block in range(1, (depth - 2) // 6 + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            name = f"stage{stage}_block{block}"
            x = _block(layers, x, filters, strides, name, shortcut == "B")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.classifier(x, classes)
    return keras.Model(inputs, outputs, name=f"resnet{depth}_cifar")


def _block(layers, x, filters, strides, name, shortcut_has_weights):
    shortcut = x
    if strides > 1:
        make = _shortcut_b if shortcut_has_weights else _shortcut_a
        shortcut = make(layers, x, filters, strides, name)
    x = layers.conv(x, filters, 3, f"{name}_conv1", strides)
    x = layers.relu(x, f"{name}_relu1")
    x = layers.conv(x, filters, 3, f"{name}_conv2")
    return layers.add_relu(
        x,
        shortcut,
        f"{name}_relu2",
        shortcut_is_branch=shortcut_has_weights and strides > 1,
    )


def _shortcut_a(layers, x, filters, strides, name):
    """Subsampling, and zeros as the channels that are missing."""
    x = keras.layers.MaxPooling2D(1, strides=strides, name=f"{name}_subsample")(
        x
    )
    return quant_layers.PadChannels(filters, name=f"{name}_pad_channels")(x)


def _shortcut_b(layers, x, filters, strides, name):
    """A convolution of size 1."""
    return layers.conv(x, filters, 1, f"{name}_shortcut", strides)


def resnet18(
    weight_bits=4,
    activation_bits=4,
    branch_bits=None,
    classes=1000,
    input_shape=(224, 224, 3),
    classifier_bits=None,
    **recipe,
):
    """ResNet-18 for ImageNet, with 1x1 convolutions on three shortcuts.

    11,689,512 trained parameters and 17 alphas.

    Args:
        weight_bits: See `vgg11`.
        activation_bits: See `vgg11`.
        branch_bits: See `vgg11`.
        classes: Int. Defaults to `1000`.
        input_shape: Tuple of 3 ints. Defaults to `(224, 224, 3)`.
        classifier_bits: See `vgg11`.
        **recipe: See `vgg11`.

    Returns:
        A functional `keras.Model` with logits as output.

    Example:

    >>> model = keras_bcgd.models.resnet18(weight_bits=1, classes=10)
    >>> model.output_shape
    (None, 10)

    References:
        - [He et al., 2015](https://arxiv.org/abs/1512.03385)
    """
    recipe = Recipe(**recipe)
    layers = Layers(
        weight_bits, activation_bits, branch_bits, classifier_bits, recipe
    )
    inputs = keras.Input(input_shape)
    x = layers.relu(layers.conv(inputs, 64, 7, "conv1", 2), "relu1")
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = keras.layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for stage, (filters, strides) in enumerate(_RESNET18, 1):
        x = _block(layers, x, filters, strides, f"stage{stage}_block1", True)
        x = _block(layers, x, filters, 1, f"stage{stage}_block2", True)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.classifier(x, classes), name="resnet18")
