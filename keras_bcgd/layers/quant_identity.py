"""QuantIdentity: a signed 8-bit grid with a trainable step."""

import numbers

import keras
import numpy as np
from keras import ops

from keras_bcgd import branches
from keras_bcgd import gradient_scale
from keras_bcgd.constraints import get_alpha_bound
from keras_bcgd.layers.quant_relu import is_without_alpha
from keras_bcgd.utils.checks import check_bits


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantIdentity(keras.layers.Layer):
    """Rounds to signed codes, with one trainable step alpha.

    For tensors that have no QuantReLU and yet are 8-bit in an integer file:
    the linear bottlenecks of MobileNetV2, or what is concatenated. Its
    derivatives are coarse (`keras_bcgd.branches.quant_identity`). The branch
    of a residual block that ends in a QuantReLU is better left to
    `QuantAddReLU`, whose grid makes the addition exact.

    Args:
        bits: Int from 2 to 8. Defaults to `8`.
        alpha_initializer: Keras initializer of the step. `None`: the constant
            with which the codes reach from -4, or from `minimum`, to nearly
            4, in standard deviations of a unit Gaussian input. Defaults to
            `None`.
        alpha_constraint: `AlphaBound` instance, applied to the first alpha
            and after each update. Defaults to `AlphaBound(1e-6)`.
        minimum: Float, at most 0, where the codes begin, for what is never
            below it or need not be told from it. `None`: as many codes below
            0 as above. Defaults to `None`.
        alpha_gradient_scale: String or `None`. `"lsq"`, as of `QuantReLU`,
            with the largest code 2**(bits - 1) - 1, or 2**bits - 1 where there
            is a `minimum`. Defaults to `None`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Float tensor of any shape.

    Returns:
        Tensor of the same shape.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> layer = keras_bcgd.QuantIdentity(bits=8, alpha_initializer="ones")
    >>> np.array(layer(np.array([-200.0, -0.6, 0.4, 200.0])))
    array([-128.,   -1.,    0.,  127.], dtype=float32)
    """

    def __init__(
        self,
        bits=8,
        alpha_initializer=None,
        alpha_constraint=None,
        minimum=None,
        alpha_gradient_scale=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bits = check_bits(bits, smallest=2)
        self.minimum = _check_minimum(minimum)
        if alpha_initializer is None:
            width = 8.0 / 2**self.bits
            if minimum is not None:
                width = (4.0 - self.minimum) / (2**self.bits - 1)
            alpha_initializer = keras.initializers.Constant(width)
        self.alpha_initializer = keras.initializers.get(alpha_initializer)
        self.alpha_constraint = get_alpha_bound(alpha_constraint, 1e-6)
        gradient_scale.check_alpha_gradient_scale(alpha_gradient_scale)
        self.alpha_gradient_scale = alpha_gradient_scale
        # What `calibrate` does not tell from the end of the range.
        self.domain = (-float("inf"), float("inf"))
        self.supports_masking = True

    def build(self, input_shape):
        self.alpha = self.add_weight(
            name="alpha",
            shape=(),
            initializer=self._first_alpha,
            constraint=self.alpha_constraint,
            autocast=False,
        )

    def _first_alpha(self, shape, dtype):
        return self.alpha_constraint(self.alpha_initializer(shape, dtype=dtype))

    def merge(self, inputs):
        """What is rounded: the input; of a subclass, what it makes of them."""
        return inputs

    def call(self, inputs):
        x = self.merge(inputs)
        bits = self.bits if self.minimum is not None else self.bits - 1
        alpha = gradient_scale.scaled_alpha(
            self.alpha, self.alpha_gradient_scale, x, 2**bits - 1
        )
        return ops.cast(
            branches.quant_identity(x, alpha, self.bits, self.minimum),
            self.compute_dtype,
        )

    @property
    def smallest_and_largest_code(self):
        """The ends of the grid, two ints."""
        if self.minimum is None:
            return branches.smallest_and_largest_code(self.bits)
        alpha = ops.convert_to_numpy(self.alpha)
        # In the precision of training.
        low = int(np.round(np.float32(self.minimum) / np.float32(alpha)))
        low = max(low, -(2 ** (self.bits - 1)))
        return low, low + 2**self.bits - 1

    def load_own_variables(self, store):
        if not is_without_alpha(self, store):
            super().load_own_variables(store)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        initializer = keras.initializers.serialize(self.alpha_initializer)
        constraint = keras.constraints.serialize(self.alpha_constraint)
        config.update(
            {
                "bits": self.bits,
                "alpha_initializer": initializer,
                "alpha_constraint": constraint,
                "minimum": self.minimum,
                "alpha_gradient_scale": self.alpha_gradient_scale,
            }
        )
        return config


def _check_minimum(minimum):
    if minimum is None:
        return None
    is_number = isinstance(minimum, numbers.Real)
    is_number = is_number and not isinstance(minimum, bool)
    if not is_number or not -float("inf") < minimum <= 0:
        raise ValueError(
            "`minimum` must be a number of at most 0, or None. "
            f"Received: minimum={minimum!r}"
        )
    return float(minimum)
