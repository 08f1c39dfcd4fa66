"""The projection and the bound on alpha as constraints of Keras variables.

Keras applies a variable's constraint after each update, so that stock SGD with
`QuantProjection` is projected coarse gradient descent (slide "Blended Gradient
Descent", PGD) with no further code. `BlendedOptimizer` recognises quantized
kernels and alphas by these classes.
"""

import numbers

import keras
from keras import ops

from keras_bcgd.projections import check_method
from keras_bcgd.projections import project
from keras_bcgd.utils.checks import check_bits

_SEVERAL_SCALES = 16


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantProjection(keras.constraints.Constraint):
    """Constrains a weight to the quantized tensors: `w <- proj_Q(w)`.

    Source: slides "Projection: solving least squares problem" and "Blended
    Gradient Descent".

    Args:
        bits: Int from 1 to 8, the bit width of the weight.
        method: String, how the projection is solved; see
            `keras_bcgd.project`. Defaults to `"lloyd"`.
        axis: Int, tuple of ints or `None`: the axes along which each index
            has its own scale, the last one for the output channels of a
            `Conv2D` or `Dense` kernel. Defaults to `None`, one scale.

    Raises:
        ValueError: If `bits`, `method` or `axis` is not one of the above.

    Example:

    >>> ternary = keras_bcgd.QuantProjection(bits=2)
    >>> layer = keras.layers.Dense(10, kernel_constraint=ternary)
    >>> np.array(ternary([0.9, -1.1, 0.1]))
    array([ 1., -1.,  0.], dtype=float32)
    """

    def __init__(self, bits, method="lloyd", axis=None):
        self.bits = check_bits(bits)
        check_method(method, self.bits)
        self.method = method
        self.axis = _check_axis(axis)

    @property
    def mark(self):
        """The number of the grid: its bits, and 16 more for several scales.

        What `kernel_is_quantized` of a `QuantKernel` is for weights on it.
        """
        return self.bits if self.axis is None else _SEVERAL_SCALES + self.bits

    @property
    def marks_of_its_grid(self):
        """The marks of weights that are on this grid, of fewer bits too."""
        marks = list(range(1, self.bits + 1))
        if self.axis is not None:
            marks += [_SEVERAL_SCALES + bits for bits in marks]
        return marks

    def project(self, y, scale=None):
        """Returns `(scale, codes)` of the projection of `y`.

        Args:
            y: Float tensor.
            scale: Tensor or `None`, where the method `"warm"` goes on from.
        """
        if self.method != "warm":
            scale = None
        return project(y, self.bits, self.method, self.axis, scale)

    def __call__(self, w):
        scale, codes = self.project(w)
        return scale * codes

    def get_config(self):
        return {"bits": self.bits, "method": self.method, "axis": self.axis}


def _check_axis(axis):
    indices = axis if isinstance(axis, (list, tuple)) else (axis,)
    if axis is not None and not all(
        isinstance(i, int) and not isinstance(i, bool) for i in indices
    ):
        raise ValueError(
            "`axis` must be an int, a tuple of ints or None. "
            f"Received: axis={axis!r}"
        )
    return tuple(axis) if isinstance(axis, list) else axis


@keras.saving.register_keras_serializable(package="keras_bcgd")
class AlphaBound(keras.constraints.Constraint):
    """Keeps a resolution alpha at or above a positive bound, or between two.

    This class is also how `BlendedOptimizer` recognises an alpha, whose
    learning rate is smaller (slide "Blended Coarse Gradient Descent"); a
    constraint of your own for `QuantReLU` must subclass it.

    Args:
        min_value: Float above 0. Defaults to `1e-3`.
        max_value: Float, at least `min_value`, or `None`: no such bound. With
            6 / (2**bits - 1) a QuantReLU stays at or below 6, as a ReLU6.
            Defaults to `None`.

    Raises:
        ValueError: If one of these is not as said above.

    Example:

    >>> bound = keras_bcgd.AlphaBound(0.01)
    >>> layer = keras_bcgd.QuantReLU(bits=4, alpha_constraint=bound)
    >>> float(bound(-1.0))
    0.009999999776482582
    """

    def __init__(self, min_value=1e-3, max_value=None):
        if not isinstance(min_value, numbers.Real) or not min_value > 0:
            raise ValueError(
                "`min_value` must be a number above 0. "
                f"Received: min_value={min_value!r}"
            )
        self.min_value = float(min_value)
        if max_value is not None:
            if not isinstance(max_value, numbers.Real) or not (
                max_value >= min_value
            ):
                raise ValueError(
                    "`max_value` must be a number of at least `min_value`, or "
                    f"None. Received: max_value={max_value!r}, "
                    f"min_value={min_value!r}"
                )
            max_value = float(max_value)
        self.max_value = max_value

    def __call__(self, w):
        w = ops.maximum(w, self.min_value)
        return w if self.max_value is None else ops.minimum(w, self.max_value)

    def get_config(self):
        return {"min_value": self.min_value, "max_value": self.max_value}


def bound_up_to(largest, bits):
    """The `AlphaBound` with which a QuantReLU stays at or below a number.

    Args:
        largest: Float above 0: 6.0 for a ReLU6.
        bits: Int, the bits of the QuantReLU.
    """
    top = largest / (2**bits - 1)
    return AlphaBound(min(1e-3, top / 10), top)


def get_alpha_bound(alpha_constraint, min_value=1e-3):
    """The `AlphaBound` that the argument `alpha_constraint` stands for.

    Args:
        alpha_constraint: `AlphaBound` instance, its config, or `None`.
        min_value: Float, the bound for `None`. Defaults to `1e-3`.

    Raises:
        ValueError: If `alpha_constraint` is another constraint.
    """
    if alpha_constraint is None:
        return AlphaBound(min_value)
    constraint = keras.constraints.get(alpha_constraint)
    if not isinstance(constraint, AlphaBound):
        raise ValueError(
            "`alpha_constraint` must be a keras_bcgd.AlphaBound or a "
            "subclass of it: that is how BlendedOptimizer recognises an "
            f"alpha. Received: alpha_constraint={alpha_constraint}"
        )
    return constraint
