"""What the programs that deploy a trained CIFAR-10 network share."""

from absl import flags

import keras_bcgd
from training import cifar10_data
from training import normalization

FLAGS = flags.FLAGS


def define_flags():
    """Defines the flags for the data, and for how much of it is tested."""
    flags.DEFINE_string("data_dir", None, "See cifar10.py.")
    flags.DEFINE_enum(
        "normalization",
        "grid",
        normalization.NORMALIZATIONS,
        "That of the training. With the paper's, each color has its own grid "
        "and the file takes all three rounded to one.",
    )
    flags.DEFINE_bool(
        "smoke", False, "Random images instead of CIFAR-10: to try the program."
    )
    flags.DEFINE_integer(
        "calibration_images", 500, "Training images for ranges."
    )
    flags.DEFINE_integer("test_images", 10000, "Images on the default kernels.")
    flags.DEFINE_integer("builtin_images", 10000, "On those without XNNPACK.")
    flags.DEFINE_integer(
        "reference_images", 1000, "On the slow reference kernels."
    )


def load_inputs():
    """Calibration inputs, test inputs and test labels."""
    if FLAGS.smoke:
        (x, _), (x_test, y_test) = cifar10_data.random_images(64)
    else:
        (x, _), (x_test, y_test) = cifar10_data.load(FLAGS.data_dir)
    x, x_test = (
        cifar10_data.normalize(images, FLAGS.normalization)
        for images in (
            x[: FLAGS.calibration_images],
            x_test[: FLAGS.test_images],
        )
    )
    return x, x_test, y_test[: FLAGS.test_images]


def counts_on_litert():
    """Dict from each set of LiteRT's kernels to its number of images."""
    return {
        "xnnpack": FLAGS.test_images,
        "builtin": FLAGS.builtin_images,
        "reference": FLAGS.reference_images,
    }


def verified(model, path, x, y, counts):
    """How a file agrees with its model.

    Args:
        model: The Keras model.
        path: String, the file.
        x: Array of test inputs.
        y: Array of labels.
        counts: Dict from kernels to how many images run on them.

    Returns:
        Dict from kernels to a dict of counts.
    """
    result = {}
    for kernels, count in counts.items():
        report = keras_bcgd.verify_tflite(
            model, path, x[:count], y[:count], kernels, trace=False, verbose=1
        )
        print(report, "\n")
        result[kernels] = {
            "samples": report.samples,
            "equal": report.equal,
            "ties": report.ties,
            "by_rounding_of_the_output": report.rounding_differences,
            "inside": report.inside_differences,
            "values": report.values,
            "different_values": report.different_values,
            "largest_difference_in_steps": report.largest_difference,
            "keras_accuracy": report.model_accuracy,
            "file_accuracy": report.file_accuracy,
        }
    return result
