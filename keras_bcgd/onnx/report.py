"""What `export_onnx` wrote, as a table."""

import dataclasses

from keras_bcgd.utils import tables


@dataclasses.dataclass
class OnnxLayer:
    """A kernel or a rounding in the file.

    Attributes:
        name: String, of the tensor that the layer computes.
        kind: String, the class of the Keras layer.
        bits: Int, the bits of the weights, or of what is rounded; `None`:
            float.
        weights: Int, how many there are; `None`: none.
        scale: `(smallest, largest)` of the scales, or alpha twice; `None`:
            float.
    """

    name: str
    kind: str
    bits: int | None = None
    weights: int | None = None
    scale: tuple | None = None


@dataclasses.dataclass
class OnnxReport:
    """What `export_onnx` wrote; `str(report)` is a table.

    Attributes:
        path: String, the file.
        file_bytes: Int, its size.
        format: String: `"qonnx"` or `"qcdq"`.
        opset: Int, the version of the operators of ONNX.
        inputs: Dict from the names of the inputs to their shapes in the file,
            tuples; a free batch is `None`.
        outputs: The same of the outputs.
        layers: List of `OnnxLayer`, in the order in which they run.

    Example:

    ```python
    report = keras_bcgd.export_onnx(model, "digits.onnx")
    print(report.inputs, report.float_layers)
    ```
    """

    path: str
    file_bytes: int
    format: str
    opset: int
    inputs: dict
    outputs: dict
    layers: list

    @property
    def float_layers(self):
        """List of strings, the layers whose weights are not quantized."""
        return [
            layer.name
            for layer in self.layers
            if layer.weights is not None and layer.bits is None
        ]

    def __str__(self):
        header = ("layer", "class", "bits", "weights", "scale or alpha")
        rows = [header, *map(_cells, self.layers)]
        lines = [
            f"{self.path}: {self.file_bytes:,} bytes, {self.format}, opset "
            f"{self.opset}",
            f"  inputs: {_shapes(self.inputs)}",
            f"  outputs: {_shapes(self.outputs)}",
            *tables.columns(rows, left=2),
        ]
        if self.float_layers:
            listed = ", ".join(f"'{name}'" for name in self.float_layers)
            lines.append(f"Weights in float: {listed}")
        return "\n".join(lines)


def _cells(layer):
    scale = ""
    if layer.scale is not None:
        low, high = (f"{value:.4g}" for value in layer.scale)
        scale = low if low == high else f"{low}..{high}"
    return (
        layer.name,
        layer.kind,
        "float" if layer.bits is None else str(layer.bits),
        "" if layer.weights is None else f"{layer.weights:,}",
        scale,
    )


def _shapes(ends):
    return ", ".join(
        f"'{name}' {_shape(shape)}" for name, shape in ends.items()
    )


def _shape(shape):
    return " x ".join("batch" if n is None else str(n) for n in shape)
