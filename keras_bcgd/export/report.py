"""What an export returns: the file and, per layer, the integers in it."""

import dataclasses

import keras

from keras_bcgd.utils import tables


@dataclasses.dataclass
class LayerReport:
    """One integer operator with weights.

    Attributes:
        name: String, the Keras layer.
        op: String, the TFLite operator.
        activation_bits: Int, or `None`: logits, or a mean.
        alpha: Float, or `None` where no layer has it.
        trained: Boolean. Whether training rounded the output as the file does.
        weight_bits: Int or `None` (an addition, a pooling, or a QuantReLU of
            its own).
        weight_type: String, how its weights are stored: `"int8"`, `"int4"`,
            `"int2"`, or `"lut"`: indices into a table. `None` without weights.
        weight_scale: `(smallest, largest)` of the scales of its channels, or
            `None`.
        multiplier: Int, by which the trained codes are multiplied.
        flips: Int, channels whose codes changed sign (negative gamma).
        constant: Int, channels whose output does not depend on the input.
        thresholds: Int, the (channel, level) pairs of the staircase; of an
            addition, the pairs of codes.
        exact: Int, those that are provably where training put them, whatever
            the input, on all kernels of the runtime.
        exact_by_default: Int, the same on its default kernels.
    """

    name: str
    op: str
    activation_bits: int | None = None
    alpha: float | None = None
    trained: bool = True
    weight_bits: int | None = None
    weight_type: str | None = None
    weight_scale: tuple | None = None
    multiplier: int = 1
    flips: int = 0
    constant: int = 0
    thresholds: int = 0
    exact: int = 0
    exact_by_default: int = 0


def verdict(inexact, inexact_elsewhere):
    """One line: whether the codes in a file are those of the model, or why not.

    Args:
        inexact: List of strings, the reasons, the first one first.
        inexact_elsewhere: The same for kernels that are not the default.
    """
    if inexact:
        return f"NOT exact: {_first_of(inexact)}"
    if inexact_elsewhere:
        return (
            "exact on the default kernels, not on all: "
            f"{_first_of(inexact_elsewhere)}"
        )
    return "exact: every code in the file is that of the model"


def _layers(moved):
    return f"{len(moved)} layer{'s' if len(moved) != 1 else ''}"


def _first_of(reasons):
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}"


@dataclasses.dataclass
class AlignmentReport:
    """What `align_for_export` moved; iterated, its `Alignment`s.

    Attributes:
        layers: List of `Alignment`, one for each layer that was moved.
        inexact: List of strings, where the file may still compute other codes
            than the model, and why; empty if nowhere.
        inexact_elsewhere: List of strings, the same on kernels that are not
            the default ones of the runtime.

    Example:

    ```python
    report = keras_bcgd.align_for_export(model, input_range=(0, 1))
    print(report)
    assert report.is_exact
    ```
    """

    layers: list
    inexact: list
    inexact_elsewhere: list

    @property
    def is_exact(self):
        """Whether on the default kernels every code is that of the model."""
        return not self.inexact

    def __iter__(self):
        return iter(self.layers)

    def __len__(self):
        return len(self.layers)

    def __str__(self):
        lines = [
            verdict(self.inexact, self.inexact_elsewhere),
            f"{_layers(self.layers)} moved",
        ]
        if self.layers:
            header = ("layer", "gamma", "alpha", "shift in steps", "risk")
            rows = [header, *map(_alignment_cells, self.layers)]
            lines += tables.columns(rows)
        return "\n".join(lines + _reasons(self))


def _reasons(report):
    lines = [f"Not exact: {reason}" for reason in report.inexact]
    return lines + [
        f"Not exact on all kernels: {reason}"
        for reason in report.inexact_elsewhere
    ]


def _alignment_cells(moved):
    return (
        moved.name,
        f"{moved.slope_change:.3%}",
        f"{moved.alpha_change:+.3%}",
        f"{moved.shift:.3f}",
        f"{moved.risk:.1e}",
    )


@dataclasses.dataclass
class FileEnd:
    """An input or output of a file: `real = scale * (code - zero_point)`.

    Attributes:
        scale: Float.
        zero_point: Int.
        dtype: String: `"int8"`, `"uint8"` or `"int16"`.
    """

    scale: float
    zero_point: int
    dtype: str


@dataclasses.dataclass
class ExportReport:
    """What `export_tflite` wrote; `str(report)` is a table.

    Attributes:
        path: String, the file.
        file_bytes: Int, its size.
        inputs: Dict from the names in the signature of the file, `"input"` if
            there is one, else those of the model, to `FileEnd`.
        outputs: The same of the outputs; a single one is `"output"`.
        layers: List of `LayerReport`, in the order in which they run.
        notes: List of strings, what else there is to know.
        inexact: List of strings, where the file may compute other codes than
            the model, and why; empty if nowhere.
        inexact_elsewhere: List of strings, the same on kernels that are not
            the default ones of the runtime.
        model: The model that the file answers as: the given one, or the copy
            of it that was aligned.
        alignments: List of `Alignment`, what was moved in that copy.

    Example:

    ```python
    report = keras_bcgd.export_tflite(
        model, "digits.tflite", input_range=(0, 1), representative_data=x_train
    )
    for layer in report.layers:
        print(layer.name, layer.exact, "of", layer.thresholds)
    ```
    """

    path: str
    file_bytes: int
    inputs: dict
    outputs: dict
    layers: list
    notes: list
    inexact: list
    inexact_elsewhere: list
    model: keras.Model
    alignments: list

    @property
    def is_exact(self):
        """Whether on the default kernels every code is that of `model`."""
        return not self.inexact

    @property
    def input_scale(self):
        """Float, of a single input; `input = scale * (code - zero_point)`."""
        return _single(self.inputs, "inputs").scale

    @property
    def input_zero_point(self):
        """Int, likewise."""
        return _single(self.inputs, "inputs").zero_point

    @property
    def output_scale(self):
        """Float, of a single output."""
        return _single(self.outputs, "outputs").scale

    @property
    def output_zero_point(self):
        """Int, likewise."""
        return _single(self.outputs, "outputs").zero_point

    @property
    def inexact_thresholds(self):
        """How many thresholds are not provably where training put them."""
        return sum(row.thresholds - row.exact for row in self.layers)

    def __str__(self):
        rows = [_HEADER] + [_cells(row) for row in self.layers]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            verdict(self.inexact, self.inexact_elsewhere),
            f"{self.path}: {self.file_bytes:,} bytes",
        ]
        if self.alignments:
            lines.append(
                f"aligned: {_layers(self.alignments)} moved in a copy of the "
                "model; evaluate, verify and keep `report.model`"
            )
        for row in rows:
            cells = [
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        lines += _end_lines("input", self.inputs)
        lines += _end_lines("output", self.outputs)
        lines += _reasons(self)
        return "\n".join(lines + [f"Note: {note}" for note in self.notes])


def _single(ends, what):
    """The only input or output."""
    if len(ends) > 1:
        names = ", ".join(f"'{name}'" for name in ends)
        raise ValueError(
            f"The file has several {what}: use `report.{what}[name].scale` and "
            f"`.zero_point`, with one of the names {names}."
        )
    (end,) = ends.values()
    return end


def _end_lines(what, ends):
    width = max(len(name) for name in ends)
    for name, end in ends.items():
        title = what.ljust(6)
        if len(ends) > 1:
            title = f"{title} {name.ljust(width)}"
        yield f"{title} = {end.scale:.6g} * (code - {end.zero_point})"


_HEADER = (
    "layer",
    "op",
    "W bits",
    "stored",
    "W scale",
    "A bits",
    "alpha",
    "mult",
    "flips",
    "exact",
)


def _cells(row):
    scale = "-"
    if row.weight_scale is not None:
        low, high = row.weight_scale
        scale = f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"
    exact = "-"
    if row.thresholds:
        exact = f"{row.exact} of {row.thresholds}"
    return (
        row.name,
        row.op,
        _or_dash(row.weight_bits),
        _or_dash(row.weight_type),
        scale,
        _or_dash(row.activation_bits),
        "-" if row.alpha is None else f"{row.alpha:.4g}",
        str(row.multiplier),
        str(row.flips),
        exact,
    )


def _or_dash(value):
    return "-" if value is None else str(value)
