"""QuantHardSigmoid: clip(x / 6 + 1/2, 0, 1) on a fixed grid."""

import keras

from keras_bcgd import pointwise
from keras_bcgd.utils.checks import check_bits


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantHardSigmoid(keras.layers.Layer):
    """The hard sigmoid on `2**bits - 1` equally spaced values from 0 to 1.

    In the integer file it costs nothing: the convolution before it rounds and
    clips to these values, as it does to those of a QuantReLU. It has no
    weights.

    Args:
        bits: Int from 2 to 8. Defaults to `8`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Float tensor of any shape.

    Returns:
        Tensor of the same shape; see
        `keras_bcgd.pointwise.quant_hard_sigmoid`.

    Raises:
        ValueError: If `bits` is not one of the above.

    Example:

    >>> layer = keras_bcgd.QuantHardSigmoid(bits=8)
    >>> np.array(layer(np.array([-4.0, 0.0, 4.0])))
    array([0. , 0.5, 1. ], dtype=float32)
    """

    def __init__(self, bits=8, **kwargs):
        super().__init__(**kwargs)
        self.bits = check_bits(bits, smallest=2)
        self.supports_masking = True

    def call(self, inputs):
        return pointwise.quant_hard_sigmoid(inputs, self.bits)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "bits": self.bits}
