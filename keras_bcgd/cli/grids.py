"""What decides the integers of a file: arguments of export and align."""

from keras_bcgd.cli import data_files


def add_arguments(command):
    add = command.add_argument
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
        choices=("int8", "int4", "int2", "lut", "auto"),
        default="int8",
        help="int4 puts two weights in a byte; int2 four, in dense layers and "
        "convolutions of size 1 of at most 2 bits; lut, an index into a table "
        'for each, for TensorFlow Lite Micro alone; "auto" uses int4, unless '
        "--minimize latency, where layers have at most 4 bits, but for "
        "depthwise ones, and with --target what suits it (default: "
        "%(default)s)",
    )
    add(
        "--minimize",
        choices=("size", "latency"),
        default="size",
        help='"auto" is int4 for the size and int8 for the latency (default: '
        "%(default)s)",
    )
    add(
        "--target",
        choices=("micro", "ethos-u"),
        help="for TensorFlow Lite Micro alone, or for Arm's Ethos-U by Vela: "
        "without operators that it leaves to the CPU",
    )


def read(settings, model):
    """These arguments as functions take them."""
    data = None
    if settings.data is not None:
        data, _ = data_files.load(settings.data, model)
    return {
        "input_range": _input_range(settings),
        "representative_data": data,
        "weight_format": settings.weight_format,
        "minimize": settings.minimize,
        "target": settings.target,
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
