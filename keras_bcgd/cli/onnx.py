"""`keras-bcgd onnx`."""

from keras_bcgd.onnx import export_onnx
from keras_bcgd.utils import command_line
from keras_bcgd.utils import user_files

SUMMARY = "write a model as an ONNX file"

TEXT = """\
Write a trained model as an ONNX file that says how it is quantized.

It computes what Keras computes, in float. Kernels and roundings are told from
what is float: with --format qonnx by the Quant nodes of the QONNX standard,
which FINN and hls4ml read, with --format qcdq by QuantizeLinear, Clip and
DequantizeLinear, which onnxruntime runs. What cannot be exported is refused by
name, and nothing is written.

Other runtimes add in another order, and a sum on a threshold may then get the
next code. "keras-bcgd align" first moves the model so that no sum lies there.

example:
  keras-bcgd onnx digits.keras digits.onnx --format qcdq
"""


def add_arguments(command):
    add = command.add_argument
    add("model", help="the trained model, a .keras file")
    add("onnx", help="the file to write")
    add(
        "--format",
        choices=("qonnx", "qcdq"),
        default="qonnx",
        help="how the file says what is rounded (default: %(default)s)",
    )
    add(
        "--batch_size",
        type=command_line.positive,
        default=1,
        help="the fixed batch of the file (default: %(default)s)",
    )
    add(
        "--any_batch",
        action="store_true",
        help="leave the batch free",
    )
    add(
        "--data_format",
        choices=("channels_first", "channels_last"),
        default="channels_first",
        help="what inputs and outputs that are maps are (default: %(default)s)",
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
    report = export_onnx(
        user_files.load_model(settings.model),
        settings.onnx,
        format=settings.format,
        batch_size=None if settings.any_batch else settings.batch_size,
        data_format=settings.data_format,
        labels=labels,
    )
    print(report)
