"""What the networks have in common besides their bits."""

import dataclasses

from keras_bcgd.utils.checks import check_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the layers of a network have in common, beside the bits.

    Args:
        first_last_float: Boolean. Keeps the first convolution and the
            classifier in float. Defaults to `False`.
        projection: String, how the weights of convolutions are projected; see
            `keras_bcgd.project`. The classifier's are by `"lloyd"`. Defaults
            to `"lloyd"`.
        per_channel: Boolean. One scale for each output channel of a
            convolution, not one for each layer. Defaults to `False`.
        alpha_gradient: String; see `QuantReLU`. Defaults to `"three_valued"`.
        alpha_initializer: See `QuantReLU`. Defaults to `"half_gaussian"`.
        alpha_gradient_scale: String or `None`; see `QuantReLU`. Defaults to
            `None`.
        stride_padding: String. Convolutions of stride 2 are padded evenly on
            all sides (`"symmetric"`, as in the paper), or by what is missing,
            for even sizes at the end only (`"same"`, as Keras does).
            Defaults to `"symmetric"`.
        norm_momentum: Float in [0, 1), of the moving averages of
            batch normalization. Defaults to `0.9`.
        norm_epsilon: Float above 0, of batch normalization. Defaults to
            `1e-5`.
        norm_synchronized: Boolean. Batch normalization takes its statistics
            from all replicas of a `tf.distribute` strategy, not from each
            replica's part of the batch. TensorFlow only. Defaults to `False`.

    Raises:
        ValueError: If `stride_padding`, `norm_momentum` or `norm_epsilon` is
            not as said above.

    Example:

    >>> recipe = keras_bcgd.models.Recipe(first_last_float=True)
    >>> recipe.projection, recipe.norm_momentum
    ('lloyd', 0.9)
    >>> model = keras_bcgd.models.vgg11(first_last_float=True)
    >>> model.get_layer("conv1").bits, model.get_layer("conv2").bits
    (32, 4)
    """

    first_last_float: bool = False
    projection: str = "lloyd"
    per_channel: bool = False
    alpha_gradient: str = "three_valued"
    alpha_initializer: str = "half_gaussian"
    alpha_gradient_scale: str | None = None
    stride_padding: str = "symmetric"
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    norm_synchronized: bool = False

    def __post_init__(self):
        check_choice(
            "stride_padding", self.stride_padding, ("symmetric", "same")
        )
        if not 0 <= self.norm_momentum < 1:
            raise ValueError(
                "`norm_momentum` must be in [0, 1). "
                f"Received: norm_momentum={self.norm_momentum!r}"
            )
        if not self.norm_epsilon > 0:
            raise ValueError(
                "`norm_epsilon` must be above 0. "
                f"Received: norm_epsilon={self.norm_epsilon!r}"
            )
