"""QuantLeakyReLU and QuantPReLU: max(x, slope * x) on one signed grid."""

import numbers

import keras
from keras import ops

from keras_bcgd import branches
from keras_bcgd.layers.composite import Composite
from keras_bcgd.layers.quant_identity import QuantIdentity


class NegativeSlope(keras.layers.Layer):
    """max(x, slope * x) of codes, on the grid on which these are.

    The second part of a QuantLeakyReLU or QuantPReLU, and its slope.

    Args:
        codes: `QuantIdentity`, built: the grid.
        slope: Float, or `None`: one trained slope for each channel.
        initializer: Keras initializer of the slopes, of those that are
            trained. Defaults to `None`.
        regularizer: Keras regularizer of the same. Defaults to `None`.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(
        self, codes, slope=None, initializer=None, regularizer=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.codes = codes
        self.fixed_slope = slope
        self.slope_initializer = initializer
        self.slope_regularizer = regularizer
        self.supports_masking = True

    def build(self, input_shape):
        if self.fixed_slope is None:
            self.slopes = self.add_weight(
                name="slope",
                shape=(input_shape[-1],),
                initializer=self.slope_initializer,
                regularizer=self.slope_regularizer,
                constraint=_AtMostOne(),
                autocast=False,
            )

    @property
    def slope(self):
        """The slope below 0, a tensor of shape `()` or `(channels,)`."""
        if self.fixed_slope is not None:
            return ops.convert_to_tensor(self.fixed_slope, "float32")
        return ops.convert_to_tensor(self.slopes)

    @property
    def stretched_slope(self):
        """The slope times 1 + 2**-18.

        With a slope of 1/2 or 1/10 many products lie halfway between two
        codes, where kernels round either way. So all of them go down.
        """
        return self.slope * (1 + 2.0**-18)

    def call(self, inputs):
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        x = ops.cast(inputs, dtype)
        scaled = branches.quant_identity(
            ops.cast(self.stretched_slope, dtype) * x,
            ops.stop_gradient(ops.convert_to_tensor(self.codes.alpha)),
            self.codes.bits,
        )
        return ops.cast(ops.where(x < 0, scaled, x), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantLeakyReLU(Composite):
    """The leaky ReLU of 8-bit codes, rounded to 8-bit codes.

    x goes to a signed grid with a trained step; below 0 its product with the
    slope is rounded to the same grid. In the integer file that is a
    DEPTHWISE_CONV_2D of size 1 and a MAXIMUM, which all kernels compute alike.

    Args:
        negative_slope: Float from 0 to 1. Defaults to `0.3`, as that of
            `keras.layers.LeakyReLU`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Float tensor of any shape.

    Returns:
        Tensor of the same shape.

    Raises:
        ValueError: If `negative_slope` is not one of the above.

    Example:

    >>> layer = keras_bcgd.QuantLeakyReLU(negative_slope=0.5)
    >>> np.array(layer(np.array([-1.0, 1.0])))
    array([-0.5,  1. ], dtype=float32)
    """

    def __init__(self, negative_slope=0.3, **kwargs):
        super().__init__(**kwargs)
        is_number = isinstance(negative_slope, numbers.Real)
        if isinstance(negative_slope, bool) or not (
            is_number and 0 <= negative_slope <= 1
        ):
            raise ValueError(
                "`negative_slope` must be a number from 0 to 1. "
                f"Received: negative_slope={negative_slope!r}"
            )
        self.negative_slope = float(negative_slope)
        self.supports_masking = True
        self._make_parts(slope=self.negative_slope)

    def _make_parts(self, **arguments):
        self.codes = QuantIdentity(name=f"{self.name}_codes", **self.common)
        self.negative = NegativeSlope(
            self.codes,
            name=f"{self.name}_negative",
            **arguments,
            **self.common,
        )
        self.parts = [(self.codes, [0]), (self.negative, [1])]

    def get_config(self):
        return {**super().get_config(), "negative_slope": self.negative_slope}


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantPReLU(QuantLeakyReLU):
    """The parametric ReLU of 8-bit codes: a QuantLeakyReLU whose slope trains.

    It has one slope for each channel, the last axis: that of
    `keras.layers.PReLU` with `shared_axes` all but the batch and the channels.

    Args:
        alpha_initializer: Keras initializer of the slopes. Defaults to
            `"zeros"`, as that of the stock layer.
        alpha_regularizer: Keras regularizer of the slopes. Defaults to
            `None`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Float tensor of shape `(batch, ..., channels)`.

    Returns:
        Tensor of the same shape.

    Example:

    >>> layer = keras_bcgd.QuantPReLU(alpha_initializer="ones")
    >>> np.array(layer(np.array([[-1.0, 1.0]])))
    array([[-1.,  1.]], dtype=float32)
    """

    def __init__(
        self, alpha_initializer="zeros", alpha_regularizer=None, **kwargs
    ):
        self.alpha_initializer = keras.initializers.get(alpha_initializer)
        self.alpha_regularizer = keras.regularizers.get(alpha_regularizer)
        super().__init__(negative_slope=0.0, **kwargs)

    def _make_parts(self, slope):
        super()._make_parts(
            initializer=self.alpha_initializer,
            regularizer=self.alpha_regularizer,
        )

    def get_config(self):
        config = super().get_config()
        del config["negative_slope"]
        config["alpha_initializer"] = keras.initializers.serialize(
            self.alpha_initializer
        )
        config["alpha_regularizer"] = keras.regularizers.serialize(
            self.alpha_regularizer
        )
        return config


class _AtMostOne(keras.constraints.Constraint):
    """max(x, slope * x) is the PReLU while no slope is above 1."""

    def __call__(self, w):
        return ops.minimum(w, 1.0)
