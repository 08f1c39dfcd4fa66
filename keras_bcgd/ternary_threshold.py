"""The threshold of the exact ternary projection, found without a sort.

Ternary codes are 0 up to a threshold t of the magnitudes. With the N magnitudes
above it and their sum S, the best scale S / N leaves the squared error
||y||^2 - f, where f = S^2 / N: the best threshold has the largest f (slide
"Projection: solving least squares problem", Ternarization).

A grid of thresholds gives f at its points. What lies between two of them, below
the upper point u, is done with if one of these is known:

- One magnitude at most lies there, or all are equal up to rounding: f is known
  for all its thresholds.
- f is not larger there. The n magnitudes that lie there are at most u. So f is
  at most f(u) or (S(u) + n u)^2 / (N(u) + n), since (S + k u)^2 / (N + k) is
  convex in k.
- The optimum is not there. It is half of its own scale, t = S(t) / (2 N(t)),
  and the right side never falls.

A finer grid goes over the rest, until there is none.
"""

from keras import ops

from keras_bcgd import backend

POINTS = 32
# These end it for Gaussian weights; more are taken one by one, since on a GPU
# each of those waits for the one before.
FIRST_ROUNDS = 3
MOST_ROUNDS = 16


def search(magnitudes):
    """The best threshold, compared with all others by bounds.

    Args:
        magnitudes: Float tensor of shape `(..., n)` from 0 to 1, the largest
            of each row 1 (or 0).

    Returns:
        `(threshold, is_found)` of shapes `(..., 1)` and `()`. The codes are
        not 0 where the magnitude is above the threshold. `is_found` is false
        where a row is left with a choice that no grid could settle, or has a
        NaN.
    """
    low = 0 * magnitudes[..., :1]
    state = low, low + 0.5, low - 1, low
    for _ in range(FIRST_ROUNDS):
        state = _narrow(magnitudes, *state)

    def is_open(count, low, high, *rest):
        return ops.logical_and(count < MOST_ROUNDS, ops.any(low < high))

    def one_round(count, *state):
        return count + 1, *_narrow(magnitudes, *state)

    _, low, high, best, threshold = ops.while_loop(
        is_open, one_round, (FIRST_ROUNDS, *state)
    )
    return threshold, ops.logical_and(ops.all(best >= 0), ops.all(low >= high))


def _narrow(magnitudes, low, high, best, threshold):
    """One round: what is left between `low` and `high`, and the best so far."""
    places = ops.arange(POINTS, dtype=low.dtype) / (POINTS - 1)
    grid = low + (high - low) * places
    counts, sums = _counts_and_sums(magnitudes, grid)
    at_least_one = ops.maximum(counts, 1)
    slack = 1 + 4 * backend.machine_epsilon(low.dtype)

    f = sums * sums / at_least_one
    place = ops.expand_dims(ops.argmax(f, axis=-1), -1)
    found = ops.take_along_axis(grid, place, axis=-1)
    threshold = ops.where(_largest(f) > best, found, threshold)
    best = ops.maximum(best, _largest(f))

    passed = counts[..., :-1] - counts[..., 1:]
    bound = sums[..., 1:] + passed * grid[..., 1:]
    bound = bound * bound / at_least_one[..., :-1]
    half_scale = sums / (2 * at_least_one)
    first = ops.maximum(grid, half_scale)[..., :-1]
    last = ops.minimum(grid, half_scale)[..., 1:]
    is_open = ops.logical_and(bound > best * slack, first <= last * slack)
    is_open = ops.logical_and(is_open, passed > 1)
    is_open = ops.logical_and(is_open, grid[..., 1:] > grid[..., :-1] * slack)
    low = -_largest(ops.where(is_open, -first, -high))
    high = ops.maximum(low, _largest(ops.where(is_open, last, low)))
    return low, high, best, threshold


def _counts_and_sums(magnitudes, thresholds):
    """How many magnitudes are above each threshold, and their sum."""
    rows = ops.expand_dims(magnitudes, -2)
    above = rows > ops.expand_dims(thresholds, -1)
    zero, one = ops.zeros_like(rows), ops.ones_like(rows)
    counts = ops.sum(ops.where(above, one, zero), axis=-1)
    return counts, ops.sum(ops.where(above, rows, zero), axis=-1)


def _largest(x):
    return ops.max(x, axis=-1, keepdims=True)
