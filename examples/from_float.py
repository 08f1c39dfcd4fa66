"""From a float Keras model to an integer file that is verified, on CIFAR-10.

    python examples/from_float.py --net=mobilenetv2 --out=mobilenetv2_4w4a
    python examples/from_float.py --float_model=model.keras --out=model_4w4a

Each step is one call:

    quantize_model     the same network with quantized layers, and its weights
    calibrate          alphas that suit what the layers are fed
    fit                a few epochs with BlendedOptimizer: BCGD
    export_tflite      the file, of a copy that is aligned with its integers
    verify_tflite      the file held against that copy, on test images

A --float_model is any .keras file with a known input size of three channels,
trained on images that are (byte - 128) / 64, so that the bytes of an image are
the input of the file. Without one, --net is built and trained first. The
folder --out gets plan.txt (what became of each layer), float.keras,
quantized.keras (the aligned copy), report.json, model.tflite with logits in 16
bits and model_int8_logits.tflite with logits in 8. Beside them stands what
TensorFlow's int8 post-training quantization makes of the float network. At the
end one table says what each step did to the accuracy. A network that the export
refuses is trained all the same, and the refusal is shown.
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
from training import rivals
from training import workdir

INPUT_RANGE = cifar10_data.input_range("grid")


def _of_applications(name, **kwargs):
    def build(size):
        model = getattr(keras.applications, name)(
            input_shape=(size, size, 3),
            weights=None,
            classes=10,
            classifier_activation=None,
            **kwargs,
        )
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                # Short trainings: averages would still be near their start.
                layer.momentum = 0.9
        return model

    return build


def _efficientnet(size):
    """It normalizes bytes itself."""
    net = _of_applications("EfficientNetB0")(size)
    to_bytes = keras.layers.Rescaling(64.0, offset=128.0)
    return keras.Sequential([keras.Input(net.input_shape[1:]), to_bytes, net])


NETS = {
    "mobilenet": _of_applications("MobileNet"),
    "mobilenetv2": _of_applications("MobileNetV2"),
    "densenet121": _of_applications("DenseNet121"),
    "efficientnetb0": _efficientnet,
    "efficientnetv2b0": _of_applications(
        "EfficientNetV2B0", include_preprocessing=False
    ),
    "mobilenetv3large": _of_applications(
        "MobileNetV3Large", include_preprocessing=False
    ),
    "mobilenetv3small": _of_applications(
        "MobileNetV3Small", include_preprocessing=False
    ),
    "resnet50": _of_applications("ResNet50"),
    "vgg16": _of_applications("VGG16"),
    "resnet20": lambda size: keras_bcgd.models.resnet_cifar(
        20, 32, 32, input_shape=(size, size, 3)
    ),
}

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "from_float", "Folder for the files.")
flags.DEFINE_string("float_model", None, "A trained .keras file to convert.")
flags.DEFINE_enum(
    "net",
    "mobilenet",
    list(NETS),
    "Without --float_model: the float network to train.",
)
flags.DEFINE_integer(
    "size", 32, "Of --net's images: 32, or 64, in which each pixel is four."
)
flags.DEFINE_integer("float_epochs", 5, "Without --float_model.")
flags.DEFINE_enum(
    "float_optimizer", "sgd", ["sgd", "adam"], "Without --float_model."
)
flags.DEFINE_float(
    "float_learning_rate",
    0.05,
    "The first, of a cosine; for sgd. Adam wants less, .002 say.",
)

flags.DEFINE_integer("weight_bits", 4, "Of the weights, 1 to 8.")
flags.DEFINE_integer("activation_bits", 4, "Of the activations, 1 to 8.")
flags.DEFINE_integer(
    "first_last", 8, "Of the weights of first convolution and classifier."
)
flags.DEFINE_enum(
    "calibration",
    "mse",
    ["mse", "max", "percentile", "none"],
    "How alphas start; none: as for Gaussian inputs.",
)
flags.DEFINE_integer("calibration_images", 512, "Training images for that.")

flags.DEFINE_integer("epochs", 3, "Of quantized training.")
flags.DEFINE_float("learning_rate", 0.01, "The first of these, of a cosine.")
flags.DEFINE_float("blending", 1e-5, "rho; 0 is BinaryConnect.")
flags.DEFINE_integer("batch_size", 64, "Of both trainings.")
flags.DEFINE_integer("train_images", 50000, "The first so many.")
flags.DEFINE_integer("test_images", 10000, "The first so many.")
flags.DEFINE_bool("crop", False, "Crops at random, as well as flips.")
flags.DEFINE_integer("seed", 0, "Of weights and batches.")
flags.DEFINE_bool(
    "ptq", True, "Compares with int8 post-training quantization of TensorFlow."
)
flags.DEFINE_string("data_dir", None, "See cifar10.py.")
flags.DEFINE_integer(
    "reference_images",
    1000,
    "So many test images run on the runtime's reference kernels too, which are "
    "slow, and all on those without delegate; 0: on neither.",
)
flags.DEFINE_bool(
    "smoke", False, "Random images instead of CIFAR-10: to try the program."
)


class Results(keras.callbacks.Callback):
    """The rows of the table; as a callback, one after each epoch."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y
        self.rows = []

    def add(self, name, model):
        logits = model.predict(self.x, batch_size=250, verbose=0)
        predicted = np.argmax(logits, axis=1)
        accuracy = float(np.mean(predicted == self.y))
        classes = len(np.unique(predicted))
        self.rows.append(
            {"after": name, "accuracy": accuracy, "classes": classes}
        )
        print(f"\n{name}: {accuracy:.2%}, {classes} classes", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        self.add(f"epoch {epoch + 1}", self.model)

    def __str__(self):
        lines = [f"{'after':<24}  accuracy  classes predicted"]
        lines += [
            f"{row['after']:<24}  {row['accuracy']:>8.2%}  {row['classes']:>17}"
            for row in self.rows
        ]
        return "\n".join(lines)


def load_images(size):
    """`(x_train, y_train), (x_test, y_test)`, bytes of this size."""
    if FLAGS.smoke:
        parts = cifar10_data.random_images(128)
    else:
        parts = cifar10_data.load(FLAGS.data_dir)
    times, rest = divmod(size, 32)
    if rest:
        raise app.UsageError(
            f"The size of the images must be a multiple of 32, not {size}."
        )
    counts = FLAGS.train_images, FLAGS.test_images
    return [
        (x[:n].repeat(times, 1).repeat(times, 2), np.ravel(y[:n]))
        for (x, y), n in zip(parts, counts, strict=True)
    ]


def sgd(rate):
    return keras.optimizers.SGD(rate, momentum=0.9)


def train(model, optimizer_of, rate, epochs, images, labels, callbacks=()):
    """Trains with a cosine schedule; returns the seconds it took."""
    batches = cifar10_data.Batches(
        images, labels, FLAGS.batch_size, FLAGS.seed, FLAGS.crop, "grid"
    )
    steps = epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer_of(schedule), loss=loss, metrics=["accuracy"])
    start = time.monotonic()
    model.fit(
        batches,
        epochs=epochs,
        shuffle=False,
        verbose=2,
        callbacks=[batches.callback(), *callbacks],
    )
    return time.monotonic() - start


def float_network(images, labels):
    """The network that is to be converted, trained."""
    if FLAGS.float_model:
        return keras.models.load_model(FLAGS.float_model, compile=False)
    model = NETS[FLAGS.net](FLAGS.size)
    rate = FLAGS.float_learning_rate
    optimizer = sgd
    if FLAGS.float_optimizer == "adam":
        optimizer = keras.optimizers.Adam
    train(model, optimizer, rate, FLAGS.float_epochs, images, labels)
    return model


def size_of_float_model():
    if not FLAGS.float_model:
        return FLAGS.size
    model = keras.models.load_model(FLAGS.float_model, compile=False)
    return model.input_shape[1]


def post_training(model, calibration, x, y, folder):
    """The accuracy of TensorFlow's int8 file of the float network."""
    path = rivals.tensorflow_files(model, calibration, folder)["int8_ptq"]
    accuracy = float(np.mean(rivals.run_any(path, x) == y))
    return {"file_bytes": os.path.getsize(path), "file_accuracy": accuracy}


def deploy(model, results, calibration, folder):
    """Writes the files; the aligned model, and how each agrees with it."""
    # 65,536 steps of the logits, and the 256 of older runtimes.
    files = {
        "int16": ("model.tflite", {}),
        "int8": (
            "model_int8_logits.tflite",
            {"output_type": "int8", "task": "classification"},
        ),
    }
    found, aligned = {}, None
    for output_type, (name, settings) in files.items():
        path = os.path.join(folder, name)
        try:
            report = keras_bcgd.export_tflite(
                model,
                path,
                INPUT_RANGE,
                representative_data=calibration,
                **settings,
            )
        except ValueError as refusal:
            print(refusal)
            return model, {"refused": str(refusal)}
        print(report)
        if aligned is None:
            aligned = report.model
            results.add("aligned", aligned)
        found[output_type] = verified(report.model, path, results)
        if output_type == "int16" and FLAGS.reference_images:
            for kernels in ("builtin", "reference"):
                found[f"int16, {kernels} kernels"] = verified(
                    report.model, path, results, kernels
                )
    return aligned, found


def verified(model, path, results, kernels="xnnpack"):
    """How a file agrees with its model, on some kernels."""
    x, y = results.x, results.y
    if kernels == "reference":
        x, y = x[: FLAGS.reference_images], y[: FLAGS.reference_images]
    report = keras_bcgd.verify_tflite(
        model, path, x, y, kernels=kernels, trace=False
    )
    print(report)
    return {
        "file_bytes": os.path.getsize(path),
        "samples": report.samples,
        "equal": report.equal,
        "ties": report.ties,
        "by_rounding_of_the_output": report.rounding_differences,
        "inside": report.inside_differences,
        "largest_difference_in_steps": report.largest_difference,
        "file_accuracy": report.file_accuracy,
    }


def main(_):
    os.makedirs(FLAGS.out, exist_ok=True)
    place = lambda name: os.path.join(FLAGS.out, name)  # noqa: E731
    keras.utils.set_random_seed(FLAGS.seed)
    (images, labels), (x, y) = load_images(size_of_float_model())
    calibration = cifar10_data.normalize(
        images[: FLAGS.calibration_images], "grid"
    )
    x = cifar10_data.normalize(x, "grid")
    results = Results(x, y)

    model = float_network(images, labels)
    model.save(place("float.keras"))
    results.add("float training", model)
    others = {}
    if FLAGS.ptq and keras.backend.backend() == "tensorflow":
        others["int8_ptq"] = post_training(model, calibration, x, y, FLAGS.out)

    settings = {
        "weight_bits": FLAGS.weight_bits,
        "activation_bits": FLAGS.activation_bits,
        "first_last": FLAGS.first_last,
    }
    with open(place("plan.txt"), "w") as file:
        print(keras_bcgd.conversion_plan(model, **settings), file=file)
    model = keras_bcgd.quantize_model(model, **settings)
    results.add("quantize_model", model)

    if FLAGS.calibration != "none":
        print(keras_bcgd.calibrate(model, calibration, FLAGS.calibration))
        results.add("calibrate", model)

    multiplier = bits.alpha_multiplier(FLAGS.activation_bits)
    seconds = train(
        model,
        lambda rate: keras_bcgd.BlendedOptimizer(
            sgd(rate), FLAGS.blending, alpha_learning_rate_multiplier=multiplier
        ),
        FLAGS.learning_rate,
        FLAGS.epochs,
        images,
        labels,
        [results],
    )
    model, files = deploy(model, results, calibration, FLAGS.out)
    model.save(place("quantized.keras"))
    report = {
        "flags": FLAGS.flag_values_dict(),
        "rows": results.rows,
        "seconds_of_quantized_training": seconds,
        "files": files,
        "others": others,
        "machine": workdir.machine(),
    }
    with open(place("report.json"), "w") as file:
        json.dump(report, file, indent=1)
    print(f"\n{results}")
    for name, file in others.items():
        print(f"{name:<24}  {file['file_accuracy']:>8.2%}")
    if "refused" in files:
        return
    for output_type, file in files.items():
        name = f"file, {output_type}"
        print(
            f"{name:<24}  {file['file_accuracy']:>8.2%}  "
            f"{file['equal'] / file['samples']:.2%} of the predictions equal, "
            f"{file['ties']} ties, logits differ by at most "
            f"{file['largest_difference_in_steps']:.2f} steps"
        )


if __name__ == "__main__":
    app.run(main)
