"""Makes the layers of a network by its bits and its recipe."""

import dataclasses
import warnings

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.layers.quant_add_relu import check_branch_bits
from keras_bcgd.layers.quant_kernel import FLOAT_BITS
from keras_bcgd.models.recipe import Recipe
from keras_bcgd.utils.checks import check_bits


@dataclasses.dataclass
class Layers:
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
            alpha_gradient_scale=self.recipe.alpha_gradient_scale,
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
            alpha_gradient_scale=self.recipe.alpha_gradient_scale,
            name=name,
        )([branch, shortcut])

    def classifier(self, x, classes):
        return quant_layers.QuantDense(
            classes, bits=self.classifier_bits, name="classifier"
        )(x)
