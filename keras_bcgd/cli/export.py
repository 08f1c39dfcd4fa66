"""`keras-bcgd export`."""

from keras_bcgd.cli import grids
from keras_bcgd.cli import progress
from keras_bcgd.export import export_tflite
from keras_bcgd.utils import command_line
from keras_bcgd.utils import user_files

SUMMARY = "write a model as a file"

TEXT = """\
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


def add_arguments(command):
    add = command.add_argument
    add("model", help="the trained model, a .keras file")
    add("tflite", help="the file to write")
    grids.add_arguments(command)
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


def run(settings):
    labels = None
    if settings.labels is not None:
        labels = user_files.load_labels(settings.labels)
    model = user_files.load_model(settings.model)
    report = export_tflite(
        model,
        settings.tflite,
        **grids.read(settings, model),
        input_type=settings.input_type,
        output_type=settings.output_type,
        batch_size=settings.batch_size,
        labels=labels,
        align=not settings.no_align,
        task=settings.task,
        verbose=progress.verbose(),
    )
    print(report)
    if report.alignments:
        aligned = f"{settings.tflite}.aligned.keras"
        user_files.save_model(report.model, aligned)
        print(f"the aligned model: {aligned}")
