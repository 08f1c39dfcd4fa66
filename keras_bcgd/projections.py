"""proj_Q(y): the nearest point to y whose entries are one scale times codes.

Slides "Weight Quantization" and "Projection: solving least squares problem":
the quantized weights are `w = scale * codes` with a float scale >= 0 and
integer codes in `{-K, ..., K}`, where K = `largest_code(bits)`; at 1 bit the
codes are -1 and +1 only. `project` solves

    minimize ||scale * codes - y||^2   over scale >= 0 and all codes

exactly at 1 and 2 bits, and from 3 bits on by the method asked for. The
functions `project_*` below are its parts: each works along the last axis, so
that a `(rows, n)` tensor has one scale per row. All are pure functions of
tensors and run inside a traced training step.
"""

import functools

import keras
from keras import ops

from keras_bcgd import backend
from keras_bcgd import ternary_threshold
from keras_bcgd.utils.checks import check_axis
from keras_bcgd.utils.checks import check_bits

METHODS = ("lloyd", "lloyd_converged", "exact", "warm", "twn")

# Converged Lloyd took 18 to 258 rounds on real layers; it stops by itself.
_MAX_LLOYD_ROUNDS = 1000


def largest_code(bits):
    """K, the largest weight code: 1 at 1 and 2 bits, `2**(bits-1) - 1` above.

    Args:
        bits: Int from 1 to 8.

    Returns:
        An int.
    """
    return 1 if bits <= 2 else 2 ** (bits - 1) - 1


def project(y, bits, method="lloyd", axis=None, scale=None):
    """Projects `y` on the quantized tensors: the nearest `scale * codes`.

    Source: slides "Projection: solving least squares problem" (both), where
    the scale is called s and the codes q.

    Formula:

    ```
    scale, codes = argmin(sum((scale * codes - y) ** 2))
    ```

    Args:
        y: Float tensor of any shape, the float weights.
        bits: Int from 1 to 8, the bit width.
        method: String. How the problem is solved from 3 bits on:
            `"lloyd"`, the slides' practical choice: one round of Lloyd's
            algorithm from `s0 = 2 / (2**bits - 1) * max|y|`;
            `"lloyd_converged"`: rounds until the scale stands still, at a
            local minimum, which depends on the start;
            `"exact"`: the minimum itself, by a sort of all `K * y.size`
            breakpoints (see `project_exact`; outside a traced step,
            `project_exact_numpy` finds the same much faster);
            `"warm"`: one round from `scale`, and exact where no scale is
            given. 1 and 2 bits are exact under every method but `"twn"`,
            which is for 2 bits only (see `project_twn`).
            Defaults to `"lloyd"`.
        axis: Int, tuple of ints or `None`. The kept axes: one scale for each
            index along them. `None`: one scale for the whole tensor.
            Defaults to `None`.
        scale: Tensor or `None`. Where Lloyd's rounds start instead of s0;
            of the shape this function returns. Without effect on an exact
            solution. Defaults to `None`.

    Returns:
        `(scale, codes)`. `scale >= 0` has shape `()`, or the rank of `y` with
        ones in place of the axes not kept. `codes` has the shape and dtype of
        `y` and holds whole numbers. `scale * codes` is the projection. A NaN
        or infinity in `y` makes the scale NaN.

    Raises:
        ValueError: If `bits`, `method` or `axis` is not one of the above.

    Example:

    >>> scale, codes = keras_bcgd.project([0.9, -1.1, 0.1], bits=2)
    >>> float(scale), np.array(codes)
    (1.0, array([ 1., -1.,  0.], dtype=float32))
    """
    bits = check_bits(bits)
    check_method(method, bits)
    y = ops.convert_to_tensor(y)
    if not keras.backend.is_float_dtype(y.dtype):
        y = ops.cast(y, keras.config.floatx())
    shape = tuple(y.shape)
    kept = check_axis(axis, len(shape))
    scale_shape = ()
    if axis is not None:
        scale_shape = tuple(
            size if i in kept else 1 for i, size in enumerate(shape)
        )
    order = kept + tuple(i for i in range(len(shape)) if i not in kept)
    num_rows = 1
    for a in kept:
        num_rows *= shape[a]

    rows = ops.reshape(ops.transpose(y, order), (num_rows, -1))
    # The sums of 16-bit floats would overflow or stand still.
    rows = ops.cast(rows, keras.backend.result_type(y.dtype, "float32"))
    start = None if scale is None else ops.reshape(scale, (num_rows, 1))
    row_scale, row_codes = _project_rows(rows, bits, method, start)

    codes = ops.reshape(row_codes, [shape[i] for i in order])
    codes = ops.transpose(codes, [order.index(i) for i in range(len(shape))])
    scale = ops.reshape(row_scale, scale_shape)
    return ops.cast(scale, y.dtype), ops.cast(codes, y.dtype)


def _project_rows(y, bits, method, start):
    if bits == 1:
        return project_binary(y)
    if method == "twn":
        return project_twn(y)
    if bits == 2:
        return project_ternary(y)
    if method == "exact" or (method == "warm" and start is None):
        return project_exact(y, bits)
    rounds = _MAX_LLOYD_ROUNDS if method == "lloyd_converged" else 1
    return project_lloyd(y, bits, start, rounds)


def project_binary(y):
    """Exact at 1 bit: `scale = mean|y|`, `codes = sign(y)`, sign(0) = 1.

    Source: slide "Projection: solving least squares problem", Binarization.

    Args:
        y: Float tensor of shape `(..., n)`.

    Returns:
        `(scale, codes)` of shapes `(..., 1)` and `(..., n)`.
    """
    scale = ops.mean(ops.abs(y), axis=-1, keepdims=True)
    # inf - inf: an infinite entry must be seen, as with more bits.
    scale = ops.where(ops.isfinite(scale), scale, scale - scale)
    codes = ops.where(y >= 0, ops.ones_like(y), -ops.ones_like(y))
    return scale, codes


def project_ternary(y):
    """Exact at 2 bits: the signs of the t* largest entries, 0 elsewhere.

    Source: slide "Projection: solving least squares problem", Ternarization;
    O(n log n). Within a compiled step t* is found without a sort, see
    `ternary_threshold`.

    Formula:

    ```
    t_star = argmax_t(sum(t largest |y|) ** 2 / t)
    scale = sum(t_star largest |y|) / t_star
    ```

    Args:
        y: Float tensor of shape `(..., n)`.

    Returns:
        `(scale, codes)` of shapes `(..., 1)` and `(..., n)`.
    """
    magnitudes = _normalized_magnitudes(y)

    def by_sort():
        largest_first = ops.flip(ops.sort(magnitudes, axis=-1), axis=-1)
        t_star = _best_prefix(largest_first, ops.ones_like(largest_first))
        threshold = ops.take_along_axis(largest_first, t_star, axis=-1)
        return magnitudes >= threshold

    if backend.is_traced(y):
        threshold, is_found = _fused_search()(magnitudes)
        is_large = backend.cond(
            is_found, lambda: magnitudes > threshold, by_sort
        )
    else:
        is_large = by_sort()
    codes = ops.sign(y) * ops.cast(is_large, y.dtype)
    return best_scale(y, codes), codes


@functools.cache
def _fused_search():
    return backend.fused(ternary_threshold.search)


def project_twn(y):
    """Ternary codes by the threshold `0.7 * mean|y|`, with their best scale.

    The rule of ternary weight networks: no sort, and an error within about
    1 % of the exact one on Gaussian weights.

    Args:
        y: Float tensor of shape `(..., n)`.

    Returns:
        `(scale, codes)` of shapes `(..., 1)` and `(..., n)`.
    """
    magnitudes = ops.abs(y)
    threshold = 0.7 * ops.mean(magnitudes, axis=-1, keepdims=True)
    codes = ops.sign(y) * ops.cast(magnitudes > threshold, y.dtype)
    return best_scale(y, codes), codes


def project_lloyd(y, bits, scale=None, rounds=1):
    """Lloyd's algorithm: the best codes for a scale, the best scale for them.

    Source: slide "Projection: solving least squares problem" (second), the
    q-update, the s-update and "one step Lloyd".

    Formula:

    ```
    s0 = 2 / (2**bits - 1) * max(abs(y))
    codes = clip(round(y / s0), -K, K)
    scale = dot(codes, y) / dot(codes, codes)
    ```

    Args:
        y: Float tensor of shape `(..., n)`.
        bits: Int from 3 to 8.
        scale: Tensor of shape `(..., 1)` or `None`: the start, and s0 where
            it is `None` or not above 0. Defaults to `None`.
        rounds: Int. At most so many rounds; fewer if the scale stands still.
            Defaults to 1.

    Returns:
        `(scale, codes)` of shapes `(..., 1)` and `(..., n)`.
    """
    start = initial_scale(y, bits)
    if scale is not None:
        start = ops.where(scale > 0, ops.cast(scale, y.dtype), start)
    codes = nearest_codes(y, start, bits)
    scale = best_scale(y, codes)
    if rounds == 1:
        return scale, codes

    def moves(previous, scale, count):
        # False for a NaN, which would never stand still.
        moved = ops.abs(scale - previous) > 0
        return ops.logical_and(count < rounds, ops.any(moved))

    def one_round(previous, scale, count):
        codes = nearest_codes(y, scale, bits)
        return scale, best_scale(y, codes), count + 1

    previous, scale, _ = ops.while_loop(moves, one_round, (start, scale, 1))
    return scale, nearest_codes(y, previous, bits)


def project_exact(y, bits):
    """The exact projection from 3 bits on, by one sort of all breakpoints.

    As the scale falls, the code of entry i grows by one at each of the
    breakpoints `|y_i| / (k - 1/2)`, k = 1..K. Between two breakpoints the
    codes do not change, and the best scale for given codes leaves the error
    `||y||^2 - S1^2 / S2` with `S1 = <codes, y>`, `S2 = <codes, codes>`. So the
    minimum is one of the `K * n` prefixes of the sorted breakpoints, along
    which S1 grows by `|y_i|` and S2 by `2 k - 1`. The slides call exact
    solutions too expensive from 3 bits on; this one is O(K n log(K n)).

    S1 and S2 are summed in float64 on TensorFlow. Where JAX has float32 only,
    the error is the smallest one up to some 1e-7 of `||y||^2`.

    Args:
        y: Float tensor of shape `(..., n)`.
        bits: Int from 3 to 8.

    Returns:
        `(scale, codes)` of shapes `(..., 1)` and `(..., n)`.
    """
    count = largest_code(bits)
    magnitudes = _normalized_magnitudes(y)
    k_minus_half = ops.arange(1, count + 1, dtype=y.dtype) - 0.5
    breakpoints = ops.expand_dims(magnitudes, -1) / k_minus_half
    flat_shape = tuple(y.shape[:-1]) + (y.shape[-1] * count,)
    flat = ops.reshape(breakpoints, flat_shape)

    order = ops.argsort(-flat, axis=-1)
    largest_first = ops.take_along_axis(flat, order, axis=-1)
    step = ops.take(k_minus_half, order % count)
    best = _best_prefix(largest_first * step, 2 * step)
    threshold = ops.take_along_axis(largest_first, best, axis=-1)

    passed = breakpoints >= ops.expand_dims(threshold, -1)
    codes = ops.sign(y) * ops.sum(ops.cast(passed, y.dtype), axis=-1)
    return best_scale(y, codes), codes


def initial_scale(y, bits):
    """s0 = 2 / (2**bits - 1) * max|y|, where Lloyd's algorithm starts.

    Source: slide "Projection: solving least squares problem" (second).

    Args:
        y: Float tensor of shape `(..., n)`.
        bits: Int from 3 to 8.

    Returns:
        Tensor of shape `(..., 1)`.
    """
    largest = ops.max(ops.abs(y), axis=-1, keepdims=True)
    return largest * (2.0 / (2**bits - 1))


def nearest_codes(y, scale, bits):
    """The q-update: for each entry the code nearest to `y / scale`.

    Source: slide "Projection: solving least squares problem" (second).

    Args:
        y: Float tensor of shape `(..., n)`.
        scale: Tensor of shape `(..., 1)`; 0 counts as 1.
        bits: Int from 3 to 8.

    Returns:
        Tensor of shape `(..., n)`.
    """
    scale = ops.where(scale == 0, ops.ones_like(scale), scale)
    limit = largest_code(bits)
    return ops.clip(ops.round(y / scale), -limit, limit)


def best_scale(y, codes):
    """The s-update: `<codes, y> / <codes, codes>`, 0 where all codes are 0.

    Source: slide "Projection: solving least squares problem" (second).

    Args:
        y: Float tensor of shape `(..., n)`.
        codes: Tensor of shape `(..., n)`.

    Returns:
        Tensor of shape `(..., 1)`.
    """
    products = ops.sum(codes * y, axis=-1, keepdims=True)
    squares = ops.sum(codes * codes, axis=-1, keepdims=True)
    return products / ops.where(squares == 0, ops.ones_like(squares), squares)


def _normalized_magnitudes(y):
    """|y| / max|y|, whose squares neither overflow nor vanish."""
    magnitudes = ops.abs(y)
    largest = ops.max(magnitudes, axis=-1, keepdims=True)
    largest = ops.where(largest > 0, largest, ops.ones_like(largest))
    return magnitudes / largest


def _best_prefix(increments_1, increments_2):
    """argmax_t S1_t^2 / S2_t over the cumulative sums, of shape (..., 1)."""
    dtype = backend.accumulation_dtype(increments_1.dtype)
    sum_1 = ops.cumsum(ops.cast(increments_1, dtype), axis=-1)
    sum_2 = ops.cumsum(ops.cast(increments_2, dtype), axis=-1)
    best = ops.argmax(sum_1 * sum_1 / sum_2, axis=-1)
    return ops.expand_dims(best, -1)


def check_method(method, bits):
    """Raises a `ValueError` if `method` is no projection method at `bits`."""
    if method not in METHODS:
        raise ValueError(
            f"The projection method must be one of {', '.join(METHODS)}. "
            f"Received: {method!r}"
        )
    if method == "twn" and bits != 2:
        raise ValueError(
            'The projection method "twn" is for 2 bits only. '
            f"Received: bits={bits}"
        )
