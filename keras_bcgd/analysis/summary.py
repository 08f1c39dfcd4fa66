"""summary: the layers of a model in bits, bytes and operations."""

import collections

import keras
import numpy as np
from keras import ops

from keras_bcgd.analysis.activation_statistics import activation_statistics
from keras_bcgd.analysis.bit_allocation import packed_bytes
from keras_bcgd.analysis.call_trace import BYTE_BITS
from keras_bcgd.analysis.call_trace import FLOAT_BITS
from keras_bcgd.analysis.call_trace import input_like
from keras_bcgd.analysis.call_trace import trace_calls
from keras_bcgd.analysis.macs import AT_EACH_INPUT
from keras_bcgd.analysis.macs import macs_of_call
from keras_bcgd.analysis.macs import matrices
from keras_bcgd.analysis.summary_table import SummaryTable
from keras_bcgd.constraints import QuantProjection
from keras_bcgd.layers import QuantIdentity
from keras_bcgd.layers import QuantReLU
from keras_bcgd.layers.quant_kernel import QuantKernel
from keras_bcgd.network import model_layers
from keras_bcgd.projections import largest_code
from keras_bcgd.tflite import lut
from keras_bcgd.utils.batches import read_batches
from keras_bcgd.utils.checks import check_model


def summary(model, data=None, batches=8, batch_size=32, show_flash=False):
    """A table of a model's layers: bits, bytes, operations, codes.

    Listed are the layers with matrices of weights, those with a grid, and with
    data those with a ReLU. The weights of a layer that is called more than
    once count once, its operations at each call.

    - Bits: `weight_bits` of the weights; `activation_bits` of what a layer
      with weights reads, and of what a layer with a grid computes. 32 is
      float. The model's inputs count as 8 bits where quantized weights read
      them, and averages of codes as 8 bits, as an integer file holds both.
    - Bytes: of the matrices of weights alone, at 4 bytes each, at 1, and
      packed at their bits. Biases, normalization and alphas are counted in
      the totals.
    - Flash: what the weights take in a file, as int8 (a byte each), as int4
      where they have 4 bits at most, and as indices into tables
      (`export_tflite(weight_format="lut")`) where that is smaller. Of a file
      `inspect_tflite` tells the same, and the RAM.
    - MACs: multiplications by a weight, for one sample, those with padding
      included; in the totals also by bits of weights and activations,
      `"4W4A"`.
    - With data: `dead`, the channels or units that are always 0, and
      `saturated`, the share of inputs beyond the grid.

    Args:
        model: Built `keras.Model`, quantized or not. Models inside it are
            looked into; other layers made of layers count as one.
        data: Inputs, in a form that `keras_bcgd.calibrate` takes. `None`: no
            activations are looked at. Defaults to `None`.
        batches: Int, how many batches of `data` are used; `None`: all.
            Defaults to `8`.
        batch_size: Int, the batches into which arrays are cut. Defaults to
            `32`.
        show_flash: Boolean. Whether the printed table has the bytes as int4
            and in tables in place of steps and codes. `rows` and `totals`
            have them all. Defaults to `False`.

    Returns:
        A `SummaryTable`.

    Raises:
        ValueError: If an argument is not one of the above, or `data` is empty
            or not finite, or is `None` and the model does not tell the shape
            of its inputs.

    Example:

    >>> model = keras_bcgd.models.resnet_cifar(20, weight_bits=2)
    >>> keras_bcgd.summary(model).totals["macs_by_bits"]
    {'2W4A': 40108032, '2W8A': 442368, '32W8A': 640}
    """
    check_model(model)
    inputs = []
    if data is not None:
        read, _ = read_batches(data, model, batch_size, batches)
        inputs = [keras.tree.map_structure(_tensor, x) for x, *_ in read]
        sample = keras.tree.map_structure(lambda x: x[:1], inputs[0])
    else:
        sample = input_like(model)
    if not model.built:
        model(sample)  # the first call builds it, with calls of its layers
    calls = collections.defaultdict(list)
    for call in trace_calls(model, sample):
        calls[call.path].append(call)
    seen = activation_statistics(model, inputs) if inputs else {}
    rows, macs_by_bits = [], collections.Counter()
    for path, layer in model_layers.leaves(model).items():
        has_grid = isinstance(layer, (QuantReLU, QuantIdentity))
        if has_grid or matrices(layer) or path in seen:
            row = _weights_of(layer) | {"layer": path}
            row |= _operations_of(row, calls[path], macs_by_bits)
            if has_grid:
                row["activation_bits"] = layer.bits
                row["alpha"] = model_layers.alpha_of(layer)
            if path in seen:
                for key in ("dead", "channels", "saturated"):
                    row[key] = getattr(seen[path], key)
            rows.append({key: row.get(key) for key in _KEYS})
    totals = _totals(model, rows, macs_by_bits)
    return SummaryTable(rows, totals, show_flash)


_KEYS = (
    "layer",
    "kind",
    "calls",
    "weight_bits",
    "activation_bits",
    "weights",
    "float32_bytes",
    "int8_bytes",
    "int4_bytes",
    "table_bytes",
    "packed_bytes",
    "macs",
    "alpha",
    "scale",
    "codes",
    "dead",
    "channels",
    "saturated",
)


# Of weights that Keras itself quantized, and of what "int8" multiplies by them.
_BITS_OF_MODE = {"int8": 8, "int4": 4}


def _tensor(x):
    dtype = keras.config.floatx() if x.dtype.kind == "f" else None
    return ops.convert_to_tensor(x, dtype)


def _weights_of(layer):
    """What the matrices of a layer are."""
    row = {"kind": type(layer).__name__}
    kernels = matrices(layer)
    if not kernels:
        return row
    sizes = [_size(layer, kernel) for kernel in kernels]
    all_bits = [_bits(layer, kernel) for kernel in kernels]
    count = row["weights"] = sum(sizes)
    row |= {"float32_bytes": 4 * count, "int8_bytes": count}
    row["packed_bytes"] = sum(map(packed_bytes, sizes, all_bits))
    row["int4_bytes"] = _int4_bytes(layer, sizes, all_bits)
    row["table_bytes"] = _table_bytes(sizes, all_bits)
    row["weight_bits"] = max(all_bits)
    if isinstance(kernels[0].constraint, QuantProjection):
        scale, codes = _scale_and_codes(layer, kernels[0])
        row["scale"] = float(np.min(scale)), float(np.max(scale))
        row["codes"] = _shares(codes, all_bits[0])
    return row


def _int4_bytes(layer, sizes, all_bits):
    """Bytes of matrices as int4, of those that do not fit as int8.

    `None`: none fits, or no runtime has int4 kernels for the layer.
    """
    if isinstance(layer, AT_EACH_INPUT) or min(all_bits) > 4:
        return None
    return sum(
        packed_bytes(size, 4 if bits <= 4 else 8)
        for size, bits in zip(sizes, all_bits, strict=True)
    )


def _table_bytes(sizes, all_bits):
    """Bytes of matrices as indices into tables where that is smaller.

    `None`: it is not for any of them.
    """
    found = [
        lut.compressed_bytes(size, len(_codes(bits)))
        for size, bits in zip(sizes, all_bits, strict=True)
    ]
    if not any(found):
        return None
    return sum(one or size for one, size in zip(found, sizes, strict=True))


def _codes(bits):
    """The codes that weights of some bits have."""
    top = largest_code(bits)
    return (-1, 1) if bits == 1 else range(-top, top + 1)


def _size(layer, kernel):
    """The number of weights."""
    if getattr(layer, "quantization_mode", None) in _BITS_OF_MODE:
        # Keras holds two codes of 4 bits in a number, the layer shows both.
        kernel = getattr(layer, kernel.name, kernel)
    return int(np.prod(kernel.shape))


def _bits(layer, kernel):
    if isinstance(kernel.constraint, QuantProjection):
        return kernel.constraint.bits
    mode = getattr(layer, "quantization_mode", None)
    return _BITS_OF_MODE.get(mode, FLOAT_BITS)


def _scale_and_codes(layer, kernel):
    if isinstance(layer, QuantKernel):
        return layer.kernel_scale_and_codes()
    return map(ops.convert_to_numpy, kernel.constraint.project(kernel))


def _shares(codes, bits):
    """How often each code occurs, as shares."""
    return {code: float(np.mean(codes == code)) for code in _codes(bits)}


def _operations_of(row, calls, macs_by_bits):
    """What the calls of a layer are; adds to the operations by bits."""
    found = {"calls": len(calls)}
    if "weights" not in row:
        return found
    found["macs"] = 0
    weight_bits, read = row["weight_bits"], []
    for call in calls:
        bits = call.input_bits
        if bits is None:
            is_float = weight_bits == FLOAT_BITS
            bits = FLOAT_BITS if is_float else BYTE_BITS
        if getattr(call.layer, "quantization_mode", None) == "int8":
            bits = BYTE_BITS
        read.append(bits)
        macs = macs_of_call(call.layer, call.input_shape, call.output_shape)
        if macs is None:
            found["macs"] = None
            break
        if macs:
            macs_by_bits[f"{weight_bits}W{bits}A"] += macs
            found["macs"] += macs
    found["activation_bits"] = max(read, default=None)
    return found


def _totals(model, rows, macs_by_bits):
    totals = {
        key: sum(row[key] or 0 for row in rows)
        for key in ("weights", "float32_bytes", "int8_bytes", "packed_bytes")
    }
    counted = {
        id(kernel)
        for layer in model_layers.leaves(model).values()
        for kernel in matrices(layer)
    }
    for key in ("int4_bytes", "table_bytes"):
        # As int8 where there is no such form.
        totals[key] = sum(row[key] or row["int8_bytes"] or 0 for row in rows)
    totals["other_numbers"] = sum(
        int(np.prod(weight.shape))
        for weight in model.weights
        if id(weight) not in counted and _is_number(weight)
    )
    totals["macs"] = sum(macs_by_bits.values())
    totals["macs_by_bits"] = dict(macs_by_bits.most_common())
    totals["not_counted"] = [
        row["layer"] for row in rows if row["weights"] and row["macs"] is None
    ]
    return totals


def _is_number(weight):
    """Not so: a flag, the state of a random generator."""
    dtype = weight.dtype
    return keras.backend.is_float_dtype(dtype) or dtype == "int8"
