"""Small networks for microcontrollers: keywords in sound, motions of a wrist.

    python examples/keyword_spotting.py --out=keyword_spotting

Two tasks, each with the network that is usual for it:

    words    which of ten words is said, from spectrograms of a second of
             sound, (49 times, 20 bands, 1), by a DS-CNN: a convolution, then
             blocks of a depthwise and a 1 x 1 convolution, and the mean over
             the map. SYNTHETIC: the "words" are tones, chirps and noise of
             random pitch, tempo and loudness (training/words.py). The numbers
             say what quantization costs, nothing about speech.
    watch    which of seven exercises is done, from raw windows of a
             smartwatch's sensors, (128 times, 6 channels), by convolutions
             over time with poolings between them. REAL data of ten people,
             three of whom are kept for the test. They come in the package
             seglearn, which this example alone needs: pip install seglearn.

What the sensor gives is rounded to int8 once. These codes divided by 64 are
what the networks are trained on, so the codes are the input of the file, and
a microcontroller hands them over as they are.

The float network is trained first. From there each of --networks is made by
`quantize_model` and `calibrate`, trained on with BlendedOptimizer, exported
with 16-bit logits and verified: all test samples on the kernel sets `xnnpack`
and `builtin`, --reference_samples of them on the slow `reference`. A table says
how often file and model predict the same; left out are ties, where the file's
two largest logits are equal. The operators under it are what a resolver for
tflite-micro has to have. (The mean at the end is a depthwise convolution there,
with a weight for each place: the smaller the map, the smaller the file.) The
folder --out gets a .keras and a .tflite file of each network, and report.json.
"""

import json
import os
import sys
import time

import keras
import numpy as np
from absl import app
from absl import flags

import keras_bcgd
from training import bits
from training import watch
from training import words
from training import workdir

# int8 codes divided by 64.
INPUT_RANGE = (-2.0, 127 / 64)
KERNELS = ("xnnpack", "builtin", "reference")

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "keyword_spotting", "Folder for the files.")
flags.DEFINE_list("tasks", ["words", "watch"], "words, watch or both.")
flags.DEFINE_list(
    "networks", ["4w8a", "4w4a"], "Bits of weights and activations of each."
)
flags.DEFINE_integer(
    "first_last",
    7,
    "Bits of the weights of first and last layer. With 8 the sums of the first "
    "may be too fine to be the same on all kernels.",
)
flags.DEFINE_integer("width", 32, "Filters of the first layer.", lower_bound=1)
flags.DEFINE_integer("float_epochs", 6, "Of the float networks.")
flags.DEFINE_float("float_learning_rate", 0.1, "The first, of a cosine.")
flags.DEFINE_integer("epochs", 3, "Of each quantized network.")
flags.DEFINE_float("learning_rate", 0.02, "The first of these, of a cosine.")
flags.DEFINE_float("blending", 1e-5, "rho; 0 is BinaryConnect.")
flags.DEFINE_integer("batch_size", 64, "Of all trainings.")
flags.DEFINE_integer("train_words", 6000, "Utterances to train on.")
flags.DEFINE_integer("test_words", 2000, "Others, to test.")
flags.DEFINE_integer(
    "reference_samples", 500, "So many of these, on slow kernels."
)
flags.DEFINE_integer("calibration_samples", 512, "Training samples for that.")
flags.DEFINE_integer("seed", 0, "Of words, weights and batches.")
flags.DEFINE_bool(
    "smoke", False, "A few words, windows of noise: to try the program."
)


def ds_cnn(shape, classes, width):
    """A depthwise separable CNN on `(times, bands, 1)`."""

    def normalized(x):
        return keras.layers.ReLU()(
            keras.layers.BatchNormalization(momentum=0.9)(x)
        )

    start = keras.Input(shape)
    settings = {"padding": "same", "use_bias": False}
    x = keras.layers.Conv2D(width, (10, 4), strides=2, **settings)(start)
    x = normalized(x)
    for strides in (1, 2, 1, 1):
        x = keras.layers.DepthwiseConv2D(3, strides=strides, **settings)(x)
        x = normalized(x)
        x = normalized(keras.layers.Conv2D(2 * width, 1, **settings)(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(start, keras.layers.Dense(classes)(x), name="ds_cnn")


def cnn_1d(shape, classes, width):
    """Convolutions over the time of `(times, channels)`."""
    x = start = keras.Input(shape)
    for i, size in enumerate((7, 5, 3)):
        if i:
            x = keras.layers.MaxPooling1D()(x)
        x = keras.layers.Conv1D(
            width * (i + 1), size, padding="same", use_bias=False
        )(x)
        x = keras.layers.BatchNormalization(momentum=0.9)(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(start, keras.layers.Dense(classes)(x), name="cnn_1d")


BUILD = {"words": ds_cnn, "watch": cnn_1d}
DATA = {
    "words": "synthetic: tones, chirps and noise; no speech",
    "watch": "real: the smartwatch recordings of seglearn",
}


def load(task):
    """`(x, y), (x_test, y_test)` of a task: int8 codes, and classes."""
    if task == "watch":
        return watch.random_windows() if FLAGS.smoke else watch.load()
    counts = FLAGS.train_words, FLAGS.test_words
    if FLAGS.smoke:
        counts = 256, 128
    print("The words, synthetic:")
    return [
        words.load(count, part, FLAGS.seed) for part, count in enumerate(counts)
    ]


def train(model, x, y, optimizer_of, rate, epochs):
    """Trains by SGD with a cosine schedule; the seconds it took."""
    steps = epochs * -(-len(x) // FLAGS.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    sgd = keras.optimizers.SGD(schedule, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer_of(sgd), loss=loss, metrics=["accuracy"])
    start = time.monotonic()
    model.fit(
        x,
        y,
        batch_size=FLAGS.batch_size,
        epochs=epochs,
        # In a file a bar would be a line for every step.
        verbose=1 if sys.stdout.isatty() else 2,
    )
    return time.monotonic() - start


def spread(count, of):
    """So many rows from all over the data, whose neighbors are alike."""
    return np.linspace(0, of - 1, min(count, of)).astype(int)


def accuracy(model, x, y):
    logits = model.predict(x, batch_size=250, verbose=0)
    return float(np.mean(np.argmax(logits, -1) == y))


def quantized(model, name, x, y):
    """The network of a name, trained from the float one."""
    weight_bits, activation_bits = bits.of_name(name)
    model = keras_bcgd.quantize_model(
        model,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        first_last=FLAGS.first_last,
    )
    keras_bcgd.calibrate(model, x[spread(FLAGS.calibration_samples, len(x))])
    seconds = train(
        model,
        x,
        y,
        lambda sgd: keras_bcgd.BlendedOptimizer(
            sgd,
            FLAGS.blending,
            alpha_learning_rate_multiplier=bits.alpha_multiplier(
                activation_bits
            ),
        ),
        FLAGS.learning_rate,
        FLAGS.epochs,
    )
    return model, seconds


def deploy(model, path, calibration, x, y):
    """Writes the file; the model it answers as, and how often it does."""
    report = keras_bcgd.export_tflite(
        model, path, INPUT_RANGE, representative_data=calibration
    )
    print(report)
    inspected = keras_bcgd.inspect_tflite(path)
    found = {
        "file_bytes": inspected.file_bytes,
        "weight_bytes": inspected.weight_bytes,
        "operators": sorted({one.name for one in inspected.operators}),
        "not_exact": report.inexact,
        "not_exact_on_all_kernels": report.inexact_elsewhere,
    }
    for kernels in KERNELS:
        count = FLAGS.reference_samples if kernels == "reference" else len(x)
        rows = spread(count, len(x))
        result = keras_bcgd.verify_tflite(
            report.model, path, x[rows], y[rows], kernels, trace=False
        )
        print(result)
        found[kernels] = {
            "samples": result.decisions,
            "equal": result.equal,
            "ties": result.ties,
            "inside": result.inside_differences,
            "different_values": result.different_values,
            "values": result.values,
            "accuracy": result.file_accuracy,
        }
    return report.model, found


def equal_share(found):
    """Equal predictions among those that are no ties."""
    return found["equal"] / max(found["samples"] - found["ties"], 1)


def table(rows):
    """What each network came to, as lines of text."""
    lines = [
        f"{'task':<6} {'network':<8} {'accuracy':>8} {'seconds':>8} "
        f"{'bytes':>7}  equal, ties apart: xnnpack  builtin  reference"
    ]
    for row in rows:
        line = f"{row['task']:<6} {row['network']:<8} {row['accuracy']:>8.2%} "
        line += f"{row['seconds']:>8.1f}"
        if "file" in row:
            shares = [f"{equal_share(row['file'][k]):.2%}" for k in KERNELS]
            line += f" {row['file']['file_bytes']:>7,}  {shares[0]:>26}  "
            line += f"{shares[1]:>7}  {shares[2]:>9}"
        lines.append(line)
    for task in dict.fromkeys(row["task"] for row in rows):
        operators = {
            name
            for row in rows
            if row["task"] == task and "file" in row
            for name in row["file"]["operators"]
        }
        lines.append(f"{task}: operators {', '.join(sorted(operators))}")
        lines.append(f"{task}: data {DATA[task]}")
    return "\n".join(lines)


def run_task(task, rows):
    """Adds the rows of a task's float network and of the quantized ones."""
    place = lambda name: os.path.join(  # noqa: E731
        FLAGS.out, f"{task}_{name}"
    )
    keras.utils.set_random_seed(FLAGS.seed)
    (x, y), (x_test, y_test) = load(task)
    x, x_test = (codes.astype("float32") / 64 for codes in (x, x_test))
    calibration = x[spread(FLAGS.calibration_samples, len(x))]
    model = BUILD[task](x.shape[1:], int(y.max()) + 1, FLAGS.width)
    seconds = train(
        model,
        x,
        y,
        lambda sgd: sgd,
        FLAGS.float_learning_rate,
        FLAGS.float_epochs,
    )
    model.save(place("float.keras"))
    row = {"task": task, "network": "float", "seconds": seconds}
    rows.append({**row, "accuracy": accuracy(model, x_test, y_test)})
    print(keras_bcgd.conversion_plan(model, weight_bits=4, activation_bits=4))
    for name in FLAGS.networks:
        network, seconds = quantized(model, name, x, y)
        network, file = deploy(
            network, place(f"{name}.tflite"), calibration, x_test, y_test
        )
        network.save(place(f"{name}.keras"))
        row = {"task": task, "network": name, "seconds": seconds}
        row["accuracy"] = accuracy(network, x_test, y_test)
        rows.append({**row, "file": file})
        print(f"\n{table(rows)}\n", flush=True)


def main(_):
    for name in FLAGS.networks:
        bits.of_name(name)
    for task in FLAGS.tasks:
        if task not in BUILD:
            raise app.UsageError(
                f"--tasks takes {', '.join(BUILD)}, not {task!r}."
            )
    if "watch" in FLAGS.tasks and not FLAGS.smoke:
        watch.find()
    if FLAGS.smoke:
        DATA["watch"] = "noise, as --smoke has it"
    os.makedirs(FLAGS.out, exist_ok=True)
    rows, start = [], time.monotonic()
    for task in FLAGS.tasks:
        run_task(task, rows)
    report = {
        "data": {task: DATA[task] for task in FLAGS.tasks},
        "flags": {
            flag.name: flag.value
            for flag in FLAGS.get_key_flags_for_module(sys.argv[0])
            if flag.name != "out"
        },
        "rows": rows,
        "seconds": time.monotonic() - start,
        "machine": workdir.machine(),
    }
    with open(os.path.join(FLAGS.out, "report.json"), "w") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    app.run(main)
