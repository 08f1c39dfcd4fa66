"""From images to an integer TFLite file, in a few minutes on two cores.

Trains a small CNN on the handwritten digits that scikit-learn carries: first
in float, then from there with 4-bit and with 1-bit weights and 4-bit
activations, by BinaryConnect (BC) and by blended coarse gradient descent
(BCGD). Each quantized network is written as a TFLite file that computes with
integers only, and that file is run on the test images. Prints a table of
accuracies, of how often file and Keras model agree, and of file sizes, and how
small the 1-bit file is for a microcontroller. The files and a picture of the
training curves, the staircases and the weight levels stay in --output_dir.

    python examples/demo.py --output_dir=demo_output
"""

import contextlib
import dataclasses
import io
import os
import pathlib
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from absl import app
from absl import flags
from absl import logging
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_bcgd

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", "demo_output", "Folder for the TFLite files and the picture."
)
_SEEDS = flags.DEFINE_list(
    "seeds", ["0", "1", "2"], "Each seed is one float and four quantized runs."
)
_FLOAT_EPOCHS = flags.DEFINE_integer(
    "float_epochs", 12, "Epochs of the float network.", lower_bound=1
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 12, "Epochs of each quantized network.", lower_bound=1
)

TEST_IMAGES = 540
BATCH_SIZE = 32
ACTIVATION_BITS = 4
LAST_LAYER_BITS = 8
# Name, bits of the weights, blending.
NETWORKS = [
    ("4W4A BC", 4, 0.0),
    ("4W4A BCGD", 4, 1e-5),
    ("1W4A BC", 1, 0.0),
    ("1W4A BCGD", 1, 1e-5),
]


@dataclasses.dataclass
class Result:
    """A row of the table."""

    network: str
    seed: int
    accuracy: float
    curve: list
    file_bytes: int
    int4_bytes: int | None = None
    lut_bytes: int | None = None
    lut_path: pathlib.Path | None = None
    verification: keras_bcgd.VerificationReport | None = None
    model: keras.Model | None = None


def load_data():
    """The 8x8 digits as 8-bit images divided by 255, in a fixed split."""
    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype("uint8")
    images = images[..., np.newaxis].astype("float32") / 255
    x, x_test, y, y_test = train_test_split(
        images,
        digits.target,
        test_size=TEST_IMAGES,
        random_state=0,
        stratify=digits.target,
    )
    return (x, y), (x_test, y_test)


def build(weight_bits):
    """The CNN with quantized weights and activations; at 32, its float twin."""

    def convolution(filters):
        return [
            keras_bcgd.QuantConv2D(
                filters, 3, padding="same", use_bias=False, bits=weight_bits
            ),
            layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
        ]

    def activation():
        if weight_bits == 32:
            return layers.ReLU()
        return keras_bcgd.QuantReLU(bits=ACTIVATION_BITS)

    last_bits = 32 if weight_bits == 32 else LAST_LAYER_BITS
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *convolution(16),
            activation(),
            *convolution(32),
            activation(),
            layers.MaxPooling2D(),
            *convolution(32),
            activation(),
            layers.Flatten(),
            keras_bcgd.QuantDense(10, bits=last_bits),
        ]
    )


def start_from(source, target):
    """Gives a quantized network the weights of its float twin."""
    for old, new in zip(source.layers, target.layers, strict=True):
        if isinstance(old, layers.BatchNormalization):
            new.set_weights(old.get_weights())
        elif hasattr(old, "kernel"):
            new.kernel.assign(old.kernel)
            if old.use_bias:
                new.bias.assign(old.bias)


class Progress(keras.callbacks.Callback):
    """One progress bar over the epochs of all runs."""

    def __init__(self, epochs):
        super().__init__()
        names = ["test_accuracy"]
        self.bar = keras.utils.Progbar(
            epochs, stateful_metrics=names, unit_name="epoch"
        )
        self.count = 0

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1
        accuracy = ("test_accuracy", logs["val_accuracy"])
        self.bar.update(self.count, [accuracy])


def train(model, data, epochs, rate, blending, progress):
    """Trains with SGD and a cosine schedule; returns the test accuracies."""
    (x, y), test = data
    steps = epochs * -(-len(x) // BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        keras_bcgd.BlendedOptimizer(
            keras.optimizers.SGD(schedule, momentum=0.9),
            blending=blending,
            l2=1e-4,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # so small a network compiles longer than it runs
    )
    history = model.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=test,
        callbacks=[progress],
        verbose=0,
    )
    return history.history["val_accuracy"]


def run_seed(seed, data, folder, progress):
    """One float and four quantized networks; yields their results."""
    (x, _), (x_test, y_test) = data
    keras.utils.set_random_seed(seed)
    twin = build(32)
    curve = train(twin, data, _FLOAT_EPOCHS.value, 0.1, 0.0, progress)
    yield from stock_files(twin, seed, data, curve)
    for name, bits, blending in NETWORKS:
        keras.utils.set_random_seed(seed)
        model = build(bits)
        start_from(twin, model)
        curve = train(model, data, _EPOCHS.value, 0.05, blending, progress)
        path = folder / f"{name.replace(' ', '_').lower()}_{seed}.tflite"
        lut_path = path.with_suffix(".lut.tflite")
        report = keras_bcgd.export_tflite(model, path, (0, 1), x)
        small = keras_bcgd.export_tflite(
            model,
            path.with_suffix(".int4.tflite"),
            (0, 1),
            x,
            weight_format="auto",
        )
        tables = keras_bcgd.export_tflite(
            model, lut_path, (0, 1), x, weight_format="lut"
        )
        yield Result(
            name,
            seed,
            curve[-1],
            curve,
            report.file_bytes,
            small.file_bytes,
            tables.file_bytes,
            lut_path,
            keras_bcgd.verify_tflite(report.model, path, x_test, y_test),
            report.model,
        )


def stock_files(twin, seed, data, curve):
    """The float twin through TensorFlow's own converter, for comparison."""
    (x, _), (x_test, y_test) = data
    size = len(convert(twin))
    yield Result("float32", seed, curve[-1], curve, size)
    contents = convert(twin, x[:200])
    path = pathlib.Path(_OUTPUT_DIR.value) / f"post_training_{seed}.tflite"
    path.write_bytes(contents)
    yield Result(
        "int8 post-training",
        seed,
        curve[-1],
        [],
        len(contents),
        verification=keras_bcgd.verify_tflite(twin, path, x_test, y_test),
    )


def convert(model, representative_data=None):
    """A model through TensorFlow's converter; with data, to 8-bit integers."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if representative_data is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [image[np.newaxis]] for image in representative_data
        )
        int8 = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        converter.target_spec.supported_ops = [int8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter is talkative
        return converter.convert()


def print_table(results):
    """All rows, seed by seed, then the means over the seeds."""
    print(
        f"\n{'network':20}{'seed':>5}{'Keras %':>9}{'TFLite %':>10}"
        f"{'equal %':>9}{'ties':>6}{'int8 B':>8}{'int4 B':>8}"
        f"{'lut B':>8}"
    )
    for result in results:
        print(_row(result.network, result.seed, [result]))
    print()
    for name in dict.fromkeys(result.network for result in results):
        print(_row(name, "mean", [r for r in results if r.network == name]))
    print(
        "\nTFLite %: accuracy of the file on the "
        f"{TEST_IMAGES} test images. equal %: test images on which file and "
        "Keras model predict the same; ties in the file's output are counted "
        "apart, not as equal. B: bytes of the file with weights stored in 8 "
        "bits, in 4 where they have no more, and as indices into a table, for "
        "TensorFlow Lite Micro. BC: blending 0. BCGD: "
        "blending 1e-5. float32 and int8 post-training: TensorFlow's own "
        "converter on the float network."
    )


def _row(name, seed, results):
    def mean(values):
        return sum(values) / len(values)

    row = f"{name:20}{seed:>5}{100 * mean([r.accuracy for r in results]):9.2f}"
    reports = [r.verification for r in results if r.verification]
    if reports:
        row += (
            f"{100 * mean([r.file_accuracy for r in reports]):10.2f}"
            f"{100 * mean([r.agreement for r in reports]):9.2f}"
            f"{sum(r.ties for r in reports):6}"
        )
    else:
        row += f"{'':25}"
    row += f"{mean([r.file_bytes for r in results]):8.0f}"
    if results[0].int4_bytes:
        row += f"{mean([r.int4_bytes for r in results]):8.0f}"
        row += f"{mean([r.lut_bytes for r in results]):8.0f}"
    return row


def print_micro(results, x, y):
    """The 1-bit network of the first seed on a microcontroller's runtime."""
    first = next(r for r in results if r.network == "1W4A BCGD")
    print(
        f"\nTensorFlow Lite Micro, {first.network}, seed {first.seed}: "
        f"{first.lut_bytes:,} bytes with weights in a table, of "
        f"{first.file_bytes:,}"
    )
    try:
        report = keras_bcgd.verify_tflite(
            first.model, first.lut_path, x, y, kernels="micro", trace=False
        )
    except ImportError as error:
        print(f"Not run there: {error}")
        return
    print(
        f"In its interpreter {report.equal} of {report.samples} predictions "
        f"and {report.values - report.different_values:,} of "
        f"{report.values:,} outputs are those of the Keras model."
    )


def draw(results, path):
    """Curves, learned staircases and weight levels of the first seed."""
    first = [r for r in results if r.seed == results[0].seed and r.curve]
    figure, (curves, staircases, levels) = plt.subplots(
        1, 3, figsize=(15, 4.5), layout="constrained"
    )
    for result in first:
        errors = 100 * (1 - np.array(result.curve))
        epochs = np.arange(1, len(errors) + 1)
        curves.plot(epochs, errors, label=result.network)
    curves.set(xlabel="epoch", ylabel="test error, %", yscale="log")
    curves.set_title("Training")
    curves.legend()

    by_name = {result.network: result.model for result in first}
    model = by_name["4W4A BCGD"]
    x = np.linspace(-0.5, 4, 2000, dtype="float32")
    for layer in model.layers:
        if isinstance(layer, keras_bcgd.QuantReLU):
            label = f"{layer.name}, alpha {float(layer.alpha):.3f}"
            staircases.plot(x, np.asarray(layer(x)), label=label)
    staircases.plot(x, np.maximum(x, 0), "k:", linewidth=1, label="ReLU")
    staircases.set(xlabel="x", ylabel="sigma(x, alpha)")
    staircases.set_title("Learned staircases, 4W4A BCGD")
    staircases.legend()

    for name, offset in (("4W4A BCGD", -0.2), ("1W4A BCGD", 0.2)):
        scale, codes = by_name[name].layers[3].kernel_scale_and_codes()
        values, counts = np.unique(codes, return_counts=True)
        levels.bar(
            values + offset,
            100 * counts / codes.size,
            0.4,
            label=f"{name}, scale {float(scale):.3f}",
        )
    levels.set(xlabel="weight code", ylabel="share of the weights, %")
    levels.set_title("Weight levels, second convolution")
    levels.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv):
    tf.get_logger().setLevel("ERROR")
    logging.set_verbosity(logging.ERROR)
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    start = time.time()
    folder = pathlib.Path(_OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    data = load_data()
    seeds = [int(seed) for seed in _SEEDS.value]
    quantized_epochs = len(NETWORKS) * _EPOCHS.value
    progress = Progress(len(seeds) * (_FLOAT_EPOCHS.value + quantized_epochs))
    print(
        f"{len(seeds)} seeds: a float network for {_FLOAT_EPOCHS.value} epochs "
        f"and, from it, {len(NETWORKS)} quantized ones for {_EPOCHS.value}; "
        f"{len(data[0][0])} training and {len(data[1][0])} test images."
    )
    results = [
        result
        for seed in seeds
        for result in run_seed(seed, data, folder, progress)
    ]
    print_table(results)
    print_micro(results, *data[1])
    draw(results, folder / "demo.png")
    print(f"\nFiles and {folder / 'demo.png'}: {time.time() - start:.0f} s.")


if __name__ == "__main__":
    app.run(main)
