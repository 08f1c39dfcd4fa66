"""QuantConv2D: Conv2D with a quantized kernel."""

import keras
from keras import ops

from keras_bcgd.layers.quant_kernel import QuantKernel


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantConv2D(QuantKernel, keras.layers.Conv2D):
    """2D convolution with quantized weights.

    A `keras.layers.Conv2D` that convolves with w = proj_Q(y) in place of its
    float weights y (slides "Weight Quantization" and "Full Quantization
    Problem"). Bias and activation are those of the stock layer. The class
    `QuantKernel` says what `kernel` and `quantized_kernel` hold and when. Of
    `groups` an integer file makes one CONV_2D, which all kernels of the runtime
    run.

    Args:
        filters: Int, the number of output channels.
        kernel_size: Int or tuple of 2 ints, height and width.
        bits: Int from 1 to 8, the bit width of the weights, or 32: not
            quantized, the stock layer. Defaults to `4`.
        projection: String, how proj_Q is solved; see `keras_bcgd.project`.
            Defaults to `"lloyd"`.
        per_channel: Boolean. One scale for each output channel instead of
            one for the layer. Defaults to `False`, as in the slides.
        **kwargs: Every other argument of `keras.layers.Conv2D`, but
            `kernel_constraint`.

    Raises:
        ValueError: If `bits`, `projection` or `per_channel` is not one of the
            above, or `kernel_constraint` is given.

    Example:

    >>> layer = keras_bcgd.QuantConv2D(64, 3, bits=4, padding="same")
    >>> keras.ops.shape(layer(np.ones((1, 8, 8, 3))))
    (1, 8, 8, 64)
    >>> len(np.unique(layer.quantized_kernel)) <= 15
    True
    """

    channel_axes = (3,)

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

    def convolution_op(self, inputs, kernel):
        # Conv2D hands over `self.kernel`, which may still be float.
        if self.is_quantized:
            kernel = ops.cast(self.quantized_kernel, self.compute_dtype)
        return super().convolution_op(inputs, kernel)
