"""Codes of 2 and 4 bits, several to a byte."""

import numpy as np


def pack_int4(codes):
    """Packs codes in -8..7 two to a byte, the earlier one in the low bits.

    Args:
        codes: Integer array of any shape.

    Returns:
        A 1-D `uint8` array of `ceil(codes.size / 2)` bytes.
    """
    return _pack(codes, 4)


def pack_int2(codes):
    """Packs codes in -2..1 four to a byte, the earliest in the low bits.

    Args:
        codes: Integer array of any shape.

    Returns:
        A 1-D `uint8` array of `ceil(codes.size / 4)` bytes.
    """
    return _pack(codes, 2)


def _pack(codes, bits):
    parts = np.asarray(codes, np.int8).reshape(-1).view(np.uint8)
    parts = parts & ((1 << bits) - 1)
    count = 8 // bits
    parts = np.append(parts, np.zeros(-parts.size % count, np.uint8))
    parts = parts.reshape(-1, count) << np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(parts, axis=1)


def unpack_int4(packed, size):
    """The `size` codes in -8..7 that `pack_int4` packed, as 1-D `int8`."""
    packed = np.asarray(packed, np.uint8)
    nibbles = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(-1)
    return ((nibbles[:size].astype(np.int8) ^ 8) - 8).astype(np.int8)
