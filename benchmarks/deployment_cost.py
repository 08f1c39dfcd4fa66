"""What does each step from a float network to its file cost?

Times `quantize_model`, `calibrate`, `export_tflite`, `verify_tflite` and
`align_for_export` on networks of keras.applications with random weights, each
network in a process of its own, on one core:

    python benchmarks/deployment_cost.py

"predict" is the quantized network on the images that calibrate it, for
comparison. "CPU" is the time of the process, which others on the machine change
less than they change that of the wall. "peak" is the most memory that the
process held, "more" how much of it was not there when the step began.
`--profile STEP` prints the functions in which that step spent its time.

`--scaling` shows instead what a layer of 64 to 1024 channels costs to align and
to export, in milliseconds per channel.
"""

import argparse
import cProfile
import gc
import os
import pathlib
import platform
import pstats
import subprocess
import sys
import tempfile
import time
import warnings

NETWORKS = ("MobileNetV2", "ResNet50")
STEPS = (
    "quantize_model",
    "predict",
    "calibrate",
    "export_tflite",
    "verify_tflite",
    "align_for_export",
)
CHANNELS = (64, 128, 256, 512, 1024)
IMAGE_SIZE = 224
# The 256 codes of an input are the images themselves.
INPUT_RANGE = (-2, 127 / 64)
LIBRARIES = ("keras", "tensorflow", "numpy")
LINES_OF_PROFILE = 25


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS
    )
    parser.add_argument("--image_size", type=int, default=IMAGE_SIZE)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument(
        "--cores", type=int, default=1, help="how many the process may use"
    )
    parser.add_argument("--profile", choices=STEPS, metavar="STEP")
    parser.add_argument("--scaling", action="store_true")
    args = parser.parse_args()
    if len(args.networks) > 1 and not args.scaling:
        for network in args.networks:
            arguments = [*sys.argv[1:], "--networks", network]
            subprocess.run([sys.executable, __file__, *arguments], check=True)
        return
    use_cores(args.cores)
    if args.scaling:
        print_scaling()
    else:
        measure(args.networks[0], args)


def use_cores(count):
    """Keeps this process to some cores, and TensorFlow to as many threads."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(count)
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[-count:])


def measure(network, args):
    """Prints the table of one network."""
    import keras

    import keras_bcgd as kb

    keras.utils.set_random_seed(0)
    size = args.image_size
    source = build(network, size)
    x = images(args.images, size)
    set_statistics(source, x[:8])
    meter = Meter(args.profile)
    print(f"\n{network}, {size} px, {args.images} images; {machine(args)}\n")
    row = "{:>18}{:>9}{:>9}{:>11}{:>11}"
    print(row.format("", "wall s", "CPU s", "peak MiB", "more MiB"))

    def run(step, function, *arguments, **options):
        result, *figures = meter.run(step, function, *arguments, **options)
        print(row.format(step, *figures), flush=True)
        return result

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder, "model.tflite")
        model = run("quantize_model", kb.quantize_model, source)
        del source
        run("predict", model.predict, x, verbose=0)
        run("calibrate", kb.calibrate, model, x, verbose=0)
        options = {
            "input_range": INPUT_RANGE,
            "representative_data": x,
            "verbose": 0,
        }
        report = run("export_tflite", kb.export_tflite, model, path, **options)
        run("verify_tflite", kb.verify_tflite, report.model, path, x, verbose=0)
        del report
        run("align_for_export", kb.align_for_export, model, **options)
    meter.print_profile()


def print_scaling():
    """Prints what one layer costs, by its channels and by its thresholds."""
    import keras

    import keras_bcgd as kb

    row = "{:>9}{:>6}" + 4 * "{:>12}"
    print("\nCPU ms per channel, of one 1x1 convolution of 64 channels\n")
    print(
        row.format("channels", "bits", "align", "again", "export", "thresholds")
    )
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder, "model.tflite")
        for bits in (4, 8):
            for channels in (CHANNELS[0], *CHANNELS):  # the first warms up
                keras.utils.set_random_seed(0)
                model = one_layer(channels, bits)
                options = {"input_range": (0, 1), "verbose": 0}
                times = [
                    cpu_of(kb.align_for_export, model, **options),
                    cpu_of(kb.align_for_export, model, **options),
                    cpu_of(
                        kb.export_tflite, model, path, align=False, **options
                    ),
                ]
                cells = [f"{1e3 * t / channels:.2f}" for t in times]
                print(row.format(channels, bits, *cells, 2**bits - 1))


def cpu_of(function, *arguments, **options):
    start = time.process_time()
    function(*arguments, **options)
    return time.process_time() - start


def one_layer(channels, bits):
    """A convolution with so many channels and 2**bits - 1 thresholds each."""
    import keras

    import keras_bcgd as kb

    x = keras.Input((4, 4, 64))
    y = kb.QuantConv2D(channels, 1, bits=4, use_bias=False)(x)
    norm = keras.layers.BatchNormalization()
    model = keras.Model(x, kb.QuantReLU(bits)(norm(y)))
    norm.gamma.assign(keras.random.uniform((channels,), 0.5, 1.5))
    norm.beta.assign(keras.random.normal((channels,)))
    return model


def build(network, size):
    import keras

    return getattr(keras.applications, network)(
        input_shape=(size, size, 3), weights=None, classifier_activation=None
    )


def images(count, size):
    import numpy as np

    codes = np.random.default_rng(0).integers(-128, 128, (count, size, size, 3))
    return (codes / 64).astype("float32")


def set_statistics(model, x):
    """Gives each batch normalization the statistics of some images.

    What was never trained would let next to nothing through, or too much.
    """
    import keras

    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(x, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


class Meter:
    """Measures steps; `profile` is the name of the one to be profiled."""

    def __init__(self, profile):
        self.profile = profile
        self.profiler = cProfile.Profile()

    def run(self, step, function, *arguments, **options):
        """`(result, wall, CPU, peak, more)` of a call, as strings."""
        gc.collect()
        before = start_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        if step == self.profile:
            self.profiler.enable()
        result = function(*arguments, **options)
        self.profiler.disable()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = memory("VmHWM")
        return (
            result,
            f"{wall:.1f}",
            f"{cpu:.1f}",
            f"{peak:,.0f}",
            f"{peak - before:,.0f}",
        )

    def print_profile(self):
        if self.profile:
            stats = pstats.Stats(self.profiler)
            stats.sort_stats("tottime").print_stats(LINES_OF_PROFILE)
            stats.sort_stats("cumtime").print_stats(LINES_OF_PROFILE)


def start_peak():
    """Has Linux forget the peak so far; the memory held now, in MiB."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(name):
    """A line of /proc/self/status, in MiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def machine(args):
    """The versions, the processor and what of it is used."""
    from importlib import metadata

    versions = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    return ", ".join(
        [*versions, platform.machine(), f"{args.cores} core(s) of it"]
    )


if __name__ == "__main__":
    main()
