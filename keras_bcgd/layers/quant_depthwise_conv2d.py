"""QuantDepthwiseConv2D: DepthwiseConv2D with a quantized kernel."""

import keras
from keras import ops

from keras_bcgd.layers.quant_kernel import QuantKernel


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantDepthwiseConv2D(QuantKernel, keras.layers.DepthwiseConv2D):
    """2D depthwise convolution with quantized weights.

    A `keras.layers.DepthwiseConv2D` that convolves with w = proj_Q(y) in place
    of its float weights y (slides "Weight Quantization" and "Full Quantization
    Problem"). Bias and activation are those of the stock layer. The class
    `QuantKernel` says what `kernel` and `quantized_kernel` hold and when.

    Args:
        kernel_size: Int or tuple of 2 ints, height and width.
        bits: Int from 1 to 8, the bit width of the weights, or 32: not
            quantized, the stock layer. Defaults to `4`.
        projection: String, how proj_Q is solved; see `keras_bcgd.project`.
            Defaults to `"lloyd"`.
        per_channel: Boolean. One scale for each output channel, that is each
            pair of input channel and multiplier, instead of one for the
            layer. Defaults to `False`, as in the slides.
        **kwargs: Every other argument of `keras.layers.DepthwiseConv2D`, but
            `depthwise_constraint`.

    Raises:
        ValueError: If `bits`, `projection` or `per_channel` is not one of the
            above, or `depthwise_constraint` is given.

    Example:

    >>> layer = keras_bcgd.QuantDepthwiseConv2D(3, bits=8, per_channel=True)
    >>> keras.ops.shape(layer(np.ones((1, 8, 8, 16))))
    (1, 6, 6, 16)
    """

    channel_axes = (2, 3)
    constraint_name = "depthwise_constraint"

    def __init__(
        self,
        kernel_size,
        *args,
        bits=4,
        projection="lloyd",
        per_channel=False,
        **kwargs,
    ):
        super().__init__(kernel_size, *args, **kwargs)
        self._set_projection(bits, projection, per_channel)

    def call(self, inputs):
        if not self.is_quantized:
            return super().call(inputs)
        outputs = ops.depthwise_conv(
            inputs,
            ops.cast(self.quantized_kernel, self.compute_dtype),
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._with_bias_and_activation(outputs)
