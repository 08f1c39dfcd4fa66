"""`keras-bcgd benchmark`."""

import sys

from keras_bcgd.tflite.latency import benchmark_tflite
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.utils import command_line

SUMMARY = "time files"

TEXT = """\
Time TFLite files side by side on random inputs.

Each round calls every file once, so that ratios hold even if the speed of the
machine changes meanwhile. With --per_op each operator is timed as well, in a
file of its own.

example:
  keras-bcgd benchmark digits.tflite digits.int4.tflite --threads 2 --per_op
"""


def add_arguments(command):
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


def run(settings):
    report = benchmark_tflite(
        settings.tflite,
        threads=settings.threads,
        runs=settings.runs,
        kernels=settings.kernels,
        per_op=settings.per_op,
        verbose=int(sys.stdout.isatty()),
    )
    print(report)
