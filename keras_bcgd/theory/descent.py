"""Coarse gradient descent with weight normalization.

Slides "Coarse gradient descent with weight normalization" and "Theorem (Coarse
Gradient Descent and Convergence to Global Minimizer)":

    v <- v - eta E[dl/dv]
    w <- w - eta E[g],  then  w <- w / ||w||
"""

import math
from typing import NamedTuple

import numpy as np

from keras_bcgd.theory import population
from keras_bcgd.theory import sampled
from keras_bcgd.theory.arguments import SQRT_2PI
from keras_bcgd.theory.arguments import check_array
from keras_bcgd.theory.arguments import check_broadcast
from keras_bcgd.theory.arguments import check_count
from keras_bcgd.theory.arguments import check_derivative
from keras_bcgd.theory.arguments import check_output_weights
from keras_bcgd.theory.arguments import check_problem
from keras_bcgd.theory.arguments import check_step_size
from keras_bcgd.theory.arguments import unit


class Descent(NamedTuple):
    """What a descent went through; `(...)` is the shape of the problems.

    Attributes:
        v: Array of shape `(..., m)`, the last v.
        w: Array of shape `(..., n)`, the last w, of length 1.
        steps: Array of ints, shape `(records,)`: after how many steps each
            record was taken. The first is 0, the last the end.
        losses: Array of shape `(records, ...)`, f(v, w).
        angles: Array of shape `(records, ...)`, theta(w, w*) in radians.

    Example:

    >>> v, w, v_star, w_star = [1.0], [1.0, 1.0], [1.0], [1.0, 0.0]
    >>> path = theory.descend(v, w, v_star, w_star, 0.5, steps=100, every=50)
    >>> path.steps, path.losses.shape
    (array([  0,  50, 100]), (3,))
    """

    v: np.ndarray
    w: np.ndarray
    steps: np.ndarray
    losses: np.ndarray
    angles: np.ndarray


def step_size_bound(v, v_star):
    """eta_0: f never rises in `descend` with a step size below it.

    The theorem of the slides says that such a bound exists; this value, for
    `derivative="relu"`, was derived and tested for this project.

    Formula:

    ```
    # x_ is x less its mean.
    s2 = max((1'v)^2, (1'v*)^2)
    r2 = max(||v_||^2, ||v*_||^2) + s2 / m
    eta_0 = min(4 / (m + 1), 2 sqrt(2 pi) / (r2 + 2 s2))
    ```

    Args:
        v: Array of shape `(..., m)`, the start.
        v_star: Array of shape `(..., m)`, not zero.

    Returns:
        Array of the shape `(...)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> bound = float(theory.step_size_bound([1.0], [1.0]))
    >>> round(bound / np.sqrt(2 * np.pi) * 3, 9)
    np.float64(2.0)
    """
    v, v_star = check_output_weights(v, v_star)
    size = v.shape[-1]

    def largest(function):
        return np.maximum(function(v), function(v_star))

    s2 = largest(lambda x: np.sum(x, axis=-1) ** 2)
    r2 = largest(lambda x: size * np.var(x, axis=-1)) + s2 / size
    return np.minimum(4 / (size + 1), 2 * SQRT_2PI / (r2 + 2 * s2))


def in_theorem_region(v, w, v_star, w_star):
    """Whether the descent from (v, w) is proved to end at (v*, w*).

    Source: slide "Theorem (Coarse Gradient Descent and Convergence to Global
    Minimizer)".

    Formula:

    ```
    theta(v, v*) < pi/2,  theta(w, w*) < pi/2,  (1'v*)(1'v) <= (1'v*)^2
    ```

    Args:
        v: Array of shape `(..., m)`.
        w: Array of shape `(..., n)`, not zero.
        v_star: Array of shape `(..., m)`, not zero.
        w_star: Array of shape `(..., n)`, not zero.

    Returns:
        Array of booleans of the shape `(...)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v_star, w_star = [1.0], [1.0, 0.0]
    >>> bool(theory.in_theorem_region([0.5], [1.0, 1.0], v_star, w_star))
    True
    >>> bool(theory.in_theorem_region([1.5], [1.0, 1.0], v_star, w_star))
    False
    """
    v, w, v_star, w_star = check_problem(v, w, v_star, w_star)
    total, total_star = np.sum(v, axis=-1), np.sum(v_star, axis=-1)
    return (
        (np.sum(v * v_star, axis=-1) > 0)
        & (np.sum(w * w_star, axis=-1) > 0)
        & (total_star * total <= total_star**2)
    )


def descend(
    v,
    w,
    v_star,
    w_star,
    step_size,
    steps,
    derivative="relu",
    every=1,
    stop_below=None,
):
    """Normalized coarse gradient descent in expectation.

    Source: slide "Coarse gradient descent with weight normalization".

    Args:
        v: Array of shape `(..., m)`, the start.
        w: Array of shape `(..., n)`, the start, not zero; its direction counts.
        v_star: Array of shape `(..., m)`, not zero.
        w_star: Array of shape `(..., n)`, not zero.
        step_size: Float above 0, or an array of the shape `(...)`; see
            `step_size_bound`.
        steps: Int from 0 on.
        derivative: String, see `coarse_derivative`. Defaults to `"relu"`, the
            slides'.
        every: Int from 1 on. Each so many steps, and at start and end, losses
            and angles are recorded. Defaults to `1`.
        stop_below: Float or `None`. Ends early at a record at which no loss is
            above it. Defaults to `None`, never.

    Returns:
        A `Descent`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, v_star, w_star = [1.0], [1.0, 1.0], [1.0], [1.0, 0.0]
    >>> path = theory.descend(v, w, v_star, w_star, step_size=0.5, steps=200)
    >>> bool(path.losses[-1] < 1e-6 < path.losses[0])
    True
    """
    check_derivative(derivative)
    problem = check_problem(v, w, v_star, w_star)
    _, _, v_star, w_star = problem

    def gradients(v, w, theta):
        of_u, of_w_star = population.coarse_coefficients(
            v, v_star, theta, np.ones(()), derivative
        )
        coarse = of_u[..., None] * w + of_w_star[..., None] * w_star
        return population.gradient_by_v(v, v_star, theta), coarse

    return _descend(gradients, problem, step_size, steps, every, stop_below)


def descend_sampled(
    v,
    w,
    v_star,
    w_star,
    step_size,
    steps,
    batch_size,
    derivative="relu",
    every=1,
    seed=0,
):
    """Normalized coarse gradient descent with fresh inputs at each step.

    Source: slide "Accessible gradients in training are finite sample
    approximations".

    Args:
        v, w, v_star, w_star, step_size, steps: See `descend`.
        batch_size: Int from 1 on. How many Gaussian inputs each problem draws
            for each step; all problems together hold
            `problems * batch_size * m * n` numbers at once.
        derivative, every: See `descend`.
        seed: Int, or a `numpy.random.Generator`. Defaults to `0`.

    Returns:
        A `Descent`; its losses are those of the population.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, v_star, w_star = [1.0], [1.0, 1.0], [1.0], [1.0, 0.0]
    >>> path = theory.descend_sampled(
    ...     v, w, v_star, w_star, step_size=0.1, steps=200, batch_size=100
    ... )
    >>> bool(path.angles[-1] < 0.1 < path.angles[0])
    True
    """
    check_derivative(derivative)
    batch_size = check_count("batch_size", batch_size, 1)
    problem = check_problem(v, w, v_star, w_star)
    _, _, v_star, w_star = problem
    generator = np.random.default_rng(seed)

    def gradients(v, w, theta):
        shape = (*theta.shape, batch_size, v.shape[-1], w.shape[-1])
        Z = generator.standard_normal(shape)
        return sampled.mean_gradients(v, w, v_star, w_star, Z, derivative)

    return _descend(gradients, problem, step_size, steps, every)


def descend_empirical(
    v, w, v_star, w_star, Z, step_size, steps, derivative="relu", every=1
):
    """Normalized coarse gradient descent on the loss of fixed samples.

    Source: slide "Empirical risk minimization".

    Args:
        v, w, v_star, w_star, step_size, steps: See `descend`.
        Z: Array of shape `(..., N, m, n)`, the samples of each problem. Of
            rank 3, all problems have the same ones.
        derivative, every: See `descend`.

    Returns:
        A `Descent`; its losses are those of the population.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> Z = np.random.default_rng(0).normal(size=(1000, 1, 2))
    >>> v, w, v_star, w_star = [1.0], [1.0, 1.0], [1.0], [1.0, 0.0]
    >>> path = theory.descend_empirical(
    ...     v, w, v_star, w_star, Z, step_size=0.5, steps=200
    ... )
    >>> bool(path.angles[-1] < 0.1 < path.angles[0])
    True
    """
    check_derivative(derivative)
    *problem, Z = sampled.check_samples(v, w, v_star, w_star, Z)
    _, _, v_star, w_star = problem
    if len(Z.shape) > 3:
        shape = _shape_of(*problem)
        if check_broadcast(Z=Z.shape[:-3], problems=shape) != shape:
            raise ValueError(
                f"The axes in front of `Z` must fit the problems, {shape}. "
                f"Received: shape {Z.shape}"
            )

    def gradients(v, w, theta):
        return sampled.mean_gradients(v, w, v_star, w_star, Z, derivative)

    return _descend(gradients, problem, step_size, steps, every)


def _shape_of(*arrays):
    return np.broadcast_shapes(*[array.shape[:-1] for array in arrays])


def _descend(gradients, problem, step_size, steps, every, stop_below=None):
    """The loop: `gradients(v, w, theta)` gives those by v and by w."""
    v, w, v_star, w_star = problem
    shape = _shape_of(*problem)
    steps = check_count("steps", steps, 0)
    every = check_count("every", every, 1)
    step_size = check_step_size(step_size, shape)[..., None]
    limit = -math.inf
    if stop_below is not None:
        limit = check_array("stop_below", stop_below, rank=0)
    v = np.array(np.broadcast_to(v, (*shape, v.shape[-1])))
    w = np.array(np.broadcast_to(unit(w), (*shape, w.shape[-1])))
    recorded, losses, angles = [], [], []
    for step in range(steps + 1):
        theta = population.angle_of_units(w, w_star)
        if step % every == 0 or step == steps:
            recorded.append(step)
            losses.append(population.loss(v, v_star, theta))
            angles.append(theta)
            if np.all(losses[-1] <= limit):
                break
        if step == steps:
            break
        by_v, by_w = gradients(v, w, theta)
        v = v - step_size * by_v
        w = w - step_size * by_w
        w = w / np.linalg.norm(w, axis=-1, keepdims=True)
    return Descent(v, w, np.array(recorded), np.array(losses), np.array(angles))
