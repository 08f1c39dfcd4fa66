"""The networks of the slides' experiments, and a small one for phones.

Each is a plain functional model of the layers of this package and of Keras.
With `weight_bits=32, activation_bits=32`, no `branch_bits` and no
`classifier_bits` it is its own float twin: layers that hold the same weights
have the same names in both.
"""

import dataclasses
import warnings

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.layers.quant_add_relu import check_branch_bits
from keras_bcgd.layers.quant_kernel import FLOAT_BITS
from keras_bcgd.utils.checks import check_bits
from keras_bcgd.utils.checks import check_choice

_VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512)
_RESNET18 = ((64, 1), (128, 2), (256, 2), (512, 2))
_MOBILENET = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the layers of a network have in common, beside the bits.

    Args:
        first_last_float: Boolean. Keeps the first convolution and the
            classifier in float. Defaults to `False`.
        projection: String, how the weights of convolutions are projected; see
            `keras_bcgd.project`. The classifier's are by `"lloyd"`. Defaults
            to `"lloyd"`.
        per_channel: Boolean. One scale for each output channel of a
            convolution, not one for each layer. Defaults to `False`.
        alpha_gradient: String; see `QuantReLU`. Defaults to `"three_valued"`.
        alpha_initializer: See `QuantReLU`. Defaults to `"half_gaussian"`.
        stride_padding: String. Convolutions of stride 2 are padded evenly on
            all sides (`"symmetric"`, as in the paper), or by what is missing,
            for even sizes at the end only (`"same"`, as Keras does).
            Defaults to `"symmetric"`.
        norm_momentum: Float in [0, 1), of the moving averages of
            batch normalization. Defaults to `0.9`.
        norm_epsilon: Float above 0, of batch normalization. Defaults to
            `1e-5`.
        norm_synchronized: Boolean. Batch normalization takes its statistics
            from all replicas of a `tf.distribute` strategy, not from each
            replica's part of the batch. TensorFlow only. Defaults to `False`.

    Raises:
        ValueError: If `stride_padding`, `norm_momentum` or `norm_epsilon` is
            not as said above.

    Example:

    >>> recipe = keras_bcgd.models.Recipe(first_last_float=True)
    >>> recipe.projection, recipe.norm_momentum
    ('lloyd', 0.9)
    >>> model = keras_bcgd.models.vgg11(first_last_float=True)
    >>> model.get_layer("conv1").bits, model.get_layer("conv2").bits
    (32, 4)
    """

    first_last_float: bool = False
    projection: str = "lloyd"
    per_channel: bool = False
    alpha_gradient: str = "three_valued"
    alpha_initializer: str = "half_gaussian"
    stride_padding: str = "symmetric"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    norm_synchronized: bool = False

    def __post_init__(self):
        check_choice(
            "stride_padding", self.stride_padding, ("symmetric", "same")
        )
        if not 0 <= self.norm_momentum < 1:
            raise ValueError(
                "`norm_momentum` must be in [0, 1). "
                f"Received: norm_momentum={self.norm_momentum!r}"
            )
        if not self.norm_epsilon > 0:
            raise ValueError(
                "`norm_epsilon` must be above 0. "
                f"Received: norm_epsilon={self.norm_epsilon!r}"
            )


@dataclasses.dataclass
class _Layers:
    """Makes the layers of one network."""

    weight_bits: int
    activation_bits: int
    branch_bits: int | None
    classifier_bits: int | None
    recipe: Recipe
    has_branches: bool = True

    def __post_init__(self):
        for name in ("weight_bits", "activation_bits"):
            bits = check_bits(getattr(self, name), allow_float=True, name=name)
            setattr(self, name, bits)
        self.branch_bits = check_branch_bits(self.branch_bits)
        self.classifier_bits = self._bits_of_the_classifier()

    def _bits_of_the_classifier(self):
        bits = check_bits(
            self.classifier_bits,
            allow_float=True,
            allow_none=True,
            name="classifier_bits",
        )
        if self.recipe.first_last_float:
            if bits not in (None, FLOAT_BITS):
                raise ValueError(
                    "`classifier_bits` must be 32 (not quantized) or None with "
                    "first_last_float=True, which keeps the classifier in "
                    f"float. Received: classifier_bits={bits}"
                )
            return FLOAT_BITS
        if bits is not None:
            return bits
        if self.branch_bits is None:
            return FLOAT_BITS
        if not self.has_branches:
            # The caller of the function that made this object.
            warnings.warn(
                "This network has no branches: `branch_bits` is the bits of "
                "its classifier's weights alone. Say so by "
                f"`classifier_bits={self.branch_bits}`, without `branch_bits`.",
                FutureWarning,
                stacklevel=5,
            )
        return self.branch_bits

    def conv(self, x, filters, kernel_size, name, strides=1, use_bias=False):
        """Convolution and normalization."""
        bits = self.weight_bits
        if self.recipe.first_last_float and name == "conv1":
            bits = FLOAT_BITS
        padding = "same"
        if strides > 1 and self.recipe.stride_padding == "symmetric":
            padding = "valid"
            if kernel_size > 1:
                x = keras.layers.ZeroPadding2D(
                    kernel_size // 2, name=f"{name}_pad"
                )(x)
        x = quant_layers.QuantConv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            bits=bits,
            projection=self.recipe.projection,
            per_channel=self.recipe.per_channel,
            kernel_initializer="he_normal",
            name=name,
        )(x)
        return self.norm(x, name)

    def depthwise(self, x, name, strides=1):
        """3x3 depthwise convolution and normalization.

        At stride 2 the padding is that of TensorFlow's MobileNets, whatever
        the recipe: even sizes are padded at the end only.
        """
        x = quant_layers.QuantDepthwiseConv2D(
            3,
            strides=strides,
            padding="same",
            use_bias=False,
            bits=self.weight_bits,
            projection=self.recipe.projection,
            per_channel=self.recipe.per_channel,
            depthwise_initializer="he_normal",
            name=name,
        )(x)
        return self.norm(x, name)

    def norm(self, x, name):
        return keras.layers.BatchNormalization(
            momentum=self.recipe.norm_momentum,
            epsilon=self.recipe.norm_epsilon,
            synchronized=self.recipe.norm_synchronized,
            name=f"{name}_bn",
        )(x)

    def relu(self, x, name):
        if self.activation_bits == FLOAT_BITS:
            return keras.layers.ReLU(name=name)(x)
        return quant_layers.QuantReLU(
            self.activation_bits,
            alpha_gradient=self.recipe.alpha_gradient,
            alpha_initializer=self.recipe.alpha_initializer,
            name=name,
        )(x)

    def add_relu(self, branch, shortcut, name, shortcut_is_branch=False):
        if self.activation_bits == FLOAT_BITS or self.branch_bits is None:
            x = keras.layers.Add(name=f"{name}_add")([branch, shortcut])
            return self.relu(x, name)
        return quant_layers.QuantAddReLU(
            self.activation_bits,
            branch_bits=self.branch_bits,
            shortcut_is_branch=shortcut_is_branch,
            alpha_gradient=self.recipe.alpha_gradient,
            alpha_initializer=self.recipe.alpha_initializer,
            name=name,
        )([branch, shortcut])

    def classifier(self, x, classes):
        return quant_layers.QuantDense(
            classes, bits=self.classifier_bits, name="classifier"
        )(x)


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
    layers = _Layers(
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
    layers = _Layers(
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
    layers = _Layers(
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
    layers = _Layers(
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
