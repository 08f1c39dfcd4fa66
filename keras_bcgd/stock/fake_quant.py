"""FakeQuant and FakeQuantKernel: the two layers that are not of Keras.

They are in saved models under the names `keras_bcgd>FakeQuant` and
`keras_bcgd>FakeQuantKernel`.
"""

import keras
import numpy as np
from keras import ops

from keras_bcgd.export.arithmetic import INT8_MAX

STEPS = 255  # of an 8-bit grid


@keras.saving.register_keras_serializable(package="keras_bcgd")
class FakeQuant(keras.layers.Layer):
    """Rounds to 256 codes from `low` to `high`: the grid of an int8 tensor.

    `keras.quantizers.fake_quant_with_min_max_vars` as a layer; TensorFlow's
    converter takes the scale and the zero point of the tensor from it.

    Args:
        low: Float, 0 or below. `None`: the layer does nothing yet.
        high: Float, 0 or above.
        max_value: Float, a code below `high` at which values are clipped, or
            `None`. Defaults to `None`.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, low, high, max_value=None, **kwargs):
        super().__init__(**kwargs)
        self.low = low
        self.high = high
        self.max_value = max_value

    def call(self, inputs):
        if self.low is None:
            return inputs
        if self.max_value is not None:
            inputs = ops.minimum(inputs, self.max_value)
        return keras.quantizers.fake_quant_with_min_max_vars(
            inputs, self.low, self.high
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "low": self.low,
            "high": self.high,
            "max_value": self.max_value,
        }


@keras.saving.register_keras_serializable(package="keras_bcgd")
class FakeQuantKernel(keras.layers.Wrapper):
    """A stock layer whose kernel passes through a fake-quant.

    The converter gives a kernel the scale with which the largest weight of a
    channel is 127, and rounds the others. From this layer it takes the scale
    with which all of them are integers.

    Args:
        layer: `keras.layers.Conv2D`, `DepthwiseConv2D` or `Dense`.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def build(self, input_shape=None):
        super().build(input_shape)
        channels = int(
            np.prod(self.layer.kernel.shape[-1 - self._is_depthwise :])
        )
        self.step = self.add_weight(
            name="step",
            shape=(1 if self._is_dense else channels,),
            initializer="ones",
            trainable=False,
        )

    @property
    def _is_dense(self):
        return isinstance(self.layer, keras.layers.Dense)

    @property
    def _is_depthwise(self):
        return isinstance(self.layer, keras.layers.DepthwiseConv2D)

    def call(self, inputs):
        kernel = ops.convert_to_tensor(self.layer.kernel)
        shape = kernel.shape
        if self._is_depthwise:
            kernel = ops.reshape(kernel, (*shape[:2], -1))
        limit = INT8_MAX * ops.convert_to_tensor(self.step)
        kernel = keras.quantizers.fake_quant_with_min_max_vars(
            kernel,
            -limit,
            limit,
            narrow_range=True,
            axis=None if self._is_dense else -1,
        )
        variables = [ops.reshape(kernel, shape), self.layer.bias]
        return self.layer.stateless_call(variables, [], inputs)[0]
