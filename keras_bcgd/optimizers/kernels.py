"""What the optimizer asks of a kernel: its projection, its grid, its flag."""

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


def flag_of(kernel):
    """The flag of a `QuantKernel`; `None` for the kernel of a stock layer."""
    return getattr(kernel, "kernel_is_quantized", None)
