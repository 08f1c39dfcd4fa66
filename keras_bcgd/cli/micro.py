"""`keras-bcgd micro`."""

from keras_bcgd.micro import write_micro_sources
from keras_bcgd.tflite import reader
from keras_bcgd.tflite import runner
from keras_bcgd.utils import user_files

SUMMARY = "write sources for a microcontroller"

TEXT = """\
Write C++ sources that run a TFLite file in TensorFlow Lite Micro.

The file as an array, the operators that it has, the memory that it needs, one
input with the outputs that belong to it, and main.cc, which runs that input and
compares the outputs; how to compile it stands there. The memory was measured by
TensorFlow Lite Micro's interpreter on this machine, with its portable kernels.
Where pointers take 4 bytes these need less; kernels of a vendor may need more.

example:
  keras-bcgd micro digits.tflite --out digits_micro --data test.npz
"""


def add_arguments(command):
    add = command.add_argument
    add("tflite", help="the file")
    add("--out", required=True, metavar="DIR", help="the folder to write")
    add(
        "--name",
        help="what the names of files and identifiers begin with (default: "
        "the name of the file)",
    )
    add(
        "--data",
        help="real inputs, of which the first is the sample: an .npy file, or "
        "an .npz file with the array x, or with one for each of several "
        "inputs, of its name; without it, the sample is random",
    )
    add(
        "--force",
        action="store_true",
        help="write into a folder that holds something: files of the same "
        "names are replaced, others stay",
    )


def run(settings):
    x = None
    if settings.data is not None:
        names = runner.input_names(reader.read_tflite(settings.tflite))
        x, _ = user_files.load_data(
            settings.data, names if len(names) > 1 else ()
        )
    report = write_micro_sources(
        settings.tflite,
        settings.out,
        name=settings.name,
        x=x,
        overwrite=settings.force,
    )
    print(report)
