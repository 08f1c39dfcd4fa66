"""What a quantizer is fed, as a histogram, and the alpha that suits it."""

import numpy as np

METHODS = ("mse", "max", "percentile")

# On each side of 0. A staircase of 8 bits then has 64 bins a step, and still 6
# where its range is a tenth of the largest value.
_BINS = 2**14
# So many numbers are counted at once, which caches hold.
_BLOCK = 2**17
# The search for the smallest error: a coarse round, then one around the best.
_COARSE = np.geomspace(0.01, 1, 101)
_FINE = np.geomspace(_COARSE[0] / _COARSE[1], _COARSE[1] / _COARSE[0], 41)


class Histogram:
    """Counts numbers in equal bins from `-top` to `top`; `top` grows.

    Attributes:
        top: Float, at least the largest magnitude so far.
        low: Float, the smallest number so far, at most 0.
        high: Float, the largest, at least 0.
        counts: Array, from the lowest bin to the highest. A bin holds its
            upper end, so that 0 is among what is below.
    """

    def __init__(self):
        self.top = self.low = self.high = 0.0
        self.counts = np.zeros(2 * _BINS)

    def add(self, x):
        """Counts the numbers of an array, all of them finite."""
        x = np.ravel(x)
        if x.dtype.kind != "f":
            x = x.astype(np.float64)
        self.low = min(self.low, float(np.min(x, initial=0.0)))
        self.high = max(self.high, float(np.max(x, initial=0.0)))
        largest = max(self.high, -self.low)
        self.top = self.top or largest
        while largest > self.top:
            self._double()
        per_bin = _BINS / self.top if self.top else 0.0
        for start in range(0, len(x), _BLOCK):
            bins = x[start : start + _BLOCK].astype(np.float64)
            bins *= per_bin
            bins = np.ceil(bins, out=bins).astype(np.int64)
            bins += _BINS - 1
            np.clip(bins, 0, 2 * _BINS - 1, out=bins)
            self.counts += np.bincount(bins, minlength=2 * _BINS)

    def _double(self):
        """Twice the width: two old bins make one."""
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(2 * _BINS)
        self.counts[_BINS // 2 : -_BINS // 2] = pairs
        self.top *= 2

    @property
    def edges(self):
        """The ends of the bins, one more than there are bins."""
        return np.linspace(-self.top, self.top, 2 * _BINS + 1)


def staircase_error(histogram, alphas, bits):
    """The sum of (sigma(x, alpha) - relu(x))^2 for each alpha.

    Args:
        histogram: `Histogram` of x.
        alphas: Array of shape `(n,)`.
        bits: Int, of the staircase.

    Returns:
        Array of shape `(n,)`.
    """
    # Level k holds the x from (k - 1) alpha to k alpha, the last one all above.
    levels = np.arange(1, 2**bits)
    return _error(histogram, alphas, levels, levels - 1.0, low=0.0)


def identity_error(histogram, alphas, bits, minimum=None):
    """The sum of (quant_identity(x, alpha) - x)^2 for each alpha.

    Args:
        histogram: `Histogram` of x.
        alphas: Array of shape `(n,)`, the steps.
        bits: Int, of the signed grid.
        minimum: Float, where its codes begin, or `None`; see QuantIdentity.
            Defaults to `None`.

    Returns:
        Array of shape `(n,)`.
    """
    first = np.full(len(alphas), -(2.0 ** (bits - 1)))
    if minimum is not None:
        first = np.maximum(np.round(minimum / np.asarray(alphas)), first)
    codes = first[:, None] + np.arange(2**bits)
    return _error(histogram, alphas, codes, codes - 0.5, low=-np.inf)


def _error(histogram, alphas, codes, begins, low):
    """The sum over codes k of the squares of (k alpha - x).

    Code k holds the x above `begins * alpha`, up to where the next one begins;
    the first one all x above `low`.
    """
    alphas = np.asarray(alphas)[:, None]
    edges = histogram.edges
    middle = (edges[1:] + edges[:-1]) / 2
    begins = begins * alphas
    begins[:, 0] = low
    number, total, squares = (
        _sums(histogram, edges, middle**power, begins) for power in range(3)
    )
    values = codes * alphas
    return np.sum(values**2 * number - 2 * values * total + squares, axis=1)


def _sums(histogram, edges, values, begins):
    """The sum of some values of the numbers from each beginning to the next."""
    total = np.concatenate([[0.0], np.cumsum(histogram.counts * values)])
    at = np.interp(begins, edges, total)
    end = np.broadcast_to(total[-1], (len(at), 1))
    return np.diff(np.concatenate([at, end], axis=1), axis=1)


def best_step(histogram, bits, method, percentile, signed=False, minimum=None):
    """The alpha, or the step, that suits a histogram.

    Args:
        histogram: `Histogram`.
        bits: Int.
        method: String, one of `METHODS`; see `keras_bcgd.calibrate`.
        percentile: Float, for the method of that name.
        signed: Boolean. Whether it is the step of a QuantIdentity. Defaults
            to `False`: the alpha of a QuantReLU.
        minimum: Float, where the codes of a QuantIdentity begin, or `None`.
            Defaults to `None`.

    Returns:
        A float; `None` if no number tells: all are 0, or below it.
    """
    below, above = np.split(histogram.counts, 2)
    is_symmetric = signed and minimum is None
    counts = above + below[::-1] if is_symmetric else above
    largest = max(histogram.high, -histogram.low if is_symmetric else 0.0)
    if not largest > 0:
        return None
    last_code = 2 ** (bits - 1) - 1 if is_symmetric else 2**bits - 1
    if method == "percentile":
        share = np.concatenate([[0.0], np.cumsum(counts) / np.sum(counts)])
        ends = histogram.edges[_BINS:]
        largest = min(largest, np.interp(percentile / 100, share, ends))
    scale = (largest - (minimum or 0.0)) / last_code
    if method == "mse":
        for factors in (_COARSE, _FINE):
            candidates = scale * factors
            errors = _errors(histogram, candidates, bits, signed, minimum)
            scale = candidates[np.argmin(errors)]
    return float(scale)


def _errors(histogram, alphas, bits, signed, minimum):
    if signed:
        return identity_error(histogram, alphas, bits, minimum)
    return staircase_error(histogram, alphas, bits)


def relative_error(
    histogram, alpha, bits, signed=False, clipped_at=None, minimum=None
):
    """How well an alpha suits a histogram.

    Args:
        histogram: `Histogram`.
        alpha: Float.
        bits: Int.
        signed: Boolean; see `best_step`. Defaults to `False`.
        clipped_at: Float, where the numbers were clipped before they came
            into the histogram, or `None`. Defaults to `None`.
        minimum: Float; see `best_step`. Defaults to `None`.

    Returns:
        `(share, error)`: the share of the numbers beyond the last code (those
        that were clipped not among them), and the root of the squared error
        over that of the numbers. Only positive ones count, unless `signed`.
        `(None, None)` if there are none.
    """
    edges = histogram.edges
    counts = histogram.counts
    middle = (edges[1:] + edges[:-1]) / 2
    last_code = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    first_code = -(2 ** (bits - 1))
    if minimum is not None:
        first_code = max(np.round(minimum / alpha), first_code)
        last_code = first_code + 2**bits - 1
    beyond = middle > last_code * alpha
    if signed:
        beyond |= middle < first_code * alpha
    if clipped_at is not None:
        # The bin of that number does not count, whichever way it was rounded.
        beyond &= edges[1:] < clipped_at * (1 - 1e-6)
    if not signed:
        counts, middle, beyond = counts[_BINS:], middle[_BINS:], beyond[_BINS:]
    squares = np.sum(counts * middle**2)
    if not squares:
        return None, None
    (error,) = _errors(histogram, [alpha], bits, signed, minimum)
    share = np.sum(counts[beyond]) / np.sum(counts)
    return float(share), float(np.sqrt(max(error, 0.0) / squares))
