"""The two-layer theory against sampling, differences and its own theorems."""

import math

import numpy as np
import pytest
import theory_helpers
from theory_helpers import unit

from keras_bcgd import theory

DERIVATIVES = ["relu", "clipped_relu", "identity"]
SIZES = [(1, 1), (1, 2), (2, 2), (3, 2), (2, 5), (5, 10), (8, 3)]
# 12 sizes with 100 problems each.
THEOREM_SIZES = [
    (1, 2),
    (1, 8),
    (2, 2),
    (2, 5),
    (3, 3),
    (3, 20),
    (5, 2),
    (5, 10),
    (8, 4),
    (8, 30),
    (12, 6),
    (20, 10),
]
# f is a sum of m terms of some units: what rounding may add to it in a step.
ROUNDING = 1e-14


def one_problem(m, n, length=1.7):
    """A problem `(v, w, v_star, w_star)` in no special position."""
    rng = np.random.default_rng([m, n])
    v, w, v_star, w_star = theory_helpers.problems(rng, 1, m, n)
    return v[0], length * w[0], v_star[0], w_star[0]


def at_angle(theta, w_star, rng):
    """Unit vectors at the angles theta from w_star."""
    across = rng.standard_normal(w_star.shape)
    inner = np.sum(across * w_star, axis=-1, keepdims=True)
    across = unit(across - inner * w_star)
    theta = np.asarray(theta)[..., None]
    return np.cos(theta) * w_star + np.sin(theta) * across


# Closed forms against Monte Carlo


def monte_carlo_deviations(m, n, length, num_samples, chunk=250_000):
    """All closed forms, {name: deviations in standard errors}."""
    problem = one_problem(m, n, length)
    rng = np.random.default_rng([7, m, n])
    gradient_v, _ = theory.population_gradients(*problem)
    expected = {
        "loss": theory.population_loss(*problem),
        "gradient_v": gradient_v,
    }
    for derivative in DERIVATIVES:
        expected[derivative] = theory.expected_coarse_gradient(
            *problem, derivative
        )
    sums = {name: 0.0 for name in expected}
    squares = {name: 0.0 for name in expected}
    for start in range(0, num_samples, chunk):
        Z = rng.standard_normal((min(chunk, num_samples - start), m, n))
        drawn = {
            "loss": theory.sample_loss(*problem, Z),
            "gradient_v": theory.sample_gradient_v(*problem, Z),
        }
        for derivative in DERIVATIVES:
            drawn[derivative] = theory.coarse_gradient(*problem, Z, derivative)
        for name, values in drawn.items():
            gaps = values - expected[name]
            sums[name] = sums[name] + np.sum(gaps, axis=0)
            squares[name] = squares[name] + np.sum(gaps**2, axis=0)
    found = {}
    for name in expected:
        mean = sums[name] / num_samples
        variance = squares[name] / num_samples - mean**2
        # All samples alike (an entry that is always 0): equal to rounding.
        error = np.sqrt(np.maximum(variance, 1e-24) / num_samples)
        found[name] = mean / error
    return found


# 208 numbers, each beyond 4.5 standard errors once in 150,000 draws.
LARGEST_DEVIATION = 4.5


@pytest.mark.parametrize("length", [1.0, 2.5])
@pytest.mark.parametrize(("m", "n"), SIZES)
def test_closed_forms_are_the_means_of_samples(m, n, length):
    found = monte_carlo_deviations(m, n, length, num_samples=60_000)
    for name, deviation in found.items():
        assert np.all(np.abs(deviation) < LARGEST_DEVIATION), (name, deviation)


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n"), [(1, 2), (3, 2), (5, 10), (8, 3)])
def test_closed_forms_are_the_means_of_four_million_samples(m, n):
    found = monte_carlo_deviations(m, n, 1.0, num_samples=4_000_000)
    for name, deviation in found.items():
        assert np.all(np.abs(deviation) < LARGEST_DEVIATION), (name, deviation)


def test_samples_follow_the_slides_for_one_input():
    """By hand: Z w = (1, -1), Z w* = (1, 2); student 3, teacher 5 + 7."""
    problem = [3.0, 4.0], [1.0, 0.0], [5.0, 7.0], [0.0, 1.0]
    Z = np.array([[1.0, 1.0], [-1.0, 2.0]])
    assert theory.network(*problem[:2], Z) == 3
    assert theory.sample_loss(*problem, Z) == 40.5
    np.testing.assert_array_equal(
        theory.sample_gradient_v(*problem, Z), [-9, 0]
    )
    for derivative, expected in {
        "relu": [-27, -27],
        "clipped_relu": [-27, -27],
        "identity": [-27 + 36, -27 - 72],
    }.items():
        found = theory.coarse_gradient(*problem, Z, derivative)
        np.testing.assert_array_equal(found, expected)
    # Twice as long, Z w = 2 is on the flat part of the clipped ReLU.
    longer = problem[0], [2.0, 0.0], *problem[2:]
    found = theory.coarse_gradient(*longer, Z, "clipped_relu")
    np.testing.assert_array_equal(found, [0, 0])


def test_staircase_and_coarse_derivatives_at_their_jumps():
    x = [-1.0, 0.0, 0.5, 1.0, 1.5]
    np.testing.assert_array_equal(theory.binarized_relu(x), [0, 0, 1, 1, 1])
    for derivative, expected in {
        "relu": [0, 0, 1, 1, 1],
        "clipped_relu": [0, 0, 1, 1, 0],
        "identity": [1, 1, 1, 1, 1],
    }.items():
        np.testing.assert_array_equal(
            theory.coarse_derivative(x, derivative), expected
        )


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_means_over_samples_are_means_of_single_ones(derivative):
    rng = np.random.default_rng(0)
    problem = theory_helpers.problems(rng, 4, 3, 5)
    for Z in (
        rng.standard_normal((7, 3, 5)),
        rng.standard_normal((4, 7, 3, 5)),
    ):
        each = [array[:, None] for array in problem]
        by_v, by_w = theory.empirical_gradients(*problem, Z, derivative)
        single_v = theory.sample_gradient_v(*each, Z)
        single_w = theory.coarse_gradient(*each, Z, derivative)
        single = theory.sample_loss(*each, Z)
        assert single.shape == (4, 7)
        # The same sums in another order.
        close = {"rtol": 0, "atol": 1e-13}
        np.testing.assert_allclose(by_v, np.mean(single_v, axis=1), **close)
        np.testing.assert_allclose(by_w, np.mean(single_w, axis=1), **close)
        np.testing.assert_allclose(
            theory.empirical_loss(*problem, Z), np.mean(single, axis=1), **close
        )


# Closed forms against the slides' wording and against each other


def slides_loss(v, w, v_star, w_star):
    """8 f as the slide prints it, for one problem."""
    matrix = np.eye(len(v)) + np.ones((len(v), len(v)))
    theta = math.acos(w @ w_star / np.linalg.norm(w))
    mixed = matrix - 2 / math.pi * theta * np.eye(len(v))
    return (
        v @ matrix @ v - 2 * v @ mixed @ v_star + v_star @ matrix @ v_star
    ) / 8


def slides_coarse_gradient(v, w, v_star, w_star):
    """E[g] as the slide prints it, for one problem."""
    u = w / np.linalg.norm(w)
    theta = math.acos(u @ w_star)
    root = math.sqrt(2 * math.pi)
    h = v @ v + np.sum(v) ** 2 - np.sum(v) * np.sum(v_star) + v @ v_star
    middle = (u + w_star) / np.linalg.norm(u + w_star)
    return h / (2 * root) * u - math.cos(theta / 2) * v @ v_star / root * middle


@pytest.mark.parametrize(("m", "n"), SIZES[1:])
def test_rearranged_forms_are_those_of_the_slides(m, n):
    rng = np.random.default_rng([1, m, n])
    problems = theory_helpers.problems(rng, 50, m, n)
    losses = theory.population_loss(*problems)
    coarse = theory.expected_coarse_gradient(*problems)
    for i, problem in enumerate(zip(*problems, strict=True)):
        # Sums of some ten terms of some units.
        assert losses[i] == pytest.approx(slides_loss(*problem), abs=1e-13)
        np.testing.assert_allclose(
            coarse[i], slides_coarse_gradient(*problem), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize(("m", "n"), SIZES[1:])
def test_gradients_are_those_of_the_loss(m, n):
    rng = np.random.default_rng([2, m, n])
    v, w, v_star, w_star = theory_helpers.problems(rng, 50, m, n)
    # Away from 0 and pi, where the second derivative by w is unbounded.
    w = 1.5 * at_angle(rng.uniform(0.3, math.pi - 0.3, 50), w_star, rng)
    by_v, by_w = theory.population_gradients(v, w, v_star, w_star)
    # Central differences: rounding 1e-16 / eps, and eps^2 times a third
    # derivative of some tens: 1e-10 and 1e-9 at this eps.
    eps = 1e-5
    for gradient, size, index in ((by_v, m, 0), (by_w, n, 1)):
        for i in range(size):
            ends = []
            for sign in (1, -1):
                point = [v.copy(), w.copy()]
                point[index][:, i] += sign * eps
                ends.append(theory.population_loss(*point, v_star, w_star))
            difference = (ends[0] - ends[1]) / (2 * eps)
            np.testing.assert_allclose(
                gradient[:, i], difference, rtol=0, atol=2e-8
            )


def test_loss_and_angle_are_exact_near_the_minimum():
    """f is linear in theta: 1e-12 away from w* it is not lost in rounding."""
    for theta in (1e-3, 1e-8, 1e-12):
        w = [math.cos(theta), math.sin(theta)]
        assert theory.angle(w, [1.0, 0.0]) == pytest.approx(theta, rel=1e-12)
        backwards = theory.angle([-w[0], w[1]], [1.0, 0.0])
        # pi itself is rounded, by 1e-16.
        assert math.pi - backwards == pytest.approx(theta, abs=1e-15)
        loss = theory.population_loss([3.0], w, [3.0], [1.0, 0.0])
        expected = 9 * theta / (2 * math.pi)
        assert loss == pytest.approx(expected, rel=1e-12)


def test_gradient_by_w_does_not_exist_at_zero_and_pi():
    for w in ([2.0, 0.0], [-2.0, 0.0]):
        _, by_w = theory.population_gradients([1.0], w, [1.0], [1.0, 0.0])
        assert np.all(np.isnan(by_w))
        coarse = theory.expected_coarse_gradient([1.0], w, [1.0], [1.0, 0.0])
        assert np.all(np.isfinite(coarse))


def test_gradients_are_not_lipschitz_across_zero():
    """The slides' heading says so; df/dw jumps by v'v* / pi at theta = 0."""
    quotients = []
    for eps in (1e-1, 1e-2, 1e-3):
        ends = [np.array([math.cos(t), math.sin(t)]) for t in (eps, -eps)]
        by_w = [
            theory.population_gradients([1.0], w, [1.0], [1.0, 0.0])[1]
            for w in ends
        ]
        jump = np.linalg.norm(by_w[0] - by_w[1])
        # |jump| = cos(eps) / pi: less than eps^2 / 2 away from 1 / pi.
        assert jump == pytest.approx(1 / math.pi, abs=eps**2 / 4)
        quotients.append(jump / np.linalg.norm(ends[0] - ends[1]))
    growth = np.array(quotients[1:]) / quotients[:-1]
    # 10, but for cos(eps) and sin(eps) / eps: eps^2 at eps = .1.
    np.testing.assert_allclose(growth, 10, rtol=0.01)


def test_only_the_direction_of_the_weights_counts():
    rng = np.random.default_rng(3)
    v, w, v_star, w_star = theory_helpers.problems(rng, 20, 3, 4)
    Z = rng.standard_normal((20, 3, 4))
    # Lengths whose squares under- and overflow.
    for scale in (1e-200, 0.3, 1e200):
        for function in (
            lambda *problem: theory.population_loss(*problem),
            lambda *problem: theory.population_gradients(*problem)[0],
            lambda *problem: theory.expected_coarse_gradient(*problem),
            lambda *problem: theory.sample_loss(*problem, Z),
            lambda *problem: theory.coarse_gradient(*problem, Z),
        ):
            expected = function(v, w, v_star, w_star)
            for found in (
                function(v, w, v_star, scale * w_star),
                function(v, scale * w, v_star, w_star),
            ):
                # Units, divided and summed in another way.
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_gradient_by_w_falls_with_the_length_of_w():
    v, w, v_star, w_star = one_problem(3, 4)
    _, once = theory.population_gradients(v, w, v_star, w_star)
    _, twice = theory.population_gradients(v, 2 * w, v_star, w_star)
    np.testing.assert_allclose(2 * twice, once, rtol=1e-14)


# Theorem (Positive Correlation)


@pytest.mark.parametrize(("m", "n"), SIZES[1:])
def test_coarse_and_true_gradient_are_positively_correlated(m, n):
    rng = np.random.default_rng([4, m, n])
    v, w, v_star, w_star = theory_helpers.problems(rng, 1000, m, n)
    theta = rng.uniform(1e-3, math.pi - 1e-3, 1000)
    length = rng.uniform(0.2, 5, 1000)
    w = length[:, None] * at_angle(theta, w_star, rng)
    _, true = theory.population_gradients(v, w, v_star, w_star)
    coarse = theory.expected_coarse_gradient(v, w, v_star, w_star)
    inner = np.sum(v * v_star, axis=-1)
    found = np.sum(coarse * true, axis=-1)
    constant = 2 * math.sqrt(2 * math.pi) ** 3
    expected = np.sin(theta) / (constant * length) * inner**2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    for derivative in DERIVATIVES[1:]:  # Not in the slides.
        coarse = theory.expected_coarse_gradient(
            v, w, v_star, w_star, derivative
        )
        assert np.all(np.sum(coarse * true, axis=-1) > -1e-15)


# Critical points


def critical_points(v_star, w_star, rng):
    """{name: (v, w)} of one problem."""
    points = {
        "zero": (v_star, w_star),
        "pi": (theory.stationary_v(math.pi, v_star), -w_star),
    }
    theta = float(theory.saddle_angle(v_star))
    if not math.isnan(theta):
        w = at_angle(theta, w_star, rng)
        points["saddle"] = (theory.stationary_v(theta, v_star), w)
    return points


# With `2 (1'v*)^2` below, above and (m = 1 always) at `(m + 1) ||v*||^2`: the
# kinds of what there is.
TEACHERS = {
    "below": (
        [3.0, -2.0, 0.5],
        {
            "zero": "global minimizer",
            "pi": "local minimizer at pi",
            "saddle": "saddle",
        },
    ),
    "orthogonal to 1": (
        [1.0, -1.0],
        {
            "zero": "global minimizer",
            "pi": "global minimizer",
            "saddle": "saddle",
        },
    ),
    "above": ([1.0, 2.0, 1.5], {"zero": "global minimizer", "pi": "saddle"}),
    "at": ([-1.5], {"zero": "global minimizer", "pi": "saddle"}),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_critical_points_are_what_they_are_called(name):
    """Held against f at 20,000 points around each of them."""
    v_star, expected = TEACHERS[name]
    v_star, rng = np.array(v_star), np.random.default_rng(5)
    w_star = unit(rng.standard_normal(3))
    points = critical_points(v_star, w_star, rng)
    kinds = {
        name: str(theory.classify(*point, v_star, w_star))
        for name, point in points.items()
    }
    assert kinds == expected
    for point, (v, w) in points.items():
        here = theory.population_loss(v, w, v_star, w_star)
        near_v = v + 1e-3 * rng.standard_normal((20_000, v.size))
        near_w = w + 1e-3 * rng.standard_normal((20_000, 3))
        # In v alone, in w alone and in both.
        near_v[:5000], near_w[5000:10_000] = v, w
        there = theory.population_loss(near_v, near_w, v_star, w_star)
        # f is a sum of some terms around 1.
        if kinds[point] == "saddle":
            assert np.any(there < here - 1e-9)
            assert np.any(there > here + 1e-9)
        else:
            assert np.all(there > here - 1e-15)
            is_global = kinds[point] == "global minimizer"
            assert is_global == (here < 1e-15)


def test_loss_at_pi():
    """f = (1'v*)^2 / (2 (m + 1)), and (-v*, -w*) if that is 0."""
    rng = np.random.default_rng(5)
    v_star, w_star = rng.standard_normal((20, 3)), rng.standard_normal((20, 4))
    v_star[0] -= np.mean(v_star[0])
    v = theory.stationary_v(math.pi, v_star)
    found = theory.population_loss(v, -w_star, v_star, w_star)
    expected = np.sum(v_star, axis=-1) ** 2 / 8
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(v[0], -v_star[0], rtol=0, atol=1e-15)
    Z = rng.standard_normal((100, 3, 4))
    np.testing.assert_allclose(
        theory.network(-v_star[0], -w_star[0], Z),
        theory.network(v_star[0], w_star[0], Z),
        rtol=0,
        atol=1e-14,
    )


@pytest.mark.parametrize("name", TEACHERS)
def test_gradients_vanish_at_critical_points(name):
    """Of ReLU and clipped ReLU; of the identity at the global one only."""
    v_star = np.array(TEACHERS[name][0])
    rng = np.random.default_rng(6)
    w_star = unit(rng.standard_normal(3))
    for point, (v, w) in critical_points(v_star, w_star, rng).items():
        by_v, _ = theory.population_gradients(v, w, v_star, w_star)
        np.testing.assert_allclose(by_v, 0, rtol=0, atol=1e-15)
        for derivative in DERIVATIVES:
            coarse = theory.expected_coarse_gradient(
                v, w, v_star, w_star, derivative
            )
            expected = 0.0
            if derivative == "identity":
                # (||v||^2 u - v'v* w*) / sqrt(2 pi), with v'v* = 0 or u = +-w*.
                cosine = {"zero": 1, "pi": -1, "saddle": 0}[point]
                expected = v @ v - cosine * (v @ v_star)
                expected = abs(expected) / math.sqrt(2 * math.pi)
            size = np.linalg.norm(coarse)
            assert size == pytest.approx(expected, abs=1e-14)


def test_stationary_v_solves_its_equation():
    rng = np.random.default_rng(7)
    v_star = rng.standard_normal((30, 4))
    theta = rng.uniform(0, math.pi, 30)
    matrix = np.eye(4) + np.ones((4, 4))
    for i in range(30):
        mixed = matrix - 2 * theta[i] / math.pi * np.eye(4)
        expected = np.linalg.solve(matrix, mixed @ v_star[i])
        found = theory.stationary_v(theta, v_star)[i]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def test_saddle_angle_is_where_v_is_orthogonal():
    rng = np.random.default_rng(8)
    v_star = rng.standard_normal((1000, 3))
    theta = theory.saddle_angle(v_star)
    exists = ~np.isnan(theta)
    assert 100 < np.sum(exists) < 900
    v = theory.stationary_v(theta[exists], v_star[exists])
    inner = np.sum(v * v_star[exists], axis=-1)
    np.testing.assert_allclose(inner, 0, rtol=0, atol=1e-13)
    # Where there is none, v'v* has one sign from 0 to pi.
    for fraction in np.linspace(0, 1, 21):
        v = theory.stationary_v(fraction * math.pi, v_star[~exists])
        assert np.all(np.sum(v * v_star[~exists], axis=-1) > 0)


def test_other_points_are_not_critical():
    rng = np.random.default_rng(9)
    problems = theory_helpers.problems(rng, 100, 3, 4)
    assert set(theory.classify(*problems)) == {"not critical"}


# Theorem (Coarse Gradient Descent and Convergence to Global Minimizer)


def rises(path):
    """The largest rise of f in one step."""
    return np.max(np.diff(path.losses, axis=0), initial=0)


@pytest.mark.parametrize(("m", "n"), THEOREM_SIZES)
def test_descent_from_the_region_finds_the_teacher(m, n):
    """0 failures in 12 x 100 problems: f > 1e-8 after 50,000 steps."""
    rng = np.random.default_rng([2019, m, n])
    problems = theory_helpers.problems_of_the_theorem(rng, 100, m, n)
    v, w, v_star, w_star = problems
    assert np.all(theory.in_theorem_region(*problems))
    step_size = 0.9 * theory.step_size_bound(v, v_star)
    path = theory.descend(*problems, step_size, 50_000, stop_below=1e-8)
    assert np.sum(path.losses[-1] > 1e-8) == 0
    assert rises(path) < ROUNDING
    # f < 1e-8 holds ||v - v*||^2 / 8 and, as v'v* -> ||v*||^2 > 1/4,
    # theta / (8 pi) below it.
    assert np.all(np.linalg.norm(path.v - v_star, axis=-1) < 3e-4)
    assert np.all(path.angles[-1] < 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("m", "n"), THEOREM_SIZES)
def test_descent_from_the_region_finds_the_teacher_1000_times(m, n):
    rng = np.random.default_rng([2020, m, n])
    problems = theory_helpers.problems_of_the_theorem(rng, 1000, m, n)
    step_size = 0.9 * theory.step_size_bound(problems[0], problems[2])
    path = theory.descend(*problems, step_size, 50_000, stop_below=1e-8)
    assert np.sum(path.losses[-1] > 1e-8) == 0
    assert rises(path) < ROUNDING


@pytest.mark.parametrize(("m", "n"), [(1, 2), (2, 5), (5, 10), (20, 10)])
def test_descent_from_anywhere_falls_to_a_critical_point(m, n):
    """The first half of the theorem; the point may be the one at pi."""
    rng = np.random.default_rng([2018, m, n])
    problems = theory_helpers.problems(rng, 100, m, n)
    v, w, v_star, w_star = problems
    step_size = 0.9 * theory.step_size_bound(v, v_star)
    path = theory.descend(*problems, step_size, 6000)
    assert rises(path) < ROUNDING
    by_v, _ = theory.population_gradients(path.v, path.w, v_star, w_star)
    coarse = theory.expected_coarse_gradient(path.v, path.w, v_star, w_star)
    for gradient in (by_v, coarse):
        assert np.max(np.abs(gradient)) < ROUNDING
    kinds = theory.classify(path.v, path.w, v_star, w_star)
    minima = {"global minimizer"}
    if m > 1:  # See TEACHERS.
        minima.add("local minimizer at pi")
    assert set(kinds) == minima


def test_the_third_condition_is_needed():
    """Both angles below 90 degrees, (1'v*)(1'v) = 22 > 1: it ends at pi."""
    v, v_star, w_star = [9.0, 13.0], [3.0, -2.0], [1.0, 0.0]
    w = [0.5, math.sqrt(0.75)]
    assert np.dot(v, v_star) > 0 and np.dot(w, w_star) > 0
    assert not theory.in_theorem_region(v, w, v_star, w_star)
    step_size = 0.9 * theory.step_size_bound(v, v_star)
    path = theory.descend(v, w, v_star, w_star, step_size, 20_000)
    assert rises(path) < ROUNDING
    kind = theory.classify(path.v, path.w, v_star, w_star)
    assert kind == "local minimizer at pi"
    # (1'v*)^2 / (2 (m + 1))
    assert path.losses[-1] == pytest.approx(1 / 6, rel=1e-12)
    # With 1'v = 1 it holds, and the same w ends at the teacher.
    v = [1.0, 0.0]
    assert theory.in_theorem_region(v, w, v_star, w_star)
    step_size = 0.9 * theory.step_size_bound(v, v_star)
    path = theory.descend(v, w, v_star, w_star, step_size, 10_000)
    kind = theory.classify(path.v, path.w, v_star, w_star)
    assert kind == "global minimizer"


def test_the_region_is_that_of_the_slide():
    v_star, w_star = np.array([2.0, -1.0]), np.array([1.0, 0.0])
    for v, w, expected in [
        ([1.0, 0.0], [1.0, 5.0], True),  # 1'v = 1'v* = 1: still inside
        ([1.0, 0.1], [1.0, 5.0], False),
        ([1.0, 0.0], [0.0, 5.0], False),
        ([1.0, 0.0], [-1.0, 5.0], False),
        ([-1.0, -2.0], [1.0, 5.0], False),
        ([0.0, 0.0], [1.0, 5.0], False),
    ]:
        assert theory.in_theorem_region(v, w, v_star, w_star) == expected


def test_a_step_is_the_one_of_the_slide():
    v, w, v_star, w_star = one_problem(3, 4, length=1)
    by_v, _ = theory.population_gradients(v, w, v_star, w_star)
    half = w - 0.2 * slides_coarse_gradient(v, w, v_star, w_star)
    path = theory.descend(v, w, v_star, w_star, 0.2, 1)
    np.testing.assert_allclose(path.v, v - 0.2 * by_v, rtol=0, atol=1e-15)
    np.testing.assert_allclose(path.w, unit(half), rtol=0, atol=1e-15)
    assert path.losses[1] == theory.population_loss(
        path.v, path.w, v_star, w_star
    )


def test_a_large_step_can_rise():
    """Why there is a bound: ten times the bound."""
    rng = np.random.default_rng(10)
    problems = theory_helpers.problems_of_the_theorem(rng, 100, 5, 10)
    bound = theory.step_size_bound(problems[0], problems[2])
    assert rises(theory.descend(*problems, 10 * bound, 20)) > 0.01


# The choice of the coarse derivative


def test_only_the_identity_leaves_a_gradient_at_pi():
    """It comes to rest there, by the normalization, but E[g] does not."""
    rng = np.random.default_rng(11)
    problems = theory_helpers.problems(rng, 100, 5, 10)
    v, w, v_star, w_star = problems
    step_size = 0.9 * theory.step_size_bound(v, v_star)
    for derivative in DERIVATIVES:
        path = theory.descend(*problems, step_size, 6000, derivative, every=100)
        at_pi = path.angles[-1] > 3
        assert np.sum(at_pi) > 10
        coarse = theory.expected_coarse_gradient(
            path.v, path.w, v_star, w_star, derivative
        )
        sizes = np.linalg.norm(coarse, axis=-1)
        assert np.max(sizes[~at_pi]) < ROUNDING
        if derivative == "identity":
            assert np.median(sizes[at_pi]) > 0.01
        else:
            assert np.max(sizes[at_pi]) < ROUNDING


def test_sampled_descent_nears_the_teacher_as_batches_grow():
    rng = np.random.default_rng(12)
    problems = theory_helpers.problems_of_the_theorem(rng, 20, 3, 4)
    medians = []
    for batch_size in (10, 100):
        path = theory.descend_sampled(
            *problems, 0.1, 1000, batch_size, every=1000, seed=13
        )
        medians.append(np.degrees(np.median(path.angles[-1])))
    # At m = 5, n = 10, 1,500 steps: 3.4, .29 and .04 degrees at 10, 100, 1000.
    assert medians[1] < 0.5 * medians[0] and medians[1] < 1


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_many_samples_descend_as_the_expectation_does(derivative):
    problem = one_problem(3, 4)
    rng = np.random.default_rng(14)
    Z = rng.standard_normal((50_000, 3, 4))
    expected = theory.descend(*problem, 0.2, 20, derivative)
    for path in (
        theory.descend_empirical(*problem, Z, 0.2, 20, derivative),
        theory.descend_sampled(*problem, 0.2, 20, 50_000, derivative),
    ):
        # Standard errors of some 1e-2 in each gradient; steps of 4 in all.
        np.testing.assert_allclose(path.v, expected.v, rtol=0, atol=0.05)
        np.testing.assert_allclose(path.w, expected.w, rtol=0, atol=0.05)


# Many problems at once


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_many_problems_are_as_each_alone(derivative):
    rng = np.random.default_rng(15)
    problems = theory_helpers.problems(rng, 6, 3, 4)
    step_size = rng.uniform(0.05, 0.2, 6)
    grid = [array.reshape(2, 3, -1) for array in problems]
    path = theory.descend(
        *grid, step_size.reshape(2, 3), 30, derivative, every=7
    )
    np.testing.assert_array_equal(path.steps, [0, 7, 14, 21, 28, 30])
    assert path.losses.shape == path.angles.shape == (6, 2, 3)
    for i, problem in enumerate(zip(*problems, strict=True)):
        alone = theory.descend(*problem, step_size[i], 30, derivative)
        at = np.unravel_index(i, (2, 3))
        # Sums of few numbers, perhaps in another order, over 30 steps.
        np.testing.assert_allclose(path.v[at], alone.v, rtol=0, atol=1e-13)
        np.testing.assert_allclose(path.w[at], alone.w, rtol=0, atol=1e-13)
        np.testing.assert_allclose(
            path.losses[:, *at], alone.losses[path.steps], rtol=0, atol=1e-13
        )


def test_one_teacher_serves_many_starts():
    rng = np.random.default_rng(16)
    v, w, v_star, w_star = theory_helpers.problems(rng, 5, 3, 4)
    Z = rng.standard_normal((8, 3, 4))
    for path in (
        theory.descend(v, w, v_star[0], w_star[0], 0.1, 3),
        theory.descend_sampled(v, w, v_star[0], w_star[0], 0.1, 3, 8),
        theory.descend_empirical(v, w, v_star[0], w_star[0], Z, 0.1, 3),
    ):
        assert path.v.shape == (5, 3) and path.w.shape == (5, 4)
        assert path.losses.shape == (4, 5)


def test_descent_stops_when_all_are_below():
    rng = np.random.default_rng(17)
    problems = theory_helpers.problems_of_the_theorem(rng, 10, 3, 4)
    path = theory.descend(*problems, 0.1, 5000, stop_below=1e-6)
    assert path.steps[-1] < 5000
    assert np.all(path.losses[-1] <= 1e-6)
    assert np.any(path.losses[-2] > 1e-6)


def test_seed_fixes_the_samples():
    problem = one_problem(3, 4)
    runs = [
        theory.descend_sampled(*problem, 0.1, 5, 4, seed=seed).v
        for seed in (0, 0, 1, np.random.default_rng(1))
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[2], runs[3])
    assert np.any(runs[0] != runs[2])


# Arguments

GOOD = {
    "v": [1.0, 2.0],
    "w": [1.0, 0.0, 0.0],
    "v_star": [1.0, 1.0],
    "w_star": [0.0, 1.0, 0.0],
}
Z = np.ones((5, 2, 3))


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        (
            theory.population_loss,
            {"w": [0.0, 0.0, 0.0]},
            "`w` must not be zero: it has no direction. Received: 1 of 1",
        ),
        (
            theory.population_loss,
            {"v_star": [[1.0, 1.0], [0.0, 0.0]]},
            "`v_star` must not be zero: it has no direction. Received: 1 of 2",
        ),
        (theory.descend, {"w_star": np.zeros(3)}, "`w_star` must not be zero"),
        (
            theory.coarse_gradient,
            {"v": [1.0, math.nan]},
            "`v` must be finite. Received: 1 of 2 entries NaN or infinite",
        ),
        (theory.sample_loss, {"Z": Z * np.inf}, "`Z` must be finite"),
        (theory.population_gradients, {"v": 1.0}, "`v` must have rank 1"),
        (theory.population_loss, {"w": []}, "no axis of length 0"),
        (theory.population_loss, {"w": "x"}, "`w` must be an array of numbers"),
        (
            theory.expected_coarse_gradient,
            {"v": [1.0, 2.0, 3.0]},
            "`v` and `v_star` must have last axes of one length. Received: "
            r"shapes \(3,\) and \(2,\)",
        ),
        (
            theory.in_theorem_region,
            {"w": [1.0, 1.0]},
            "`w` and `w_star` must have last axes of one length",
        ),
        (
            theory.classify,
            {"v": np.ones((2, 2)), "w": np.ones((3, 3))},
            "axes in front of `v`, `w`, `v_star`, `w_star` must broadcast",
        ),
        (theory.classify, {"tolerance": 0}, "`tolerance` must be above 0"),
        (
            theory.sample_gradient_v,
            {"Z": np.ones((5, 3, 2))},
            r"m, n = \(2, 3\) of `v` and `w`. Received: shape \(5, 3, 2\)",
        ),
        (theory.empirical_loss, {"Z": np.ones((2, 3))}, "`Z` must have rank 3"),
        (
            theory.empirical_gradients,
            {"Z": np.ones((2, 5, 2, 3)), "v": np.ones((3, 2))},
            "axes in front of `Z`, `v`, `w` must broadcast",
        ),
        (
            theory.descend_empirical,
            {"Z": np.ones((2, 5, 2, 3))},
            r"`Z` must fit the problems, \(\). Received: shape \(2, 5, 2, 3\)",
        ),
        (
            theory.coarse_gradient,
            {"derivative": "tanh"},
            "`derivative` must be one of relu, clipped_relu, identity. "
            "Received: derivative='tanh'",
        ),
        (theory.descend, {"derivative": "tanh"}, "`derivative` must be one of"),
        (
            theory.descend,
            {"step_size": -0.1},
            "`step_size` must be above 0. Received: the smallest is -0.1",
        ),
        (
            theory.descend,
            {"step_size": np.ones(4)},
            r"`step_size` must be one number or fit the problems, \(\)",
        ),
        (
            theory.descend,
            {"steps": 1.5},
            "`steps` must be an integer from 0 on. Received: steps=1.5",
        ),
        (theory.descend, {"every": 0}, "`every` must be an integer from 1 on"),
        (theory.descend, {"stop_below": math.nan}, "`stop_below` must be"),
        (
            theory.descend_sampled,
            {"batch_size": True},
            "`batch_size` must be an integer from 1 on",
        ),
    ],
)
def test_bad_arguments_are_named(function, change, message):
    arguments = dict(GOOD)
    name = function.__name__
    if name.startswith("descend"):
        arguments |= {"step_size": 0.1, "steps": 2}
    if name == "descend_sampled":
        arguments["batch_size"] = 3
    if name in (
        "sample_loss",
        "sample_gradient_v",
        "coarse_gradient",
        "empirical_loss",
        "empirical_gradients",
        "descend_empirical",
    ):
        arguments["Z"] = Z
    function(**arguments)
    with pytest.raises(ValueError, match=message):
        function(**(arguments | change))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.angle([0.0], [1.0]), "`a` must not be zero"),
        (lambda: theory.h([1.0], [1.0, 2.0]), "`v` and `v_star` must have"),
        (lambda: theory.network([1.0], [0.0], [[1.0]]), "`w` must not be zero"),
        (lambda: theory.stationary_v(4.0, [1.0]), "`theta` must be from 0 to"),
        (lambda: theory.saddle_angle([0.0]), "`v_star` must not be zero"),
        (lambda: theory.step_size_bound([1.0], [0.0]), "`v_star` must not be"),
    ],
)
def test_bad_arguments_of_small_functions_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_student_may_be_zero_in_v():
    """v = 0 has no direction, and needs none: it is the pi point at m = 1."""
    problem = [0.0], [-1.0, 0.0], [2.0], [1.0, 0.0]
    assert theory.population_loss(*problem) == 1
    assert str(theory.classify(*problem)) == "saddle"
    assert np.all(theory.expected_coarse_gradient(*problem) == 0)
