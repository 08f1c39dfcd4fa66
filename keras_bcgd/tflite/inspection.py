"""What is in a TFLite file: operators, types, sizes, memory, operations."""

import gzip

from keras_bcgd.tflite import macs
from keras_bcgd.tflite import memory
from keras_bcgd.tflite import metadata
from keras_bcgd.tflite import reader
from keras_bcgd.tflite import runtime_needs
from keras_bcgd.tflite.inspection_report import InspectionReport
from keras_bcgd.tflite.inspection_report import OperatorReport
from keras_bcgd.tflite.weights import find_parameters
from keras_bcgd.tflite.weights import table_bytes


def inspect_tflite(path):
    """Lists what is in a TFLite file, written by whomever.

    Operators that only expand weights from tables are not listed: the operator
    that reads the weights shows them, as `lut2` with indices of 2 bits.

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
    # As in the reader: a damaged file ends in whatever is impossible first.
    try:
        return _report(file)
    except Exception as error:
        raise ValueError(
            "`path` must be a whole TFLite file. Received a damaged one: "
            f"path={file.path!r}"
        ) from error


def _report(file):
    live = memory.live_bytes(file)
    # What several operators share is stored once.
    weights, stored, biases, rows = {}, {}, {}, []
    found = find_parameters(file)
    for own in found:
        for one in own.weights:
            weights.setdefault(one.key, one)
            stored |= {tensor.buffer: tensor for tensor in one.stored}
        biases |= {tensor.buffer: tensor for tensor in own.biases}
        rows.append(_row(own, live))
    names = [operator.name for operator in file.operators]
    weights = weights.values()
    return InspectionReport(
        path=file.path,
        file_bytes=len(file.data),
        gzip_bytes=len(gzip.compress(file.data, mtime=0)),
        weight_bytes=_bytes(stored.values()),
        bias_bytes=_bytes(biases.values()),
        entropy_bytes=sum(one.entropy_bytes for one in weights),
        int8_bytes=sum(one.count for one in weights),
        int4_bytes=sum(one.int4_bytes or one.count for one in weights),
        table_bytes=table_bytes(weights),
        macs=sum(row.macs for row in rows),
        peak_ram_bytes=max(live),
        planned_ram_bytes=memory.planned_bytes(file),
        decoders=sum(len(own.decoders) for own in found),
        conversions=names.count("QUANTIZE") + names.count("DEQUANTIZE"),
        float_tensors=[t.name for t in file.tensors if t.is_float],
        operators=rows,
        needs=runtime_needs.runtime_needs(file.operators),
        labels=metadata.read_labels(file.data),
    )


def _row(own, live):
    operator, weights = own.operator, own.weights
    constants = {id(one.tensor) for one in weights}
    computed = [
        tensor
        for tensor in operator.inputs
        if tensor is not None
        and tensor.data is None
        and id(tensor) not in constants
    ]
    output = operator.outputs[0] if operator.outputs else None
    is_quantized = output is not None and len(output.scales) > 0
    first = weights[0] if weights else None
    has_scale = first is not None and len(first.tensor.scales) > 0
    stored = {t.buffer: t for one in weights for t in one.stored}
    in_main = operator.subgraph == 0
    return OperatorReport(
        name=operator.name,
        version=operator.version,
        inputs=[_type_and_shape(t) for t in computed],
        outputs=[_type_and_shape(t) for t in operator.outputs if t is not None],
        output_name="" if output is None else output.name,
        scale=float(output.scales[0]) if is_quantized else None,
        zero_point=int(output.zero_points[0]) if is_quantized else None,
        weight_dtype=None if first is None else first.format,
        weight_shape=None if first is None else _shape(first.tensor),
        weight_scale=_ends(first.tensor.scales) if has_scale else None,
        weight_bytes=_bytes(stored.values()),
        bias_bytes=_bytes(own.biases),
        distinct_weights=sum(one.distinct for one in weights),
        entropy_bytes=sum(one.entropy_bytes for one in weights),
        int8_bytes=sum(one.count for one in weights),
        int4_bytes=_int4_bytes(weights),
        table_bytes=_table_bytes(weights),
        macs=macs.macs(operator),
        ram_bytes=max(live[one.position] for one in (operator, *own.decoders))
        if in_main
        else None,
    )


def _shape(tensor):
    return "x".join(map(str, tensor.shape)) or "1"


def _type_and_shape(tensor):
    return f"{tensor.dtype} {_shape(tensor)}"


def _ends(values):
    return float(values.min()), float(values.max())


def _bytes(tensors):
    return sum(len(tensor.data) for tensor in tensors)


def _int4_bytes(weights):
    sizes = [one.int4_bytes for one in weights]
    return sum(sizes) if sizes and None not in sizes else None


def _table_bytes(weights):
    if any(one.compressed is not None for one in weights):
        return table_bytes(weights)
    return None
