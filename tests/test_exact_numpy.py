"""Tests of the exact least-squares projection in NumPy."""

import numpy as np
import pytest
from projection_errors import brute_force_error
from projection_errors import full_sort_error
from projection_errors import squared_error

from keras_bcgd import exact_numpy
from keras_bcgd.exact_numpy import project_exact_numpy

ALL_BITS = range(1, 9)


def largest_code(bits):
    return max(1, 2 ** (bits - 1) - 1)


def assert_same_error(y, bits, expected, relative=1e-6):
    scale, codes = project_exact_numpy(y, bits)
    assert np.all(np.abs(codes) <= largest_code(bits))
    np.testing.assert_array_equal(codes, np.round(codes))
    floor = 1e-12 * np.sum(np.asarray(y, np.float64) ** 2)
    np.testing.assert_allclose(
        squared_error(y, scale, codes), expected, rtol=relative, atol=floor
    )


def sample(name, size, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "gaussian": lambda: rng.standard_normal(size),
        "uniform": lambda: rng.uniform(-1, 1, size),
        "laplace": lambda: rng.laplace(size=size),
        "cauchy": lambda: rng.standard_cauchy(size),
        # Every threshold is nearly self-consistent for ternary codes.
        "pareto": lambda: 1 + rng.pareto(2, size),
        "integers": lambda: rng.integers(-20, 21, size).astype(float),
        "constant": lambda: np.full(size, 0.3),
        "clusters": lambda: rng.choice([0, 1, -1, 3, 5, 1e3], size),
        "spike": lambda: np.append(1e-6 * rng.standard_normal(size - 1), 1.0),
    }[name]()


NAMES = [
    "gaussian",
    "uniform",
    "laplace",
    "cauchy",
    "pareto",
    "integers",
    "constant",
    "clusters",
    "spike",
]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6])
def test_brute_force(size, bits):
    for seed in range(3):
        y = sample("gaussian", size, seed)
        assert_same_error(y, bits, brute_force_error(y, bits))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_brute_force_with_ties_and_zeros(bits):
    for seed in range(5):
        y = np.random.default_rng(seed).integers(-3, 4, 5).astype(float)
        assert_same_error(y, bits, brute_force_error(y, bits))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [7, 300, 5000])
def test_full_sort(size, name, bits):
    y = sample(name, size)
    assert_same_error(y, bits, full_sort_error(y, bits), relative=1e-8)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("few_steps", [2, 20])
def test_full_sort_with_many_refinements(few_steps, name, bits, monkeypatch):
    monkeypatch.setattr(exact_numpy, "_FEW_STEPS", few_steps)
    y = sample(name, 5000)
    assert_same_error(y, bits, full_sort_error(y, bits), relative=1e-8)


@pytest.mark.parametrize("bits", [4, 8])
def test_few_steps_are_searched(bits, monkeypatch):
    searched = []
    search = exact_numpy._Walk._search

    def counting_search(self, high, low):
        searched.append(np.sum(self._cuts_at(high) - self._cuts_at(low)))
        search(self, high, low)

    monkeypatch.setattr(exact_numpy._Walk, "_search", counting_search)
    project_exact_numpy(sample("gaussian", 50_000), bits)
    assert 0 < sum(searched) < 0.05 * 50_000 * largest_code(bits)


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_are_the_nearest_to_the_scale(bits):
    y = sample("laplace", 3000)
    scale, codes = project_exact_numpy(y, bits)
    limit = largest_code(bits)
    np.testing.assert_array_equal(
        codes, np.clip(np.round(y / scale), -limit, limit)
    )


@pytest.mark.parametrize("bits", ALL_BITS)
def test_scale_is_the_least_squares_one(bits):
    y = sample("gaussian", 3000)
    scale, codes = project_exact_numpy(y, bits)
    np.testing.assert_allclose(scale, codes @ y / (codes @ codes), rtol=1e-13)


def test_one_bit_takes_zero_as_plus_one():
    scale, codes = project_exact_numpy(np.array([0.0, -0.0, -3.0, 1.0]), 1)
    assert scale == 1.0
    np.testing.assert_array_equal(codes, [1, 1, -1, 1])


@pytest.mark.parametrize("bits", range(2, 9))
def test_equal_magnitudes_get_equal_codes(bits):
    y = sample("integers", 2000)
    _, codes = project_exact_numpy(y, bits)
    for value in range(21):
        assert len(set(np.abs(codes[np.abs(y) == value]))) <= 1


@pytest.mark.parametrize("bits", ALL_BITS)
def test_zeros(bits):
    scale, codes = project_exact_numpy(np.zeros((2, 3), "float32"), bits)
    assert scale == 0
    np.testing.assert_array_equal(codes, np.full((2, 3), float(bits == 1)))


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("value", [-2.5, 1.0, 1e-3])
def test_one_element_is_exact(value, bits):
    scale, codes = project_exact_numpy(np.array([value]), bits)
    np.testing.assert_allclose(scale * codes, [value], rtol=1e-15)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_extreme_magnitudes_in_float32(factor, bits):
    y = sample("gaussian", 1000).astype("float32") * np.float32(factor)
    scale, codes = project_exact_numpy(y, bits)
    expected_scale, expected_codes = project_exact_numpy(
        y.astype("float64") / factor, bits
    )
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_allclose(scale / factor, expected_scale, rtol=1e-6)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("exponent", [-1000, 1020])
def test_extreme_magnitudes_in_float64(exponent, bits):
    y = sample("uniform", 1000)
    scale, codes = project_exact_numpy(np.ldexp(y, exponent), bits)
    expected_scale, expected_codes = project_exact_numpy(y, bits)
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_allclose(np.ldexp(scale, -exponent), expected_scale)


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_seen_in_its_group_only(bad, bits):
    y = sample("gaussian", 12).reshape(3, 4)
    y[1, 2] = bad
    scale, codes = project_exact_numpy(y, bits, axis=0)
    assert np.all(np.isnan((scale * codes)[1]))
    assert np.all(np.isfinite((scale * codes)[[0, 2]]))
    scale, codes = project_exact_numpy(y, bits)
    assert np.all(np.isnan(scale * codes))


@pytest.mark.parametrize("bits", ALL_BITS)
@pytest.mark.parametrize("axis", [0, 1, -1, (0,), (0, 2), (2, 0), (1, -1)])
def test_axis_matches_a_loop_over_slices(axis, bits):
    y = sample("laplace", 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    kept = [i % 4 for i in (axis if isinstance(axis, tuple) else (axis,))]
    scale, codes = project_exact_numpy(y, bits, axis=axis)
    assert scale.shape == tuple(
        y.shape[i] if i in kept else 1 for i in range(4)
    )
    for index in np.ndindex(scale.shape):
        pick = tuple(
            slice(j, j + 1) if i in kept else slice(None)
            for i, j in enumerate(index)
        )
        expected_scale, expected_codes = project_exact_numpy(y[pick], bits)
        assert scale[index] == expected_scale
        np.testing.assert_array_equal(codes[pick], expected_codes)


def test_axis_of_all_axes_keeps_every_element():
    y = sample("gaussian", 6).reshape(2, 3)
    scale, codes = project_exact_numpy(y, 2, axis=(0, 1))
    np.testing.assert_array_equal(scale * codes, y)


def test_axis_of_no_axes_keeps_the_rank():
    y = sample("gaussian", 6).reshape(2, 3)
    scale, _ = project_exact_numpy(y, 2, axis=())
    assert scale.shape == (1, 1)
    assert scale.item() == project_exact_numpy(y, 2)[0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bits", ALL_BITS)
def test_dtype_and_shape(bits, dtype):
    y = sample("gaussian", 12).reshape(3, 4).astype(dtype)
    scale, codes = project_exact_numpy(y, bits)
    assert scale.dtype == dtype
    assert scale.shape == ()
    assert codes.dtype == dtype
    assert codes.shape == (3, 4)


def test_input_is_not_changed():
    y = sample("gaussian", 100)
    before = y.copy()
    project_exact_numpy(y, 4)
    np.testing.assert_array_equal(y, before)


def test_scalar():
    scale, codes = project_exact_numpy(-3.0, 2)
    assert scale == 3.0
    assert codes == -1


def test_integers_are_taken_as_float64():
    scale, _ = project_exact_numpy([1, -2, 2], 2)
    assert scale.dtype == "float64"


def test_no_negative_zero_among_codes():
    _, codes = project_exact_numpy(np.array([-1e-9, 1.0]), 2)
    assert not np.signbit(codes[0])


@pytest.mark.parametrize("bits", [0, 9, -1, 2.0, "2", None, True, [2]])
def test_bad_bits(bits):
    with pytest.raises(ValueError, match=r"`bits`.* 1 to 8") as error:
        project_exact_numpy(np.ones(3), bits)
    assert f"Received: bits={bits!r}" in str(error.value)


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (0, -2), 1.0, True, "0"])
def test_bad_axis(axis):
    with pytest.raises(ValueError, match="`axis`") as error:
        project_exact_numpy(np.ones((2, 3)), 2, axis=axis)
    assert f"Received: axis={axis!r}" in str(error.value)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_empty(shape):
    with pytest.raises(ValueError, match="must not be empty"):
        project_exact_numpy(np.zeros(shape), 2)


@pytest.mark.parametrize("dtype", ["complex64", "object", "U3"])
def test_bad_dtype(dtype):
    with pytest.raises(ValueError, match="real numbers"):
        project_exact_numpy(np.ones(3).astype(dtype), 2)
