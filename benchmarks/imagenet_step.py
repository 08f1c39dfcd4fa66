"""What does a training step of the ImageNet example cost, in time and memory?

Trains ResNet-18 in float and at 4W4A by the example's own step, in turn within
one process for the times, in a process of its own each for the memory:

    python benchmarks/imagenet_step.py --batch=32 --image_size=224
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(pathlib.Path(__file__).parent.parent / "examples"))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import keras_bcgd  # noqa: E402
from training import replicas  # noqa: E402

BITS = {
    "float": {"weight_bits": 32, "activation_bits": 32},
    "4W4A": {"weight_bits": 4, "activation_bits": 4},
    "4W4A, branches": {
        "weight_bits": 4,
        "activation_bits": 4,
        "branch_bits": 8,
    },
}


def make_step(name, args):
    """A function that trains one step, traced and warm."""
    size = args.image_size
    model = keras_bcgd.models.resnet18(
        input_shape=(size, size, 3), **BITS[name]
    )
    sgd = keras.optimizers.SGD(0.01, momentum=0.95)
    model.compile(keras_bcgd.BlendedOptimizer(sgd, l2=1e-4))
    model.optimizer.build(model.trainable_variables)
    steps = replicas.Replicas(
        model,
        tf.distribute.get_strategy(),
        args.batch,
        lambda images: tf.cast(images, tf.float32) / 64 - 2,
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.batch, size, size, 3), "uint8")
    labels = tf.constant(rng.integers(0, 1000, args.batch))
    images = tf.constant(images)

    def step():
        steps.train(images, labels).numpy()

    step()
    return step


def peak_memory(name, args):
    """MB that a process needs at most: before, and for, some steps."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = make_step(name, args)
    for _ in range(3):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return before / 1e3, after / 1e3


def in_own_process(name):
    command = [sys.executable, *sys.argv, f"--only={name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=BITS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(peak_memory(args.only, args)))
        return
    memory = {name: in_own_process(name) for name in BITS}
    steps = {name: make_step(name, args) for name in BITS}
    times = {name: [] for name in BITS}
    for i in range(args.rounds):
        for name in list(BITS)[:: 1 if i % 2 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            steps[name]()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            times[name].append((wall, cpu))
    print(
        f"{'':15} {'wall s':>7} {'CPU s':>7} {'ratio':>6} {'min-max':>13}",
        end="",
    )
    print(f" {'peak MB':>8} {'of it before':>13}")
    for name in BITS:
        wall, cpu = map(statistics.median, zip(*times[name], strict=True))
        ratios = [
            own[1] / other[1]
            for own, other in zip(times[name], times["float"], strict=True)
        ]
        before, peak = memory[name]
        print(
            f"{name:15} {wall:7.2f} {cpu:7.2f} "
            f"{statistics.median(ratios):6.3f} "
            f"{min(ratios):6.3f}-{max(ratios):6.3f} {peak:8.0f} {before:13.0f}"
        )


if __name__ == "__main__":
    main()
