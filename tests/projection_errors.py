"""Errors of projections by brute force, in NumPy."""

import itertools

import numpy as np

from keras_bcgd.projections import largest_code


def squared_error(y, scale, codes):
    y, codes = np.asarray(y, np.float64), np.asarray(codes, np.float64)
    return np.sum((np.float64(scale) * codes - y) ** 2)


def brute_force_error(y, bits):
    """Smallest error over all codes, each with its own best scale."""
    limit = largest_code(bits)
    choices = [-1, 1] if bits == 1 else range(-limit, limit + 1)
    if len(choices) ** len(y) > 10**6:
        # The signs of the best codes are those of y.
        y, choices = np.abs(y), range(limit + 1)
    codes = np.array(list(itertools.product(choices, repeat=len(y))), float)
    norms = np.sum(codes**2, axis=1)
    scales = np.maximum(codes @ y, 0) / np.where(norms == 0, 1, norms)
    return np.min(np.sum((scales[:, None] * codes - y) ** 2, axis=1))


def full_sort_error(y, bits):
    """Smallest error over all prefixes of all sorted breakpoints."""
    magnitudes = np.abs(np.asarray(y, np.float64))
    halves = np.arange(1, largest_code(bits) + 1) - 0.5
    order = np.argsort(-(magnitudes / halves[:, None]).ravel())
    first = np.cumsum(np.tile(magnitudes, len(halves))[order])
    second = np.cumsum(np.repeat(2 * halves, len(magnitudes))[order])
    best = np.argmax(first**2 / second)
    codes = np.bincount(order[: best + 1] % len(y), minlength=len(y))
    scale = codes @ magnitudes / (codes @ codes)
    return squared_error(magnitudes, scale, codes)
