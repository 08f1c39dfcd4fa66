"""A U-Net for the pixels of an image, as an integer TFLite file.

    python examples/segmentation.py --out=segmentation

Segmentation gives every pixel a class: the network must see far, and answer in
full resolution. A U-Net halves the map (MaxPooling2D), doubles it again
(UpSampling2D of the nearest pixels), and joins what it computed on the way
down to what it computes on the way up (Concatenate). In the file a pooling and
an upsampling only copy codes. What is concatenated had two scales: there
`quantize_model` puts a QuantIdentity of 8 bits, so that training rounds both
to the one scale that the file has.

The images are CIFAR-10's. It has no masks, and the classes are computed from
the image, from the mean of 5 x 5 pixels around each (`masks`):

    3 edge       the luminance changes by much
    2 colored    else, where the largest and smallest color differ by much
    1 bright     else, where the luminance is 128 or more
    0 dark       else

So the numbers say how well a quantized network learns a task that takes a
neighborhood, and how often its file answers as it does; they say nothing of
photographs with masks drawn by hand.

The float network is trained first. From there each of --networks is made by
`quantize_model` and `calibrate`, trained on with BlendedOptimizer, exported
with 16-bit logits and verified: the classes of all pixels of --test_images
images on the kernel sets `xnnpack` and `builtin`, and of --reference_images on
the slow `reference`. The folder --out gets a .keras and a .tflite file of
each, and report.json.
"""

import json
import os
import time

import keras
import numpy as np
from absl import app
from absl import flags

import keras_bcgd
from training import bits
from training import cifar10_data
from training import workdir

INPUT_RANGE = cifar10_data.input_range("grid")
CLASSES = ("dark", "bright", "colored", "edge")
# Bytes, of the mean of 5 x 5 pixels.
BRIGHT, COLORED, EDGE = 128, 40, 24

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "segmentation", "Folder for the files.")
flags.DEFINE_list(
    "networks", ["4w8a", "4w4a"], "Bits of weights and activations of each."
)
flags.DEFINE_integer("width", 12, "Filters of the first block.", lower_bound=1)
flags.DEFINE_integer("float_epochs", 4, "Of the float network.")
flags.DEFINE_float("float_learning_rate", 0.1, "The first, of a cosine.")
flags.DEFINE_integer("epochs", 2, "Of each quantized network.")
flags.DEFINE_float("learning_rate", 0.02, "The first of these, of a cosine.")
flags.DEFINE_float("blending", 1e-5, "rho; 0 is BinaryConnect.")
flags.DEFINE_integer("batch_size", 64, "Of all trainings.")
flags.DEFINE_integer("train_images", 6000, "The first so many.")
flags.DEFINE_integer("test_images", 10000, "The first so many.")
flags.DEFINE_integer("reference_images", 1000, "Of these, on slow kernels.")
flags.DEFINE_integer("calibration_images", 256, "Training images for that.")
flags.DEFINE_integer("seed", 0, "Of weights and batches.")
flags.DEFINE_string("data_dir", None, "See cifar10.py.")
flags.DEFINE_bool(
    "smoke", False, "Random images instead of CIFAR-10: to try the program."
)


def masks(images):
    """The class of every pixel.

    Args:
        images: Array of bytes, `(samples, height, width, 3)`.

    Returns:
        Array of ints of the shape `(samples, height, width)`.
    """
    size = images.shape[1:3]
    around = np.pad(
        images.astype("float32"), [(0, 0), (2, 2), (2, 2), (0, 0)], "edge"
    )
    smooth = sum(
        around[:, i : i + size[0], j : j + size[1]]
        for i in range(5)
        for j in range(5)
    )
    smooth /= 25
    luminance = smooth @ np.float32([0.299, 0.587, 0.114])
    down, right = np.gradient(luminance, axis=(1, 2))
    saturation = smooth.max(-1) - smooth.min(-1)
    classes = np.where(luminance >= BRIGHT, 1, 0)
    classes = np.where(saturation >= COLORED, 2, classes)
    return np.where(np.abs(down) + np.abs(right) >= EDGE / 2, 3, classes)


class MaskBatches(cifar10_data.Batches):
    """Shuffled batches of images and masks, half of them mirrored."""

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        start = index * self.batch_size
        chosen = self.order[start : start + self.batch_size]
        x, y = self.images[chosen], self.labels[chosen]
        flip = rng.random(len(x)) < 0.5
        x[flip], y[flip] = x[flip, :, ::-1], y[flip, :, ::-1]
        return cifar10_data.normalize(x, self.normalization), y


def block(x, filters):
    """A convolution, its normalization and a ReLU."""
    x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.layers.ReLU()(x)


def unet(shape, width):
    """The float network: two halvings, two doublings."""
    start = keras.Input(shape)
    full = block(block(start, width), width)
    half = block(keras.layers.MaxPooling2D()(full), 2 * width)
    x = block(keras.layers.MaxPooling2D()(half), 4 * width)
    x = block(x, 2 * width)
    x = keras.layers.UpSampling2D(interpolation="nearest")(x)
    x = block(keras.layers.Concatenate()([half, x]), width)
    x = keras.layers.UpSampling2D(interpolation="nearest")(x)
    x = block(keras.layers.Concatenate()([full, x]), width)
    return keras.Model(start, keras.layers.Conv2D(len(CLASSES), 1)(x))


def train(model, batches, optimizer_of, rate, epochs):
    """Trains by SGD with a cosine schedule; the seconds it took."""
    steps = epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    sgd = keras.optimizers.SGD(schedule, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer_of(sgd), loss=loss, metrics=["accuracy"])
    start = time.monotonic()
    model.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        verbose=2,
        callbacks=[batches.callback()],
    )
    return time.monotonic() - start


def scores(model, x, y):
    """The share of pixels that are right, and the mean overlap of a class."""
    found = np.concatenate(
        [
            np.argmax(model.predict_on_batch(x[i : i + 250]), -1)
            for i in range(0, len(x), 250)
        ]
    )
    overlaps = [
        np.sum((found == k) & (y == k)) / np.sum((found == k) | (y == k))
        for k in np.union1d(found, y)
    ]
    return {
        "pixels_right": float(np.mean(found == y)),
        "mean_iou": float(np.mean(overlaps)),
    }


def quantized(model, name, batches, calibration):
    """The network of a name, trained from the float one."""
    weight_bits, activation_bits = bits.of_name(name)
    model = keras_bcgd.quantize_model(
        model,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        first_last=8,
    )
    keras_bcgd.calibrate(model, calibration)
    seconds = train(
        model,
        batches,
        lambda sgd: keras_bcgd.BlendedOptimizer(sgd, FLAGS.blending),
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
    found = {
        "file_bytes": os.path.getsize(path),
        "not_exact": report.inexact,
        "not_exact_on_all_kernels": report.inexact_elsewhere,
    }
    counts = dict.fromkeys(("xnnpack", "builtin"), len(x))
    counts["reference"] = min(FLAGS.reference_images, len(x))
    for kernels, count in counts.items():
        result = keras_bcgd.verify_tflite(
            report.model, path, x[:count], y[:count], kernels, trace=False
        )
        print(result)
        found[kernels] = {
            "images": result.samples,
            "pixels": result.decisions,
            "equal": result.equal,
            "ties": result.ties,
            "inside": result.inside_differences,
            "different_values": result.different_values,
            "values": result.values,
            "pixels_right": result.file_accuracy,
        }
    return report.model, found


def table(rows):
    """What each step did, as lines of text."""
    lines = [
        f"{'network':<8}  {'pixels':>7}  {'IoU':>6}  {'bytes':>7}  "
        "equal pixels: xnnpack   builtin  reference"
    ]
    for name, row in rows.items():
        line = f"{name:<8}  {row['pixels_right']:>7.2%}  {row['mean_iou']:.4f}"
        if "file" in row:
            shares = [
                row["file"][kernels]["equal"] / row["file"][kernels]["pixels"]
                for kernels in ("xnnpack", "builtin", "reference")
            ]
            line += f"  {row['file']['file_bytes']:>7,}  {shares[0]:>21.4%}"
            line += f"  {shares[1]:>8.4%}  {shares[2]:>9.4%}"
        lines.append(line)
    return "\n".join(lines)


def load_images():
    """`(images, masks), (images, masks)` to train and to test, bytes."""
    if FLAGS.smoke:
        parts = cifar10_data.random_images(128)
    else:
        parts = cifar10_data.load(FLAGS.data_dir)
    counts = FLAGS.train_images, FLAGS.test_images
    images = [part[0][:n] for part, n in zip(parts, counts, strict=True)]
    return [(part, masks(part)) for part in images]


def main(_):
    for name in FLAGS.networks:
        bits.of_name(name)
    os.makedirs(FLAGS.out, exist_ok=True)
    place = lambda name: os.path.join(FLAGS.out, name)  # noqa: E731
    keras.utils.set_random_seed(FLAGS.seed)
    (images, classes), (x, y) = load_images()
    x = cifar10_data.normalize(x, "grid")
    calibration = cifar10_data.normalize(
        images[: FLAGS.calibration_images], "grid"
    )
    shares = np.bincount(y.ravel(), minlength=len(CLASSES)) / y.size
    print(*(f"{n}: {s:.1%}" for n, s in zip(CLASSES, shares, strict=True)))

    batches = MaskBatches(
        images, classes, FLAGS.batch_size, FLAGS.seed, normalization="grid"
    )
    model = unet(x.shape[1:], FLAGS.width)
    seconds = train(
        model,
        batches,
        lambda sgd: sgd,
        FLAGS.float_learning_rate,
        FLAGS.float_epochs,
    )
    model.save(place("float.keras"))
    rows = {"float": {**scores(model, x, y), "seconds": seconds}}
    print(keras_bcgd.conversion_plan(model, weight_bits=4, activation_bits=4))
    for name in FLAGS.networks:
        network, seconds = quantized(model, name, batches, calibration)
        network, file = deploy(
            network, place(f"{name}.tflite"), calibration, x, y
        )
        network.save(place(f"{name}.keras"))
        rows[name] = {
            **scores(network, x, y),
            "seconds": seconds,
            "file": file,
        }
        print(f"\n{table(rows)}", flush=True)
    report = {
        "flags": FLAGS.flag_values_dict(),
        "classes": dict(zip(CLASSES, shares.tolist(), strict=True)),
        "rows": rows,
        "machine": workdir.machine(),
    }
    with open(place("report.json"), "w") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    app.run(main)
