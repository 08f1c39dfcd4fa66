"""y made to follow a kernel whose scale was changed, or is to stay."""

import numpy as np
from keras import ops

from keras_bcgd.projections import largest_code


def rescale(optimizer, kernel, before):
    """Lets y and the scale follow a kernel that was multiplied by one number.

    The projection of `c * y` is `c` times that of y: the codes stay, and so
    does the place of each y between two codes. Otherwise the optimizer would
    take w for new float weights, and y would be lost.

    Args:
        optimizer: `BlendedOptimizer` that has been built.
        kernel: `keras.Variable`, the kernel, which holds w.
        before: Array, the w of before.
    """
    w, before = np.float64(ops.convert_to_numpy(kernel)), np.float64(before)
    square = np.sum(before * before)
    factor = np.sum(w * before) / square if square else 1.0
    if factor != 1:
        _multiply(optimizer.shadow(kernel), factor)
        _multiply(_scale_of(optimizer, kernel), factor)


def round_to_codes(optimizer, kernel):
    """Scales y so that its codes are those nearest to `y / scale`.

    One round of Lloyd's algorithm finds codes with another scale than the one
    it returns, some percent away, and so does the threshold of TWN. Where the
    codes are the nearest ones already, y stays.

    Args:
        optimizer: `BlendedOptimizer` that has been built.
        kernel: `keras.Variable`, the kernel, which holds w.
    """
    shadow = optimizer.shadow(kernel)
    bits, axis = kernel.constraint.bits, kernel.constraint.axis
    if bits == 1:
        return
    y, w, scale = (
        np.float64(ops.convert_to_numpy(v))
        for v in (shadow, kernel, _scale_of(optimizer, kernel))
    )
    codes = np.abs(np.round(w / np.where(scale > 0, scale, 1)))
    # Code k is the nearest one for scales from |y| / (k + 1/2) to
    # |y| / (k - 1/2); the largest code has no lower end.
    low = np.where(codes < largest_code(bits), np.abs(y) / (codes + 0.5), 0)
    high = np.abs(y) / np.where(codes > 0, codes - 0.5, 1)
    high = np.where(codes > 0, high, np.inf)
    kept = () if axis is None else np.atleast_1d(axis) % y.ndim
    others = tuple(i for i in range(y.ndim) if i not in kept)
    low = np.max(low, axis=others, keepdims=axis is not None)
    high = np.min(high, axis=others, keepdims=axis is not None)
    is_nearest = (low <= scale) & (scale <= high) | ~np.isfinite(high)
    middle = np.where(is_nearest, scale, (low + high) / 2)
    _multiply(shadow, np.where(middle > 0, scale / middle, 1.0))


def _scale_of(optimizer, kernel):
    """The variable with the scale of the w that the optimizer wrote last."""
    shadow = optimizer.shadow(kernel)
    for i, scale in optimizer._scales.items():
        if optimizer._shadows[i] is shadow:
            return scale


def _multiply(variable, factor):
    value = np.float64(ops.convert_to_numpy(variable)) * factor
    variable.assign(value.astype(variable.dtype))
