"""`keras-bcgd verify`."""

from keras_bcgd.cli import data_files
from keras_bcgd.cli import progress
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import MICRO
from keras_bcgd.utils import command_line
from keras_bcgd.utils import user_files
from keras_bcgd.verification import verify_tflite
from keras_bcgd.verification import verify_tflite_on_all_kernels
from keras_bcgd.verification.tasks import TASKS

SUMMARY = "compare with the model"

TEXT = """\
Run a TFLite file and its Keras model on the same inputs; compare the answers.

First every value of the output, then what the values decide: the class of a
sample or a pixel, a yes or no, or labels, as --task says or the labels tell.
The first line says whether all is equal, and if not, why: the steps of the
output are too coarse, or the file computes something else, and which layer is
the first to differ.

example:
  keras-bcgd verify digits.keras digits.tflite --data test.npz --kernels all

test.npz holds the arrays `x`, as for model.predict, and, if accuracies are
wanted, `y`, the labels. Make it with numpy.savez("test.npz", x=x, y=y).
"""


def add_arguments(command):
    add = command.add_argument
    add("model", help="the model that was exported, a .keras file")
    add("tflite", help="the file")
    add(
        "--data",
        required=True,
        help="inputs: an .npy file, or an .npz file with the array x and, for "
        "accuracies, the labels y; of several inputs or outputs, with an array "
        "for each, of its name",
    )
    add(
        "--kernels",
        choices=(*KERNELS, MICRO, "all"),
        default="xnnpack",
        help="the kernels of LiteRT (default: %(default)s, its own), or micro: "
        "TensorFlow Lite Micro; all are those of LiteRT",
    )
    add(
        "--micro",
        action="store_true",
        help="with --kernels all, TensorFlow Lite Micro as well",
    )
    add(
        "--trace_samples",
        type=command_line.positive,
        default=64,
        help="in how many samples to look for the first layer that differs "
        "(default: %(default)s)",
    )
    add(
        "--task",
        choices=TASKS,
        help="what the outputs decide; by default their number and the labels "
        "tell",
    )
    add(
        "--threshold",
        type=float,
        help="above which an output says yes, of a binary or multilabel task "
        "(default: 0.5 after a sigmoid, else 0)",
    )
    add(
        "--at_least",
        type=command_line.share,
        metavar="SHARE",
        help="exit with status 1 if a smaller share of the decisions (of the "
        "values, in a regression) is equal: 0.999, say",
    )


def run(settings):
    if settings.micro and settings.kernels != "all":
        raise ValueError(
            "--micro goes with --kernels all; --kernels micro is TensorFlow "
            "Lite Micro alone"
        )
    model = user_files.load_model(settings.model)
    x, y = data_files.load(settings.data, model)
    shared = {
        "trace_samples": settings.trace_samples,
        "task": settings.task,
        "threshold": settings.threshold,
        "verbose": progress.verbose(),
    }
    if settings.kernels == "all":
        report = verify_tflite_on_all_kernels(
            model, settings.tflite, x, y, micro=settings.micro, **shared
        )
    else:
        report = verify_tflite(
            model, settings.tflite, x, y, kernels=settings.kernels, **shared
        )
    print(report)
    if settings.at_least is not None and report.agreement < settings.at_least:
        raise ValueError(
            f"only {report.agreement:.4%} are equal, not "
            f"{settings.at_least:.4%} as --at_least demands"
        )
