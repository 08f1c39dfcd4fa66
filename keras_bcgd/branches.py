"""The residual branch on a signed grid, as the integer file will hold it.

In an integer file the branch of a residual block (convolution and batch
normalization, no activation) is an 8-bit tensor before it is added. These
functions give training the same rounding. They are not in the slides, whose
branches are float.
"""

import functools

from keras import ops

from keras_bcgd import activations
from keras_bcgd import backend


def branch_step(alpha, bits, branch_bits=8):
    """The step of a branch that is added before a QuantReLU.

    It is `alpha / (2 n)`, n = `2**(branch_bits - bits - 2)`, so that the codes
    reach from `-2**bits * alpha` to one step below `2**bits * alpha`: over the
    whole staircase if `bits < branch_bits`. Up to `bits = branch_bits - 2` the
    half step alpha / 2, by which the ceil of the staircase differs from
    rounding, is a whole number n of these steps.

    Args:
        alpha: Float or scalar tensor, the resolution of the QuantReLU.
        bits: Int, the bit width of the QuantReLU.
        branch_bits: Int, the bit width of the branch. Defaults to `8`.

    Returns:
        What `alpha` is: `alpha * 2**(bits + 1 - branch_bits)`.

    Example:

    >>> from keras_bcgd.branches import branch_step
    >>> branch_step(1.0, bits=4)
    0.125
    """
    return alpha * 2.0 ** (bits + 1 - branch_bits)


def branch_offset(alpha, bits, branch_bits=8):
    """How far the grid of the branch lies below the multiples of its step.

    0 where alpha / 2 is a whole number of steps. Where the steps are coarser
    (`bits > branch_bits - 2`) it is alpha / 2: what is added is then on the
    grid once the file has added that half step.
    """
    return alpha / 2 if bits > branch_bits - 2 else 0.0 * alpha


def smallest_and_largest_code(bits):
    """Returns `(-2**(bits - 1), 2**(bits - 1) - 1)`, ends of a signed grid."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def quant_branch(x, alpha, bits, branch_bits=8):
    """A residual branch on the grid of `branch_step` and `branch_offset`.

    Args:
        x: Float tensor of any shape.
        alpha: Tensor of shape `()`, the resolution of the QuantReLU after
            the addition.
        bits: Int, the bit width of that QuantReLU.
        branch_bits: Int, the bit width of the branch. Defaults to `8`.

    Returns:
        Tensor of the shape and dtype of `x`.
    """
    step = branch_step(alpha, bits, branch_bits)
    if bits <= branch_bits - 2:
        return quant_identity(x, step, branch_bits)
    x = ops.convert_to_tensor(x)
    offset = ops.cast(branch_offset(alpha, bits, branch_bits), x.dtype)
    return quant_identity(x + offset, step, branch_bits) - offset


def quant_identity(x, step, bits=8, minimum=None):
    """Rounds to the nearest code of a grid, with coarse derivatives.

    Formula:

    ```
    y = step * clip(round(x / step), low, high)

    #                    low                   high
    # minimum is None    -2**(bits-1)          2**(bits-1) - 1
    # else               round(minimum/step),  low + 2**bits - 1
    #                    at least -2**(bits-1)

    #              within the grid   outside
    # d y / dx     1                 0
    # d y / dstep  0                 low or high
    ```

    that is the derivatives of the clipped identity, as the coarse derivatives
    of the staircase are those of the clipped ReLU.

    Args:
        x: Float tensor of any shape.
        step: Tensor of shape `()`, above 0.
        bits: Int from 2 to 8. Defaults to `8`.
        minimum: Float, at most 0, where the codes begin: of numbers that are
            never below it none is wasted. `None`: as many codes below 0 as
            above. Defaults to `None`.

    Returns:
        Tensor of the shape and dtype of `x`. Integers `x` give floats.

    Example:

    >>> from keras_bcgd.branches import quant_identity
    >>> np.array(quant_identity([-9.0, -0.3, 0.6, 9.0], 0.5, bits=3))
    array([-2. , -0.5,  0.5,  1.5], dtype=float32)
    """
    return activations.in_float(_with_coarse_gradient(bits, minimum), x, step)


@functools.cache
def _with_coarse_gradient(bits, minimum):
    """The rounding to `bits` bits, a function of `(x, step)`."""
    forward = backend.fused(functools.partial(_round, bits, minimum))
    backward = backend.fused(
        functools.partial(_coarse_derivatives, bits, minimum)
    )

    @ops.custom_gradient
    def rounding(x, step):
        y = forward(x, step)

        def coarse_gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return backward(x, step, upstream)

        return y, coarse_gradient

    return rounding


def _ends(bits, minimum, step):
    if minimum is None:
        return smallest_and_largest_code(bits)
    low = ops.maximum(ops.round(minimum / step), -(2 ** (bits - 1)))
    return low, low + (2**bits - 1)


def _round(bits, minimum, x, step):
    low, high = _ends(bits, minimum, step)
    return step * ops.clip(ops.round(x / step), low, high)


def _coarse_derivatives(bits, minimum, x, step, upstream):
    """`upstream` times d y / dx, and its sum times d y / dstep."""
    low, high = _ends(bits, minimum, step)
    code = ops.round(x / step)
    below, above = code < low, code > high
    zero = ops.zeros((), upstream.dtype)
    outside = ops.logical_or(below, above)
    by_x = ops.where(outside, zero, upstream)
    end = ops.where(below, low * upstream, high * upstream)
    return by_x, ops.sum(ops.where(outside, end, zero))
