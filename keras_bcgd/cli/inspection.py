"""`keras-bcgd inspect`."""

from keras_bcgd.tflite.inspection import inspect_tflite

SUMMARY = "list what is in a file"

TEXT = """\
List what is in a TFLite file, written by whomever: operators, types, scales,
and where its bytes go.

example:
  keras-bcgd inspect digits.tflite
"""


def add_arguments(command):
    command.add_argument("tflite", help="the file")


def run(settings):
    print(inspect_tflite(settings.tflite))
