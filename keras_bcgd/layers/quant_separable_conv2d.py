"""QuantSeparableConv2D: SeparableConv2D with quantized kernels."""

import keras

from keras_bcgd.layers.composite import Composite
from keras_bcgd.layers.quant_add_relu import check_branch_bits
from keras_bcgd.layers.quant_conv2d import QuantConv2D
from keras_bcgd.layers.quant_depthwise_conv2d import QuantDepthwiseConv2D
from keras_bcgd.layers.quant_identity import QuantIdentity

_OF_DEPTHWISE = (
    "kernel_size",
    "strides",
    "padding",
    "dilation_rate",
    "depth_multiplier",
    "depthwise_initializer",
    "depthwise_regularizer",
)
_OF_POINTWISE = (
    "filters",
    "activation",
    "use_bias",
    "bias_initializer",
    "bias_regularizer",
    "bias_constraint",
)
_INSTEAD_OF_BITS = ("depthwise_constraint", "pointwise_constraint")


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantSeparableConv2D(Composite):
    """2D depthwise separable convolution with quantized weights.

    What a `keras.layers.SeparableConv2D` computes, by three layers:
    `depthwise`, a `QuantDepthwiseConv2D`; `codes`, a `QuantIdentity`, as the
    tensor between the two has 8 bits in an integer file; `pointwise`, a
    `QuantConv2D` of size 1 with the bias and the activation (slides "Weight
    Quantization" and "Full Quantization Problem"). `quantize_model` makes
    such three layers of a SeparableConv2D.

    Args:
        filters: Int, the number of output channels.
        kernel_size: Int or tuple of 2 ints, height and width.
        bits: Int from 1 to 8, the bit width of the weights of both, or 32:
            not quantized, the stock layer, without `codes`. Defaults to `4`.
        projection: String, how proj_Q is solved; see `keras_bcgd.project`.
            Defaults to `"lloyd"`.
        per_channel: Boolean. One scale for each output channel of either
            kernel instead of one for each kernel. Defaults to `False`.
        branch_bits: Int from 4 to 8, the bits of `codes`, or `None`: left in
            float. Only 8 can be exported. Defaults to `8`.
        **kwargs: Every other argument of `keras.layers.SeparableConv2D`, but
            `depthwise_constraint` and `pointwise_constraint`.

    Raises:
        ValueError: If `bits`, `projection`, `per_channel` or `branch_bits` is
            not one of the above, or one of the two constraints is given.

    Example:

    >>> layer = keras_bcgd.QuantSeparableConv2D(8, 3, bits=4, padding="same")
    >>> keras.ops.shape(layer(np.ones((1, 6, 6, 4))))
    (1, 6, 6, 8)
    >>> [part.name.split("_")[-1] for part, _ in layer.parts]
    ['depthwise', 'codes', 'pointwise']
    """

    def __init__(
        self,
        filters,
        kernel_size,
        *args,
        bits=4,
        projection="lloyd",
        per_channel=False,
        branch_bits=8,
        **kwargs,
    ):
        # It checks its arguments and knows its defaults.
        stock = keras.layers.SeparableConv2D(
            filters, kernel_size, *args, **kwargs
        )
        kept = ("name", "dtype", "trainable", "autocast")
        super().__init__(**{k: kwargs[k] for k in kept if k in kwargs})
        for name in _INSTEAD_OF_BITS:
            given = getattr(stock, name)
            if given is not None:
                raise ValueError(
                    f"`{name}` cannot be given to a QuantSeparableConv2D: "
                    "`bits` already sets it to a QuantProjection. For another "
                    f"constraint use the stock Keras layer. Received: {name}="
                    f"{given}"
                )
        self._stock_config = stock.get_config()
        for name in (*_OF_DEPTHWISE, *_OF_POINTWISE, "data_format"):
            setattr(self, name, getattr(stock, name))
        self.pointwise_initializer = stock.pointwise_initializer
        self.pointwise_regularizer = stock.pointwise_regularizer
        self.projection = projection
        self.per_channel = per_channel
        self.branch_bits = check_branch_bits(branch_bits)
        weights = {
            "bits": bits,
            "projection": projection,
            "per_channel": per_channel,
            "data_format": stock.data_format,
        }
        self._make_parts(weights, stock.activity_regularizer)
        self.bits = self.pointwise.bits

    def _make_parts(self, weights, activity_regularizer):
        common = {"dtype": self.dtype_policy, "trainable": self.trainable}
        self.depthwise = QuantDepthwiseConv2D(
            use_bias=False,
            name=f"{self.name}_depthwise",
            **{name: getattr(self, name) for name in _OF_DEPTHWISE},
            **weights,
            **common,
        )
        self.codes = None
        if self.depthwise.is_quantized and self.branch_bits is not None:
            self.codes = QuantIdentity(
                self.branch_bits, name=f"{self.name}_codes", **common
            )
        self.pointwise = QuantConv2D(
            kernel_size=1,
            kernel_initializer=self.pointwise_initializer,
            kernel_regularizer=self.pointwise_regularizer,
            activity_regularizer=activity_regularizer,
            name=f"{self.name}_pointwise",
            **{name: getattr(self, name) for name in _OF_POINTWISE},
            **weights,
            **common,
        )
        layers = [self.depthwise, self.codes, self.pointwise]
        layers = [layer for layer in layers if layer is not None]
        self.parts = [(layer, (i,)) for i, layer in enumerate(layers)]

    @property
    def is_quantized(self):
        """Whether the weights are quantized: False at `bits=32`."""
        return self.pointwise.is_quantized

    @property
    def depthwise_kernel(self):
        """The kernel of `depthwise`."""
        return self.depthwise.kernel

    @property
    def pointwise_kernel(self):
        """The kernel of `pointwise`."""
        return self.pointwise.kernel

    @property
    def bias(self):
        """The bias of `pointwise`, or `None`."""
        return self.pointwise.bias

    def set_weights(self, weights):
        """Sets the weights from a list of arrays.

        Args:
            weights: List as `get_weights` returns it, of a layer like this or
                of its stock twin: its two kernels and the bias, if it has
                one.
        """
        weights = list(weights)
        if len(weights) == 2 + int(self.use_bias):
            self.depthwise.set_weights(weights[:1])
            self.pointwise.set_weights(weights[1:])
            return
        if len(weights) != len(self.weights):
            super().set_weights(weights)  # which says what is wrong
        for layer, _ in self.parts:
            count = len(layer.weights)
            layer.set_weights(weights[:count])
            weights = weights[count:]

    def get_config(self):
        return {
            **self._stock_config,
            **super().get_config(),
            "bits": self.bits,
            "projection": self.projection,
            "per_channel": self.per_channel,
            "branch_bits": self.branch_bits,
        }
