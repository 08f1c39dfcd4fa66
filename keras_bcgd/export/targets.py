"""What a file for one kind of device has that others cannot run, or has not.

TensorFlow Lite Micro (`"micro"`) expands tables of weights, has int4 kernels
for convolutions alone, and none for int2. Vela (`"ethos-u"`), which compiles
for Arm's Ethos-U NPUs, takes 8-bit weights, which it compresses itself, and
leaves a CAST to the CPU.
"""

from keras_bcgd.utils import checks

MICRO = "micro"
ETHOS_U = "ethos-u"
TARGETS = (None, MICRO, ETHOS_U)

# What the weights may be stored as.
_FORMATS = {
    MICRO: ("int8", "int4", "lut", "auto"),
    ETHOS_U: ("int8", "auto"),
}


def choose(target, weight_format):
    """The target, which weights in tables decide.

    Args:
        target: String, one of `TARGETS`, or `None`.
        weight_format: String.

    Returns:
        String or `None`.

    Raises:
        ValueError: If the two do not go together.
    """
    checks.check_choice("target", target, TARGETS)
    if target is None:
        return MICRO if weight_format == "lut" else None
    allowed = _FORMATS[target]
    if weight_format not in allowed:
        listed = ", ".join(f'"{one}"' for one in allowed)
        raise ValueError(
            f'`weight_format` must be one of {listed} with `target="{target}"`,'
            " which runs no others. Received: "
            f"weight_format={weight_format!r}"
        )
    return target
