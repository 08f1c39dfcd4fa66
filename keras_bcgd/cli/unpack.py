"""`keras-bcgd unpack`."""

from keras_bcgd.export import unpack_tflite

SUMMARY = "make a small file a fast one"

TEXT = """\
Write a TFLite file with packed weights as one of int8 weights.

Files with int4 or int2 weights, or with weights in tables, are small to
download; with int8 weights LiteRT's default kernels are faster. Unpack them
where they are installed: that takes no model and no data.

A file with tables becomes, byte by byte, what "export --weight_format int8"
writes. Of one with int4 or int2 weights the answers on the default kernels
stay; a second line says where that is not proved for every input.

example:
  keras-bcgd unpack digits.int4.tflite --out digits.int8.tflite
"""


def add_arguments(command):
    command.add_argument("tflite", help="the file")
    command.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="the file to write (default: beside it, with .int8.tflite for "
        ".tflite)",
    )


def run(settings):
    print(unpack_tflite(settings.tflite, settings.out))
