"""How many images per second does CIFAR-10 training take in, and who waits?

    python benchmarks/cifar10_throughput.py --steps=10 --rounds=5
    KERAS_BACKEND=jax python benchmarks/cifar10_throughput.py \\
        --steps=390 --steps_per_execution=39  # for a GPU

Trains ResNet-20 in float and at 4W4A by examples/cifar10.py's own settings
(batch 128) on random images: by `fit`, which is fed by NumPy, and by
`fit_on_device` (--on_device of that program). Each contender is one long
training in a thread of its own; they do an epoch in turn. The input pipeline
by itself (shuffling, crops, flips and normalization of the paper's recipe) and
the draws by themselves, which is all of it that the host does for the device,
are measured as well: "share" is what they would take of a step if they did not
run beside it.

"host" is the time between handing over two calls to the device, over the steps
of a call: on JAX and a GPU, where that does not wait for results, what Python
costs. If it is near the time of a step, the device waits. It needs two calls in
an epoch.
"""

import argparse
import concurrent.futures
import pathlib
import statistics
import sys
import threading
import time

import keras

sys.path.append(str(pathlib.Path(__file__).parent.parent / "examples"))

from absl import flags  # noqa: E402

import cifar10  # noqa: E402
from training import cifar10_data  # noqa: E402
from training import recipes  # noqa: E402


class Turns(keras.callbacks.Callback):
    """Stops `fit` before each epoch until `take` lets it do that one."""

    async_safe = True

    def __init__(self):
        super().__init__()
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)

    def on_epoch_begin(self, epoch, logs=None):
        self._go.acquire()
        self.calls = []
        self.begin = time.perf_counter()

    def on_train_batch_begin(self, batch, logs=None):
        # Not `on_train_batch_end`: Keras calls that with numbers, from another
        # thread, which has waited for the device.
        self.calls.append(time.perf_counter())

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.begin
        between = len(self.calls) - 1
        self.host = float("nan")
        if between:
            # One for each call, though only what lies between is seen.
            share = between / len(self.calls)
            self.host = (self.calls[-1] - self.calls[0]) / share
        self._done.release()

    def take(self):
        """Waits for one epoch; returns its seconds, and those of the host."""
        self._go.release()
        self._done.acquire()
        return self.seconds, self.host

    def failed(self):
        self.seconds = self.host = float("nan")
        self._done.release()


class Training:
    """One long training in a thread."""

    def __init__(self, args, executor, **settings):
        self.turns = Turns()
        self.config = cifar10.settings() | settings
        self.future = executor.submit(self._train, args)

    def _train(self, args):
        try:
            model = cifar10.make_model(self.config)
            cifar10.compile_model(model, self.config, args.steps)
            arrays = make_images(args)
            batches = cifar10.make_batches(self.config, *arrays)
            cifar10.fit(
                model,
                self.config,
                batches,
                arrays,
                epochs=args.rounds + 1,
                callbacks=[batches.callback(), self.turns],
                verbose=0,
            )
        finally:
            self.turns.failed()

    def __call__(self):
        found = self.turns.take()
        if self.future.done():
            self.future.result()  # raises what ended it
        return found


class OnHost:
    """The batches, or what they are made of, by NumPy alone."""

    def __init__(self, args, **settings):
        self.batches = cifar10.make_batches(
            cifar10.settings() | settings, *make_images(args)
        )

    def __call__(self):
        start = time.perf_counter()
        self.batches.begin_epoch(0)
        for i in range(len(self.batches)):
            self.batches[i]
        seconds = time.perf_counter() - start
        return seconds, seconds


def make_images(args):
    """Random ones, enough for an epoch."""
    (images, labels), _ = cifar10_data.random_images(args.batch * args.steps)
    return images, labels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="in an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--steps_per_execution", type=int, default=5, help="more for a GPU"
    )
    parser.add_argument(
        "--deterministic", action=argparse.BooleanOptionalAction, default=True
    )
    args = parser.parse_args()
    flags.FLAGS(["cifar10_throughput", "--workdir=unused"])
    if args.deterministic:
        recipes.make_deterministic()
    common = {"batch_size": args.batch}
    loop = {"steps_per_execution": args.steps_per_execution}
    float_bits = {"weight_bits": 32, "activation_bits": 32}
    on_device = {"on_device": True}

    executor = concurrent.futures.ThreadPoolExecutor()

    def training(**settings):
        return Training(args, executor, **common, **loop, **settings)

    contenders = {
        "float, fit": training(**float_bits),
        "float, on device": training(**float_bits, **on_device),
        "4W4A, fit": training(),
        "4W4A, on device": training(**on_device),
        "input pipeline": OnHost(args, **common),
        "draws": OnHost(args, **common, **on_device),
    }
    for contender in contenders.values():
        contender()  # compiles

    times = {name: [] for name in contenders}
    for i in range(args.rounds):
        names = list(contenders)
        for name in names if i % 2 else reversed(names):
            times[name].append(
                [seconds / args.steps for seconds in contenders[name]()]
            )
    executor.shutdown()
    report(args, times)


def report(args, times):
    steps = {
        name: statistics.median(seconds for seconds, _ in found)
        for name, found in times.items()
    }
    print(
        f"{keras.backend.backend()}, Keras {keras.__version__}, batch "
        f"{args.batch}, {args.steps} steps in an epoch, "
        f"{args.steps_per_execution} in a call, medians of {args.rounds}"
    )
    print(f"{'':16} {'images/s':>9} {'min-max':>15} {'ms/step':>8} {'host':>8}")
    for name, found in times.items():
        rates = [args.batch / seconds for seconds, _ in found]
        host = statistics.median(host for _, host in found)
        print(
            f"{name:16} {statistics.median(rates):9.0f} "
            f"{min(rates):7.0f}-{max(rates):7.0f} {1000 * steps[name]:8.3f} "
            f"{1000 * host:8.3f}"
        )
    for bits in ("float", "4W4A"):
        ratios = [
            plain / device
            for (plain, _), (device, _) in zip(
                times[f"{bits}, fit"], times[f"{bits}, on device"], strict=True
            )
        ]
        shares = [
            f"{part} {steps[part] / steps[f'{bits}, {how}']:.1%}"
            for part, how in (("input pipeline", "fit"), ("draws", "on device"))
        ]
        print(
            f"{bits}: on device {statistics.median(ratios):.2f} times as fast "
            f"({min(ratios):.2f}-{max(ratios):.2f}); share of a step: "
            + ", ".join(shares)
        )


if __name__ == "__main__":
    main()
