"""What is to become of each layer: a table."""

import dataclasses

import keras

from keras_bcgd.conversion import kinds
from keras_bcgd.conversion import settings as settings_lib
from keras_bcgd.utils import tables

# Activations with a layer of their own, and those whose grid is fixed.
CLASSES = {
    "hard_sigmoid": "QuantHardSigmoid",
    "leaky_relu": "QuantLeakyReLU",
    "prelu": "QuantPReLU",
}
WITH_8_BITS = ("prelu", "sigmoid", "tanh")


@dataclasses.dataclass
class PlannedLayer:
    """What becomes of one layer.

    Attributes:
        name: String, its path in the model; of several the first.
        kind: String, its class.
        layer: The Keras layer; `None`: an operation that is not a layer.
        settings: `Settings`.
        kernel: Class of the layer with the quantized kernel, or `None`.
        staircase: Boolean. Whether it becomes, or is followed by, a QuantReLU.
        identity: Boolean. Whether a QuantIdentity follows it.
        has_addition: Boolean. Whether that is a QuantAddReLU, with the
            addition before it.
        shortcut_is_branch: Boolean, an argument of that one.
        function: String, the activation on trained grids that it becomes or
            that follows it, see `kinds.function_of`; `None`: there is none.
        product: Boolean. Whether it becomes a QuantMultiply.
        minimum: Float, an argument of that one.
        operation: The layer, or the operation that is none.
        absorbed: String, the name of the ReLU into which an addition goes.
        reversed: Boolean. Whether its operands are then exchanged.
        problems: List of strings, why something of it stays float.
        also: List of strings, the other paths of a layer that models share.
    """

    name: str
    kind: str
    layer: keras.layers.Layer | None
    settings: settings_lib.Settings
    kernel: type | None = None
    staircase: bool = False
    identity: bool = False
    has_addition: bool = False
    shortcut_is_branch: bool = False
    function: str | None = None
    product: bool = False
    minimum: float | None = None
    operation: object = None
    absorbed: str | None = None
    reversed: bool = False
    problems: list = dataclasses.field(default_factory=list)
    also: list = dataclasses.field(default_factory=list)

    @property
    def weight_bits(self):
        """Int, `None` where it has no quantized weights."""
        return self.settings.weight_bits if self.kernel else None

    @property
    def activation_bits(self):
        """Int, the bits of its output, `None` where nothing rounds it."""
        if self.function in ("hard_sigmoid", "leaky_relu", *WITH_8_BITS):
            return 8
        if self.staircase or self.function:
            return self.settings.activation_bits
        if self.identity or self.product:
            return self.settings.branch_bits
        return None

    @property
    def becomes(self):
        """String, the layers that take its place; empty: a copy of it."""
        if self.absorbed is not None:
            return f"in {self.absorbed}"
        if self.has_addition:
            return "QuantAddReLU"
        parts = []
        if self.kernel is not None:
            if isinstance(self.layer, keras.layers.SeparableConv2D):
                parts.append("QuantDepthwiseConv2D")
            parts.append(self.kernel.__name__)
        elif self.identity or (self.has_activation and self.layer_has_kernel):
            parts.append(self.kind)
        if self.product:
            parts.append("QuantMultiply")
        if self.staircase:
            parts.append("QuantReLU")
        if self.function:
            parts.append(CLASSES.get(self.function, "QuantActivation"))
        if self.identity:
            parts.append("QuantIdentity")
        return " + ".join(parts)

    @property
    def is_passed_over(self):
        """Whether another one computes what it does, and it does nothing."""
        return self.absorbed is not None and (
            self.kind != "Add" or self.layer is None
        )

    @property
    def has_activation(self):
        """Whether it becomes, or is followed by, a quantized activation."""
        return self.staircase or self.function is not None

    @property
    def layer_has_kernel(self):
        """Whether the activation is that of a layer with weights."""
        return type(self.layer) in kinds.QUANTIZED_KERNELS


@dataclasses.dataclass
class ConversionPlan:
    """What `quantize_model` will do; printed, a table.

    Attributes:
        layers: List of `PlannedLayer`, in the order in which they run.
        not_exportable: List of strings, what `export_tflite` would refuse of
            the quantized model: the layer, its class, and what to do.

    Example:

    ```python
    plan = keras_bcgd.conversion_plan(float_model, weight_bits=2)
    print([layer.name for layer in plan.layers])
    ```
    """

    layers: list
    not_exportable: list = dataclasses.field(default_factory=list)

    @property
    def left_in_float(self):
        """List of strings, what cannot be quantized: why, and which layers."""
        names = {}
        for row in self.layers:
            for problem in row.problems:
                names.setdefault(problem, []).append(f"'{row.name}'")
        return [f"{why}: {', '.join(who)}" for why, who in names.items()]

    def __str__(self):
        header = ["layer", "type", "becomes", "W bits", "A bits", "note"]
        rows = [header]
        for row in self.layers:
            bits = [row.weight_bits, row.activation_bits]
            cells = ["-" if b is None else str(b) for b in bits]
            becomes = row.becomes or "-"
            also = [f"also {', '.join(row.also)}"] if row.also else []
            note = "; ".join(row.problems + also)
            rows.append([row.name, row.kind, becomes, *cells, note])
        # The note is as long as it is: no column is made for it.
        lines = tables.columns([row[:-1] for row in rows], left=3)
        table = [
            f"{line}  {row[-1]}".rstrip()
            for line, row in zip(lines, rows, strict=True)
        ]
        if self.not_exportable:
            table.append("export_tflite would refuse:")
        return "\n".join([*table, *(f"- {p}" for p in self.not_exportable)])
