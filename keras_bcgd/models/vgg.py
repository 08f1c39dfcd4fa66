"""VGG-11 for small images."""

import keras

from keras_bcgd.models.layers import Layers
from keras_bcgd.models.recipe import Recipe

_VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512)


def vgg11(
    weight_bits=4,
    activation_bits=4,
    branch_bits=None,
    classes=10,
    input_shape=(32, 32, 3),
    classifier_bits=None,
    **recipe,
):
    """VGG-11 for CIFAR-10: 9,231,114 trained parameters and 8 alphas.

    Args:
        weight_bits: Int from 1 to 8, the bits of every convolution's weights,
            or 32: float. Defaults to `4`.
        activation_bits: Int from 1 to 8, the bits of every activation, or 32:
            float. Defaults to `4`.
        branch_bits: Int from 4 to 8, the bits of the residual branches, which
            the slides leave in float, for networks that are to be deployed;
            `None`: float. (A VGG has none.) Defaults to `None`.
        classes: Int. Defaults to `10`.
        input_shape: Tuple of 3 ints. Defaults to `(32, 32, 3)`.
        classifier_bits: Int from 1 to 8, the bits of the classifier's weights,
            which the slides leave in float, or 32: float. `None`: as
            `branch_bits`, of networks without branches with a warning; float
            without these or with `first_last_float`. Defaults to `None`.
        **recipe: The arguments of `Recipe`.

    Returns:
        A functional `keras.Model` with logits as output.

    Raises:
        ValueError: If an argument is not as said above, or `classifier_bits`
            quantizes what `first_last_float` keeps in float.

    Example:

    >>> model = keras_bcgd.models.vgg11(weight_bits=4, activation_bits=4)
    >>> len([x for x in model.layers if isinstance(x, keras_bcgd.QuantReLU)])
    8
    >>> model = keras_bcgd.models.vgg11(weight_bits=4, classifier_bits=8)
    >>> model.get_layer("conv8").bits, model.get_layer("classifier").bits
    (4, 8)
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
    inputs = x = keras.Input(input_shape)
    index = 0
    for part in (*_VGG11, "pool"):
        if part == "pool":
            x = keras.layers.MaxPooling2D(2, name=f"pool{index}")(x)
        else:
            index += 1
            x = layers.conv(x, part, 3, f"conv{index}", use_bias=True)
            x = layers.relu(x, f"relu{index}")
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.Model(inputs, layers.classifier(x, classes), name="vgg11")
