"""What is in a TFLite file: operators, types, sizes."""

import dataclasses
import gzip
import math

import numpy as np

from keras_bcgd.tflite import metadata
from keras_bcgd.tflite import reader
from keras_bcgd.tflite import runtime_needs
from keras_bcgd.utils import tables

# Where the weights and the bias are among the inputs of an operator.
_PLACES = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2),
    "TRANSPOSE_CONV": (1, 3),
}
# Constants of these types in other operators are sizes, axes and the like.
_NOT_WEIGHTS = ("bool", "int32", "int64", "string", "uint32", "uint64")


@dataclasses.dataclass
class OperatorReport:
    """One operator of a file.

    Attributes:
        name: String: `"CONV_2D"`.
        version: Int.
        inputs: List of strings, type and shape of what it is given:
            `"int8 1x8x8x1"`.
        outputs: List of strings, the same of what it computes.
        output_name: String, its first output.
        scale: Float, the step of its first output, or `None`.
        zero_point: Int, the code of 0.0 there, or `None`.
        weight_dtype: String, or `None` without weights.
        weight_shape: String: `"16x3x3x1"`, or `None`.
        weight_scale: `(smallest, largest)` of the scales of the weights, or
            `None`.
        weight_bytes: Int.
        bias_bytes: Int.
        distinct_weights: Int, how many different weights there are.
        entropy_bytes: Float, what a perfect coder of single weights needs:
            their entropy in bits, times their count, over 8.
    """

    name: str
    version: int
    inputs: list
    outputs: list
    output_name: str
    scale: float | None
    zero_point: int | None
    weight_dtype: str | None
    weight_shape: str | None
    weight_scale: tuple | None
    weight_bytes: int
    bias_bytes: int
    distinct_weights: int
    entropy_bytes: float


@dataclasses.dataclass
class InspectionReport:
    """What `inspect_tflite` found; `str(report)` is a table.

    `file_bytes = weight_bytes + bias_bytes + other_bytes`. What several
    operators share is counted once.

    Attributes:
        path: String, the file.
        file_bytes: Int, its size.
        gzip_bytes: Int, its size after gzip.
        weight_bytes: Int.
        bias_bytes: Int.
        entropy_bytes: Float, what a perfect coder of single weights needs for
            them all, with one code for each operator.
        conversions: Int, QUANTIZE and DEQUANTIZE operators.
        float_tensors: List of strings, the tensors that are not integers.
        operators: List of `OperatorReport`, in the order in which they run.
        needs: `RuntimeNeeds`: in `needs.oldest`, the oldest release of each
            runtime that runs the file, as far as that was measured.
        labels: List of strings, the lines of its `labels.txt`, or `None`.

    Example:

    ```python
    report = keras_bcgd.inspect_tflite("digits.tflite")
    print([operator.name for operator in report.operators])
    print(report.needs.oldest["ai-edge-litert"])
    assert report.weight_bytes + report.bias_bytes < report.file_bytes
    ```
    """

    path: str
    file_bytes: int
    gzip_bytes: int
    weight_bytes: int
    bias_bytes: int
    entropy_bytes: float
    conversions: int
    float_tensors: list
    operators: list
    needs: runtime_needs.RuntimeNeeds
    labels: list | None = None

    @property
    def other_bytes(self):
        """What is neither weights nor biases: the description of the graph."""
        return self.file_bytes - self.weight_bytes - self.bias_bytes

    @property
    def is_integer(self):
        """Whether no operator reads or writes a float tensor."""
        return not self.float_tensors

    def __str__(self):
        rows = [_HEADER] + [_cells(row) for row in self.operators]
        lines = [f"{self.path}: {self.file_bytes:,} bytes"]
        lines += tables.columns(rows, left=4)
        lines += tables.columns(self._size_rows())
        lines.append(
            f"float tensors: {len(self.float_tensors)}, "
            f"QUANTIZE and DEQUANTIZE: {self.conversions}"
        )
        lines.append(f"needs: {self.needs}")
        if self.labels is not None:
            lines.append(f"labels: {len(self.labels)}")
        return "\n".join(lines)

    def _size_rows(self):
        rows = [
            ("weights", self.weight_bytes),
            ("biases", self.bias_bytes),
            ("everything else", self.other_bytes),
            ("weights at their entropy", round(self.entropy_bytes)),
            ("file after gzip", self.gzip_bytes),
        ]
        return [(name, f"{size:,} bytes") for name, size in rows]


_HEADER = (
    "operator",
    "input",
    "output",
    "weights",
    "W scale",
    "step",
    "W bytes",
    "bias bytes",
    "distinct",
    "entropy bytes",
)


def _cells(row):
    weights = scale = "-"
    if row.weight_dtype is not None:
        weights = f"{row.weight_dtype} {row.weight_shape}"
    if row.weight_scale is not None:
        low, high = row.weight_scale
        scale = f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"
    return (
        f"{row.name} v{row.version}",
        " + ".join(row.inputs) or "-",
        " + ".join(row.outputs) or "-",
        weights,
        scale,
        "-" if row.scale is None else f"{row.scale:.3g}",
        f"{row.weight_bytes:,}",
        f"{row.bias_bytes:,}",
        f"{row.distinct_weights:,}",
        f"{row.entropy_bytes:,.0f}",
    )


def inspect_tflite(path):
    """Lists what is in a TFLite file, written by whomever.

    Args:
        path: String or path-like, the file.

    Returns:
        An `InspectionReport`; printed, it is a table.

    Raises:
        ValueError: If it is not a TFLite file or is damaged.
        OSError: If it cannot be read.
        ImportError: If `ai-edge-litert` is not installed.

    Example:

    ```python
    report = keras_bcgd.inspect_tflite("digits.tflite")
    print(report)
    assert report.is_integer
    ```
    """
    file = reader.read_tflite(path)
    # By buffer, which several tensors may share.
    weights, biases = {}, {}
    rows = []
    for operator in file.operators:
        own_weights, own_biases = _parameters(operator)
        weights |= {tensor.buffer: tensor for tensor in own_weights}
        biases |= {tensor.buffer: tensor for tensor in own_biases}
        rows.append(_row(operator, own_weights, own_biases))
    names = [operator.name for operator in file.operators]
    return InspectionReport(
        path=file.path,
        file_bytes=len(file.data),
        gzip_bytes=len(gzip.compress(file.data, mtime=0)),
        weight_bytes=_bytes(weights.values()),
        bias_bytes=_bytes(biases.values()),
        entropy_bytes=sum(map(_entropy_bytes, weights.values())),
        conversions=names.count("QUANTIZE") + names.count("DEQUANTIZE"),
        float_tensors=[t.name for t in file.tensors if t.is_float],
        operators=rows,
        needs=runtime_needs.runtime_needs(file.operators),
        labels=metadata.read_labels(file.data),
    )


def _parameters(operator):
    """The constants of an operator that are weights, and those of a bias."""
    weights, biases = [], []
    weight_place, bias_place = _PLACES.get(operator.name, (None, None))
    for place, tensor in enumerate(operator.inputs):
        if tensor is None or tensor.data is None:
            continue
        if place == bias_place:
            biases.append(tensor)
        elif place == weight_place or tensor.dtype not in _NOT_WEIGHTS:
            weights.append(tensor)
    return weights, biases


def _row(operator, weights, biases):
    computed = [t for t in operator.inputs if t is not None and t.data is None]
    output = operator.outputs[0] if operator.outputs else None
    is_quantized = output is not None and len(output.scales) > 0
    first = weights[0] if weights else None
    has_scale = first is not None and len(first.scales) > 0
    return OperatorReport(
        name=operator.name,
        version=operator.version,
        inputs=[_type_and_shape(t) for t in computed],
        outputs=[_type_and_shape(t) for t in operator.outputs if t is not None],
        output_name="" if output is None else output.name,
        scale=float(output.scales[0]) if is_quantized else None,
        zero_point=int(output.zero_points[0]) if is_quantized else None,
        weight_dtype=None if first is None else first.dtype,
        weight_shape=None if first is None else _shape(first),
        weight_scale=_ends(first.scales) if has_scale else None,
        weight_bytes=_bytes(weights),
        bias_bytes=_bytes(biases),
        distinct_weights=sum(len(np.unique(t.codes())) for t in weights),
        entropy_bytes=sum(map(_entropy_bytes, weights)),
    )


def _shape(tensor):
    return "x".join(map(str, tensor.shape)) or "1"


def _type_and_shape(tensor):
    return f"{tensor.dtype} {_shape(tensor)}"


def _ends(values):
    return float(values.min()), float(values.max())


def _bytes(tensors):
    return sum(len(tensor.data) for tensor in tensors)


def _entropy_bytes(tensor):
    """The entropy of the codes of a constant, times their count, in bytes."""
    _, counts = np.unique(tensor.codes(), return_counts=True)
    total = counts.sum()
    return math.fsum(n * math.log2(total / n) for n in counts) / 8
