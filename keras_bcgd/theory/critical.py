"""Where the gradients vanish, and what lies there.

Slide "Possible locations for non-trivial local minimizers": the gradients
vanish together where `v'v* = 0` and v is stationary, or theta is 0 or pi and v
is stationary. Which of these points exist, and which are minima, is not in the
slides. For v stationary, 8 f is a concave parabola in `1 - 2 theta / pi` on
[-1, 1] with its top at

    1 - 2 theta / pi = -(1'v*)^2 / ((m + 1) ||v*||^2 - (1'v*)^2)

So f has a saddle at this theta, a maximum by theta and the minimum by v, and a
local minimum at theta = pi, if `2 (1'v*)^2 < (m + 1) ||v*||^2`. Else f falls
all the way from pi to 0, and the point at pi is itself a saddle. There f is
`(1'v*)^2 / (2 (m + 1))`. So if `1'v* = 0`, the point at pi is a second global
minimizer: (-v*, -w*) computes the same function as (v*, w*).
"""

import math

import numpy as np

from keras_bcgd.theory.arguments import check_array
from keras_bcgd.theory.arguments import check_broadcast
from keras_bcgd.theory.arguments import check_problem
from keras_bcgd.theory.arguments import check_vector
from keras_bcgd.theory.arguments import unit
from keras_bcgd.theory.population import angle_of_units
from keras_bcgd.theory.population import gradient_by_v

GLOBAL_MINIMIZER = "global minimizer"
LOCAL_MINIMIZER = "local minimizer at pi"
SADDLE = "saddle"
NOT_CRITICAL = "not critical"


def stationary_v(theta, v_star):
    """The v at which df/dv = 0, for the angle theta between w and w*.

    Source: slide "Possible locations for non-trivial local minimizers".

    Formula:

    ```
    v = inverse(I + 11') ((1 - 2 theta / pi) I + 11') v*
    ```

    Args:
        theta: Array of the shape `(...)`, from 0 to pi.
        v_star: Array of shape `(..., m)`, not zero.

    Returns:
        Array of shape `(..., m)`. At theta = 0 it is v*.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> theory.stationary_v(0.0, [3.0, -2.0])
    array([ 3., -2.])
    """
    theta = check_array("theta", theta, rank=0)
    if np.any((theta < 0) | (theta > math.pi)):
        raise ValueError(
            "`theta` must be from 0 to pi. Received: values from "
            f"{np.min(theta)} to {np.max(theta)}"
        )
    v_star = check_vector("v_star", v_star)
    check_broadcast(theta=theta.shape, v_star=v_star.shape[:-1])
    # inverse(I + 11') x = x - 1 (1'x) / (m + 1)
    turned = (2 / math.pi) * theta[..., None]
    total = np.sum(v_star, axis=-1, keepdims=True)
    return (1 - turned) * v_star + turned * total / (v_star.shape[-1] + 1)


def saddle_angle(v_star):
    """The theta, from pi/2 to below pi, where `v'v* = 0` at the stationary v.

    Derived from the first condition of slide "Possible locations for
    non-trivial local minimizers", see the top of this file.

    Args:
        v_star: Array of shape `(..., m)`, not zero.

    Returns:
        Array of the shape `(...)`: theta, or NaN where no such point exists.

    Raises:
        ValueError: If `v_star` is not as above.

    Example:

    >>> float(theory.saddle_angle([1.0, -1.0])) == np.pi / 2
    True
    """
    v_star = check_vector("v_star", v_star)
    total, scaled_square = _total_and_scaled_square(v_star)
    cosine_like = -(total**2) / (scaled_square - total**2)
    theta = math.pi / 2 * (1 - cosine_like)
    return np.where(2 * total**2 < scaled_square, theta, np.nan)


def classify(v, w, v_star, w_star, tolerance=1e-6):
    """What kind of point (v, w) is.

    Source: slide "Possible locations for non-trivial local minimizers"; the
    kinds are derived at the top of this file.

    Args:
        v: Array of shape `(..., m)`.
        w: Array of shape `(..., n)`, not zero.
        v_star: Array of shape `(..., m)`, not zero.
        w_star: Array of shape `(..., n)`, not zero.
        tolerance: Float above 0: how much df/dv and `1'v*` (in units of
            `||v*||`), an angle (in radians) or `v'v*` (of `||v*||^2`) may
            differ from what they are at the point. Defaults to `1e-6`.

    Returns:
        Array of strings: `"global minimizer"` (theta = 0, and theta = pi if
        `1'v* = 0`), `"local minimizer at pi"`, `"saddle"` (`v'v* = 0`, or theta
        = pi where that is no minimum) or `"not critical"`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> str(theory.classify([1.0], [2.0, 0.0], [1.0], [1.0, 0.0]))
    'global minimizer'
    >>> str(theory.classify([1.0], [1.0, 1.0], [1.0], [1.0, 0.0]))
    'not critical'
    """
    tolerance = float(check_array("tolerance", tolerance, rank=0))
    if tolerance <= 0:
        raise ValueError(
            f"`tolerance` must be above 0. Received: tolerance={tolerance}"
        )
    v, w, v_star, w_star = check_problem(v, w, v_star, w_star)
    theta = angle_of_units(unit(w), w_star)
    size = np.linalg.norm(v_star, axis=-1)
    gradient = np.linalg.norm(gradient_by_v(v, v_star, theta), axis=-1)
    stationary = gradient <= tolerance * size
    orthogonal = np.abs(np.sum(v * v_star, axis=-1)) <= tolerance * size**2
    total, scaled_square = _total_and_scaled_square(v_star)
    minimum_at_pi = 2 * total**2 < scaled_square
    at_zero = theta <= tolerance
    at_pi = theta >= math.pi - tolerance
    same_function = at_pi & (np.abs(total) <= tolerance * size)
    kinds = [
        (~stationary, NOT_CRITICAL),
        (at_zero | same_function, GLOBAL_MINIMIZER),
        (at_pi & minimum_at_pi, LOCAL_MINIMIZER),
        (at_pi | orthogonal, SADDLE),
    ]
    conditions = np.broadcast_arrays(*[condition for condition, _ in kinds])
    return np.select(conditions, [kind for _, kind in kinds], NOT_CRITICAL)


def _total_and_scaled_square(v_star):
    """1'v* and (m + 1) ||v*||^2."""
    total = np.sum(v_star, axis=-1)
    return total, (v_star.shape[-1] + 1) * np.sum(v_star**2, axis=-1)
