"""Weights as indices into a table of values, which TFLM calls "LUT".

TensorFlow Lite Micro keeps an index of 1 to 7 bits for each weight, most
significant bit first, packed without gaps, and "ancillary data": a header of 16
bytes and the tables. The custom operator `TFLM_DECODE` expands them right
before the operator that reads the weights.

These bytes of the header matter: 0, the kind of code (0, a table); 1 and 4,
versions (1); 5, the bits of an index and, in its upper half, the axis of the
channels, or 15 for one table; 6, the stride, how many values further the table
of the next channel is. TFLM's compressor writes that axis, and its kernels, up
to those of October 2026, do not read it: channels are along the last axis if
the weights have a scale for each index along it, and else along the first. With
a stride of 0, which that compressor never writes, they share one table.
"""

import dataclasses

import numpy as np

OPERATOR = "TFLM_DECODE"
# An index has so many bits at most.
MOST_BITS = 7
# What DECODE and its tensors take in a file beside their contents: 64 to 67, as
# measured, where there are ten or more.
OPERATOR_BYTES = 64

_HEADER_BYTES = 16
_VERSION = 1
_VERSION_AT = (1, 4)
_PARAMETERS_AT = 5
_STRIDE_AT = 6
_ONE_TABLE = 15  # instead of an axis
# DECODE takes RAM and time as well: tables have to save more than it takes.
_LEAST_SAVING = 256


@dataclasses.dataclass
class Compressed:
    """Weights as TFLM stores them.

    Attributes:
        indices: 1-D `uint8` array, the packed indices.
        ancillary: 1-D `uint8` array, the header and the tables.
    """

    indices: np.ndarray
    ancillary: np.ndarray

    @property
    def size(self):
        """Int, the bytes of both."""
        return len(self.indices) + len(self.ancillary)

    @property
    def bits(self):
        """Int, the bits of an index."""
        return int(self.ancillary[_PARAMETERS_AT] & 0xF)


def compressed_bytes(count, values):
    """What weights take in a file, with the operator that expands them.

    Args:
        count: Int, how many weights there are.
        values: Int, how many values they have.

    Returns:
        Int; `None`, if that is not worth it, or an index cannot tell so many
        values apart.
    """
    bits = _bits(values)
    size = -(-count * bits // 8) + _HEADER_BYTES + values
    if bits > MOST_BITS or size + _LEAST_SAVING >= count:
        return None
    return size + OPERATOR_BYTES


def compress(values, axis=-1):
    """Weights as indices into tables, or `None`: that would not be smaller.

    With one table for all channels, or one for each where that is smaller: a
    channel without weights may not add a value to all the others.

    Args:
        values: `int8` array.
        axis: Int, that of the channels, the first or the last; `None`: they
            have one scale, so that TFLM finds no axis, and share a table.
            Defaults to `-1`.

    Returns:
        `Compressed`, or `None`.
    """
    values = np.ascontiguousarray(values, np.int8)
    choices = [_with_tables(values, None, values.reshape(1, -1))]
    if axis is not None:
        axis %= values.ndim
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        choices.append(_with_tables(values, axis, rows))
    return min(
        (
            one
            for one in choices
            if one is not None and one.size + _LEAST_SAVING < values.size
        ),
        key=lambda one: one.size,
        default=None,
    )


def _with_tables(values, axis, rows):
    """One choice of tables: one for each of the rows; `None`, a single one."""
    codes = np.int16(rows) + 128  # 0 to 255
    is_used = np.zeros((len(rows), 256), bool)
    is_used[np.arange(len(rows))[:, None], codes] = True
    most = int(is_used.sum(axis=1).max())
    bits = _bits(most)
    if bits > MOST_BITS:
        return None
    places = np.cumsum(is_used, axis=1) - 1
    tables = np.zeros((len(rows), most), np.int8)
    row, code = np.nonzero(is_used)
    tables[row, places[row, code]] = code - 128
    indices = np.take_along_axis(places.astype(np.uint8), codes, axis=1)
    if axis is not None:
        shape = np.moveaxis(values, axis, 0).shape
        indices = np.moveaxis(indices.reshape(shape), 0, axis)
    header = np.zeros(_HEADER_BYTES, np.uint8)
    header[list(_VERSION_AT)] = _VERSION
    header[_PARAMETERS_AT] = (_ONE_TABLE if axis is None else axis) << 4 | bits
    header[_STRIDE_AT] = 0 if axis is None else most
    return Compressed(
        _pack(indices.reshape(-1), bits),
        np.concatenate([header, tables.reshape(-1).view(np.uint8)]),
    )


def is_table(ancillary):
    """Whether ancillary data are tables: TFLM has other codes as well."""
    return len(ancillary) > _HEADER_BYTES and ancillary[0] == 0


def expand(compressed, shape):
    """The weights that `compress` was given.

    Args:
        compressed: `Compressed`.
        shape: Tuple of ints, that of the weights.

    Returns:
        `int8` array.
    """
    header = compressed.ancillary[:_HEADER_BYTES]
    tables = compressed.ancillary[_HEADER_BYTES:].view(np.int8)
    axis, stride = int(header[_PARAMETERS_AT] >> 4), int(header[_STRIDE_AT])
    indices = _unpack(compressed.indices, compressed.bits, int(np.prod(shape)))
    indices = indices.reshape(shape)
    if axis != _ONE_TABLE:
        by_channel = np.moveaxis(indices, axis, -1)  # of the same array
        by_channel += stride * np.arange(shape[axis])
    return tables[indices]


def _bits(values):
    """How many bits tell that many values apart."""
    return max(int(values - 1).bit_length(), 1)


def _pack(indices, bits):
    places = np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return np.packbits(indices[:, None] >> places & 1)


def _unpack(packed, bits, count):
    parts = np.unpackbits(packed)[: count * bits].reshape(count, bits)
    return parts.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
