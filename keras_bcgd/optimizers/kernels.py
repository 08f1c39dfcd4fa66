"""What the optimizer asks of kernels: projection, grid, new weights, flag."""

from keras import ops

from keras_bcgd import backend
from keras_bcgd.projections import largest_code


def project_y(constraint, y, scale=None):
    """proj_Q(y) as `(w, scale)`."""
    scale, codes = constraint.project(y, scale)
    return scale * codes, scale


def is_on_grid(kernel, scale, bits):
    """Whether `kernel` is `scale` times codes of `bits` bits.

    To some units in the last place, since a compiled step may round the
    product and the scale differently; float weights are far off.
    """
    unit = ops.where(scale > 0, scale, ops.ones_like(scale))
    codes = ops.round(kernel / unit)
    tolerance = 8 * backend.machine_epsilon(kernel.dtype)
    near = ops.abs(kernel - codes * unit) <= tolerance * ops.abs(kernel)
    allowed = ops.abs(codes) <= largest_code(bits)
    # All zero is on every grid, but the optimizer wrote it only with scale 0.
    same_size = ops.equal(ops.any(kernel != 0), ops.any(scale != 0))
    return ops.logical_and(ops.all(ops.logical_and(near, allowed)), same_size)


def with_new_weights(constraints, shadows, values, scales):
    """y, w and its scale for each kernel, new weights taken over.

    A kernel that is not on the grid the optimizer wrote last holds new float
    weights: they are the new y.

    Args:
        constraints: Dict of the kernels' constraints, by any key.
        shadows: Dict of tensors, the y of the last step.
        values: Dict of tensors, what the kernels hold.
        scales: Dict of tensors, the scale of each w of the last step.

    Returns:
        Three dicts of tensors.
    """
    own = {
        i: is_on_grid(values[i], scales[i], constraint.bits)
        for i, constraint in constraints.items()
    }

    def take_over():
        y, w, new_scales = {}, {}, {}
        for i, constraint in constraints.items():
            new_w, new_scale = project_y(constraint, values[i])
            y[i] = ops.where(own[i], shadows[i], values[i])
            w[i] = ops.where(own[i], values[i], new_w)
            new_scales[i] = ops.where(own[i], scales[i], new_scale)
        return y, w, new_scales

    return backend.cond(
        ops.all(ops.stack(list(own.values()))),
        lambda: (shadows, values, scales),
        take_over,
    )


def flag_of(kernel):
    """The flag of a `QuantKernel`; `None` for the kernel of a stock layer."""
    return getattr(kernel, "kernel_is_quantized", None)
