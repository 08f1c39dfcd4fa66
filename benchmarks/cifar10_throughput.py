"""How many images per second does CIFAR-10 training take in, and who waits?

    python benchmarks/cifar10_throughput.py --steps=10 --rounds=5
    KERAS_BACKEND=jax python benchmarks/cifar10_throughput.py

Trains ResNet-20 in float and at 4W4A by examples/cifar10.py's own settings
(batch 128), in turn within one run, on random images, and measures the input
pipeline by itself: shuffling, crops, flips and normalization of the paper's
recipe. "share" is its time over that of a float and of a quantized step: what
it would take of them if it did not run beside them.
"""

import argparse
import pathlib
import statistics
import sys
import time

import keras

sys.path.append(str(pathlib.Path(__file__).parent.parent / "examples"))

from absl import flags  # noqa: E402

import cifar10  # noqa: E402
from training import cifar10_data  # noqa: E402
from training import recipes  # noqa: E402


def contender(args, **settings):
    """A compiled network that is trained by `fit`, compiled and warm."""
    config = cifar10.settings() | settings
    model = cifar10.make_model(config)
    cifar10.compile_model(model, config, args.steps)
    return model


def make_batches(args):
    (images, labels), _ = cifar10_data.random_images(args.batch * args.steps)
    return cifar10_data.Batches(images, labels, args.batch, seed=0)


def seconds_of(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps_per_execution", type=int, default=1, help="more for a GPU"
    )
    args = parser.parse_args()
    flags.FLAGS(["cifar10_throughput", "--workdir=unused"])
    recipes.make_deterministic()
    common = {"steps_per_execution": args.steps_per_execution}

    batches = make_batches(args)
    float_bits = {"weight_bits": 32, "activation_bits": 32}
    models = {
        "float": contender(args, **float_bits, **common),
        "4W4A": contender(args, **common),
    }
    contenders = {
        name: lambda model=model: model.fit(batches, shuffle=False, verbose=0)
        for name, model in models.items()
    }
    contenders["input pipeline"] = lambda: [
        batches[i] for i in range(args.steps)
    ]
    for function in contenders.values():
        function()  # traces and compiles

    times = {name: [] for name in contenders}
    for i in range(args.rounds):
        names = list(contenders)
        for name in names if i % 2 else reversed(names):
            times[name].append(seconds_of(contenders[name]) / args.steps)

    medians = {name: statistics.median(found) for name, found in times.items()}
    print(f"{keras.backend.backend()}, Keras {keras.__version__}")
    print(f"{'':16} {'images/s':>9} {'min-max':>15} {'ms/step':>8}")
    for name, found in times.items():
        rates = [args.batch / seconds for seconds in found]
        print(
            f"{name:16} {statistics.median(rates):9.0f} "
            f"{min(rates):7.0f}-{max(rates):7.0f} {1000 * medians[name]:8.1f}"
        )
    shares = [
        f"{medians['input pipeline'] / medians[name]:.1%} of a {name} step"
        for name in models
    ]
    print(f"share of the pipeline: {', '.join(shares)}")


if __name__ == "__main__":
    main()
