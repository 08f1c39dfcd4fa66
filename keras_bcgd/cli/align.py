"""`keras-bcgd align`."""

from keras_bcgd.cli import grids
from keras_bcgd.cli import progress
from keras_bcgd.export import align_for_export
from keras_bcgd.export import arguments as export_arguments
from keras_bcgd.utils import user_files

SUMMARY = "fit a model to its file"

TEXT = """\
Move a trained model onto the grid of its integer file, once, after training:
what "keras-bcgd export" does with a copy.

Batch normalizations change by parts of a thousand, so that no sum of the file
lies where kernels could round it otherwise; residual networks need it. Then
evaluate and export the new model, with the same --input_range, --data,
--weight_format, --minimize and --target. It is saved without its optimizer.

The first line says whether the file will be exact, and the table for each layer
that was moved how much its gammas or its alpha changed at most, how far its
outputs moved in steps of their grid, and the expected share of outputs that
could still round otherwise.

example:
  keras-bcgd align digits.keras aligned.keras --input_range 0 1
"""


def add_arguments(command):
    add = command.add_argument
    add("model", help="the trained model, a .keras file")
    add("aligned", help="the .keras file to write")
    grids.add_arguments(command)


def run(settings):
    path = export_arguments.check_path(settings.aligned)
    if not settings.aligned.endswith(".keras"):
        raise ValueError(
            f"the aligned model must be a .keras file, not {settings.aligned}"
        )
    model = user_files.load_model(settings.model)
    report = align_for_export(
        model, **grids.read(settings, model), verbose=progress.verbose()
    )
    user_files.save_model(model, path)
    print(f"{settings.aligned}: {report}")
