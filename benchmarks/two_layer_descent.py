"""Times the population-level descent of many two-layer problems at once.

Each problem has its own teacher and start, drawn at random. Run it from the
root of the repository, on one core:

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.two_layer_descent
"""

import argparse
import statistics
import time

import numpy as np

from keras_bcgd import theory


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--m", type=int, default=5)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    rng = np.random.default_rng(options.seed)
    v, v_star = rng.standard_normal((2, options.problems, options.m))
    w, w_star = rng.standard_normal((2, options.problems, options.n))
    step_size = 0.9 * theory.step_size_bound(v, v_star)
    print(
        f"{options.problems:,} problems x {options.steps:,} steps, "
        f"m = {options.m}, n = {options.n}; CPU and wall seconds, "
        f"median (min-max) of {options.repeats}"
    )
    for derivative in ("relu", "clipped_relu", "identity"):
        cpu, wall = [], []
        for _ in range(options.repeats):
            start = time.process_time(), time.perf_counter()
            path = theory.descend(
                v,
                w,
                v_star,
                w_star,
                step_size,
                options.steps,
                derivative,
                every=options.steps,
            )
            cpu.append(time.process_time() - start[0])
            wall.append(time.perf_counter() - start[1])
        kinds = theory.classify(path.v, path.w, v_star, w_star, 1e-3)
        found = np.mean(kinds == "global minimizer")
        times = ", ".join(
            f"{statistics.median(seconds):.2f} "
            f"({min(seconds):.2f}-{max(seconds):.2f})"
            for seconds in (cpu, wall)
        )
        print(f"{derivative:12} {times}; {100 * found:.1f} % at the teacher")


if __name__ == "__main__":
    main()
