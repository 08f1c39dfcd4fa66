"""The graph of a file with packed weights, changed to int8 ones.

Weights of 4 and 2 bits become one to a byte, and so do those in look-up tables,
whose decoders go. What was written as a FULLY_CONNECTED at each place of a map,
for the sake of 4 or 2 bits, becomes the CONV_2D that it is. Integers change
only where int8 weights bring another way of rounding (`unpacked_integers`).
"""

import dataclasses

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import unpacked_integers
from keras_bcgd.tflite import weights
from keras_bcgd.tflite.schema import load_schema
from keras_bcgd.tflite.writer import lowest_version

# Where what an operator multiplies is among its inputs, if not the first.
_IMAGES = {"TRANSPOSE_CONV": 2}
# How many weights share a byte: LiteRT's default kernels take no row that ends
# inside of one.
_PER_BYTE = {"int4": 2, "int2": 4}
# The axis of the channels, if not the first.
_AXES = {"DEPTHWISE_CONV_2D": 3}


@dataclasses.dataclass
class Unpacked:
    """What was changed.

    Attributes:
        kernels: Int, how many kernels.
        thresholds: Int, of those that get other integers, the pairs of a
            channel and an output code.
        equal: Int, those of them that provably stay.
    """

    kernels: int = 0
    thresholds: int = 0
    equal: int = 0


def unpack(file):
    """Changes the `model` of a file, if it has packed weights.

    Args:
        file: `tflite.reader.TFLiteFile`.

    Returns:
        `Unpacked`.
    """
    found, done, removed = Unpacked(), set(), set()
    parameters = weights.find_parameters(file)
    _restore_scales_of_biases(file, parameters)
    tensors = [id(one.tensor) for own in parameters for one in own.weights]
    for own in parameters:
        for one in own.weights:
            if not _is_packed(one, file, own.operator):
                continue
            if id(one.tensor) not in done:
                done.add(id(one.tensor))
                is_alone = tensors.count(id(one.tensor)) == 1
                _unpack(file, own, one, is_alone, found, removed)
            if one.tensor.dtype in _PER_BYTE:
                _renew_version(file.model, own.operator)
    found.kernels = len(done)
    removed |= {
        _place(decoder)
        for own in parameters
        for decoder in own.decoders
        if all(id(tensor) in done for tensor in decoder.outputs)
    }
    for number, graph in enumerate(file.model.subgraphs):
        graph.operators = [
            operator
            for place, operator in enumerate(graph.operators)
            if (number, place) not in removed
        ]
    return found


def _is_packed(one, file, operator):
    """Whether `Weights` are a kernel in few bits, or in tables.

    Not one in blocks with scales of their own, which int8 kernels do not read.
    """
    kernel = file.model.subgraphs[operator.subgraph].tensors[one.tensor.index]
    in_blocks = kernel.quantization and kernel.quantization.details
    if one.format == "int8" or in_blocks:
        return False
    return one.values() is not None


def _place(operator):
    return operator.subgraph, operator.position


def _unpack(file, own, one, is_alone, found, removed):
    """Changes an operator and its weights.

    Args:
        file: `tflite.reader.TFLiteFile`.
        own: `tflite.weights.Parameters` of the operator.
        one: `tflite.weights.Weights`, those to be unpacked.
        is_alone: Boolean. Whether no other operator reads them.
        found: `Unpacked`, added to.
        removed: Set of the places of operators that are to go, added to.
    """
    schema = load_schema()
    graph = file.model.subgraphs[own.operator.subgraph]
    operator = graph.operators[own.operator.position]
    kernel = graph.tensors[one.tensor.index]
    values = one.values()
    if one.tensor.dtype in _PER_BYTE and is_alone:
        is_convolution = _is_at_each_place(operator, own.operator)
        rounds_twice = _rounds_otherwise(own, one)
        if rounds_twice or is_convolution and _is_in_8_bits(own):
            values = _with_other_integers(
                file, own, values, found, not rounds_twice
            )
        if is_convolution:
            own.operator.name = "CONV_2D"
            _make_convolution(operator, kernel, schema)
            pooling = _subsampling(file, own.operator.inputs[0])
            if pooling is not None:
                removed.add(_place(pooling))
                options = graph.operators[pooling.position].builtinOptions
                operator.builtinOptions.strideH = options.strideH
                operator.builtinOptions.strideW = options.strideW
                operator.inputs = np.copy(operator.inputs)
                operator.inputs[0] = pooling.inputs[0].index
    kernel.type = schema.TensorType.INT8
    kernel.quantization.quantizedDimension = _AXES.get(own.operator.name, 0)
    kernel.buffer = _added(file.model, values)


def _added(model, values):
    """The number of a new buffer with the bytes of an array."""
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    model.buffers.append(load_schema().BufferT(data=data))
    return len(model.buffers) - 1


def _renew_version(model, read):
    """Gives an operator the code and the version that its tensors ask for."""
    schema = load_schema()
    graph = model.subgraphs[read.subgraph]
    operator = graph.operators[read.position]
    inputs = [graph.tensors[i] for i in operator.inputs if i >= 0]
    code = getattr(schema.BuiltinOperator, read.name)
    model.operatorCodes.append(
        schema.OperatorCodeT(
            builtinCode=code,
            deprecatedBuiltinCode=code,
            version=lowest_version(read.name, inputs),
        )
    )
    operator.opcodeIndex = len(model.operatorCodes) - 1


def _rounds_otherwise(own, one):
    """Whether LiteRT's default kernels leave it to builtin ones, unlike int8.

    These round twice, and in 16 bits all do.
    """
    if not _is_in_8_bits(own):
        return False
    if own.operator.name != "FULLY_CONNECTED":
        return True
    return one.tensor.shape[-1] % _PER_BYTE[one.tensor.dtype] > 0


def _is_in_8_bits(own):
    ends = own.operator.inputs[0], own.operator.outputs[0], *own.biases
    return [end.dtype for end in ends] == ["int8", "int8", "int32"]


def _with_other_integers(file, own, values, found, rounds_once):
    """Changes scales and bias so that int8 weights give the same codes.

    With weights multiplied by more, kernels that round twice do so, too.

    Returns:
        `int8` array, the weights that belong to them.
    """
    tensors = file.model.subgraphs[own.operator.subgraph].tensors
    x, y, (bias,) = own.operator.inputs[0], own.operator.outputs[0], own.biases
    kernel = own.weights[0].tensor
    axis = _AXES.get(own.operator.name, 0)
    rows = np.moveaxis(values, axis, -1)
    channels = rows.shape[-1]
    given = unpacked_integers.Integers(
        rows.reshape(-1, channels),
        np.broadcast_to(np.float32(kernel.scales), channels),
        bias.data.view("<i4").astype(np.int64),
    )
    integers, thresholds, equal = unpacked_integers.int8_integers(
        given, _grid(file, x), _grid(file, y), rounds_once
    )
    found.thresholds += thresholds
    found.equal += equal
    _set_scales(tensors[kernel.index], integers.scale)
    tensors[bias.index].buffer = _added(
        file.model, integers.bias.astype(np.int32)
    )
    _set_scales(tensors[bias.index], np.float32(x.scales[0]) * integers.scale)
    return np.moveaxis(integers.values.reshape(rows.shape), -1, axis)


def _grid(file, tensor):
    """The codes that a tensor may have: those from 0.0 on behind a RELU."""
    zero_point, low = int(tensor.zero_points[0]), arithmetic.INT8_MIN
    relu = load_schema().ActivationFunctionType.RELU
    for one in file.operators:
        if _has(one.outputs, tensor):
            options = file.model.subgraphs[one.subgraph]
            options = options.operators[one.position].builtinOptions
            if getattr(options, "fusedActivationFunction", None) == relu:
                low = zero_point
    return arithmetic.Grid(float(tensor.scales[0]), zero_point, low=low)


def _has(tensors, tensor):
    return any(one is tensor for one in tensors)


def _set_scales(tensor, scales):
    tensor.quantization = load_schema().QuantizationParametersT(
        scale=scales, zeroPoint=np.zeros(len(scales), np.int64)
    )


def _is_at_each_place(operator, read):
    """Whether a FULLY_CONNECTED multiplies at each place of a map.

    In 8 bits: in 16 the two operators do not round alike.
    """
    x = read.inputs[0]
    if read.name != "FULLY_CONNECTED" or len(x.shape) != 4:
        return False
    return x.dtype == "int8" and operator.builtinOptions.keepNumDims


def _subsampling(file, tensor):
    """The MAX_POOL_2D of size 1 that computes a tensor for one reader alone.

    The exporter writes it for the strides of such a FULLY_CONNECTED.
    """
    readers = [one for one in file.operators if _has(one.inputs, tensor)]
    if len(readers) > 1 or _has(file.outputs, tensor):
        return None
    for one in file.operators:
        if one.name == "MAX_POOL_2D" and _has(one.outputs, tensor):
            graph = file.model.subgraphs[one.subgraph]
            options = graph.operators[one.position].builtinOptions
            size = options.filterHeight, options.filterWidth
            if (*size, options.fusedActivationFunction) == (1, 1, 0):
                return one
    return None


def _make_convolution(operator, kernel, schema):
    """Makes a CONV_2D of size 1 of a FULLY_CONNECTED."""
    outputs, inputs = kernel.shape
    kernel.shape = np.array([outputs, 1, 1, inputs], np.int32)
    relu = operator.builtinOptions.fusedActivationFunction
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    operator.builtinOptions = schema.Conv2DOptionsT(
        padding=schema.Padding.VALID,
        strideH=1,
        strideW=1,
        fusedActivationFunction=relu,
    )


def _restore_scales_of_biases(file, parameters):
    """Adds what LiteRT asks for and a file for TFLM leaves out."""
    for own in parameters:
        tensors = file.model.subgraphs[own.operator.subgraph].tensors
        kernels = [one.tensor for one in own.weights if one.is_kernel]
        x = own.operator.inputs[_IMAGES.get(own.operator.name, 0)]
        for kernel, bias in zip(kernels, own.biases, strict=False):
            if len(x.scales) and len(kernel.scales) and not len(bias.scales):
                scale = np.float32(x.scales[0])
                scales = scale * np.float32(kernel.scales)
                _set_scales(tensors[bias.index], scales)
