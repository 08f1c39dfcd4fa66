"""Takes a TFLite file apart: one file for each operator."""

import copy

import numpy as np

from keras_bcgd.tflite import serialization
from keras_bcgd.tflite.schema import load_schema


def single_operator_file(file, operator):
    """A TFLite file with one operator of another file.

    Args:
        file: `TFLiteFile`, as `read_tflite` returns it.
        operator: One of its operators.

    Returns:
        `(contents, given)`: the bytes of a file whose inputs are the tensors
        that the operator is given and that are not constant, and the indices
        of these tensors in the other file.
    """
    schema = load_schema()
    graph = file.model.subgraphs[operator.subgraph]
    original = graph.operators[operator.position]
    single = copy.copy(original)
    single.opcodeIndex = 0

    # Old index -> new index of the tensors and of their buffers. By convention
    # buffer 0 is empty.
    tensors, buffers = {}, {0: 0}
    for index in [*original.inputs, *original.outputs]:
        if index != -1:
            tensors.setdefault(index, len(tensors))
            buffers.setdefault(graph.tensors[index].buffer, len(buffers))
    renumbered = [copy.copy(graph.tensors[index]) for index in tensors]
    for tensor in renumbered:
        tensor.buffer = buffers[tensor.buffer]
    single.inputs = _renumber(original.inputs, tensors)
    single.outputs = _renumber(original.outputs, tensors)
    computed = [
        index
        for index, tensor in zip(original.inputs, operator.inputs, strict=True)
        if tensor is not None and tensor.data is None
    ]
    given = list(dict.fromkeys(computed))

    model = schema.ModelT(
        version=file.model.version,
        operatorCodes=[file.model.operatorCodes[original.opcodeIndex]],
        buffers=[file.model.buffers[index] for index in buffers],
        subgraphs=[
            schema.SubGraphT(
                tensors=renumbered,
                operators=[single],
                inputs=_renumber(given, tensors),
                outputs=single.outputs,
            )
        ],
    )
    return serialization.serialize(model), given


def _renumber(indices, new):
    return np.asarray([new.get(index, -1) for index in indices], np.int32)
