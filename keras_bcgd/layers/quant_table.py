"""QuantTable: sigmoid or tanh on the grid of the runtime's table."""

import keras

from keras_bcgd import pointwise
from keras_bcgd.utils.checks import check_choice


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantTable(keras.layers.Layer):
    """The sigmoid or tanh of 8-bit codes, by the table of the runtime.

    A part of `QuantActivation`, which puts a grid before it. By itself it is
    for what has been rounded to 8 bits already: the output of a QuantIdentity.

    Args:
        function: String: `"sigmoid"` or `"tanh"`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Float tensor of any shape, on an 8-bit grid.

    Returns:
        Tensor of the same shape; see `keras_bcgd.pointwise.quant_table`.

    Raises:
        ValueError: If `function` is not one of the above.
    """

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        check_choice("function", function, tuple(pointwise.TABLES))
        self.function = function
        self.supports_masking = True

    def call(self, inputs):
        return pointwise.quant_table(inputs, self.function)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "function": self.function}
