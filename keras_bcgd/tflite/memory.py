"""The RAM that the tensors of a file take while it runs.

Every tensor that is computed has a place of its own, from the operator that
computes it to the last one that reads it; inputs from the start, outputs to the
end. So TensorFlow Lite Micro plans: its RESHAPE copies, too. What kernels ask
for besides, and what the interpreter keeps of the graph, is not counted:
`write_micro_sources` measures the whole arena.
"""

import dataclasses

from keras_bcgd.tflite.reader import Tensor

# A computed tensor is not packed: a number of 4 bits takes a byte. The size of
# what is not listed, of strings say, is not known.
_BYTES = {
    "bool": 1,
    "int2": 1,
    "int4": 1,
    "uint4": 1,
    "int8": 1,
    "uint8": 1,
    "bfloat16": 2,
    "float16": 2,
    "int16": 2,
    "uint16": 2,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
    "complex64": 8,
    "float64": 8,
    "int64": 8,
    "uint64": 8,
    "complex128": 16,
}
# TFLM puts a tensor at a multiple of so many bytes.
_ALIGNMENT = 16


@dataclasses.dataclass
class Lifetime:
    """When a computed tensor is in memory.

    Attributes:
        tensor: `tflite.reader.Tensor`.
        size: Int, its bytes.
        first: Int, the operator of the main subgraph that computes it; -1: it
            is there before the first.
        last: Int, the last operator that needs it.
    """

    tensor: Tensor
    size: int
    first: int
    last: int


def lifetimes(file):
    """When each computed tensor of the main subgraph is in memory.

    Args:
        file: `tflite.reader.TFLiteFile`.

    Returns:
        List of `Lifetime`, in the order of the tensors in the file.
    """
    operators = _main_operators(file)
    found = {}
    for tensor in file.inputs:
        _extend(found, tensor, -1, is_made=True)
    for step, operator in enumerate(operators):
        for tensor in operator.outputs:
            _extend(found, tensor, step, is_made=True)
        for tensor in operator.inputs:
            _extend(found, tensor, step)
    for tensor in file.outputs:
        _extend(found, tensor, len(operators) - 1)
    return sorted(found.values(), key=lambda one: one.tensor.index)


def _extend(found, tensor, step, is_made=False):
    if tensor is None or tensor.data is not None:
        return
    if id(tensor) in found:
        found[id(tensor)].last = max(step, found[id(tensor)].last)
    elif is_made:  # a variable, which is not, is kept elsewhere
        size = _BYTES.get(tensor.dtype, 0)
        for length in tensor.shape:
            size *= length
        found[id(tensor)] = Lifetime(tensor, size, step, step)


def live_bytes(file):
    """The bytes of all tensors that are in memory while an operator runs.

    The largest is a lower bound of the RAM: no planner places these tensors in
    less, and gaps between them can make it more.

    Args:
        file: `tflite.reader.TFLiteFile`.

    Returns:
        List of ints, one for each operator of the main subgraph. The inputs
        of the file count with the first as well, which may not read them.
    """
    live = [0] * max(len(_main_operators(file)), 1)
    for one in lifetimes(file):
        for step in range(max(one.first, 0), max(one.last, 0) + 1):
            live[step] += one.size
    return live


def planned_bytes(file):
    """The bytes in which TensorFlow Lite Micro places these tensors.

    By its greedy planner: the largest tensor first, each at the lowest offset
    that is free as long as it lives.

    Args:
        file: `tflite.reader.TFLiteFile`.

    Returns:
        Int; `None` for a file of several subgraphs.
    """
    if len(file.model.subgraphs) > 1:
        return None
    # Of one size, the last in the file comes first there.
    order = sorted(reversed(lifetimes(file)), key=_aligned, reverse=True)
    placed = []  # (offset, end, lifetime)
    for one in order:
        size = _aligned(one)
        offset = 0
        for start, end, other in sorted(placed, key=lambda place: place[0]):
            if other.first > one.last or other.last < one.first:
                continue
            if start - offset >= size:
                break
            offset = max(offset, end)
        if size:
            placed.append((offset, offset + size, one))
    return max((end for _, end, _ in placed), default=0)


def _aligned(lifetime):
    return -(-lifetime.size // _ALIGNMENT) * _ALIGNMENT


def _main_operators(file):
    return [one for one in file.operators if one.subgraph == 0]
