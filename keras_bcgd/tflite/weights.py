"""The weights and biases of the operators of a file, also those in tables."""

import dataclasses
import functools
import math

import numpy as np

from keras_bcgd.tflite import lut
from keras_bcgd.tflite import reader

# Where the weights and the bias are among the inputs of an operator.
_PLACES = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2),
    "TRANSPOSE_CONV": (1, 3),
}
# Those for which runtimes have kernels with int4 weights.
_INT4 = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# Constants of these types in other operators are sizes, axes and the like.
_NOT_WEIGHTS = ("bool", "int32", "int64", "string", "uint32", "uint64")
_SIGNED_BITS = {"int8": 8, "int4": 4, "int2": 2}


@dataclasses.dataclass
class Weights:
    """Weights that an operator reads.

    Attributes:
        tensor: `tflite.reader.Tensor`, what it reads.
        stored: List of `tflite.reader.Tensor`, the constants that hold them:
            the same, or indices and tables.
        operator: String, the name of the operator: `"CONV_2D"`.
        is_kernel: Boolean. Whether it multiplies by them and adds: a constant
            summand is not a kernel.
    """

    tensor: reader.Tensor
    stored: list
    operator: str
    is_kernel: bool

    @property
    def key(self):
        """What tells weights apart that are stored once."""
        return self.stored[0].buffer

    @property
    def format(self):
        """String: `"int8"`, or `"lut2"`: by tables, with indices of 2 bits."""
        if len(self.stored) == 1:
            return self.tensor.dtype
        return f"lut{_compressed(self.stored).bits}"

    @functools.cached_property
    def codes(self):
        """1-D array of unsigned integers, bit by bit.

        Raises:
            IndexError: If indices look up more than the tables have.
        """
        if len(self.stored) == 1:
            return self.tensor.codes()
        expanded = lut.expand(_compressed(self.stored), self.tensor.shape)
        return expanded.reshape(-1).view(np.uint8)

    @property
    def count(self):
        """Int, how many there are."""
        return math.prod(self.tensor.shape)

    @functools.cached_property
    def _counts(self):
        """How often each different weight occurs."""
        return np.unique(self.codes, return_counts=True)[1]

    @property
    def distinct(self):
        """Int, how many different ones there are."""
        return len(self._counts)

    @property
    def entropy_bytes(self):
        """Float, the entropy of one weight, times their count, in bytes."""
        total = self._counts.sum()
        return math.fsum(n * math.log2(total / n) for n in self._counts) / 8

    @property
    def int4_bytes(self):
        """Int, their bytes as int4, packed; `None`: they do not fit.

        They fit if those of each scale are multiples, from -8 to 7, of one
        integer, and there are kernels for the operator.
        """
        values = self.values()
        if values is None or self.operator not in _INT4:
            return None
        rows = values.reshape(1, -1)
        if len(self.tensor.scales) > 1:
            rows = np.moveaxis(values, self.tensor.axis, 0)
            rows = rows.reshape(len(rows), -1)
        step = np.gcd.reduce(rows.astype(np.int64), axis=1, keepdims=True)
        codes = rows // np.maximum(step, 1)
        if codes.min() < -8 or codes.max() > 7:
            return None
        return -(-self.count // 2)

    @functools.cached_property
    def compressed(self):
        """`lut.Compressed`, or `None`: tables are not worth it."""
        values = self.values()
        if values is None:
            return None
        axis = self.tensor.axis if len(self.tensor.scales) > 1 else None
        return lut.compress(values, axis)

    def values(self):
        """An `int8` array, or `None`: they are no kernel of such numbers."""
        bits = _SIGNED_BITS.get(self.tensor.dtype)
        if bits is None or not self.is_kernel or not self.count:
            return None
        if len(self.codes) != self.count:  # sparse
            return None
        half = 1 << bits - 1
        values = (self.codes.astype(np.int16) ^ half) - half
        return values.astype(np.int8).reshape(self.tensor.shape)


def table_bytes(weights):
    """Bytes of weights in tables, with the operators that expand them.

    Where tables are worth it, and as int8 elsewhere. Equal tables are stored
    once.

    Args:
        weights: List of `Weights`.
    """
    total, tables = 0, set()
    for one in weights:
        if one.compressed is None:
            total += one.count
        else:
            total += len(one.compressed.indices) + lut.OPERATOR_BYTES
            tables.add(one.compressed.ancillary.tobytes())
    return total + sum(map(len, tables))


@dataclasses.dataclass
class Parameters:
    """The constants of an operator.

    Attributes:
        operator: `tflite.reader.Operator`.
        weights: List of `Weights`.
        biases: List of `tflite.reader.Tensor`.
        decoders: List of `tflite.reader.Operator`, those that expand the
            weights for it.
    """

    operator: reader.Operator
    weights: list
    biases: list
    decoders: list


def find_parameters(file):
    """The constants of each operator.

    Args:
        file: `tflite.reader.TFLiteFile`.

    Returns:
        List of `Parameters`, in the order in which the operators run. An
        operator that only expands weights from tables is none of them: it is
        with the first that reads them.
    """
    expanded = _expanded(file)
    decoders = {id(one) for one, _ in expanded.values()}
    found, seen = [], set()
    for operator in file.operators:
        if id(operator) in decoders:
            continue
        own = Parameters(operator, [], [], [])
        weight_place, bias_place = _PLACES.get(operator.name, (None, None))
        for place, tensor in enumerate(operator.inputs):
            if tensor is None:
                continue
            decoder, stored = expanded.get(id(tensor), (None, [tensor]))
            if stored[0].data is None:
                continue
            if decoder is not None and id(decoder) not in seen:
                seen.add(id(decoder))
                own.decoders.append(decoder)
            if place == bias_place:
                own.biases.append(tensor)
            elif place == weight_place or tensor.dtype not in _NOT_WEIGHTS:
                is_kernel = place == weight_place
                own.weights.append(
                    Weights(tensor, stored, operator.name, is_kernel)
                )
        found.append(own)
    return found


def _expanded(file):
    """By its id, each tensor of int8 weights that comes from tables.

    `(decoder, [indices, tables])`. Of a decoder of something else, or whose
    tensors nobody reads, none.
    """
    read = {id(t) for operator in file.operators for t in operator.inputs}
    found = {}
    for operator in file.operators:
        if operator.name != lut.OPERATOR:
            continue
        # For each output its indices and its tables.
        pairs = zip(operator.inputs[::2], operator.inputs[1::2], strict=False)
        parts = list(zip(operator.outputs, pairs, strict=False))
        if all(id(y) in read and _is_table(y, *pair) for y, pair in parts):
            for y, pair in parts:
                found[id(y)] = operator, list(pair)
    return found


def _is_table(y, indices, tables):
    are_there = all(
        t is not None and t.data is not None for t in (indices, tables)
    )
    return are_there and y.dtype == "int8" and lut.is_table(tables.data)


def _compressed(stored):
    indices, tables = stored
    return lut.Compressed(indices.data, tables.data)
