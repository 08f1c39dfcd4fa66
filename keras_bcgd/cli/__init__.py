"""The command `keras-bcgd`.

- `export`, `align`, `verify`, `inspection`, `benchmark`, `micro`, `unpack`,
  `onnx`: a command each, its help, a function that adds its arguments and one
  that runs it.
- `grids`: arguments of two commands, what decides the integers of a file.
- `data_files`: arrays by the inputs of a model; `progress`: whether a bar is
  shown.
"""

import argparse
import sys

from keras_bcgd.cli import align
from keras_bcgd.cli import benchmark
from keras_bcgd.cli import export
from keras_bcgd.cli import inspection
from keras_bcgd.cli import micro
from keras_bcgd.cli import onnx
from keras_bcgd.cli import unpack
from keras_bcgd.cli import verify
from keras_bcgd.utils import command_line

# In the order of the help.
_COMMANDS = {
    "export": export,
    "align": align,
    "verify": verify,
    "inspect": inspection,
    "benchmark": benchmark,
    "micro": micro,
    "unpack": unpack,
    "onnx": onnx,
}

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
        description="Integer files of fully quantized Keras networks.",
        epilog="`keras-bcgd COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True
    )
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.TEXT,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
