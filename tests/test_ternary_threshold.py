"""The threshold without a sort, against a full sort in NumPy."""

import keras
import numpy as np
import pytest
from keras import ops
from projection_errors import full_sort_error
from projection_errors import squared_error

from keras_bcgd import project
from keras_bcgd import ternary_threshold

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def clusters(rng, size):
    """Many at 0.1, few at 1: two local optima far from each other."""
    few = max(size // 100, 1)
    y = 0.1 + 0.001 * rng.normal(size=size)
    y[:few] = 1
    return y


SAMPLES = {
    "gaussian": lambda rng, size: rng.normal(size=size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size),
    "cauchy": lambda rng, size: rng.standard_cauchy(size),
    "lognormal": lambda rng, size: rng.lognormal(0, 3, size),
    "clusters": clusters,
    "few values": lambda rng, size: rng.integers(-3, 4, size) / 7,
    "sparse": lambda rng, size: (
        rng.normal(size=size) * (rng.random(size) < 0.1)
    ),
    "equal": lambda rng, size: np.full(size, -0.3),
}


def sample(name, size, seed=0):
    y = SAMPLES[name](np.random.default_rng(seed), size)
    return y.astype("float32")


def search(compiled, rows):
    """Thresholds in units of y, and whether all were found."""
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    largest[largest == 0] = 1
    threshold, is_found = compiled(ternary_threshold.search)(
        ops.convert_to_tensor(np.abs(rows) / largest)
    )
    return np.array(threshold) * largest, bool(is_found)


def error_of_threshold(y, threshold):
    magnitudes = np.abs(y.astype("float64"))
    codes = magnitudes > threshold
    scale = magnitudes[codes].mean() if codes.any() else 0.0
    return squared_error(magnitudes, scale, codes)


@pytest.mark.parametrize("size", [1, 2, 3, 30, 5000])
def test_no_prefix_of_the_sorted_magnitudes_is_better(compiled, size):
    rows = np.stack([sample(name, size) for name in SAMPLES])
    thresholds, is_found = search(compiled, rows)
    assert is_found
    for y, threshold in zip(rows, thresholds, strict=True):
        # Sums in float32 settle f, which is at most ||y||^2, to some 1e-7.
        allowed = 1e-6 * np.sum(y.astype("float64") ** 2)
        error = error_of_threshold(y, threshold)
        assert error <= full_sort_error(y, 2) + allowed


@pytest.mark.skipif(not ON_TENSORFLOW, reason="JAX computes in float32")
def test_in_float64_the_codes_are_those_of_the_sort(compiled):
    rows = np.stack([sample(name, 3000) for name in SAMPLES])
    rows = rows.astype("float64")
    _, expected = project(rows, 2, axis=0)  # not compiled: by a sort
    thresholds, is_found = search(compiled, rows)
    assert is_found
    codes = np.sign(rows) * (np.abs(rows) > thresholds)
    np.testing.assert_array_equal(codes, expected)


def test_the_higher_of_two_far_optima_is_found(compiled):
    rng = np.random.default_rng(0)
    rows = np.tile(rng.uniform(0.05, 0.3, (40, 1)), (1, 1000))
    for row, few in zip(rows, rng.integers(1, 100, 40), strict=True):
        row[:few] = 1
    rows = rows.astype("float32")
    thresholds, is_found = search(compiled, rows)
    assert is_found
    for y, threshold in zip(rows, thresholds, strict=True):
        all_and_few = error_of_threshold(y, 0.0), error_of_threshold(y, 0.5)
        allowed = 1e-6 * np.sum(y.astype("float64") ** 2)
        assert error_of_threshold(y, threshold) <= min(all_and_few) + allowed


def test_all_zero_has_codes_zero(compiled):
    threshold, is_found = search(compiled, np.zeros((1, 9), "float32"))
    assert is_found and threshold >= 0


def test_a_nan_is_not_found(compiled):
    y = sample("gaussian", 50)
    y[7] = np.nan
    assert not search(compiled, y[None])[1]


@pytest.mark.parametrize("rounds", [0, 16])
def test_what_is_not_found_is_sorted(compiled, monkeypatch, rounds):
    """The projection is the same one, however far the search came."""
    monkeypatch.setattr(ternary_threshold, "FIRST_ROUNDS", 1)
    monkeypatch.setattr(ternary_threshold, "MOST_ROUNDS", rounds)
    y = ops.convert_to_tensor(sample("gaussian", 400).reshape(20, 20))
    expected_scale, expected = project(y, 2)
    scale, codes = compiled(lambda y: project(y, 2))(y)
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
