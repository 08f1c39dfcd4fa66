"""QuantReLU: the staircase with a trainable resolution alpha."""

import warnings

import keras
from keras import ops

from keras_bcgd import activations
from keras_bcgd import gradient_scale
from keras_bcgd.constraints import get_alpha_bound
from keras_bcgd.utils.checks import check_bits


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantReLU(keras.layers.Layer):
    """Quantized ReLU with one trainable resolution alpha.

    Its outputs are `k * alpha`, k = 0..2**bits - 1, and its derivatives coarse
    (slides "Activation Quantization (AQ)", "Differentiate a Staircase Function
    over Large Scale" and "Coarse Gradients"; see
    `keras_bcgd.activations.quant_relu`).
    The picture docs/figures/quant_relu.svg shows both.

    Args:
        bits: Int from 1 to 8, the bit width of the activations. Defaults to
            `4`.
        alpha_gradient: String, the coarse derivative by alpha:
            `"three_valued"`, `"two_valued"` (that of PACT) or `"ae"`.
            Defaults to `"three_valued"`.
        alpha_initializer: The first alpha: `"half_gaussian"`, the step with
            the smallest mean squared error for a unit Gaussian input, as
            after batch normalization; `"slides"`, 1 / (2**bits - 1) (slide
            "Blended Coarse Gradient Descent"); or a Keras initializer, its
            name or config. Defaults to `"half_gaussian"`.
        alpha_constraint: `AlphaBound` instance, applied to the first alpha
            and after each update. Defaults to `AlphaBound(1e-3)`.
        alpha_gradient_scale: String or `None`. `"lsq"`: the derivative by
            alpha is divided by the square root of N * (2**bits - 1), N the
            number of features of one example (all axes but the batch), as in
            learned step size quantization. Take
            `BlendedOptimizer(alpha_learning_rate_multiplier=1.0)` with it, or
            near that. Defaults to `None`, the slides'.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Float tensor of any shape.

    Returns:
        Tensor of the same shape.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> layer = keras_bcgd.QuantReLU(bits=2, alpha_initializer="slides")
    >>> np.array(layer(np.array([-1.0, 0.1, 0.5, 5.0])))
    array([0.        , 0.33333334, 0.6666667 , 1.        ], dtype=float32)

    References:
        - [Esser et al., 2020](https://arxiv.org/abs/1902.08153)
    """

    def __init__(
        self,
        bits=4,
        alpha_gradient="three_valued",
        alpha_initializer="half_gaussian",
        alpha_constraint=None,
        alpha_gradient_scale=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bits = check_bits(bits)
        activations.check_alpha_gradient(alpha_gradient)
        self.alpha_gradient = alpha_gradient
        if alpha_initializer not in ("half_gaussian", "slides"):
            alpha_initializer = keras.initializers.get(alpha_initializer)
        if alpha_initializer is None:
            raise ValueError(
                '`alpha_initializer` must be "half_gaussian", "slides" or a '
                "Keras initializer. Received: alpha_initializer=None"
            )
        self.alpha_initializer = alpha_initializer
        self.alpha_constraint = get_alpha_bound(alpha_constraint)
        gradient_scale.check_alpha_gradient_scale(alpha_gradient_scale)
        self.alpha_gradient_scale = alpha_gradient_scale
        self.supports_masking = True

    def build(self, input_shape):
        if self.bits == 8 and self.compute_dtype == "bfloat16":
            warnings.warn(
                f"Layer '{self.name}': bfloat16 cannot hold all 256 levels of "
                "8 bits; neighbouring levels round to the same number.",
                stacklevel=2,
            )
        self.alpha = self.add_weight(
            name="alpha",
            shape=(),
            initializer=self._first_alpha,
            constraint=self.alpha_constraint,
            autocast=False,
        )

    def _first_alpha(self, shape, dtype):
        if self.alpha_initializer == "half_gaussian":
            value = activations.HALF_GAUSSIAN_ALPHA[self.bits]
            alpha = ops.full(shape, value, dtype)
        elif self.alpha_initializer == "slides":
            value = 1 / activations.largest_level(self.bits)
            alpha = ops.full(shape, value, dtype)
        else:
            alpha = self.alpha_initializer(shape, dtype=dtype)
        return self.alpha_constraint(alpha)

    def scaled_alpha(self, inputs):
        """Alpha, with the derivative that `alpha_gradient_scale` asks for.

        Args:
            inputs: Tensor of the shape of the output.
        """
        return gradient_scale.scaled_alpha(
            self.alpha,
            self.alpha_gradient_scale,
            inputs,
            activations.largest_level(self.bits),
        )

    def call(self, inputs):
        return activations.quant_relu(
            inputs, self.scaled_alpha(inputs), self.bits, self.alpha_gradient
        )

    def load_own_variables(self, store):
        if not is_without_alpha(self, store):
            super().load_own_variables(store)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        initializer = self.alpha_initializer
        if not isinstance(initializer, str):
            initializer = keras.initializers.serialize(initializer)
        constraint = keras.constraints.serialize(self.alpha_constraint)
        config = super().get_config()
        config.update(
            {
                "bits": self.bits,
                "alpha_gradient": self.alpha_gradient,
                "alpha_initializer": initializer,
                "alpha_constraint": constraint,
                "alpha_gradient_scale": self.alpha_gradient_scale,
            }
        )
        return config


def is_without_alpha(layer, store):
    """Whether a file has no alpha for a layer, which then keeps its own.

    So it is in the file of a network with float activations. A warning tells.
    """
    if not layer.built or store.keys():
        return False
    warnings.warn(
        f"The file has no alpha for a {type(layer).__name__}, which keeps its "
        "own: keras_bcgd.calibrate finds one from data.",
        stacklevel=3,
    )
    return True
