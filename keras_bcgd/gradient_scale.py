"""The derivative by alpha times a factor: LSQ's "step size gradient scale".

The derivative by an alpha is a sum over all features of an activation, each
times an integer up to the largest code. LSQ divides it by the square root of
both, so that alpha moves, relative to its size, about as much as a weight does
(Esser et al., 2020, section 2.2).
"""

import math

from keras import ops

from keras_bcgd import backend
from keras_bcgd.utils.checks import check_choice

ALPHA_GRADIENT_SCALES = (None, "lsq")


def check_alpha_gradient_scale(alpha_gradient_scale):
    """Raises a `ValueError` if the argument is none of the above."""
    check_choice(
        "alpha_gradient_scale", alpha_gradient_scale, ALPHA_GRADIENT_SCALES
    )


def scaled_alpha(alpha, scale, x, largest_code):
    """`alpha` itself, whose derivative is multiplied by a factor.

    Formula, of `"lsq"`:

    ```
    factor = 1 / sqrt(N * largest_code)
    ```

    where N is the number of features of one example, the product of all sizes
    of `x` but the first. Sizes that are unknown until a step runs are read
    then.

    Args:
        alpha: `keras.Variable` of shape `()`.
        scale: String, `"lsq"`, or `None`: no factor.
        x: Tensor of shape `(batch, ...)`: what is quantized.
        largest_code: Int, the largest code of the grid.

    Returns:
        `alpha`, or a tensor of its value.

    References:
        - [Esser et al., 2020](https://arxiv.org/abs/1902.08153)
    """
    if scale is None:
        return alpha
    sizes = ops.shape(x)[1:]
    if all(isinstance(size, int) for size in sizes):
        factor = 1 / math.sqrt(math.prod(sizes) * largest_code)
    else:
        factor = ops.rsqrt(_product(sizes, alpha.dtype) * largest_code)
    return _with_gradient_times(factor)(backend.read(alpha))


def _product(sizes, dtype):
    return math.prod(ops.cast(size, dtype) for size in sizes)


def _with_gradient_times(factor):
    """The identity whose derivative is `factor`, a function of one tensor."""

    @ops.custom_gradient
    def identity(alpha):
        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return upstream * factor

        return ops.copy(alpha), gradient

    return identity
