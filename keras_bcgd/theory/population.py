"""The population loss f(v, w), its gradients and E[g], in closed form.

Slides "Population loss minimization", "Lipschitz continuous gradients" and
"Expected coarse gradient". The forms below are those of the slides, rearranged
so that none is 0/0 and none subtracts nearly equal numbers near the minimum.
With c = v'v*, s = 1'v, u = w / ||w||, ||w*|| = 1 and theta the angle between
w and w*:

    8 f  = ||v - v*||^2 + (1'(v - v*))^2 + (4 / pi) theta c
    E[g] = (h u - c (u + w*)) / (2 sqrt(2 pi))
    h    = ||v||^2 + s^2 - s (1'v*) + c
"""

import math

import numpy as np

from keras_bcgd.theory.arguments import SQRT_2PI
from keras_bcgd.theory.arguments import check_broadcast
from keras_bcgd.theory.arguments import check_derivative
from keras_bcgd.theory.arguments import check_output_weights
from keras_bcgd.theory.arguments import check_problem
from keras_bcgd.theory.arguments import check_same_size
from keras_bcgd.theory.arguments import check_vector
from keras_bcgd.theory.arguments import length
from keras_bcgd.theory.arguments import unit


def angle(a, b):
    """theta(a, b), the angle between two vectors, from 0 to pi.

    Exact to rounding also near 0 and pi, where the arccosine of the inner
    product errs by 1e-8 and f, which is linear in theta, with it.

    Args:
        a: Array of shape `(..., size)`, not zero.
        b: Array of shape `(..., size)`, not zero.

    Returns:
        Array of the shape `(...)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> float(theory.angle([1.0, 0.0], [0.0, 2.0])) == np.pi / 2
    True
    """
    a, b = check_vector("a", a), check_vector("b", b)
    check_same_size("a", a, "b", b)
    check_broadcast(a=a.shape[:-1], b=b.shape[:-1])
    return angle_of_units(unit(a), unit(b))


def population_loss(v, w, v_star, w_star):
    """f(v, w), the expectation of the sample loss over Gaussian inputs.

    Source: slide "Population loss minimization".

    Args:
        v: Array of shape `(..., m)`.
        w: Array of shape `(..., n)`, not zero.
        v_star: Array of shape `(..., m)`, not zero.
        w_star: Array of shape `(..., n)`, not zero.

    Returns:
        Array of the shape `(...)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, v_star, w_star = [1.0], [0.0, 1.0], [1.0], [1.0, 0.0]
    >>> float(theory.population_loss(v, w, v_star, w_star))
    0.25
    """
    v, w, v_star, w_star = check_problem(v, w, v_star, w_star)
    return loss(v, v_star, angle_of_units(unit(w), w_star))


def population_gradients(v, w, v_star, w_star):
    """df/dv and df/dw.

    Source: slide "Lipschitz continuous gradients". The formulas are the
    slide's; its heading is not true: df/dw jumps where theta passes 0, so
    that no Lipschitz constant holds there.

    Formula:

    ```
    df/dv = ((I + 11') v - ((1 - 2 theta / pi) I + 11') v*) / 4
    df/dw = -v'v* / (2 pi ||w||) * e,  e = P w* / ||P w*||,  P = I - u u'
    ```

    Args:
        v, w, v_star, w_star: See `population_loss`.

    Returns:
        `(gradient_v, gradient_w)` of shapes `(..., m)` and `(..., n)`. The
        second does not exist at theta = 0 and pi, and is NaN there.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, v_star, w_star = [1.0], [0.0, 1.0], [1.0], [1.0, 0.0]
    >>> theory.population_gradients(v, w, v_star, w_star)
    (array([0.25]), array([-0.15915494, -0.        ]))
    """
    v, w, v_star, w_star = check_problem(v, w, v_star, w_star)
    u = unit(w)
    theta = angle_of_units(u, w_star)
    across = w_star - np.sum(u * w_star, axis=-1, keepdims=True) * u
    size = np.linalg.norm(across, axis=-1, keepdims=True)
    # At theta = 0 and pi, `across` is rounding error.
    differentiable = (theta > 1e-15) & (theta < math.pi - 1e-15)
    size = np.where(differentiable[..., None], size, np.nan)
    inner = np.sum(v * v_star, axis=-1, keepdims=True)
    gradient_w = -inner / (2 * math.pi * length(w)) * across / size
    return gradient_by_v(v, v_star, theta), gradient_w


def h(v, v_star):
    """h(v, v*), the factor of w in the expected coarse gradient.

    Source: slide "Expected coarse gradient".

    Formula:

    ```
    h = ||v||^2 + (1'v)^2 - (1'v)(1'v*) + v'v*
    ```

    Args:
        v: Array of shape `(..., m)`.
        v_star: Array of shape `(..., m)`, not zero.

    Returns:
        Array of the shape `(...)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> float(theory.h([2.0], [1.0]))
    8.0
    """
    v, v_star = check_output_weights(v, v_star)
    return _h(v, v_star, np.sum(v * v_star, axis=-1))


def expected_coarse_gradient(v, w, v_star, w_star, derivative="relu"):
    """E[g(v, w; Z)] over Gaussian inputs Z.

    Source: slide "Expected coarse gradient", for `"relu"`. The other two are
    not in the slides.

    Formula:

    ```
    # With c = v'v*, r = sqrt(2 pi), a = 1 / ||w||, phi and Phi the density
    # and distribution of N(0, 1):
    # "relu":
    E[g] = (h u - c (u + w*)) / (2 r)
    # "clipped_relu":
    E[g] = (1/r - phi(a)) h / 2 * u - c * B
    B = (1/(2 r) - phi(a) Phi(a cot(theta))) u
        + erf(a / (sqrt(2) sin(theta))) / (2 r) * w*
    # "identity":
    E[g] = (||v||^2 u - c w*) / r
    ```

    In the direction of w* all three have -v'v* times a factor above 0.

    Args:
        v, w, v_star, w_star: See `population_loss`.
        derivative: String, see `coarse_derivative`. Defaults to `"relu"`.

    Returns:
        Array of shape `(..., n)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v_star, w_star = [1.0], [1.0, 0.0]
    >>> theory.expected_coarse_gradient([1.0], [1.0, 0.0], v_star, w_star)
    array([0., 0.])
    >>> theory.expected_coarse_gradient([2.0], [1.0, 0.0], v_star, w_star)
    array([0.79788456, 0.        ])
    """
    check_derivative(derivative)
    v, w, v_star, w_star = check_problem(v, w, v_star, w_star)
    u = unit(w)
    theta = angle_of_units(u, w_star)
    of_u, of_w_star = coarse_coefficients(
        v, v_star, theta, length(w)[..., 0], derivative
    )
    return of_u[..., None] * u + of_w_star[..., None] * w_star


# The functions below take checked arrays: `descent` calls them in its loop.


def angle_of_units(a, b):
    """The angle between vectors of length 1."""
    apart = np.linalg.norm(a - b, axis=-1)
    together = np.linalg.norm(a + b, axis=-1)
    return 2 * np.arctan2(apart, together)


def loss(v, v_star, theta):
    """f, from the angle theta between w and w*."""
    gap = v - v_star
    inner = np.sum(v * v_star, axis=-1)
    quadratic = np.sum(gap**2, axis=-1) + np.sum(gap, axis=-1) ** 2
    return (quadratic + (4 / math.pi) * theta * inner) / 8


def gradient_by_v(v, v_star, theta):
    """df/dv, from the angle theta between w and w*."""
    gap = v - v_star
    # (I + 11')(v - v*) + (2 theta / pi) v*
    gradient = gap + np.sum(gap, axis=-1, keepdims=True)
    return (gradient + ((2 / math.pi) * theta)[..., None] * v_star) / 4


def coarse_coefficients(v, v_star, theta, length_of_w, derivative):
    """E[g] as `of_u * u + of_w_star * w_star`: the two factors."""
    inner = np.sum(v * v_star, axis=-1)
    if derivative == "identity":
        return np.sum(v * v, axis=-1) / SQRT_2PI, -inner / SQRT_2PI
    half = 1 / (2 * SQRT_2PI)
    if derivative == "relu":
        return half * (_h(v, v_star, inner) - inner), -half * inner
    clip = 1 / length_of_w
    sine = np.sin(theta)
    # theta = 0 and a tiny w: the limits at infinity are the right ones.
    with np.errstate(divide="ignore", over="ignore"):
        sharp = _erf(clip / (math.sqrt(2) * sine))
        below = (1 + _erf(clip * (np.cos(theta) / sine) / math.sqrt(2))) / 2
        density = np.exp(-(clip**2) / 2) / SQRT_2PI
    of_u = (half - density / 2) * _h(v, v_star, inner)
    of_u = of_u - (half - density * below) * inner
    return of_u, -half * sharp * inner


def _h(v, v_star, inner):
    total = np.sum(v, axis=-1)
    difference = total - np.sum(v_star, axis=-1)
    return np.sum(v * v, axis=-1) + total * difference + inner


def _erf(x):
    return np.asarray(_erf_of_objects(x), "float64")


_erf_of_objects = np.frompyfunc(math.erf, 1, 1)
