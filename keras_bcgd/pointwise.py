"""Sigmoid, tanh and hard sigmoid as the integer file computes them.

The runtime's LOGISTIC and TANH turn 256 codes into 256 codes by a table, on an
output grid that is fixed: steps of 1/256 from 0, and of 1/128 from -1. These
functions compute the same numbers from the same inputs, with a coarse
derivative: that of the smooth function inside of the grid, 0 outside (the
principle of the slide "Coarse Gradients"). They are not in the slides, whose
networks have ReLUs.
"""

import functools

from keras import ops

from keras_bcgd import activations
from keras_bcgd import backend

# The step of the output, and its smallest and largest code.
TABLES = {"sigmoid": (1 / 256, 0, 255), "tanh": (1 / 128, -128, 127)}

# Where a function of x has its smallest value.
SMALLEST = {"hard_swish": -0.375, "swish": -0.2784645}


def quant_table(x, function):
    """The sigmoid or the tanh, rounded to the grid of the runtime's table.

    Source: the reference kernels of LiteRT 2.3 (LOGISTIC, TANH in int8).

    Formula:

    ```
    y = step * clip(round(f(x) / step), low, high)

    #             step    low    high    derivative inside
    # "sigmoid"   1/256      0    255    f(x) * (1 - f(x))
    # "tanh"      1/128   -128    127    1 - f(x)**2
    ```

    Args:
        x: Float tensor of any shape.
        function: String: `"sigmoid"` or `"tanh"`.

    Returns:
        Tensor of the shape and dtype of `x`.

    Example:

    >>> from keras_bcgd.pointwise import quant_table
    >>> np.array(quant_table([-99.0, 0.0, 99.0], "sigmoid"))
    array([0.        , 0.5       , 0.99609375], dtype=float32)
    """
    return activations.in_float(_coarse(function, None), x, 1.0)


def hard_sigmoid_levels(bits):
    """The number of steps of the hard sigmoid: `2**bits - 2`.

    An even number, so that 1/2, its value at 0, is on the grid.
    """
    return 2**bits - 2


def quant_hard_sigmoid(x, bits=8):
    """clip(x / 6 + 1/2, 0, 1) on a grid of `2**bits - 1` values.

    Formula:

    ```
    y = round(L * clip(x / 6 + 1/2, 0, 1)) / L      L = 2**bits - 2

    # d y / dx     1/6 where -3 < x < 3, else 0
    ```

    Args:
        x: Float tensor of any shape.
        bits: Int from 2 to 8. Defaults to `8`.

    Returns:
        Tensor of the shape and dtype of `x`.

    Example:

    >>> from keras_bcgd.pointwise import quant_hard_sigmoid
    >>> np.array(quant_hard_sigmoid([-9.0, 0.0, 1.0, 9.0], bits=2))
    array([0. , 0.5, 0.5, 1. ], dtype=float32)
    """
    return activations.in_float(_coarse("hard_sigmoid", bits), x, 1.0)


@functools.cache
def _coarse(function, bits):
    """The function of `(x, 1)`; the second argument has no derivative."""
    values = backend.fused(functools.partial(_values, function, bits))
    slopes = backend.fused(functools.partial(_slopes, function))

    @ops.custom_gradient
    def rounded(x, one):
        def coarse_gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return slopes(x, upstream), ops.zeros_like(one)

        return values(x), coarse_gradient

    return rounded


def _values(function, bits, x):
    if function == "hard_sigmoid":
        levels = hard_sigmoid_levels(bits)
        return ops.round(levels * ops.clip(x / 6 + 0.5, 0, 1)) / levels
    step, low, high = TABLES[function]
    smooth = ops.sigmoid(x) if function == "sigmoid" else ops.tanh(x)
    return step * ops.clip(ops.round(smooth / step), low, high)


def _slopes(function, x, upstream):
    zero = ops.zeros((), upstream.dtype)
    if function == "hard_sigmoid":
        return ops.where(ops.abs(x) < 3, upstream / 6, zero)
    step, low, high = TABLES[function]
    if function == "sigmoid":
        smooth = ops.sigmoid(x)
        slope = smooth * (1 - smooth)
    else:
        smooth = ops.tanh(x)
        slope = 1 - smooth * smooth
    inside = ops.logical_and(
        smooth >= (low - 0.5) * step, smooth <= (high + 0.5) * step
    )
    return ops.where(inside, slope * upstream, zero)
