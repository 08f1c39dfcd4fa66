"""What the functions of the theory accept, and what they say otherwise."""

import math
import operator

import numpy as np

DERIVATIVES = ("relu", "clipped_relu", "identity")
SQRT_2PI = math.sqrt(2 * math.pi)


def check_derivative(derivative):
    """Raises a `ValueError` if `derivative` is no coarse derivative."""
    if derivative not in DERIVATIVES:
        raise ValueError(
            f"`derivative` must be one of {', '.join(DERIVATIVES)}. "
            f"Received: derivative={derivative!r}"
        )


def check_array(name, value, rank):
    """Returns `value` as a float64 array of finite numbers, or raises.

    Args:
        name: String, the name of the argument.
        value: What was given for it.
        rank: Int, the least rank.

    Returns:
        A NumPy array.

    Raises:
        ValueError: If it is no such array, or has an axis of length 0.
    """
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be an array of numbers. Received: {name}={value!r}"
        ) from error
    if array.ndim < rank or 0 in array.shape:
        raise ValueError(
            f"`{name}` must have rank {rank} or more and no axis of length 0. "
            f"Received: shape {array.shape}"
        )
    if not np.all(np.isfinite(array)):
        count = np.sum(~np.isfinite(array))
        raise ValueError(
            f"`{name}` must be finite. Received: {count} of {array.size} "
            "entries NaN or infinite"
        )
    return array


def check_vector(name, value, nonzero=True):
    """Returns `value` as an array of vectors `(..., size)`, or raises.

    Args:
        name: String, the name of the argument.
        value: What was given for it.
        nonzero: Boolean. Whether zero vectors are refused. Defaults to `True`.

    Returns:
        A NumPy array.

    Raises:
        ValueError: If it is no such array.
    """
    array = check_array(name, value, rank=1)
    zero = ~np.any(array, axis=-1)
    if nonzero and np.any(zero):
        raise ValueError(
            f"`{name}` must not be zero: it has no direction. Received: "
            f"{np.sum(zero)} of {zero.size} vectors zero"
        )
    return array


def check_same_size(name, array, other_name, other):
    """Raises a `ValueError` unless the last axes are equally long."""
    if array.shape[-1] != other.shape[-1]:
        raise ValueError(
            f"`{name}` and `{other_name}` must have last axes of one length. "
            f"Received: shapes {array.shape} and {other.shape}"
        )


def check_broadcast(**leading):
    """Returns the shape to which these shapes broadcast, or raises.

    Args:
        **leading: For each argument the shape of its axes in front.

    Returns:
        A tuple of ints.

    Raises:
        ValueError: If they do not broadcast.
    """
    try:
        return np.broadcast_shapes(*leading.values())
    except ValueError as error:
        names = ", ".join(f"`{name}`" for name in leading)
        raise ValueError(
            f"The axes in front of {names} must broadcast. Received: "
            + ", ".join(f"{name} {shape}" for name, shape in leading.items())
        ) from error


def check_output_weights(v, v_star):
    """Returns v and v* as arrays that go together, or raises.

    Args:
        v: Array of shape `(..., m)`. May be zero.
        v_star: Array of shape `(..., m)`.

    Returns:
        `(v, v_star)`.

    Raises:
        ValueError: If `v_star` is zero, or one of them is not finite or of a
            shape that does not fit.
    """
    v = check_vector("v", v, nonzero=False)
    v_star = check_vector("v_star", v_star)
    check_same_size("v", v, "v_star", v_star)
    check_broadcast(v=v.shape[:-1], v_star=v_star.shape[:-1])
    return v, v_star


def check_problem(v, w, v_star, w_star):
    """Returns the parameters of student and teacher as arrays, or raises.

    Args:
        v: Array of shape `(..., m)`. May be zero.
        w: Array of shape `(..., n)`.
        v_star: Array of shape `(..., m)`.
        w_star: Array of shape `(..., n)`, of any length above 0.

    Returns:
        `(v, w, v_star, w_star)`, the last one with unit length.

    Raises:
        ValueError: If one of them is zero (but for `v`), not finite or of a
            shape that does not fit.
    """
    v = check_vector("v", v, nonzero=False)
    w = check_vector("w", w)
    v_star = check_vector("v_star", v_star)
    w_star = check_vector("w_star", w_star)
    check_same_size("v", v, "v_star", v_star)
    check_same_size("w", w, "w_star", w_star)
    check_broadcast(
        v=v.shape[:-1],
        w=w.shape[:-1],
        v_star=v_star.shape[:-1],
        w_star=w_star.shape[:-1],
    )
    return v, w, v_star, unit(w_star)


def check_inputs(Z, v, w, rank=2):
    """Returns the inputs Z as an array `(..., m, n)`, or raises.

    Args:
        Z: What was given for it.
        v: Array of shape `(..., m)`.
        w: Array of shape `(..., n)`.
        rank: Int, the least rank. Defaults to 2.

    Returns:
        A NumPy array.

    Raises:
        ValueError: If it is no array of this shape, or not finite.
    """
    Z = check_array("Z", Z, rank)
    expected = (v.shape[-1], w.shape[-1])
    if Z.shape[-2:] != expected:
        raise ValueError(
            f"`Z` must have the shape (..., m, n) with m, n = {expected} of "
            f"`v` and `w`. Received: shape {Z.shape}"
        )
    return Z


def check_step_size(step_size, shape):
    """Returns `step_size` as an array that broadcasts to `shape`, or raises."""
    array = check_array("step_size", step_size, rank=0)
    if np.any(array <= 0):
        raise ValueError(
            "`step_size` must be above 0. Received: the smallest is "
            f"{np.min(array)}"
        )
    if check_broadcast(step_size=array.shape, problems=shape) != shape:
        raise ValueError(
            f"`step_size` must be one number or fit the problems, {shape}. "
            f"Received: shape {array.shape}"
        )
    return array


def check_count(name, value, smallest):
    """Returns `value` as an int not below `smallest`, or raises."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < smallest:
        raise ValueError(
            f"`{name}` must be an integer from {smallest} on. "
            f"Received: {name}={value!r}"
        )
    return number


def length(a):
    """`||a||` along the last axis, which is kept, for a not zero."""
    # Divided by the largest entry first: its square would under- or overflow.
    largest = np.max(np.abs(a), axis=-1, keepdims=True)
    return largest * np.linalg.norm(a / largest, axis=-1, keepdims=True)


def unit(a):
    """`a / ||a||` along the last axis, for a not zero."""
    return a / length(a)
