"""What do convolutions with int8, int4 and int2 weights cost, and how written?

LiteRT's default kernels have int4 and int2 weights in FULLY_CONNECTED; int4
convolutions run in slower kernels. This times one convolution in each form
that computes it:

    int8 conv     CONV_2D, int8 weights: what the others are compared with
    int4 conv     CONV_2D, int4 weights
    int4 FC       FULLY_CONNECTED at each place of the map, int4 weights
    int2 FC       the same with int2 weights
    im2col int4   windows side by side (9 SLICEs or STRIDED_SLICEs and a
                  CONCATENATION), then the int4 FC
    im2col int2   the same with int2 weights

A 1x1 convolution with strides is an FC behind a STRIDED_SLICE, or behind a
MAX_POOL_2D of size 1 ("pool"). Every round calls each form once; ratios are
those of a round. Run it from the root of the repository, on one core:

    taskset -c 1 python -m benchmarks.low_bit_operators

Whole files, in the same way; ratios are to the first:

    taskset -c 1 python -m benchmarks.low_bit_operators \\
        --files int8.tflite int4.tflite

or of the networks of `keras_bcgd.models`, with random weights, as files of
int8, int4 and int2 weights:

    taskset -c 1 python -m benchmarks.low_bit_operators --networks mobilenet
"""

import argparse
import pathlib
import tempfile
import time

import keras
import numpy as np

import keras_bcgd as kb
from keras_bcgd.tflite.runner import load_interpreter
from keras_bcgd.tflite.writer import TFLiteWriter

# Window, strides, height and width of the input, its channels, filters.
SHAPES = [
    (1, 1, 32, 32, 64),  # MobileNet, CIFAR-10
    (1, 1, 16, 64, 128),
    (1, 1, 8, 256, 256),
    (1, 1, 14, 256, 512),  # MobileNet, ImageNet
    (1, 1, 7, 512, 1024),
    (1, 2, 32, 16, 32),  # projections of ResNets
    (1, 2, 16, 32, 64),
    (1, 2, 56, 64, 128),
    (3, 1, 32, 16, 16),  # ResNet-20
    (3, 1, 16, 32, 32),
    (3, 1, 8, 64, 64),
    (3, 2, 16, 32, 64),
    (3, 1, 8, 256, 256),  # VGG
]
FORMS = ["int8 conv", "int4 conv", "int4 FC", "int2 FC"]
FORMS_WITH_STRIDES = ["int8 conv", "int4 conv", "int4 FC", "pool, int4 FC"]
FORMS_OF_WINDOWS = ["int8 conv", "int4 conv", "im2col int4", "im2col int2"]
ZERO_POINT = -128
NETWORKS = {
    "mobilenet": lambda bits: kb.models.mobilenet_cifar(bits, 4),
    # With convolutions on two shortcuts.
    "resnet20": lambda bits: kb.models.resnet_cifar(
        20, bits, 4, 8, shortcut="B"
    ),
}


class Form:
    """A file with one convolution."""

    def __init__(self, shape, form):
        self.window, self.stride, self.size, self.inputs, self.filters = shape
        self.out = -(-self.size // self.stride)
        self.form = form
        self.dtype = "int8"
        for dtype in ("int4", "int2"):
            self.dtype = dtype if dtype in form else self.dtype
        self.writer = TFLiteWriter(form)
        rng = np.random.default_rng(0)
        kernel = (self.filters, self.window, self.window, self.inputs)
        self.kernel = rng.integers(-1, 2, kernel)
        self.bias = rng.integers(-100, 100, self.filters)
        self.scales = np.float32(rng.uniform(0.01, 0.02, self.filters))

    def contents(self):
        x = first = self.tensor("x", self.size, self.inputs)
        if self.form.endswith("conv"):
            y = self.conv(x)
        else:
            if self.window > 1:
                x = self.windows(x)
            elif self.stride > 1:
                x = self.subsampled(x)
            y = self.dense(x)
        return self.writer.finish({"x": first}, {"y": y})

    def tensor(self, name, size, channels, scale=0.1):
        shape = (1, size, size, channels)
        return self.writer.add_tensor(name, shape, "int8", scale, ZERO_POINT)

    def parameters(self, kernel):
        w = self.writer.add_constant("w", kernel, self.dtype, self.scales)
        scale = np.float32(0.1) * self.scales
        b = self.writer.add_constant("b", self.bias, "int32", scale)
        return [w, b]

    def conv(self, x):
        parameters = self.parameters(self.kernel)
        y = self.output()
        self.writer.add_operator(
            "CONV_2D",
            [x, *parameters],
            [y],
            "Conv2DOptions",
            padding="same",
            strideH=self.stride,
            strideW=self.stride,
            dilationHFactor=1,
            dilationWFactor=1,
            fusedActivationFunction="relu",
        )
        return y

    def dense(self, x):
        parameters = self.parameters(self.kernel.reshape(self.filters, -1))
        y = self.output()
        self.writer.add_operator(
            "FULLY_CONNECTED",
            [x, *parameters],
            [y],
            "FullyConnectedOptions",
            keepNumDims=True,
            fusedActivationFunction="relu",
        )
        return y

    def output(self):
        step = 0.02 * np.sqrt(self.kernel[0].size)
        return self.tensor("y", self.out, self.filters, step)

    def windows(self, x):
        """The map of windows, as channels."""
        before = max((self.out - 1) * self.stride + self.window - self.size, 0)
        amounts = [(0, 0), *2 * [(before // 2, before - before // 2)], (0, 0)]
        padding = self.writer.add_constant("pad", np.int32(amounts), "int32")
        padded = self.tensor("padded", self.size + before, self.inputs)
        self.writer.add_operator("PAD", [x, padding], [padded], "PadOptions")
        parts = [
            self.sliced(f"part{place}", padded, place)
            for place in np.ndindex(self.window, self.window)
        ]
        y = self.tensor("windows", self.out, self.inputs * len(parts))
        self.writer.add_operator(
            "CONCATENATION", parts, [y], "ConcatenationOptions", axis=3
        )
        return y

    def subsampled(self, x):
        if "pool" not in self.form:
            return self.sliced("subsampled", x, (0, 0))
        y = self.tensor("subsampled", self.out, self.inputs)
        self.writer.add_operator(
            "MAX_POOL_2D",
            [x],
            [y],
            "Pool2DOptions",
            padding="valid",
            strideH=self.stride,
            strideW=self.stride,
            filterHeight=1,
            filterWidth=1,
        )
        return y

    def sliced(self, name, x, place):
        y = self.tensor(name, self.out, self.inputs)
        length = (self.out - 1) * self.stride + 1
        begin = np.int32([0, *place, 0])
        if self.stride == 1:
            size = np.int32([1, length, length, self.inputs])
            ends = [
                self.writer.add_constant(f"{name}/{key}", value, "int32")
                for key, value in (("begin", begin), ("size", size))
            ]
            self.writer.add_operator("SLICE", [x, *ends], [y], "SliceOptions")
            return y
        end = np.int32([1, place[0] + length, place[1] + length, self.inputs])
        strides = np.int32([1, self.stride, self.stride, 1])
        ends = [
            self.writer.add_constant(f"{name}/{key}", value, "int32")
            for key, value in (
                ("begin", begin),
                ("end", end),
                ("strides", strides),
            )
        ]
        self.writer.add_operator(
            "STRIDED_SLICE", [x, *ends], [y], "StridedSliceOptions"
        )
        return y


def prepared(source, kernels):
    """A function that runs a file on random codes, and its first answer."""
    interpreter = load_interpreter(source, kernels)
    rng = np.random.default_rng(1)
    for details in interpreter.get_input_details():
        codes = rng.integers(-128, 128, details["shape"], np.int8)
        interpreter.set_tensor(details["index"], codes)
    interpreter.invoke()
    (y, *_) = interpreter.get_output_details()
    return interpreter.invoke, interpreter.get_tensor(y["index"])


def timed(calls, rounds):
    """Milliseconds, an array of shape `(calls, rounds)`.

    Each timed call follows one that is not, so that the caches are its own.
    """
    times = np.zeros((len(calls), rounds))
    for number in range(rounds):
        for i, call in enumerate(calls):
            call()
            start = time.perf_counter_ns()
            call()
            times[i, number] = (time.perf_counter_ns() - start) / 1e6
    return times


def row(name, times, first):
    """Median, then the ratio to the first: median and quartiles."""
    low, middle, high = np.percentile(times / first, [25, 50, 75])
    return (
        f"| {name} | {np.median(times):.4f} | {middle:.2f} | "
        f"{low:.2f}..{high:.2f} |"
    )


HEAD = "| | median, ms | ratio | quartiles |\n|---|---|---|---|"


def time_shapes(shapes, rounds, kernels):
    for shape in shapes:
        window, stride, size, inputs, filters = shape
        names = FORMS if window == 1 else FORMS_OF_WINDOWS
        if window == 1 and stride > 1:
            names = FORMS_WITH_STRIDES
        print(
            f"\n{window}x{window}, strides {stride}, {size}x{size}, "
            f"{inputs} -> {filters} channels\n\n{HEAD}"
        )
        calls, answers = zip(
            *(prepared(Form(shape, n).contents(), kernels) for n in names),
            strict=True,
        )
        times = timed(calls, rounds)
        for name, own, answer in zip(names, times, answers, strict=True):
            off = np.abs(answer.astype(int) - answers[0]).max()
            note = f", codes up to {off} off" if off else ""
            print(row(name + note, own, times[0]), flush=True)


def network_files(network, folder):
    """Files of one network: names to paths."""
    paths = {}
    for bits, formats in ((4, ("int8", "auto")), (2, ("int8", "int2"))):
        keras.utils.set_random_seed(0)
        model = NETWORKS[network](bits)
        x = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)) / 255
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = 0.0
            elif isinstance(layer, kb.QuantReLU):
                layer.alpha.assign(0.2)
        model(keras.ops.convert_to_tensor(x, "float32"), training=True)
        for weight_format in formats:
            path = folder / f"{network}-{bits}w4a-{weight_format}.tflite"
            kb.export_tflite(
                model,
                path,
                (0, 1),
                x,
                weight_format=weight_format,
                align=False,
                verbose=0,
            )
            paths[path.stem] = path
    return paths


def time_files(paths, rounds, kernels):
    print(f"\n{HEAD}")
    calls = [prepared(str(path), kernels)[0] for path in paths.values()]
    times = timed(calls, rounds)
    for name, own in zip(paths, times, strict=True):
        print(row(name, own, times[0]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--kernels", default="xnnpack")
    parser.add_argument("--window", type=int, help="only the shapes with it")
    parser.add_argument("--files", nargs="+", default=[])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[])
    options = parser.parse_args()
    if options.files:
        paths = {path: path for path in options.files}
        time_files(paths, options.rounds, options.kernels)
    for network in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            paths = network_files(network, pathlib.Path(folder))
            time_files(paths, options.rounds, options.kernels)
    if not options.files and not options.networks:
        shapes = [s for s in SHAPES if options.window in (None, s[0])]
        time_shapes(shapes, options.rounds, options.kernels)


if __name__ == "__main__":
    main()
