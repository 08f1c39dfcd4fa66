"""Coupled L2 regularization: a part of each variable added to its gradient."""

from keras import ops

from keras_bcgd import backend


def add_l2(grads, values, strengths, loss_scale):
    """Adds `strength * value` to each gradient.

    Args:
        grads: List of tensors, or of `None` where a variable has no gradient.
        values: List of tensors or variables of the same shapes.
        strengths: List of floats; with 0 a gradient is handed on as it is.
        loss_scale: Float, by which the gradients will be divided, or `None`.

    Returns:
        List of tensors.
    """
    # Gradients are summed over replicas and then divided by the loss scale;
    # this term must come out once, and whole.
    replicas = backend.num_replicas()
    regularized = []
    for grad, value, strength in zip(grads, values, strengths, strict=True):
        if strength and grad is not None:
            factor = strength / replicas * (loss_scale or 1.0)
            value = ops.cast(value, grad.dtype)
            grad = ops.convert_to_tensor(grad) + factor * value
        regularized.append(grad)
    return regularized
