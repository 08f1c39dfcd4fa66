"""Projections against brute force, NumPy and the laws of a projection."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops
from projection_errors import brute_force_error
from projection_errors import full_sort_error
from projection_errors import squared_error

from keras_bcgd import project
from keras_bcgd import project_exact_numpy
from keras_bcgd import projections

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
# JAX computes in float32 unless told otherwise.
FLOAT = "float64" if ON_TENSORFLOW else "float32"
DTYPES = ["float32", "float64"] if ON_TENSORFLOW else ["float32"]

# Bits and method. At 1 and 2 bits all methods but "twn" are the same, and
# "warm" is "exact" where no scale is given.
ALL = [
    (1, "lloyd"),
    (2, "lloyd"),
    (2, "twn"),
    (3, "lloyd"),
    (3, "lloyd_converged"),
    (3, "exact"),
    (4, "lloyd"),
    (4, "lloyd_converged"),
    (4, "exact"),
    (8, "lloyd"),
    (8, "lloyd_converged"),
    (8, "exact"),
]
EXACT = [(1, "lloyd"), (2, "lloyd"), (3, "exact"), (4, "exact"), (8, "exact")]
# One of each kind, for tests that compile.
ONE_EACH = [(bits, method) for bits, method in ALL if bits not in (3, 8)]

# All 15^4 codes at 4 bits, all 7^5 at 3 bits and so on: under 10^5 codes.
BRUTE_FORCE_SIZES = {
    1: [1, 2, 3, 10],
    2: [1, 2, 3, 8],
    3: [1, 2, 3, 5],
    4: [1, 2, 3, 4],
}

# Shape of a Dense, a Conv2D or a DepthwiseConv2D kernel, and the kept axes.
AXES = [
    ((6, 4), 1),
    ((6, 4), -1),
    ((6, 4), 0),
    ((3, 3, 2, 4), 3),
    ((3, 3, 4, 2), (2, 3)),
    ((3, 3, 4, 2), (-1, 2)),
]

# Bounded, and the same examples at each run.
bounded = settings(max_examples=40, derandomize=True, deadline=None)
# One size, as every size is compiled anew; zeros and ties make it smaller.
vectors = st.lists(
    st.one_of(
        st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
        st.sampled_from([0.0, 1.0, -1.0, 0.5]),
    ),
    min_size=4,
    max_size=4,
)
pairs = st.sampled_from(ALL)


def largest_code(bits):
    return {1: 1, 2: 1, 3: 3, 4: 7, 5: 15, 6: 31, 7: 63, 8: 127}[bits]


def sample(name, size, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "gaussian": lambda: rng.standard_normal(size),
        "uniform": lambda: rng.uniform(-1, 1, size),
        "laplace": lambda: rng.laplace(size=size),
        "integers": lambda: rng.integers(-3, 4, size).astype(float),
    }[name]()


def run(y, bits, method, dtype=FLOAT, **kwargs):
    """`project` from and to NumPy arrays."""
    y = ops.convert_to_tensor(np.asarray(y), dtype=dtype)
    scale, codes = project(y, bits, method, **kwargs)
    return ops.convert_to_numpy(scale), ops.convert_to_numpy(codes)


def error(y, bits, method, dtype=FLOAT, **kwargs):
    return squared_error(y, *run(y, bits, method, dtype, **kwargs))


def lloyd_round(y, bits, start):
    """The slides' q-update and s-update."""
    limit = largest_code(bits)
    codes = np.clip(np.round(y / start), -limit, limit)
    return np.sum(codes * y) / np.sum(codes * codes), codes


# The minimum


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gaussian", "integers"])
@pytest.mark.parametrize(
    ("bits", "method"), [pair for pair in EXACT if pair[0] in BRUTE_FORCE_SIZES]
)
def test_no_codes_are_nearer_by_brute_force(bits, method, name, dtype):
    for size in BRUTE_FORCE_SIZES[bits]:
        y = sample(name, size).astype(dtype).astype("float64")
        # A rounded scale moves the error by the square of that rounding.
        np.testing.assert_allclose(
            error(y, bits, method, dtype),
            brute_force_error(y, bits),
            rtol=1e-6,
            atol=1e-12 * np.sum(y**2),
        )


@bounded
@given(y=vectors, bits=st.sampled_from([1, 2, 3, 4]))
def test_no_codes_are_nearer_for_any_vector(y, bits):
    y = np.array(y)
    # Two prefixes whose S1^2 / S2 differ by less than their rounding.
    rounding = 1e-12 if ON_TENSORFLOW else 1e-6
    np.testing.assert_allclose(
        error(y, bits, "exact"),
        brute_force_error(y, bits),
        rtol=1e-6,
        atol=rounding * np.sum(y**2),
    )


@pytest.mark.parametrize("name", ["gaussian", "uniform", "laplace"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_exact_is_the_full_sort_in_numpy(bits, name):
    y = sample(name, 3000).astype("float32")
    # JAX accumulates S1 and S2 in float32, and ||y||^2 - S1^2 / S2 is small
    # beside either term.
    rounding = 1e-12 if ON_TENSORFLOW else 2e-7
    np.testing.assert_allclose(
        error(y, bits, "exact", "float32"),
        full_sort_error(y, bits),
        rtol=1e-6,
        atol=rounding * np.sum(y.astype("float64") ** 2),
    )


@pytest.mark.parametrize("bits", range(1, 9))
def test_exact_is_project_exact_numpy(bits):
    y = sample("laplace", 3000).astype("float32")
    rounding = 1e-12 if ON_TENSORFLOW else 2e-7
    np.testing.assert_allclose(
        error(y, bits, "exact", "float32"),
        squared_error(y, *project_exact_numpy(y, bits)),
        rtol=1e-6,
        atol=rounding * np.sum(y.astype("float64") ** 2),
    )


@pytest.mark.parametrize("bits", range(3, 9))
def test_exact_codes_are_the_nearest_to_their_scale(bits):
    y = sample("gaussian", 500)
    scale, codes = run(y, bits, "exact")
    _, nearest = lloyd_round(y, bits, scale)
    if ON_TENSORFLOW:
        np.testing.assert_array_equal(codes, nearest)
    else:
        # float32 may stop one breakpoint away.
        assert np.sum(codes != nearest) <= 2


@pytest.mark.parametrize("method", ["lloyd_converged", "exact", "warm"])
@pytest.mark.parametrize("bits", [1, 2])
def test_methods_are_the_same_at_1_and_2_bits(bits, method):
    y = sample("gaussian", 60)
    expected_scale, expected_codes = run(y, bits, "lloyd")
    scale, codes = run(y, bits, method, scale=ops.cast(0.1, FLOAT))
    assert scale == expected_scale
    np.testing.assert_array_equal(codes, expected_codes)


# The laws of a projection


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bits", "method"), ALL)
def test_idempotent(bits, method, dtype):
    # With an outlier the largest code is in use. Without, converged Lloyd
    # starts anew from another s0 and may end at another local minimum.
    y = np.append(sample("gaussian", 60), 10.0)
    scale, codes = run(y, bits, method, dtype)
    w = scale * codes
    scale, codes = run(w, bits, method, dtype)
    # The scale is again a quotient of two sums of 61 rounded terms.
    rounding = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(scale * codes, w, rtol=rounding)


@bounded
@given(y=vectors, pair=pairs.filter(lambda p: p[1] != "lloyd_converged"))
def test_idempotent_for_any_vector(y, pair):
    scale, codes = run(y, *pair)
    w = scale * codes
    scale, codes = run(w, *pair)
    # JAX sums in float32, where an error of 1e-7 ||w||^2 counts as none: that
    # is a distance of 3e-4 ||w||.
    distance = 0 if ON_TENSORFLOW else 1e-3 * np.max(np.abs(w))
    np.testing.assert_allclose(scale * codes, w, rtol=1e-6, atol=distance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bits", "method"), ALL)
def test_a_power_of_two_multiplies_the_scale_exactly(bits, method, dtype):
    y = sample("gaussian", 60).astype(dtype)
    scale, codes = run(y, bits, method, dtype)
    # The squares of these magnitudes are out of range.
    far = 100 if dtype == "float32" else 600
    for factor in (2.0**-far, 2.0, 2.0**far):
        cy = y * y.dtype.type(factor)
        new_scale, new_codes = run(cy, bits, method, dtype)
        np.testing.assert_array_equal(new_codes, codes)
        assert new_scale == scale * factor


@pytest.mark.parametrize(("bits", "method"), ALL)
def test_any_factor_multiplies_the_projection(bits, method):
    y = sample("laplace", 60).astype("float32")
    scale, codes = run(y, bits, method, "float32")
    for factor in (1e-30, 0.3, 1e30):
        cy = y * np.float32(factor)
        new_scale, new_codes = run(cy, bits, method, "float32")
        # No entry of this sample lies within a rounding of two codes.
        np.testing.assert_array_equal(new_codes, codes)
        np.testing.assert_allclose(new_scale / factor, scale, rtol=1e-6)


@bounded
@given(y=vectors, pair=pairs)
def test_minus_y_has_minus_the_projection(y, pair):
    y = np.array(y)
    scale, codes = run(y, *pair)
    new_scale, new_codes = run(-y, *pair)
    assert new_scale == scale
    # At 1 bit the code of 0 is +1 in both.
    different = (y != 0) | (pair[0] > 1)
    np.testing.assert_array_equal(new_codes[different], -codes[different])


@bounded
@given(y=vectors, pair=pairs)
def test_scale_and_codes_are_in_range(y, pair):
    bits, _ = pair
    scale, codes = run(y, *pair)
    assert scale.shape == ()
    assert scale >= 0
    assert codes.shape == (4,)
    np.testing.assert_array_equal(codes, np.round(codes))
    assert np.max(np.abs(codes)) <= largest_code(bits)
    assert bits > 1 or np.min(np.abs(codes)) == 1


# Special values


@pytest.mark.parametrize(("bits", "method"), ALL)
def test_zeros(bits, method):
    scale, codes = run(np.zeros((2, 3)), bits, method)
    assert scale == 0
    np.testing.assert_array_equal(codes, np.full((2, 3), int(bits == 1)))


def test_the_code_of_zero_is_plus_one_at_1_bit():
    scale, codes = run([0.0, -0.0, 3.0, -1.0], 1, "lloyd")
    assert scale == 1.0
    np.testing.assert_array_equal(codes, [1, 1, 1, -1])


@pytest.mark.parametrize("y", [2.5, [-0.1], [[7.0]]])
@pytest.mark.parametrize(("bits", "method"), ALL)
def test_one_element_is_hit(bits, method, y):
    scale, codes = run(y, bits, method)
    assert codes.shape == np.shape(y)
    np.testing.assert_allclose(scale * codes, y, rtol=1e-6)


@pytest.mark.parametrize(("bits", "method"), ALL)
def test_equal_magnitudes_are_hit(bits, method):
    y = 0.3 * np.where(np.arange(7) % 2, 1, -1)
    scale, codes = run(y, bits, method)
    np.testing.assert_allclose(scale * codes, y, rtol=1e-6)


@pytest.mark.parametrize(("bits", "method"), ALL)
def test_ties_get_one_code(bits, method):
    y = sample("integers", 100)
    _, codes = run(y, bits, method)
    for magnitude in (1, 2, 3):
        assert len(set(np.abs(codes[np.abs(y) == magnitude]))) == 1


@pytest.mark.parametrize(("bits", "method"), ALL)
def test_nan_and_infinity_reach_every_entry(bits, method):
    y = sample("gaussian", 8)
    for bad in (np.nan, np.inf, -np.inf):
        y[3] = bad
        scale, codes = run(y, bits, method)
        assert np.isnan(scale)
        assert np.all(np.isnan(scale * codes))


@pytest.mark.parametrize(("bits", "method"), ONE_EACH)
def test_nan_reaches_its_own_channel_when_compiled(compiled, bits, method):
    y = sample("gaussian", (8, 3))
    y[2, 1] = np.nan
    projection = compiled(lambda y: project(y, bits, method, axis=1))
    scale, codes = projection(ops.convert_to_tensor(y, dtype=FLOAT))
    w = ops.convert_to_numpy(scale * codes)
    assert np.all(np.isnan(w[:, 1]))
    assert np.all(np.isfinite(w[:, [0, 2]]))


def test_converged_lloyd_stops_at_a_nan(monkeypatch):
    calls = []
    nearest_codes = projections.nearest_codes

    def counting(*args):
        calls.append(args)
        return nearest_codes(*args)

    monkeypatch.setattr(projections, "nearest_codes", counting)
    run([1.0, np.nan, 0.3], 4, "lloyd_converged")
    assert len(calls) <= 3


# The methods


@pytest.mark.parametrize("bits", range(3, 9))
def test_lloyd_is_one_round_from_the_slides_start(bits):
    y = sample("gaussian", 300)
    s0 = 2 / (2**bits - 1) * np.max(np.abs(y))
    expected_scale, expected_codes = lloyd_round(y, bits, s0)
    scale, codes = run(y, bits, "lloyd")
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "uniform", "laplace"])
@pytest.mark.parametrize("bits", range(3, 9))
def test_converged_lloyd_lies_between_one_round_and_exact(bits, name):
    y = sample(name, 1000)
    one_round, converged, exact = (
        error(y, bits, method)
        for method in ("lloyd", "lloyd_converged", "exact")
    )
    # Rounding: of the scale on TensorFlow, of S1^2 / S2 on JAX as well.
    rounding = (1e-12 if ON_TENSORFLOW else 2e-7) * np.sum(y**2)
    assert exact - rounding <= converged <= one_round + rounding


@pytest.mark.parametrize("bits", range(3, 9))
def test_converged_lloyd_has_converged(bits):
    y = sample("laplace", 1000)
    scale, codes = run(y, bits, "lloyd_converged")
    again_scale, again_codes = lloyd_round(y, bits, scale)
    np.testing.assert_array_equal(codes, again_codes)
    np.testing.assert_allclose(scale, again_scale, rtol=1e-6)


@pytest.mark.parametrize("method", ["warm", "lloyd"])
@pytest.mark.parametrize("bits", range(3, 9))
def test_a_given_scale_is_where_the_round_starts(bits, method):
    y = sample("gaussian", 300)
    start = 0.9 * np.max(np.abs(y)) / largest_code(bits)
    expected_scale, expected_codes = lloyd_round(y, bits, start)
    scale, codes = run(y, bits, method, scale=ops.cast(start, FLOAT))
    np.testing.assert_array_equal(codes, expected_codes)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
def test_a_scale_not_above_zero_is_no_start(scale):
    y = sample("gaussian", 300)
    expected_scale, expected_codes = run(y, 4, "lloyd")
    scale, codes = run(y, 4, "warm", scale=ops.cast(scale, FLOAT))
    np.testing.assert_array_equal(codes, expected_codes)
    assert scale == expected_scale


@pytest.mark.parametrize("bits", range(3, 9))
def test_warm_without_a_scale_is_exact(bits):
    y = sample("gaussian", 300)
    expected_scale, expected_codes = run(y, bits, "exact")
    scale, codes = run(y, bits, "warm")
    np.testing.assert_array_equal(codes, expected_codes)
    assert scale == expected_scale


@pytest.mark.parametrize("bits", [3, 4])
def test_warm_follows_a_drift(bits):
    rng = np.random.default_rng(0)
    y = rng.standard_normal(20_000).astype("float32")
    scale, _ = run(y, bits, "exact", "float32")
    for step in range(60):
        y += 0.01 * rng.standard_normal(len(y)).astype("float32")
        start = ops.convert_to_tensor(scale)
        scale, codes = run(y, bits, "warm", "float32", scale=start)
        if step % 5 == 0:
            exact = squared_error(y, *project_exact_numpy(y, bits))
            # 4e-4 was the largest excess seen at this size; the smaller the
            # layer, the more the minimum itself jumps.
            assert squared_error(y, scale, codes) <= (1 + 1e-3) * exact


def test_twn_is_a_threshold_with_the_best_scale():
    y = sample("gaussian", 1000)
    kept = np.abs(y) > 0.7 * np.mean(np.abs(y))
    scale, codes = run(y, 2, "twn")
    np.testing.assert_array_equal(codes, np.where(kept, np.sign(y), 0))
    np.testing.assert_allclose(scale, np.mean(np.abs(y[kept])), rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_twn_is_nearly_exact_on_gaussian_weights(seed):
    y = sample("gaussian", 5000, seed)
    # 1.005 to 1.010 were seen.
    ratio = error(y, 2, "twn") / error(y, 2, "exact")
    assert 1 < ratio < 1.02


# Axes, dtypes, compilation


@pytest.mark.parametrize(("bits", "method"), ONE_EACH)
@pytest.mark.parametrize(("shape", "axis"), AXES)
def test_axis_is_a_loop_over_slices(shape, axis, bits, method):
    y = sample("laplace", shape)
    scale, codes = run(y, bits, method, axis=axis)
    assert codes.shape == shape
    kept = [i % len(shape) for i in np.atleast_1d(axis)]
    assert scale.shape == tuple(
        shape[i] if i in kept else 1 for i in range(len(shape))
    )
    for index in np.ndindex(scale.shape):
        part = tuple(
            slice(j, j + 1) if i in kept else slice(None)
            for i, j in enumerate(index)
        )
        expected_scale, expected_codes = run(y[part], bits, method)
        np.testing.assert_array_equal(codes[part], expected_codes)
        # The sums may be taken in another order.
        np.testing.assert_allclose(scale[index], expected_scale, rtol=1e-6)


def test_a_scale_per_channel_is_where_each_round_starts():
    y = sample("gaussian", (50, 3))
    starts = np.array([[0.2, 0.5, 0.3]])
    tensor = ops.convert_to_tensor(starts, dtype=FLOAT)
    scale, codes = run(y, 4, "warm", axis=1, scale=tensor)
    for i in range(3):
        expected_scale, expected_codes = lloyd_round(y[:, i], 4, starts[0, i])
        np.testing.assert_array_equal(codes[:, i], expected_codes)
        np.testing.assert_allclose(scale[0, i], expected_scale, rtol=1e-6)


def test_no_kept_axes_keep_the_rank():
    y = sample("gaussian", (5, 3))
    scale, codes = run(y, 4, "exact", axis=())
    expected_scale, expected_codes = run(y, 4, "exact")
    assert scale.shape == (1, 1)
    assert scale[0, 0] == expected_scale
    np.testing.assert_array_equal(codes, expected_codes)


def test_all_kept_axes_keep_every_entry():
    y = sample("gaussian", (5, 3))
    scale, codes = run(y, 4, "exact", axis=(0, 1))
    np.testing.assert_allclose(scale * codes, y, rtol=1e-6)


@pytest.mark.parametrize("axis", [None, 3])
@pytest.mark.parametrize(("bits", "method"), ONE_EACH)
def test_compiled_is_eager(compiled, bits, method, axis):
    y = ops.convert_to_tensor(sample("gaussian", (3, 3, 4, 5)), dtype=FLOAT)
    expected_scale, expected_codes = project(y, bits, method, axis)
    scale, codes = compiled(lambda y: project(y, bits, method, axis))(y)
    # Compiled sums may be taken in another order.
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
    np.testing.assert_array_equal(codes, expected_codes)


def test_compiled_warm_round_is_eager(compiled):
    y = ops.convert_to_tensor(sample("gaussian", (40, 5)), dtype=FLOAT)
    start = ops.full((1, 5), 0.3, dtype=FLOAT)
    expected_scale, expected_codes = project(y, 4, "warm", 1, start)
    scale, codes = compiled(lambda y, s: project(y, 4, "warm", 1, s))(y, start)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
    np.testing.assert_array_equal(codes, expected_codes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", *DTYPES])
@pytest.mark.parametrize(("bits", "method"), ONE_EACH)
def test_scale_and_codes_have_the_dtype_of_y(bits, method, dtype):
    y = ops.cast(sample("gaussian", (4, 3)), dtype)
    scale, codes = project(y, bits, method)
    assert keras.backend.standardize_dtype(scale.dtype) == dtype
    assert keras.backend.standardize_dtype(codes.dtype) == dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("bits", "method"), ONE_EACH)
def test_16_bit_floats_are_summed_in_float32(bits, method, dtype):
    # Sums that overflow float16 and stand still in bfloat16.
    y = ops.cast(10 * sample("gaussian", 10_000), dtype)
    expected_scale, expected_codes = project(
        ops.cast(y, "float32"), bits, method
    )
    scale, codes = project(y, bits, method)
    # The scale is rounded once, by half a unit in the last of 11 or 8 bits.
    rounding = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    np.testing.assert_allclose(
        ops.cast(scale, "float32"), expected_scale, rtol=rounding
    )
    np.testing.assert_array_equal(ops.cast(codes, "float32"), expected_codes)


def test_integers_are_projected_as_floats():
    scale, codes = project([1, -2], bits=1)
    assert float(scale) == 1.5
    np.testing.assert_array_equal(codes, [1.0, -1.0])


# Arguments


@pytest.mark.parametrize("bits", [0, 9, -1, 32, 2.5, 2.0, "4", True, None])
def test_bad_bits(bits):
    with pytest.raises(ValueError) as raised:
        project([1.0, 2.0], bits)
    assert str(raised.value) == (
        f"`bits` must be an integer from 1 to 8. Received: bits={bits!r}"
    )


@pytest.mark.parametrize("bits", [np.int64(4), np.uint8(4), np.int32(4)])
def test_numpy_integers_are_bits(bits):
    y = sample("gaussian", 20)
    for method in ("lloyd", "exact"):
        np.testing.assert_array_equal(
            run(y, bits, method)[1], run(y, 4, method)[1]
        )


@pytest.mark.parametrize("method", ["Lloyd", "", None, 1])
def test_unknown_method(method):
    with pytest.raises(ValueError) as raised:
        project([1.0, 2.0], 4, method)
    assert str(raised.value) == (
        "The projection method must be one of lloyd, lloyd_converged, exact, "
        f"warm, twn. Received: {method!r}"
    )


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
def test_twn_is_for_2_bits(bits):
    with pytest.raises(ValueError) as raised:
        project([1.0, 2.0], bits, "twn")
    assert str(raised.value) == (
        f'The projection method "twn" is for 2 bits only. Received: bits={bits}'
    )


@pytest.mark.parametrize("axis", [2, -3, (0, 5), (0, 0), (0, -2), 1.0, "0"])
def test_bad_axis(axis):
    with pytest.raises(ValueError) as raised:
        project(np.ones((2, 3), "float32"), 2, axis=axis)
    assert str(raised.value) == (
        "`axis` must be None, or an int or a tuple of distinct ints from -2 to "
        f"1 for a tensor of rank 2. Received: axis={axis!r}"
    )


def test_numpy_integers_are_axes():
    scale, _ = run(np.ones((2, 3)), 2, "lloyd", axis=np.int64(1))
    assert scale.shape == (1, 3)
