"""Reads TFLite files, written by whomever: their operators and constants."""

import dataclasses
import math

import numpy as np

from keras_bcgd.tflite.schema import load_schema

_CONSTANT_BITS = {"int4": 4, "uint4": 4, "int2": 2}


@dataclasses.dataclass
class Tensor:
    """A tensor of a file.

    Attributes:
        name: String.
        dtype: String, a type of the format in lower case: `"int8"`.
        shape: Tuple of ints.
        scales: 1-D array of floats, empty if the tensor is not quantized.
        zero_points: 1-D array of ints, the same.
        axis: Int, the axis along which several scales lie.
        index: Int, its place among the tensors of its subgraph.
        buffer: Int, the buffer that holds its contents.
        data: 1-D `uint8` array, these contents; `None` if it is computed.
    """

    name: str
    dtype: str
    shape: tuple
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    index: int
    buffer: int
    data: np.ndarray | None

    @property
    def is_float(self):
        """Whether its numbers are not integers."""
        return self.dtype.startswith(("float", "bfloat", "complex"))

    def codes(self):
        """What a constant holds as 1-D unsigned integers, bit by bit."""
        bits = _CONSTANT_BITS.get(self.dtype)
        if bits is not None:
            return self._unpacked(bits)
        count = math.prod(self.shape)
        size = len(self.data) // max(count, 1)
        if size in (2, 4, 8) and size * count == len(self.data):
            return self.data.view(f"<u{size}")
        return self.data

    def _unpacked(self, bits):
        parts = [
            self.data >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)
        ]
        return np.stack(parts, axis=-1).reshape(-1)[: math.prod(self.shape)]


@dataclasses.dataclass
class Operator:
    """An operator of a file.

    Attributes:
        name: String: `"CONV_2D"`, or what a custom operator is called.
        version: Int.
        inputs: List of `Tensor`, `None` for one that is left out.
        outputs: List of `Tensor`.
        subgraph: Int, the subgraph in which it is.
        position: Int, its place in the order in which that subgraph runs.
    """

    name: str
    version: int
    inputs: list
    outputs: list
    subgraph: int
    position: int


@dataclasses.dataclass
class TFLiteFile:
    """What is in a file.

    Attributes:
        path: String.
        data: Bytes, the file.
        model: The `ModelT` of the schema.
        operators: List of `Operator`, in the order in which they run.
        tensors: List of `Tensor`: those that an operator reads or writes, and
            the two below.
        inputs: List of `Tensor`, what the main subgraph is given.
        outputs: List of `Tensor`, what it answers.
    """

    path: str
    data: bytes
    model: object
    operators: list
    tensors: list
    inputs: list
    outputs: list


def read_tflite(path):
    """Reads a TFLite file.

    Args:
        path: String or path-like.

    Returns:
        A `TFLiteFile`.

    Raises:
        ValueError: If it is not a TFLite file or is damaged.
        OSError: If it cannot be read.
        ImportError: If `ai-edge-litert` is not installed.
    """
    path = str(path)
    with open(path, "rb") as file:
        return parse(file.read(), path)


def parse(data, path=""):
    """The same of the contents of a file.

    Args:
        data: Bytes.
        path: String, what errors call it. Defaults to `""`.
    """
    schema = load_schema()
    if data[4:8] != b"TFL3":
        raise ValueError(
            "`path` must be a TFLite file. Received a file of "
            f"{len(data):,} bytes without its mark 'TFL3': path={path!r}"
        )
    # The classes of the schema check nothing: a damaged file ends in whatever
    # error its first impossible offset, length or index leads to.
    try:
        model = schema.ModelT.InitFromPackedBuf(data)
        reader = _Reader(schema, model, data)
        operators, (inputs, outputs) = reader.operators(), reader.ends()
        tensors = reader.tensors()
        return TFLiteFile(
            path, data, model, operators, tensors, inputs, outputs
        )
    except Exception as error:
        raise ValueError(
            "`path` must be a whole TFLite file. Received a damaged one: "
            f"path={path!r}"
        ) from error


class _Reader:
    """Turns the objects of the schema into those above."""

    def __init__(self, schema, model, data):
        self._model = model
        self._data = data
        self._types = _names(schema.TensorType)
        self._operators = _names(schema.BuiltinOperator)
        self._tensors = {}

    def operators(self):
        return [
            self._operator(operator, index, position)
            for index, graph in enumerate(self._model.subgraphs)
            for position, operator in enumerate(_list(graph.operators))
        ]

    def ends(self):
        main = self._model.subgraphs[0]
        return [
            self._tensors_at(ends, 0) for ends in (main.inputs, main.outputs)
        ]

    def tensors(self):
        return list(self._tensors.values())

    def _operator(self, operator, subgraph, position):
        code = self._model.operatorCodes[operator.opcodeIndex]
        # Files older than the 32-bit field have only the 8-bit one.
        name = self._operators[
            max(code.builtinCode, code.deprecatedBuiltinCode)
        ]
        if name == "CUSTOM":
            name = code.customCode.decode()
        return Operator(
            name=name,
            version=code.version,
            inputs=self._tensors_at(operator.inputs, subgraph),
            outputs=self._tensors_at(operator.outputs, subgraph),
            subgraph=subgraph,
            position=position,
        )

    def _tensors_at(self, indices, subgraph):
        return [
            None if i == -1 else self._tensor(int(i), subgraph)
            for i in _list(indices)
        ]

    def _tensor(self, index, subgraph):
        key = subgraph, index
        if key not in self._tensors:
            if index < 0:
                raise IndexError(index)
            tensor = self._model.subgraphs[subgraph].tensors[index]
            self._tensors[key] = self._read(tensor, index)
        return self._tensors[key]

    def _read(self, tensor, index):
        quantization = tensor.quantization
        scales, zero_points, axis = (), (), 0
        if quantization is not None and quantization.scale is not None:
            scales = quantization.scale
            zero_points = np.zeros(len(scales), np.int64)
            if quantization.zeroPoint is not None:
                zero_points = quantization.zeroPoint
            axis = quantization.quantizedDimension
        return Tensor(
            name=(tensor.name or b"").decode(),
            dtype=self._types[tensor.type].lower(),
            shape=tuple(int(size) for size in _list(tensor.shape)),
            scales=np.asarray(scales, np.float64),
            zero_points=np.asarray(zero_points, np.int64),
            axis=axis,
            index=index,
            buffer=tensor.buffer,
            data=self._contents(self._model.buffers[tensor.buffer]),
        )

    def _contents(self, buffer):
        data = buffer.data
        if buffer.offset > 1:
            # Files of more than 2 GB keep their contents behind the tables.
            end = buffer.offset + buffer.size
            if end > len(self._data):
                raise IndexError(end)
            data = np.frombuffer(self._data, np.uint8)[buffer.offset : end]
        return data if data is not None and len(data) else None


def _names(enumeration):
    return {
        value: name
        for name, value in vars(enumeration).items()
        if not name.startswith("_")
    }


def _list(values):
    return [] if values is None else list(values)
