"""Times the exact projection and compares its error with one Lloyd round.

One Lloyd round rounds to the nearest codes at a first scale, then takes the
least-squares scale of those codes. Two first scales are shown: `max|y| / K`
(no clipping) and `2 mean|y| / sqrt(K)`. With 1 bit a Lloyd round is exact.

Run it from the root of the repository, on one core:

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.exact_projection
"""

import argparse
import statistics
import time

import numpy as np

from keras_bcgd.exact_numpy import project_exact_numpy


def largest_code(bits):
    return max(1, 2 ** (bits - 1) - 1)


def lloyd_round(y, bits, scale):
    """Returns the scale and codes after one Lloyd round from `scale`."""
    if bits == 1:
        codes = np.where(y < 0, -1.0, 1.0)
    else:
        limit = largest_code(bits)
        codes = np.clip(np.rint(y / scale), -limit, limit)
    return codes @ y / (codes @ codes), codes


def squared_error(y, scale, codes):
    return float(np.sum((scale * codes.astype(np.float64) - y) ** 2))


def draw(distribution, size, seed):
    rng = np.random.default_rng(seed)
    if distribution == "laplace":
        return rng.laplace(size=size).astype(np.float32)
    if distribution == "uniform":
        return rng.uniform(-1, 1, size).astype(np.float32)
    return rng.standard_normal(size, dtype=np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2_360_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--distribution",
        choices=["gaussian", "laplace", "uniform"],
        default="gaussian",
    )
    options = parser.parse_args()

    y = draw(options.distribution, options.size, options.seed)
    exact_y = y.astype(np.float64)
    magnitudes = np.abs(exact_y)
    project_exact_numpy(y, 2)  # Warm-up: first touch of the memory.

    print(f"{options.distribution}, {options.size:,} float32 weights")
    print("     |     seconds: median | error relative to one Lloyd round")
    print("bits |           (min-max) | from max/K   | from 2 mean/sqrt(K)")
    print("-----|---------------------|--------------|--------------------")
    for bits in range(1, 9):
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            scale, codes = project_exact_numpy(y, bits)
            seconds.append(time.perf_counter() - start)
        error = squared_error(exact_y, float(scale), codes)
        limit = largest_code(bits)
        ratios = [
            error / squared_error(exact_y, *lloyd_round(exact_y, bits, first))
            for first in (
                magnitudes.max() / limit,
                2 * magnitudes.mean() / np.sqrt(limit),
            )
        ]
        print(
            f"{bits:4d} | {statistics.median(seconds):.3f} "
            f"({min(seconds):.3f}-{max(seconds):.3f}) "
            f"| {ratios[0]:12.6f} | {ratios[1]:.6f}"
        )


if __name__ == "__main__":
    main()
