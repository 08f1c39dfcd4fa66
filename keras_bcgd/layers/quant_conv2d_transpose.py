"""QuantConv2DTranspose: Conv2DTranspose with a quantized kernel."""

import keras
from keras import ops

from keras_bcgd.layers.quant_kernel import QuantKernel


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantConv2DTranspose(QuantKernel, keras.layers.Conv2DTranspose):
    """2D transposed convolution, which enlarges, with quantized weights.

    A `keras.layers.Conv2DTranspose` with w = proj_Q(y) in place of its float
    weights y (slides "Weight Quantization" and "Full Quantization Problem").
    Bias and activation are those of the stock layer. The class `QuantKernel`
    says what `kernel` and `quantized_kernel` hold and when. In an integer
    file it is a TRANSPOSE_CONV.

    Args:
        filters: Int, the number of output channels.
        kernel_size: Int or tuple of 2 ints, height and width.
        bits: Int from 1 to 8, the bit width of the weights, or 32: not
            quantized, the stock layer. Defaults to `4`.
        projection: String, how proj_Q is solved; see `keras_bcgd.project`.
            Defaults to `"lloyd"`.
        per_channel: Boolean. One scale for each output channel instead of
            one for the layer. Defaults to `False`, as in the slides.
        **kwargs: Every other argument of `keras.layers.Conv2DTranspose`, but
            `kernel_constraint`.

    Raises:
        ValueError: If `bits`, `projection` or `per_channel` is not one of the
            above, or `kernel_constraint` is given.

    Example:

    >>> layer = keras_bcgd.QuantConv2DTranspose(8, 3, strides=2, bits=4)
    >>> keras.ops.shape(layer(np.ones((1, 4, 4, 16))))
    (1, 9, 9, 8)
    """

    # Keras' kernel is (height, width, outputs, inputs).
    channel_axes = (2,)

    def __init__(
        self,
        filters,
        kernel_size,
        *args,
        bits=4,
        projection="lloyd",
        per_channel=False,
        **kwargs,
    ):
        super().__init__(filters, kernel_size, *args, **kwargs)
        self._set_projection(bits, projection, per_channel)

    def call(self, inputs):
        if not self.is_quantized:
            return super().call(inputs)
        outputs = ops.conv_transpose(
            inputs,
            ops.cast(self.quantized_kernel, self.compute_dtype),
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._with_bias_and_activation(outputs)
