"""The command `keras-bcgd`: export, align, verify, inspect and benchmark.

Each command is a function that adds its arguments and one that runs it.
"""

import argparse
import sys

from keras_bcgd.export import align_for_export
from keras_bcgd.export import arguments as export_arguments
from keras_bcgd.export import export_tflite
from keras_bcgd.network import ends
from keras_bcgd.tflite.inspection import inspect_tflite
from keras_bcgd.tflite.latency import benchmark_tflite
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.utils import command_line
from keras_bcgd.utils import user_files
from keras_bcgd.verification import verify_tflite
from keras_bcgd.verification import verify_tflite_on_all_kernels
from keras_bcgd.verification.tasks import TASKS

_EXPORT = """\
Write a trained model as a TFLite file that computes with integers.

Weights are the trained codes; batch normalization and the quantized
activations are folded into scales and integer biases. What cannot be exported
is refused by name, and nothing is written. The table printed at the end says
for each layer how many thresholds of its staircase are provably where training
put them; its first line, whether the file is exact.

The file is made of a copy of the model that is aligned with its integers
("keras-bcgd align --help"). It is saved beside the file, as FILE.aligned.keras:
verify and evaluate that one. Nothing is saved if nothing had to move.

example:
  keras-bcgd export digits.keras digits.tflite --input_range 0 1 --data x.npz
  keras-bcgd verify digits.tflite.aligned.keras digits.tflite --data test.npz

The inputs are real numbers from 0 to 1, images divided by 255 say, and x.npz
holds some hundred of them as the array `x`; their logits choose the scale of
the output.
"""

_ALIGN = """\
Move a trained model onto the grid of its integer file, once, after training:
what "keras-bcgd export" does with a copy.

Batch normalizations change by parts of a thousand, so that no sum of the file
lies where kernels could round it otherwise; residual networks need it. Then
evaluate and export the new model, with the same --input_range, --data,
--weight_format and --minimize. It is saved without its optimizer.

The first line says whether the file will be exact, and the table for each layer
that was moved how much its gammas or its alpha changed at most, how far its
outputs moved in steps of their grid, and the expected share of outputs that
could still round otherwise.

example:
  keras-bcgd align digits.keras aligned.keras --input_range 0 1
"""

_VERIFY = """\
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

_INSPECT = """\
List what is in a TFLite file, written by whomever: operators, types, scales,
and where its bytes go.

example:
  keras-bcgd inspect digits.tflite
"""

_BENCHMARK = """\
Time TFLite files side by side on random inputs.

Each round calls every file once, so that ratios hold even if the speed of the
machine changes meanwhile. With --per_op each operator is timed as well, in a
file of its own.

example:
  keras-bcgd benchmark digits.tflite digits.int4.tflite --threads 2 --per_op
"""

# What a user can do something about; anything else is a bug and says where.
_FAILURES = (ImportError, MemoryError, OSError, RuntimeError, ValueError)


def main(arguments=None):
    """Runs the command.

    Args:
        arguments: List of strings. `None`: those of the process. Defaults to
            `None`.

    Returns:
        Int, the exit status: 0, or 1 after a line on stderr that says what
        went wrong. Wrong arguments leave with status 2.
    """
    settings = _parser().parse_args(arguments)
    try:
        settings.run(settings)
        sys.stdout.flush()
    except _FAILURES as error:
        reason = " ".join(_reason(error).split())
        sys.stderr.write(f"keras-bcgd {settings.command}: error: {reason}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"keras-bcgd {settings.command}: interrupted\n")
        return 130
    return 0


def _reason(error):
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            return error.strerror
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__


def _parser():
    parser = command_line.OneLineParser(
        prog="keras-bcgd",
        description="Integer TFLite files of fully quantized Keras networks.",
        epilog="`keras-bcgd COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True
    )
    for name, summary, text, add_arguments, run in (
        ("export", "write a model as a file", _EXPORT, _add_export, _export),
        ("align", "fit a model to its file", _ALIGN, _add_align, _align),
        ("verify", "compare with the model", _VERIFY, _add_verify, _verify),
        ("inspect", "list what is in a file", _INSPECT, _add_inspect, _inspect),
        ("benchmark", "time files", _BENCHMARK, _add_benchmark, _benchmark),
    ):
        command = commands.add_parser(
            name,
            help=summary,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(command)
        command.set_defaults(run=run)
    return parser


def _add_export(command):
    add = command.add_argument
    add("model", help="the trained model, a .keras file")
    add("tflite", help="the file to write")
    _add_grids(add)
    add(
        "--input_type",
        choices=("int8", "uint8"),
        default="int8",
        help="uint8 takes the bytes of images (default: %(default)s)",
    )
    add(
        "--output_type",
        choices=("auto", "int8", "uint8", "int16"),
        default="auto",
        help="int16 gives the logits 65,536 steps; auto is int16 where the "
        "last layer has logits, else int8 (default: %(default)s)",
    )
    add(
        "--task",
        choices=("classification", "regression"),
        help="with classification, 8-bit logits too small to decide saturate, "
        "and the others have finer steps",
    )
    add(
        "--no_align",
        action="store_true",
        help="export the model as it is, which in residual networks gives a "
        "file that is near it, not equal to it",
    )
    add(
        "--batch_size",
        type=command_line.positive,
        default=1,
        help="the fixed batch of the file (default: %(default)s)",
    )
    add(
        "--labels",
        metavar="FILE",
        help="a text file with the name of one class in each line, to be "
        "written into the file",
    )


def _add_grids(add):
    """What decides the integers of the file."""
    add(
        "--input_range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="the real inputs that the integer input spans; without it, the "
        "range of --data",
    )
    add(
        "--input_range_of",
        nargs=3,
        action="append",
        metavar=("NAME", "LOW", "HIGH"),
        help="the same of one of several inputs, by its name; it can be given "
        "for each",
    )
    add(
        "--data",
        help="representative inputs: an .npy file, or an .npz file with the "
        "array x, or with one for each of several inputs, of its name",
    )
    add(
        "--weight_format",
        choices=("int8", "int4", "int2", "auto"),
        default="int8",
        help="int4 puts two weights in a byte; int2 four, in dense layers of "
        'at most 2 bits; "auto" uses int4, unless --minimize latency, where '
        "layers have at most 4 bits (default: %(default)s)",
    )
    add(
        "--minimize",
        choices=("size", "latency"),
        default="size",
        help='"auto" is int4 for the size and int8 for the latency (default: '
        "%(default)s)",
    )


def _grids(settings, model):
    """The arguments of `_add_grids`, as functions take them."""
    data = None
    if settings.data is not None:
        data, _ = _load_data(settings.data, model)
    return {
        "input_range": _input_range(settings),
        "representative_data": data,
        "weight_format": settings.weight_format,
        "minimize": settings.minimize,
    }


def _input_range(settings):
    of_inputs = settings.input_range_of
    if of_inputs is None:
        return settings.input_range
    if settings.input_range is not None:
        raise ValueError("give --input_range or --input_range_of, not both")
    try:
        return {
            name: (float(low), float(high)) for name, low, high in of_inputs
        }
    except ValueError as error:
        raise ValueError(
            f"--input_range_of takes a name and two numbers: {error}"
        ) from error


def _load_data(path, model):
    """`(x, y)`: of several inputs or outputs, dicts by their names."""
    names = [(), ()]
    if len(getattr(model, "inputs", None) or ()) > 1:
        names[0] = ends.input_names(model)
    if len(getattr(model, "outputs", None) or ()) > 1:
        names[1] = ends.output_names(model)
    return user_files.load_data(path, *names)


def _export(settings):
    labels = None
    if settings.labels is not None:
        labels = user_files.load_labels(settings.labels)
    model = user_files.load_model(settings.model)
    report = export_tflite(
        model,
        settings.tflite,
        **_grids(settings, model),
        input_type=settings.input_type,
        output_type=settings.output_type,
        batch_size=settings.batch_size,
        labels=labels,
        align=not settings.no_align,
        task=settings.task,
        verbose=_verbose(),
    )
    print(report)
    if report.alignments:
        aligned = f"{settings.tflite}.aligned.keras"
        user_files.save_model(report.model, aligned)
        print(f"the aligned model: {aligned}")


def _add_align(command):
    add = command.add_argument
    add("model", help="the trained model, a .keras file")
    add("aligned", help="the .keras file to write")
    _add_grids(add)


def _align(settings):
    path = export_arguments.check_path(settings.aligned)
    if not settings.aligned.endswith(".keras"):
        raise ValueError(
            f"the aligned model must be a .keras file, not {settings.aligned}"
        )
    model = user_files.load_model(settings.model)
    report = align_for_export(
        model, **_grids(settings, model), verbose=_verbose()
    )
    user_files.save_model(model, path)
    print(f"{settings.aligned}: {report}")


def _add_verify(command):
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
        choices=(*KERNELS, "all"),
        default="xnnpack",
        help="the kernels of the runtime (default: %(default)s, its own)",
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


def _verify(settings):
    model = user_files.load_model(settings.model)
    x, y = _load_data(settings.data, model)
    shared = {
        "trace_samples": settings.trace_samples,
        "task": settings.task,
        "threshold": settings.threshold,
        "verbose": _verbose(),
    }
    if settings.kernels == "all":
        report = verify_tflite_on_all_kernels(
            model, settings.tflite, x, y, **shared
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


def _add_inspect(command):
    command.add_argument("tflite", help="the file")


def _inspect(settings):
    print(inspect_tflite(settings.tflite))


def _add_benchmark(command):
    add = command.add_argument
    add("tflite", nargs="+", help="a file; ratios are to the first one")
    add(
        "--threads",
        type=command_line.positive,
        default=1,
        help="threads of the runtime (default: %(default)s)",
    )
    add(
        "--runs",
        type=command_line.positive,
        default=50,
        help="rounds (default: %(default)s)",
    )
    add(
        "--kernels",
        choices=tuple(KERNELS),
        default="xnnpack",
        help="the kernels of the runtime (default: %(default)s, its own)",
    )
    add("--per_op", action="store_true", help="time each operator as well")


def _benchmark(settings):
    report = benchmark_tflite(
        settings.tflite,
        threads=settings.threads,
        runs=settings.runs,
        kernels=settings.kernels,
        per_op=settings.per_op,
        verbose=int(sys.stdout.isatty()),
    )
    print(report)


def _verbose():
    """A progress bar where somebody watches, once it takes long."""
    return "auto" if sys.stdout.isatty() else 0
