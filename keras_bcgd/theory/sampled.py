"""The two-layer network on given inputs: sample loss and coarse gradient.

Slides "Two-layer neural network model with binarized ReLU activation" and
"Empirical risk minimization", and those on the gradients that are accessible
in training.
"""

import numpy as np

from keras_bcgd.theory.arguments import check_broadcast
from keras_bcgd.theory.arguments import check_derivative
from keras_bcgd.theory.arguments import check_inputs
from keras_bcgd.theory.arguments import check_problem
from keras_bcgd.theory.arguments import check_vector


def binarized_relu(x):
    """sigma(x): 1 where `x > 0`, else 0.

    Source: slide "Two-layer neural network model with binarized ReLU
    activation".

    Args:
        x: Array of any shape.

    Returns:
        Array of the same shape, float64.

    Example:

    >>> theory.binarized_relu([-1.0, 0.0, 2.0])
    array([0., 0., 1.])
    """
    return (np.asarray(x) > 0).astype("float64")


def coarse_derivative(x, derivative="relu"):
    """mu'(x), what stands in for sigma'(x), which is 0 almost everywhere.

    Source: slide "Replace sigma' by (sub)derivative mu' of regular ReLU
    function"; for the clipped ReLU, "Differentiate a Staircase Function over
    Large Scale" with one step of height 1.

    Formula:

    ```
    #                 x <= 0   0 < x <= 1   x > 1
    # "relu"          0        1            1
    # "clipped_relu"  0        1            0
    # "identity"      1        1            1
    ```

    Args:
        x: Array of any shape.
        derivative: String, one of the above. Defaults to `"relu"`.

    Returns:
        Array of the same shape, float64.

    Raises:
        ValueError: If `derivative` is not one of the above.

    Example:

    >>> theory.coarse_derivative([-1.0, 0.5, 2.0], "clipped_relu")
    array([0., 1., 0.])
    """
    check_derivative(derivative)
    x = np.asarray(x)
    if derivative == "identity":
        return np.ones(x.shape)
    if derivative == "clipped_relu":
        return ((x > 0) & (x <= 1)).astype("float64")
    return binarized_relu(x)


def network(v, w, Z):
    """The output `v' sigma(Z w)`.

    Source: slide "Two-layer neural network model with binarized ReLU
    activation".

    Args:
        v: Array of shape `(..., m)`.
        w: Array of shape `(..., n)`, not zero.
        Z: Array of shape `(..., m, n)`. The axes in front broadcast with those
            of `v` and `w`.

    Returns:
        Array of the shape `(...)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, Z = [2.0, -1.0], [0.0, 1.0], [[1.0, 1.0], [1.0, -1.0]]
    >>> float(theory.network(v, w, Z))
    2.0
    """
    v = check_vector("v", v, nonzero=False)
    w = check_vector("w", w)
    Z = check_inputs(Z, v, w)
    check_broadcast(Z=Z.shape[:-2], v=v.shape[:-1], w=w.shape[:-1])
    return _network(v, _apply(Z, w))


def sample_loss(v, w, v_star, w_star, Z):
    """l(v, w; Z), half the squared difference of student and teacher.

    Source: slide "Two-layer neural network model with binarized ReLU
    activation", "Sample loss function".

    Formula:

    ```
    l = (v' sigma(Z w) - v*' sigma(Z w*)) ** 2 / 2
    ```

    Args:
        v: Array of shape `(..., m)`.
        w: Array of shape `(..., n)`, not zero.
        v_star: Array of shape `(..., m)`, not zero.
        w_star: Array of shape `(..., n)`, not zero.
        Z: Array of shape `(..., m, n)`, the inputs. The axes in front
            broadcast with those of the parameters.

    Returns:
        Array of the shape `(...)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, v_star, w_star = [1.0], [0.0, 1.0], [1.0], [1.0, 0.0]
    >>> float(theory.sample_loss(v, w, v_star, w_star, Z=[[-1.0, 2.0]]))
    0.5
    """
    return _residual(*_checked(v, w, v_star, w_star, Z))[0] ** 2 / 2


def sample_gradient_v(v, w, v_star, w_star, Z):
    """dl/dv, the true gradient by v of the sample loss.

    Source: slide "Accessible gradients in training", "Formally by chain rule".

    Args:
        v, w, v_star, w_star, Z: See `sample_loss`.

    Returns:
        Array of shape `(..., m)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, v_star, w_star = [1.0], [0.0, 1.0], [1.0], [1.0, 0.0]
    >>> theory.sample_gradient_v(v, w, v_star, w_star, Z=[[-1.0, 2.0]])
    array([1.])
    """
    residual, before = _residual(*_checked(v, w, v_star, w_star, Z))
    return binarized_relu(before) * residual[..., None]


def coarse_gradient(v, w, v_star, w_star, Z, derivative="relu"):
    """g(v, w; Z), the coarse gradient by w of the sample loss.

    The true gradient by w is 0 almost everywhere, as sigma' is; here mu'
    stands in for it.

    Source: slide "Replace sigma' by (sub)derivative mu' of regular ReLU
    function".

    Formula:

    ```
    g = Z' (mu'(Z w) * v) * (v' sigma(Z w) - v*' sigma(Z w*))
    ```

    Args:
        v, w, v_star, w_star, Z: See `sample_loss`.
        derivative: String, mu', see `coarse_derivative`. Defaults to
            `"relu"`, the slides'.

    Returns:
        Array of shape `(..., n)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, v_star, w_star = [1.0], [0.0, 1.0], [1.0], [1.0, 0.0]
    >>> theory.coarse_gradient(v, w, v_star, w_star, Z=[[-1.0, 2.0]])
    array([-1.,  2.])
    """
    check_derivative(derivative)
    v, w, v_star, w_star, Z = _checked(v, w, v_star, w_star, Z)
    residual, before = _residual(v, w, v_star, w_star, Z)
    weights = coarse_derivative(before, derivative) * v * residual[..., None]
    return (weights[..., None, :] @ Z)[..., 0, :]


def empirical_loss(v, w, v_star, w_star, Z):
    """The mean of the sample loss over N inputs, piecewise constant in w.

    Source: slide "Empirical risk minimization".

    Args:
        v, w, v_star, w_star: See `sample_loss`.
        Z: Array of shape `(..., N, m, n)`: the N samples of each problem. Of
            rank 3, all problems have the same ones.

    Returns:
        Array of the shape `(...)`, without N.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, v_star, w_star = [1.0], [0.0, 1.0], [1.0], [1.0, 0.0]
    >>> Z = [[[-1.0, 2.0]], [[1.0, 1.0]]]
    >>> float(theory.empirical_loss(v, w, v_star, w_star, Z))
    0.25
    """
    arguments = check_samples(v, w, v_star, w_star, Z)
    return np.mean(_mean_residual(*arguments)[0] ** 2, axis=-1) / 2


def empirical_gradients(v, w, v_star, w_star, Z, derivative="relu"):
    """The means of dl/dv and of the coarse gradient g over N inputs.

    Args:
        v, w, v_star, w_star, Z: See `empirical_loss`.
        derivative: String, see `coarse_derivative`. Defaults to `"relu"`.

    Returns:
        `(gradient_v, coarse_gradient_w)` of shapes `(..., m)` and `(..., n)`.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> v, w, v_star, w_star = [1.0], [0.0, 1.0], [1.0], [1.0, 0.0]
    >>> Z = [[[-1.0, 2.0]], [[1.0, 1.0]]]
    >>> theory.empirical_gradients(v, w, v_star, w_star, Z)
    (array([0.5]), array([-0.5,  1. ]))
    """
    check_derivative(derivative)
    arguments = check_samples(v, w, v_star, w_star, Z)
    return mean_gradients(*arguments, derivative)


def check_samples(v, w, v_star, w_star, Z):
    """Returns the arguments of `empirical_loss` as arrays, or raises."""
    v, w, v_star, w_star = check_problem(v, w, v_star, w_star)
    Z = check_inputs(Z, v, w, rank=3)
    check_broadcast(Z=Z.shape[:-3], v=v.shape[:-1], w=w.shape[:-1])
    return v, w, v_star, w_star, Z


def mean_gradients(v, w, v_star, w_star, Z, derivative):
    """`empirical_gradients` of checked arguments."""
    residual, before = _mean_residual(v, w, v_star, w_star, Z)
    num_samples = Z.shape[-3]
    residual = residual[..., None, :] / num_samples
    gradient_v = (residual @ binarized_relu(before))[..., 0, :]
    # One product of a row with all rows of all samples.
    weights = coarse_derivative(before, derivative)
    weights *= np.swapaxes(residual, -1, -2)
    weights *= v[..., None, :]
    weights = weights.reshape(*weights.shape[:-2], 1, -1)
    return gradient_v, (weights @ _rows(Z))[..., 0, :]


def _checked(v, w, v_star, w_star, Z):
    v, w, v_star, w_star = check_problem(v, w, v_star, w_star)
    Z = check_inputs(Z, v, w)
    check_broadcast(Z=Z.shape[:-2], v=v.shape[:-1], w=w.shape[:-1])
    return v, w, v_star, w_star, Z


def _apply(Z, w):
    """`Z w` for each pair."""
    return (Z @ w[..., None])[..., 0]


def _network(v, before):
    return np.sum(v * binarized_relu(before), axis=-1)


def _residual(v, w, v_star, w_star, Z):
    """The student's output less the teacher's; and `Z w`."""
    before = _apply(Z, w)
    return _network(v, before) - _network(v_star, _apply(Z, w_star)), before


def _rows(Z):
    """The N inputs `(m, n)` of each problem as `N m` rows."""
    return Z.reshape(*Z.shape[:-3], -1, Z.shape[-1])


def _mean_residual(v, w, v_star, w_star, Z):
    """`_residual` of N samples of each problem, shapes `(..., N[, m])`."""
    per_sample = Z.shape[-3:-1]

    def before(w):
        product = _apply(_rows(Z), w)
        return product.reshape(*product.shape[:-1], *per_sample)

    student, teacher = before(w), before(w_star)
    output = (binarized_relu(student) @ v[..., None])[..., 0]
    target = (binarized_relu(teacher) @ v_star[..., None])[..., 0]
    return output - target, student
