"""Writes a plan, with its integers, as the bytes of a TFLite file."""

from keras_bcgd.export import arithmetic
from keras_bcgd.export.file import File
from keras_bcgd.export.operators import OPERATORS
from keras_bcgd.export.steps import Codes
from keras_bcgd.tflite import metadata
from keras_bcgd.tflite.writer import TFLiteWriter

_DESCRIPTION = "Integer network written by keras_bcgd"


def contents(plan, name, batch_size, input_type, labels, names):
    """The bytes of the file.

    Args:
        plan: `Plan`, whose integers were found.
        name: String, the name of the model.
        batch_size: Int.
        input_type: String: `"int8"` or `"uint8"`.
        labels: List of strings, the names of the classes, or `None`.
        names: `(inputs, outputs)`: lists of strings, those of the model.

    Returns:
        `(contents, inputs, outputs)`: the bytes, and dicts from the names in
        the signature to `Codes`.
    """
    writer = TFLiteWriter(_DESCRIPTION)
    file = File(writer, batch_size, plan.target)
    firsts, tensors = {}, {}
    for node, grid, as_name in zip(
        plan.graph.inputs, plan.grids, _names("input", names[0]), strict=True
    ):
        firsts[as_name], tensors[node] = _first(
            node, grid, file, input_type, as_name
        )
    for step in plan.steps:
        node = step.node
        inputs = [tensors[source] for source in node.inputs]
        y = OPERATORS[node.kind].write(step, inputs, file)
        tensors[node] = file.reshape(y, node.output_shape, node.name)
    lasts = {
        as_name: _last(planned, file, tensors[planned.node], as_name)
        for planned, as_name in zip(
            plan.outputs, _names("output", names[1]), strict=True
        )
    }
    return (
        _finish(writer, name, firsts, lasts, labels),
        {as_name: x.codes for as_name, x in firsts.items()},
        {as_name: x.codes for as_name, x in lasts.items()},
    )


def _names(alone, names):
    """Those in the signature of the file."""
    return names if len(names) > 1 else [alone]


def _first(node, grid, file, dtype, name):
    """What the file begins with, and the same in int8."""
    shape = (file.batch_size, *node.output_shape)
    codes = Codes(grid)
    if dtype != "uint8":
        x = file.tensor(name, shape, codes)
        return x, x
    first = file.tensor(name, shape, Codes(arithmetic.unsigned(grid), dtype))
    return first, file.quantize(first, codes, f"{name}/int8")


def _last(planned, file, x, name):
    """What the file ends with."""
    if x.dtype == "int16" and planned.codes.dtype != "int16":
        x = file.quantize(x, planned.in_int8, f"{name}/int8")
    if planned.codes.dtype == "uint8":
        x = file.quantize(x, planned.codes, name)
    return x


def _finish(writer, name, firsts, lasts, labels):
    inputs = {as_name: x.index for as_name, x in firsts.items()}
    outputs = {as_name: x.index for as_name, x in lasts.items()}
    if labels is None:
        return writer.finish(inputs, outputs)
    packed = metadata.labels_metadata(name, list(inputs), *outputs)
    data = writer.finish(inputs, outputs, {metadata.BUFFER: packed})
    return metadata.append_labels(data, labels)
