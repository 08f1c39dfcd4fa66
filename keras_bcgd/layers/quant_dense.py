"""QuantDense: Dense with a quantized kernel."""

import keras
from keras import ops

from keras_bcgd.layers.quant_kernel import QuantKernel


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantDense(QuantKernel, keras.layers.Dense):
    """Densely connected layer with quantized weights.

    A `keras.layers.Dense` that multiplies by w = proj_Q(y) in place of its
    float weights y (slides "Weight Quantization" and "Full Quantization
    Problem"). Bias and activation are those of the stock layer. The class
    `QuantKernel` says what `kernel` and `quantized_kernel` hold and when.

    Args:
        units: Int, the number of outputs.
        bits: Int from 1 to 8, the bit width of the weights, or 32: not
            quantized, the stock layer. Defaults to `4`.
        projection: String, how proj_Q is solved; see `keras_bcgd.project`.
            Defaults to `"lloyd"`.
        per_channel: Boolean. One scale for each output instead of one for
            the layer. Defaults to `False`, as in the slides.
        **kwargs: Every other argument of `keras.layers.Dense`, but
            `kernel_constraint`.

    Raises:
        ValueError: If `bits`, `projection` or `per_channel` is not one of the
            above, or `kernel_constraint` is given.

    Example:

    >>> layer = keras_bcgd.QuantDense(10, bits=8)
    >>> keras.ops.shape(layer(np.ones((1, 64))))
    (1, 10)
    """

    channel_axes = (1,)

    def __init__(
        self,
        units,
        *args,
        bits=4,
        projection="lloyd",
        per_channel=False,
        **kwargs,
    ):
        super().__init__(units, *args, **kwargs)
        self._set_projection(bits, projection, per_channel)

    def call(self, inputs, training=None):
        if not self.is_quantized:
            return super().call(inputs, training=training)
        kernel = ops.cast(self.quantized_kernel, self.compute_dtype)
        outputs = ops.matmul(inputs, kernel)
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        if self.activation is not None:
            outputs = self.activation(outputs)
        return outputs
