"""sigma(x, alpha), the staircase that replaces the ReLU, and its derivatives.

Slides "Activation Quantization (AQ)", "Differentiate a Staircase Function over
Large Scale", "When a.e. partial derivative exists" and "Coarse Gradients".
"""

import functools

import keras
from keras import ops

from keras_bcgd import backend
from keras_bcgd.utils.checks import check_choice

ALPHA_GRADIENTS = ("three_valued", "two_valued", "ae")

# The alpha that minimizes E[(sigma(x, alpha) - relu(x))^2] for x ~ N(0, 1), the
# input after batch normalization, at 1 to 8 bits. 1 bit is sqrt(2 / pi).
HALF_GAUSSIAN_ALPHA = {
    1: 0.797885,
    2: 0.486570,
    3: 0.289310,
    4: 0.166641,
    5: 0.093829,
    6: 0.051971,
    7: 0.028418,
    8: 0.015377,
}


def check_alpha_gradient(alpha_gradient):
    """Raises a `ValueError` if `alpha_gradient` is no derivative by alpha."""
    check_choice("alpha_gradient", alpha_gradient, ALPHA_GRADIENTS)


def largest_level(bits):
    """2^b - 1, the number of steps of the staircase.

    Args:
        bits: Int from 1 to 8.

    Returns:
        An int.
    """
    return 2**bits - 1


def quant_relu_codes(x, alpha, bits):
    """The level k of sigma(x, alpha) = k alpha: 0 to `2**bits - 1`.

    Source: slide "Activation Quantization (AQ)".

    Formula:

    ```
    k = 0            if x <= 0
    k                if (k - 1) * alpha < x <= k * alpha, k = 1..2**bits - 1
    2**bits - 1      if x > (2**bits - 1) * alpha
    ```

    A NaN stays a NaN.

    Args:
        x: Float tensor of any shape.
        alpha: Tensor of shape `()` and the dtype of `x`, above 0.
        bits: Int from 1 to 8.

    Returns:
        Tensor of the shape and dtype of `x` that holds whole numbers.
    """
    codes = ops.minimum(_steps(x, alpha, bits), largest_level(bits))
    return ops.where(ops.isnan(x), x, ops.cast(codes, x.dtype))


def _steps(x, alpha, bits):
    """Where on the staircase each x lies, as int32.

    0 below, k on the k-th of the `2**bits - 1` steps, and `2**bits` above.

    In floating point `ceil(x / alpha)` is one too many for some percent of the
    points x = k * alpha. Here the quotient, raised by more than its rounding
    error, only tells that the step is m or m + 1; which of the two is settled
    by comparing `x` with the product `m * alpha` itself. Whole numbers are
    taken by a cast, which a CPU does several times faster than `floor`.
    """
    quotient = x * ((1 + 2.0**-21) / alpha)
    m = ops.cast(ops.clip(quotient, 0, largest_level(bits)), "int32")
    return m + ops.cast(x > ops.cast(m, x.dtype) * alpha, "int32")


def quant_relu(x, alpha, bits=4, alpha_gradient="three_valued"):
    """The quantized ReLU sigma(x, alpha) with its coarse derivatives.

    Source: slides "Activation Quantization (AQ)", "Differentiate a Staircase
    Function over Large Scale" (d/dx), "When a.e. partial derivative exists"
    (`"ae"` and `"three_valued"`) and "Coarse Gradients" (`"two_valued"`).

    Formula:

    ```
    sigma = alpha * clip(ceil(x / alpha), 0, 2**bits - 1)

    #                   x <= 0   0 < x <= (2**bits-1) alpha   above
    # d sigma / dx      0        1                            0
    # d sigma / d alpha
    #   "ae"            0        k                            2**bits - 1
    #   "three_valued"  0        2**(bits-1)                  2**bits - 1
    #   "two_valued"    0        0                            2**bits - 1
    ```

    Args:
        x: Float tensor of any shape.
        alpha: Tensor of shape `()`, above 0: the resolution.
        bits: Int from 1 to 8, the bit width. Defaults to `4`.
        alpha_gradient: String, the derivative by alpha: `"three_valued"`,
            `"two_valued"` (that of PACT) or `"ae"`, the derivative that
            exists almost everywhere. Defaults to `"three_valued"`.

    Returns:
        Tensor of the shape and dtype of `x`. Where `x` is less precise than
        `alpha` (mixed precision), the products `k * alpha` are taken in the
        precision of `alpha` and rounded once. Integers `x` give floats.

    Raises:
        ValueError: If `alpha_gradient` is not one of the above.

    Example:

    >>> np.array(keras_bcgd.quant_relu([-1.0, 0.1, 0.6, 9.0], 0.5, bits=2))
    array([0. , 0.5, 1. , 1.5], dtype=float32)
    """
    check_alpha_gradient(alpha_gradient)
    return in_float(_with_coarse_gradient(bits, alpha_gradient), x, alpha)


def in_float(staircase, x, alpha):
    """`staircase(x, alpha)` in the more precise of their types.

    Args:
        staircase: Function of two tensors of one float type.
        x: Tensor of any shape.
        alpha: Tensor of shape `()`.

    Returns:
        The result in the type of `x`; in the other one if `x` is of integers.
    """
    x = ops.convert_to_tensor(x)
    alpha = ops.convert_to_tensor(alpha)
    out_dtype = keras.backend.standardize_dtype(x.dtype)
    dtype = keras.backend.result_type(x.dtype, alpha.dtype, "float32")
    if not keras.backend.is_float_dtype(out_dtype):
        out_dtype = dtype
    output = staircase(ops.cast(x, dtype), ops.cast(alpha, dtype))
    return ops.cast(output, out_dtype)


@functools.cache
def _with_coarse_gradient(bits, alpha_gradient):
    """sigma for these arguments, a function of `(x, alpha)`."""
    forward = backend.fused(functools.partial(_sigma_and_step, bits))
    backward = backend.fused(
        functools.partial(_coarse_derivatives, bits, alpha_gradient)
    )

    @ops.custom_gradient
    def staircase(x, alpha):
        sigma, step = forward(x, alpha)

        def coarse_gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return backward(step, upstream)

        return sigma, coarse_gradient

    return staircase


def _sigma_and_step(bits, x, alpha):
    """sigma(x, alpha), and where on the staircase each x lies.

    The step is all that the derivatives need, in a quarter of the memory of
    `x` (half of it at 8 bits).
    """
    steps = _steps(x, alpha, bits)
    codes = ops.minimum(steps, largest_level(bits))
    # The product stands inside `where`. With the product last, a training step
    # compiled by XLA for a CPU took 1.6 times as long.
    sigma = ops.where(ops.isnan(x), x, ops.cast(codes, x.dtype) * alpha)
    return sigma, ops.cast(steps, "uint8" if bits < 8 else "uint16")


def _coarse_derivatives(bits, alpha_gradient, step, upstream):
    """`upstream` times d sigma / dx, and its sum times d sigma / d alpha."""
    top = largest_level(bits)
    step = ops.cast(step, "int32")
    zero = ops.zeros((), upstream.dtype)
    by_x = ops.where(ops.logical_and(step > 0, step <= top), upstream, zero)
    if alpha_gradient == "ae":
        code = ops.minimum(step, top)
        by_alpha = ops.cast(code, upstream.dtype) * upstream
    else:
        inside = by_x * 2 ** (bits - 1)
        if alpha_gradient == "two_valued":
            inside = zero
        by_alpha = ops.where(step > top, top * upstream, inside)
    return by_x, ops.sum(by_alpha)
