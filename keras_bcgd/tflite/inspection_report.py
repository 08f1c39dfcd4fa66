"""InspectionReport: how what `inspect_tflite` found is shown."""

import dataclasses

from keras_bcgd.tflite import runtime_needs
from keras_bcgd.utils import tables


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
        weight_dtype: String, how its weights are stored: a type of the format,
            or `"lut2"`, indices of 2 bits into tables; `None` without weights.
        weight_shape: String: `"16x3x3x1"`, or `None`.
        weight_scale: `(smallest, largest)` of the scales of the weights, or
            `None`.
        weight_bytes: Int, as they are stored: of indices and tables, both.
        bias_bytes: Int.
        distinct_weights: Int, how many different weights there are.
        entropy_bytes: Float, what a perfect coder of single weights needs:
            their entropy in bits, times their count, over 8.
        int8_bytes: Int, the bytes of the weights as int8.
        int4_bytes: Int, as int4, packed; `None` where they do not fit.
        table_bytes: Int, as indices into tables, with the operator that
            expands them; `None` where that is not smaller than int8.
        macs: Int, how often it multiplies by a weight and adds.
        ram_bytes: Int, the bytes of all tensors that are in memory while it
            runs; `None` in a subgraph that others call.
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
    int8_bytes: int
    int4_bytes: int | None
    table_bytes: int | None
    macs: int
    ram_bytes: int | None


@dataclasses.dataclass
class InspectionReport:
    """What `inspect_tflite` found; `str(report)` is a table.

    `file_bytes = weight_bytes + bias_bytes + other_bytes`. What several
    operators share is counted once here, and with each of them.

    Attributes:
        path: String, the file.
        file_bytes: Int, its size.
        gzip_bytes: Int, its size after gzip.
        weight_bytes: Int.
        bias_bytes: Int.
        entropy_bytes: Float, what a perfect coder of single weights needs for
            them all, with one code for each operator.
        int8_bytes: Int, what all weights take as int8.
        int4_bytes: Int, as int4 where they fit, and as int8 elsewhere.
        table_bytes: Int, as indices into tables where that is smaller, with
            the operators that expand them, and as int8 elsewhere: what
            `export_tflite(weight_format="lut")` writes.
        macs: Int, how often one run multiplies by a weight and adds.
        peak_ram_bytes: Int, the largest `ram_bytes` of an operator: no planner
            places the tensors in less.
        planned_ram_bytes: Int, the bytes in which the planner of TensorFlow
            Lite Micro places them: its arena without what kernels ask for
            besides and what the interpreter keeps of the graph, which
            `write_micro_sources` measures. `None` for several subgraphs.
        decoders: Int, operators that expand weights from tables; they are
            not in `operators`.
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
    print(report.table_bytes, report.macs, report.peak_ram_bytes)
    assert report.weight_bytes + report.bias_bytes < report.file_bytes
    ```
    """

    path: str
    file_bytes: int
    gzip_bytes: int
    weight_bytes: int
    bias_bytes: int
    entropy_bytes: float
    int8_bytes: int
    int4_bytes: int
    table_bytes: int
    macs: int
    peak_ram_bytes: int
    planned_ram_bytes: int | None
    decoders: int
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
        lines = [f"{self.path}: {self.file_bytes:,} bytes"]
        lines += _table(_GRAPH, enumerate(self.operators), left=4)
        with_constants = [
            (place, row)
            for place, row in enumerate(self.operators)
            if row.weight_bytes or row.bias_bytes
        ]
        if with_constants:
            lines += ["", *_table(_WEIGHTS, with_constants, left=2)]
        lines += ["", *tables.columns(self._size_rows())]
        if self.decoders:
            lines.append(
                f"weights in tables, expanded by {self.decoders} TFLM_DECODE "
                "operators that are not listed"
            )
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
            ("file after gzip", self.gzip_bytes),
            ("weights as int8", self.int8_bytes),
            ("weights as int4, where they fit", self.int4_bytes),
            ("weights in tables, where smaller", self.table_bytes),
            ("weights at their entropy", round(self.entropy_bytes)),
            ("peak RAM of the tensors, at least", self.peak_ram_bytes),
            ("RAM of the tensors, as TFLM plans it", self.planned_ram_bytes),
        ]
        rows = [
            (name, f"{size:,} bytes") for name, size in rows if size is not None
        ]
        return [*rows, ("MACs", f"{self.macs:,}      ")]


def _table(columns, rows, left):
    """Lines of the cells of some operators, each with its place."""
    cells = [list(columns)]
    for place, row in rows:
        cells.append([show(place, row) for show in columns.values()])
    return tables.columns(cells, left)


def _number(key):
    return lambda _, row: (
        "-" if getattr(row, key) is None else f"{getattr(row, key):,.0f}"
    )


def _weights(_, row):
    if row.weight_dtype is None:
        return "-"
    return f"{row.weight_dtype} {row.weight_shape}"


def _weight_scale(_, row):
    if row.weight_scale is None:
        return "-"
    low, high = row.weight_scale
    return f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"


_GRAPH = {
    "#": lambda place, _: str(place),
    "operator": lambda _, row: f"{row.name} v{row.version}",
    "input": lambda _, row: " + ".join(row.inputs) or "-",
    "output": lambda _, row: " + ".join(row.outputs) or "-",
    "step": lambda _, row: "-" if row.scale is None else f"{row.scale:.3g}",
    "MACs": lambda _, row: f"{row.macs:,}" if row.macs else "-",
    "RAM": _number("ram_bytes"),
}
_WEIGHTS = {
    "#": lambda place, _: str(place),
    "weights": _weights,
    "W scale": _weight_scale,
    "distinct": _number("distinct_weights"),
    "W bytes": _number("weight_bytes"),
    "bias bytes": _number("bias_bytes"),
    "as int8": _number("int8_bytes"),
    "as int4": _number("int4_bytes"),
    "in tables": _number("table_bytes"),
    "at entropy": _number("entropy_bytes"),
}
