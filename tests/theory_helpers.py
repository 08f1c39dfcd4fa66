"""Random two-layer problems for the tests of the theory."""

import numpy as np

from keras_bcgd import theory

SMALLEST_COSINE = 0.05


def unit(a):
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


def problems(rng, count, m, n):
    """`count` problems `(v, w, v_star, w_star)`: any direction, ||w|| = 1.

    v and v* are .5 to 2 long: the speed of a descent grows with `v'v*`, so
    that those near 0 would need more steps.
    """

    def vectors(size):
        lengths = rng.uniform(0.5, 2, (count, 1))
        return lengths * unit(rng.standard_normal((count, size)))

    return (
        vectors(m),
        unit(rng.standard_normal((count, n))),
        vectors(m),
        unit(rng.standard_normal((count, n))),
    )


def problems_of_the_theorem(rng, count, m, n):
    """The first `count` of such problems that start in the theorem's region.

    With both cosines above `SMALLEST_COSINE`: the descent begins as slowly as
    they are small.
    """
    found, missing = [], count
    while missing > 0:
        v, w, v_star, w_star = drawn = problems(rng, 20 * count, m, n)
        good = theory.in_theorem_region(*drawn)
        for a, b in ((v, v_star), (w, w_star)):
            good &= np.sum(unit(a) * unit(b), axis=-1) > SMALLEST_COSINE
        found.append([array[good] for array in drawn])
        missing -= np.sum(good)
    return [
        np.concatenate(arrays)[:count] for arrays in zip(*found, strict=True)
    ]
