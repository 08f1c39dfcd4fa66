"""Takes out of a model what nothing uses, and numbers the rest anew."""

import numpy as np


def compact(model):
    """Keeps the tensors, buffers and operators' codes that are used.

    Tensors stay in their order; buffers and codes get that of their first use.

    Args:
        model: `ModelT` of the schema, changed in place.
    """
    for number, graph in enumerate(model.subgraphs):
        signatures = [
            one
            for one in model.signatureDefs or []
            if one.subgraphIndex == number
        ]
        _compact_tensors(graph, signatures)
    _compact_codes(model)
    _compact_buffers(model)


def _compact_tensors(graph, signatures):
    used = {-1, *graph.inputs, *graph.outputs}
    for operator in graph.operators:
        used.update(operator.inputs, operator.outputs)
        used.update(_list(operator.intermediates))
    kept = [i for i in range(len(graph.tensors)) if i in used]
    new = {-1: -1, **{index: place for place, index in enumerate(kept)}}
    graph.tensors = [graph.tensors[index] for index in kept]
    graph.inputs = _renumbered(graph.inputs, new)
    graph.outputs = _renumbered(graph.outputs, new)
    for operator in graph.operators:
        operator.inputs = _renumbered(operator.inputs, new)
        operator.outputs = _renumbered(operator.outputs, new)
        if operator.intermediates is not None:
            operator.intermediates = _renumbered(operator.intermediates, new)
    for signature in signatures:
        for one in (*_list(signature.inputs), *_list(signature.outputs)):
            one.tensorIndex = new[one.tensorIndex]


def _renumbered(indices, new):
    return np.asarray([new[index] for index in indices], np.int32)


def _compact_codes(model):
    codes = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            name = code.builtinCode, code.customCode, code.version
            place, _ = codes.setdefault(name, (len(codes), code))
            operator.opcodeIndex = place
    model.operatorCodes = [code for _, code in codes.values()]


def _compact_buffers(model):
    new = {0: 0}  # by convention an empty one
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = new.setdefault(tensor.buffer, len(new))
    for entry in _list(model.metadata):
        entry.buffer = new.setdefault(entry.buffer, len(new))
    if model.metadataBuffer is not None:
        model.metadataBuffer = _renumbered(model.metadataBuffer, new)
    model.buffers = [model.buffers[index] for index in new]


def _list(values):
    return [] if values is None else list(values)
