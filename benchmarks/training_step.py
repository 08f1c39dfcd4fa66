"""What does a quantized training step cost, beside the float one?

Trains a ResNet-20-like network (batch 128, 32x32 images, random data) and its
float twin in turn, a few steps each, and prints the ratio of their times:

    python benchmarks/training_step.py --weight_bits 1 2 4 --rounds=10

Ratios are to the float twin, within each round: their median and quartiles.
"activations only" has quantized activations and float weights. "projection"
is the compiled projection of all kernels by itself, and its share of the
quantized step.
"""

import argparse
import statistics
import time

import keras
import numpy as np
from keras import ops

from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantConv2D
from keras_bcgd import QuantReLU
from keras_bcgd import project


def resnet20(weight_bits, activation_bits, projection="lloyd"):
    """The network of the CIFAR-10 experiments, with a flat classifier."""

    def activation(x):
        if activation_bits == 32:
            return keras.layers.ReLU()(x)
        return QuantReLU(activation_bits)(x)

    def convolution(x, filters, strides):
        x = QuantConv2D(
            filters,
            3,
            strides=strides,
            padding="same",
            use_bias=False,
            bits=weight_bits,
            projection=projection,
        )(x)
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)

    inputs = keras.Input((32, 32, 3))
    x = activation(convolution(inputs, 16, 1))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if filters > 16 and block == 0 else 1
            shortcut = x
            if strides == 2:
                shortcut = x[:, ::2, ::2, :]
                zeros = ((0, 0), (0, 0), (0, 0), (0, filters // 2))
                shortcut = ops.pad(shortcut, zeros)
            x = activation(convolution(x, filters, strides))
            x = convolution(x, filters, 1)
            x = activation(keras.layers.add([x, shortcut]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


class Contender:
    """A compiled model with the times of its rounds."""

    def __init__(self, name, model, optimizer, data, args):
        self.name = name
        self.model = model
        self.data = data
        self.args = args
        self.wall, self.cpu = [], []
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        jit = {"auto": "auto", "on": True, "off": False}[args.jit]
        model.compile(optimizer, loss, jit_compile=jit)
        self.fit()  # traces and compiles

    def fit(self):
        self.model.fit(
            *self.data,
            batch_size=self.args.batch,
            shuffle=False,
            verbose=0,
        )

    def run(self):
        wall, cpu = time.perf_counter(), time.process_time()
        self.fit()
        self.wall.append((time.perf_counter() - wall) / self.args.steps)
        self.cpu.append((time.process_time() - cpu) / self.args.steps)


def contenders(args):
    rng = np.random.default_rng(0)
    count = args.batch * args.steps
    images = rng.normal(size=(count, 32, 32, 3)).astype("float32")
    data = images, rng.integers(0, 10, count)

    def sgd():
        return keras.optimizers.SGD(0.01, momentum=0.95)

    float_model = resnet20(32, 32)
    yield Contender("float", float_model, sgd(), data, args)
    float_weights = resnet20(32, args.activation_bits)
    yield Contender(
        "activations only", float_weights, BlendedOptimizer(sgd()), data, args
    )
    for bits in args.weight_bits:
        yield Contender(
            f"{bits}W{args.activation_bits}A",
            resnet20(bits, args.activation_bits, args.projection),
            BlendedOptimizer(sgd()),
            data,
            args,
        )


def projection_seconds(model, bits, args):
    """The median time to project all quantized kernels, compiled alone."""
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    kernels = [
        ops.convert_to_numpy(layer.kernel)
        for layer in layers
        if isinstance(layer, QuantConv2D)
    ]

    def project_all(*kernels):
        results = []
        for kernel in kernels:
            method = args.projection
            scale, codes = project(kernel, bits, method)
            results.append(scale * codes)
        return results

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(project_all, jit_compile=args.jit != "off")
    else:
        import jax

        compiled = jax.jit(project_all)
    kernels = [ops.convert_to_tensor(kernel) for kernel in kernels]
    times = []
    for _ in range(11):
        start = time.perf_counter()
        for result in compiled(*kernels):
            ops.convert_to_numpy(result)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weight_bits", type=int, nargs="+", default=[4])
    parser.add_argument("--activation_bits", type=int, default=4)
    parser.add_argument("--projection", default="lloyd")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3, help="per round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument(
        "--jit",
        choices=["auto", "on", "off"],
        default="auto",
        help="XLA: auto is Keras' own choice",
    )
    args = parser.parse_args()

    field = list(contenders(args))
    for i in range(args.rounds):
        for contender in field if i % 2 else reversed(field):
            contender.run()

    reference = field[0]
    print(
        f"{'':18} {'wall s':>8} {'ratio':>6} {'quartiles':>12} "
        f"{'cpu s':>8} {'ratio':>6} {'quartiles':>12}"
    )
    for contender in field:
        print(
            f"{contender.name:18} "
            f"{_columns(contender.wall, reference.wall)} "
            f"{_columns(contender.cpu, reference.cpu)}"
        )
    for bits, contender in zip(args.weight_bits, field[2:], strict=True):
        seconds = projection_seconds(contender.model, bits, args)
        share = seconds / statistics.median(contender.wall)
        print(
            f"projection of {contender.name}: {seconds:.4f} s, "
            f"{share:.2%} of its step"
        )


def _columns(times, reference):
    """The median time; of the ratios within each round, median and spread."""
    ratios = [a / b for a, b in zip(times, reference, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return (
        f"{statistics.median(times):8.3f} {median:6.3f} {low:6.3f}-{high:.3f}"
    )


if __name__ == "__main__":
    main()
