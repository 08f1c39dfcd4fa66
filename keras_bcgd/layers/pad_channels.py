"""PadChannels: zero channels for the shortcut without weights."""

import keras
from keras import ops

from keras_bcgd.utils.checks import check_count


@keras.saving.register_keras_serializable(package="keras_bcgd")
class PadChannels(keras.layers.Layer):
    """Appends channels of zeros: shortcut A of residual networks.

    With a subsampling before it (`MaxPooling2D(1, strides=2)`) this is the
    shortcut of the CIFAR-10 networks, which has no weights. Zeros are codes of
    every QuantReLU, so that the integer file pads exactly.

    Args:
        channels: Int, the number of channels of the output: the last axis.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(batch, ..., at most channels)`.

    Returns:
        Tensor of shape `(batch, ..., channels)`.

    Raises:
        ValueError: If `channels` is no integer above 0 or fewer than the
            input has, or if the input's number is unknown.

    Example:

    >>> layer = keras_bcgd.PadChannels(32)
    >>> keras.ops.shape(layer(np.ones((1, 8, 8, 16))))
    (1, 8, 8, 32)
    """

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        check_count("channels", channels)
        self.channels = int(channels)

    def build(self, input_shape):
        present = input_shape[-1]
        if present is None or present > self.channels:
            raise ValueError(
                f"Layer '{self.name}': `channels` must be at least those of "
                "the input, whose last axis must be known. Received: "
                f"channels={self.channels}, input_shape={tuple(input_shape)}"
            )

    def call(self, inputs):
        missing = self.channels - inputs.shape[-1]
        amounts = [(0, 0)] * (len(inputs.shape) - 1) + [(0, missing)]
        return ops.pad(inputs, amounts)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.channels)

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}
