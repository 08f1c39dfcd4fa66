"""8-bit codes in 16 bits, for logits of 16 bits and means of many codes.

By a CAST, as few runtimes have a QUANTIZE from 8 to 16 bits: the codes stay,
and what their zero point was goes to the bias. An Ethos-U has no CAST: there a
QUANTIZE takes the zero point off.
"""

import dataclasses

from keras_bcgd.export import arithmetic
from keras_bcgd.export import targets
from keras_bcgd.export.steps import Codes

# Kinds of nodes whose logits may have 16 bits, and by how much the steps of
# what they read are finer: codes of 8 bits then fill 16.
WIDE = ("conv", "dense")
_FINER = 256
# Without their zero point codes reach from 0 to 255, and so far in 16 bits.
_FINER_WITHOUT_ZERO_POINT = 128


def wide_codes(node, x, target):
    """The codes of what a node reads in 16 bits, with zero point 0.

    Before logits with a fine step, so that their bias has one as well: a
    power of 2, which kernels multiply by exactly.

    Args:
        node: `Node` that reads them.
        x: `Codes`, in 8 bits or in 16 already.
        target: String, as `targets` has them, or `None`.
    """
    if x.dtype == "int16":
        return x
    finest, removed = _FINER, 0
    if target == targets.ETHOS_U:
        finest, removed = _FINER_WITHOUT_ZERO_POINT, x.grid.zero_point
    factor = finest if node.kind in WIDE else 1
    kept = x.grid.zero_point - removed
    grid = arithmetic.Grid(
        scale=x.grid.scale / factor,
        zero_point=0,
        low=factor * (x.grid.low - removed),
        high=factor * (x.grid.high - removed),
        offset=x.grid.offset - x.grid.scale * kept,
        stored=x.grid.file_scale / factor,
    )
    return Codes(grid, "int16")


def widen(x, codes, node, file):
    """Adds the operators that bring a tensor to `wide_codes`."""
    if file.target == targets.ETHOS_U:
        return file.quantize(x, codes, f"{node.layer.name}/int16")
    cast = dataclasses.replace(
        codes.grid, scale=x.grid.scale, stored=x.grid.file_scale
    )
    name = node.layer.name
    y = file.tensor(f"{name}/cast", x.shape, Codes(cast, "int16"))
    file.operator(
        "CAST",
        [x],
        y,
        "CastOptions",
        inDataType="int8",
        outDataType="int16",
    )
    if codes.grid.file_scale == cast.file_scale:
        return y
    return file.quantize(y, codes, f"{name}/int16")
