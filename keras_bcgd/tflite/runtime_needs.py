"""Which runtimes run the operators of a TFLite file: a measured table.

`OLDEST` is the second table of `python -m benchmarks.runtimes`, on Linux and
x86-64 (docs/runtimes.md): each operator alone, on random inputs. A release
runs it if no code is further than 1 from that of LiteRT 2.3.0.
"""

import dataclasses

from keras_bcgd.tflite import lut

# The oldest and the newest release of each family that were tried.
TRIED = {
    "ai-edge-litert": ("1.0.1", "2.3.0"),
    "tensorflow": ("2.7.4", "2.21.0"),
    "tflite-runtime": ("2.7.0", "2.14.0"),
}
# The oldest releases of these, in this order, that run the operators below them
# in the versions there; `None`: none does.
OLDEST = {
    ("1.0.1", "2.7.4", "2.7.0"): {
        "ADD int8 -> int8": 2,
        "CONCATENATION int8 -> int8": 2,
        "CONV_2D int16, int8/channel, int64 -> int16": 4,
        "CONV_2D int8, int8/channel, int32 -> int8": 3,
        "DEPTHWISE_CONV_2D int16, int8, int64 -> int16": 3,
        "DEPTHWISE_CONV_2D int8, int32 -> int8": 3,
        "DEPTHWISE_CONV_2D int8, int8/channel, int32 -> int8": 3,
        "FULLY_CONNECTED int8 -> int8": 4,
        "FULLY_CONNECTED int8, int32 -> int8": 4,
        "LOGISTIC int16 -> int16": 3,
        "LOGISTIC int8 -> int8": 2,
        "MAX_POOL_2D int8 -> int8": 2,
        "PAD int8, int32 -> int8": 2,
        "PADV2 int8, int32 -> int8": 2,
        "QUANTIZE int16 -> int8": 2,
        "QUANTIZE int8 -> int8": 2,
        "QUANTIZE int8 -> uint8": 2,
        "QUANTIZE uint8 -> int8": 2,
        "RESHAPE int16, int32 -> int16": 1,
        "RESHAPE int8, int32 -> int8": 1,
        "SOFTMAX int16 -> int16": 3,
        "SOFTMAX int8 -> int8": 2,
    },
    ("1.0.1", "2.8.4", "2.8.0"): {
        "CAST int8 -> int16": 1,
    },
    ("1.0.1", "2.9.3", "2.7.0"): {
        "QUANTIZE int16 -> int16": 2,
    },
    ("1.0.1", "2.10.0", "2.10.0"): {
        "FULLY_CONNECTED int16, int8/channel, int64 -> int16": 4,
        "FULLY_CONNECTED int8, int8/channel, int32 -> int8": 4,
    },
    ("1.0.1", "2.12.0", "2.12.0"): {
        "CONV_2D int8, int4/channel, int32 -> int8": 7,
    },
    ("1.0.1", "2.13.0", "2.13.0"): {
        "DEPTHWISE_CONV_2D int8, int4/channel, int32 -> int8": 6,
    },
    ("1.0.1", "2.18.0", None): {
        "FULLY_CONNECTED int16, int4/channel, int64 -> int16": 10,
    },
    ("1.1.0", "2.19.0", None): {
        "FULLY_CONNECTED int8, int4/channel, int32 -> int8": 10,
    },
    ("2.1.0", "2.21.0", None): {
        "FULLY_CONNECTED int16, int2/channel, int64 -> int16": 14,
        "FULLY_CONNECTED int8, int2/channel, int32 -> int8": 14,
    },
    ("2.1.3", None, None): {
        "QUANTIZE int8 -> int16": 2,
    },
}


@dataclasses.dataclass
class RuntimeNeeds:
    """Which runtimes run a file; `str(needs)` is a line.

    Attributes:
        oldest: Dict from each family of runtimes to its oldest release that
            was found to run every operator of the file, as a string; `None`:
            no release does. Empty if an operator is not in the table.
        refused: Dict from each family without such a release to a list of
            the operators that no release of it runs.
        unknown: List of strings, the operators that are not in the table.
        micro_alone: Boolean. Whether TensorFlow Lite Micro alone has an
            operator for its weights: those in look-up tables.

    Example:

    ```python
    needs = keras_bcgd.inspect_tflite("digits.tflite").needs
    print(needs.oldest["ai-edge-litert"], needs.oldest["tflite-runtime"])
    ```
    """

    oldest: dict
    refused: dict
    unknown: list
    micro_alone: bool = False

    def __str__(self):
        if self.micro_alone:
            *families, last = self.refused
            return (
                f"TensorFlow Lite Micro; {', '.join(families)} and {last} do "
                f"not run {lut.OPERATOR}"
            )
        if self.unknown:
            return f"not known for {'; '.join(self.unknown)}"
        parts = [
            " or ".join(
                f"{family} >= {release}"
                for family, release in self.oldest.items()
                if release is not None
            )
        ]
        for family, operators in self.refused.items():
            names = ", ".join(operators)
            newest = TRIED[family][1]
            parts.append(f"{family} up to {newest} does not run {names}")
        return "; ".join(parts)


def runtime_needs(operators):
    """What a file with these operators needs.

    Args:
        operators: List of `tflite.reader.Operator`.

    Returns:
        `RuntimeNeeds`.
    """
    if any(operator.name == lut.OPERATOR for operator in operators):
        # A custom operator: the others do not matter.
        return RuntimeNeeds(
            oldest=dict.fromkeys(TRIED),
            refused={family: [lut.OPERATOR] for family in TRIED},
            unknown=[],
            micro_alone=True,
        )
    versions = {}
    for operator in operators:
        name = signature(operator)
        versions[name] = max(operator.version, versions.get(name, 0))
    table = {
        name: oldest
        for oldest, names in OLDEST.items()
        for name, newest_version in names.items()
        if versions.get(name, 0) <= newest_version
    }
    unknown = [
        f"{n} (version {v})" for n, v in versions.items() if n not in table
    ]
    if unknown:
        return RuntimeNeeds({}, {}, unknown)
    oldest, refused = {}, {}
    for place, (family, (first, _)) in enumerate(TRIED.items()):
        releases = {name: table[name][place] for name in versions}
        if None in releases.values():
            oldest[family] = None
            refused[family] = [n for n, r in releases.items() if r is None]
        else:
            oldest[family] = max(first, *releases.values(), key=_as_numbers)
    return RuntimeNeeds(oldest, refused, [])


def _as_numbers(release):
    return tuple(map(int, release.split(".")))


def signature(operator):
    """What of an operator decides which kernels run it.

    Args:
        operator: `tflite.reader.Operator`.

    Returns:
        String: `"CONV_2D int8, int8/channel, int32 -> int8"`, the types of its
        inputs, each once, and of its outputs. `/channel` marks weights with a
        scale for each channel.
    """
    inputs = [_type(t) for t in operator.inputs if t is not None]
    outputs = [_type(t) for t in operator.outputs if t is not None]
    return (
        f"{operator.name} {', '.join(dict.fromkeys(inputs))}"
        f" -> {', '.join(dict.fromkeys(outputs))}"
    )


def _type(tensor):
    # The scales of a bias follow from those of the weights.
    is_bias = tensor.dtype in ("int32", "int64")
    has_scales = len(tensor.scales) > 1 and not is_bias
    return f"{tensor.dtype}/channel" if has_scales else tensor.dtype
