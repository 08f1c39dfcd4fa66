"""Every call of a layer when a model runs, and the bits of what it reads."""

import contextlib
import dataclasses
import functools

import keras
from keras import ops

from keras_bcgd import layers as quant_layers
from keras_bcgd.network import model_layers

FLOAT_BITS = 32
# Averages of codes, as an integer file holds them; the model's inputs, too.
BYTE_BITS = 8

# What they compute are values that they read, zeros and integers besides.
_PASS_ON = (
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Cropping3D,
    keras.layers.Concatenate,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
    keras.layers.Identity,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.Permute,
    keras.layers.RepeatVector,
    keras.layers.Reshape,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
    quant_layers.PadChannels,
)
_ROUNDING = (
    quant_layers.QuantHardSigmoid,
    quant_layers.QuantIdentity,
    quant_layers.QuantReLU,
)
_AVERAGES = (
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)
# The same, where they copy the nearest.
_RESIZINGS = (
    keras.layers.Resizing,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
)
# Of the model's inputs they make what still has their bits.
_PREPROCESSING = (keras.layers.Normalization, keras.layers.Rescaling)


@dataclasses.dataclass
class TracedCall:
    """One call of a layer.

    Attributes:
        path: String, see `model_layers.leaves`.
        layer: The Keras layer.
        input_shape: Tuple of ints, that of its first input.
        output_shape: Tuple of ints, that of its first output.
        input_bits: Int, the bits of what it reads, 32 for float; `None` for
            the model's inputs.
    """

    path: str
    layer: keras.layers.Layer
    input_shape: tuple
    output_shape: tuple
    input_bits: int | None


def trace_calls(model, x):
    """Runs a model once and lists the calls of its layers.

    Args:
        model: `keras.Model`.
        x: Its inputs: a tensor, or a list or dict of tensors.

    Returns:
        List of `TracedCall`, in the order they run.
    """
    calls, tensors = [], _Tensors()
    for tensor in keras.tree.flatten(x):
        tensors.add(tensor, None)
    with contextlib.ExitStack() as stack:
        for path, layer in model_layers.leaves(model).items():
            on_call = functools.partial(_record, calls, tensors, path, layer)
            stack.enter_context(model_layers.watch(layer, on_call))
        model(x, training=False)
    return calls


def _record(calls, tensors, path, layer, args, output):
    inputs = [t for t in keras.tree.flatten(args) if hasattr(t, "shape")]
    outputs = [t for t in keras.tree.flatten(output) if hasattr(t, "shape")]
    if not inputs or not outputs:
        return
    bits = _join([tensors.bits(t) for t in inputs])
    shapes = tuple(inputs[0].shape), tuple(outputs[0].shape)
    calls.append(TracedCall(path, layer, *shapes, bits))
    for tensor in outputs:
        tensors.add(tensor, _output_bits(layer, bits))


def _output_bits(layer, bits):
    if isinstance(layer, _ROUNDING):
        return layer.bits
    if isinstance(layer, (quant_layers.QuantTable, quant_layers.NegativeSlope)):
        return BYTE_BITS
    if isinstance(layer, _PASS_ON) or _copies_pixels(layer):
        return bits
    if isinstance(layer, _PREPROCESSING) and bits is None:
        return None
    if isinstance(layer, _AVERAGES) and (bits or 0) <= BYTE_BITS:
        return bits and BYTE_BITS
    return FLOAT_BITS


def _copies_pixels(layer):
    interpolation = getattr(layer, "interpolation", "nearest")
    return isinstance(layer, _RESIZINGS) and interpolation == "nearest"


def _join(bits):
    """The bits of several tensors together; `None`: the model's inputs."""
    if all(b is None for b in bits):
        return None
    return max(BYTE_BITS if b is None else b for b in bits)


class _Tensors:
    """The bits of the tensors that were met, told by their identity."""

    def __init__(self):
        self._known = {}

    def add(self, tensor, bits):
        # The tensor is kept: its `id` must not be given to another one.
        self._known[id(tensor)] = tensor, bits

    def bits(self, tensor):
        if id(tensor) in self._known:
            return self._known[id(tensor)][1]
        # In mixed precision Keras casts the model's inputs.
        for other, bits in reversed(self._known.values()):
            if other.shape == tensor.shape and other.dtype != tensor.dtype:
                return bits
        return FLOAT_BITS  # what an operation computed that is no layer


def input_like(model):
    """Zeros of the shapes that a model reads, for one sample.

    Raises:
        ValueError: If the model does not say them.
    """
    structure = getattr(model, "inputs", None)
    if structure and not isinstance(model, keras.Sequential):
        structure = model.input  # as it was given: a dict, say
    tensors = keras.tree.flatten(structure)
    if any(t is None or None in t.shape[1:] for t in tensors):
        raise ValueError(
            "`data` must be given, a sample at least, for a model whose input "
            f"shape is not known. Received: data=None, model '{model.name}'"
        )
    if isinstance(model, keras.Sequential):
        (structure,) = tensors
    return keras.tree.map_structure(
        lambda tensor: ops.zeros((1, *tensor.shape[1:]), tensor.dtype),
        structure,
    )
