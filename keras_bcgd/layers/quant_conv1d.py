"""QuantConv1D: Conv1D with a quantized kernel."""

import keras
from keras import ops

from keras_bcgd.layers.quant_kernel import QuantKernel


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantConv1D(QuantKernel, keras.layers.Conv1D):
    """1D convolution, over time say, with quantized weights.

    A `keras.layers.Conv1D` that convolves with w = proj_Q(y) in place of its
    float weights y (slides "Weight Quantization" and "Full Quantization
    Problem"). Bias and activation are those of the stock layer. The class
    `QuantKernel` says what `kernel` and `quantized_kernel` hold and when. In
    an integer file it is a CONV_2D over a map of height 1.

    Args:
        filters: Int, the number of output channels.
        kernel_size: Int or tuple of 1 int, the length of the window.
        bits: Int from 1 to 8, the bit width of the weights, or 32: not
            quantized, the stock layer. Defaults to `4`.
        projection: String, how proj_Q is solved; see `keras_bcgd.project`.
            Defaults to `"lloyd"`.
        per_channel: Boolean. One scale for each output channel instead of
            one for the layer. Defaults to `False`, as in the slides.
        **kwargs: Every other argument of `keras.layers.Conv1D`, but
            `kernel_constraint`.

    Raises:
        ValueError: If `bits`, `projection` or `per_channel` is not one of the
            above, or `kernel_constraint` is given.

    Example:

    >>> layer = keras_bcgd.QuantConv1D(8, 3, bits=2, padding="causal")
    >>> keras.ops.shape(layer(np.ones((1, 20, 4))))
    (1, 20, 8)
    >>> len(np.unique(layer.quantized_kernel)) <= 3
    True
    """

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
        padding = self.padding
        if padding == "causal":
            inputs = ops.pad(inputs, self._compute_causal_padding())
            padding = "valid"
        outputs = ops.conv(
            inputs,
            ops.cast(self.quantized_kernel, self.compute_dtype),
            strides=list(self.strides),
            padding=padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return self._with_bias_and_activation(outputs)
