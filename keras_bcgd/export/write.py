"""Writes a plan, with its integers, as the bytes of a TFLite file."""

from keras_bcgd.export import arithmetic
from keras_bcgd.export.file import File
from keras_bcgd.export.operators import OPERATORS
from keras_bcgd.export.steps import Codes
from keras_bcgd.tflite import metadata
from keras_bcgd.tflite.writer import TFLiteWriter

_DESCRIPTION = "Integer network written by keras_bcgd"


def contents(plan, name, batch_size, input_type, labels):
    """The bytes of the file.

    Args:
        plan: `Plan`, whose integers were found.
        name: String, the name of the model.
        batch_size: Int.
        input_type: String: `"int8"` or `"uint8"`.
        labels: List of strings, the names of the classes, or `None`.

    Returns:
        `(contents, first)`: the bytes, and the `Codes` of the input.
    """
    writer = TFLiteWriter(_DESCRIPTION)
    file = File(writer, batch_size)
    first, x = _first(plan, file, input_type)
    tensors = {plan.graph.input: x}
    for step in plan.steps:
        node = step.node
        inputs = [tensors[source] for source in node.inputs]
        y = OPERATORS[node.kind].write(step, inputs, file)
        tensors[node] = file.reshape(y, node.output_shape, node.name)
    last = _last(plan, file, tensors[plan.graph.output])
    return _finish(writer, name, first, last, labels), first.codes


def _first(plan, file, dtype):
    """What the file begins with, and the same in int8."""
    shape = (file.batch_size, *plan.graph.input.output_shape)
    codes = Codes(plan.grid)
    if dtype != "uint8":
        x = file.tensor("input", shape, codes)
        return x, x
    unsigned = Codes(arithmetic.unsigned(plan.grid), dtype)
    first = file.tensor("input", shape, unsigned)
    return first, file.quantize(first, codes, "input/int8")


def _last(plan, file, x):
    """What the file ends with."""
    if x.dtype == "int16" and plan.output.dtype != "int16":
        x = file.quantize(x, plan.output_in_int8, "output/int8")
    if plan.output.dtype == "uint8":
        x = file.quantize(x, plan.output, "output")
    return x


def _finish(writer, name, first, last, labels):
    inputs, outputs = {"input": first.index}, {"output": last.index}
    if labels is None:
        return writer.finish(inputs, outputs)
    packed = metadata.labels_metadata(name, *inputs, *outputs)
    data = writer.finish(inputs, outputs, {metadata.BUFFER: packed})
    return metadata.append_labels(data, labels)
