"""Writes TFLite files: tensors, operators and one signature, and no Keras.

`TFLiteWriter` collects a graph and serialises it with the classes that
`ai_edge_litert` generates from the schema of the format. Nothing is computed
or optimised on the way: the integers that go in are those in the file.
"""

import numpy as np

from keras_bcgd.tflite import lut
from keras_bcgd.tflite import packing
from keras_bcgd.tflite import serialization
from keras_bcgd.tflite.schema import load_schema

# The lowest versions of the operators that cover int8 tensors with one scale
# per channel, and those that cover int4 and int2 weights. (For int4 the format
# asks for version 7 of DEPTHWISE_CONV_2D, but LiteRT 2.3 registers it up to 6
# and runs int4 with that.)
_VERSIONS = {
    "ADD": 2,
    "CAST": 1,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "LOGISTIC": 2,
    "MAXIMUM": 2,
    "MAX_POOL_2D": 2,
    "MUL": 2,
    "PAD": 2,
    "PADV2": 2,
    "QUANTIZE": 2,
    "RESHAPE": 1,
    "RESIZE_NEAREST_NEIGHBOR": 3,
    "SLICE": 2,
    "SOFTMAX": 2,
    "STRIDED_SLICE": 2,
    "TANH": 2,
    "TRANSPOSE_CONV": 3,
    "TRANSPOSE": 2,
}
# The same for int16 tensors, where it is another.
_INT16_VERSIONS = {
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "SLICE": 4,
    "TRANSPOSE": 4,
}
# Of a CONV_2D in groups, and of a TRANSPOSE_CONV with a RELU in it.
_GROUPED_VERSION = 6
_TRANSPOSED_RELU_VERSION = 4
_INT4_VERSIONS = {
    "ADD": 2,
    "CONCATENATION": 2,
    "CONV_2D": 7,
    "DEPTHWISE_CONV_2D": 6,
    "FULLY_CONNECTED": 10,
}
_INT2_VERSIONS = {"FULLY_CONNECTED": 14}


def lowest_version(name, tensors):
    """The lowest version of a builtin operator that covers its tensors.

    Args:
        name: String: `"CONV_2D"`.
        tensors: List of `TensorT` of the schema, its inputs.
    """
    kinds = load_schema().TensorType
    types = {tensor.type for tensor in tensors}
    if kinds.INT2 in types:
        return _INT2_VERSIONS[name]
    if kinds.INT4 in types:
        return _INT4_VERSIONS[name]
    if name == "CONV_2D" and tensors[1].shape[-1] < tensors[0].shape[-1]:
        return _GROUPED_VERSION
    if kinds.INT16 in types:
        return _INT16_VERSIONS.get(name, _VERSIONS[name])
    return _VERSIONS[name]


class TFLiteWriter:
    """One TFLite graph, filled in the order in which it runs.

    Tensors are named by the index that `add_tensor` and `add_constant`
    return.

    Args:
        description: String, written to the file.

    Example:

    ```python
    from keras_bcgd.tflite.writer import TFLiteWriter

    writer = TFLiteWriter("one pooling")
    x = writer.add_tensor("input", (1, 4, 4, 3), "int8", 0.1, 0)
    y = writer.add_tensor("output", (1, 2, 2, 3), "int8", 0.1, 0)
    size = {"filterHeight": 2, "filterWidth": 2, "strideH": 2, "strideW": 2}
    writer.add_operator("MAX_POOL_2D", [x], [y], "Pool2DOptions", **size)
    data = writer.finish({"input": x}, {"output": y})
    ```
    """

    def __init__(self, description):
        self._schema = load_schema()
        self._description = description
        self._tensors = []
        self._operators = []
        self._codes = []
        self._tables = {}  # of compressed weights: their tensor
        # By convention buffer 0 is empty: that of every computed tensor.
        self._buffers = [self._schema.BufferT()]

    def add_tensor(self, name, shape, dtype, scale, zero_point=0):
        """Adds a computed tensor and returns its index.

        Args:
            name: String.
            shape: Tuple of ints.
            dtype: String, a type of the format in lower case: `"int8"`.
            scale: Float, the real size of one step.
            zero_point: Int, the code of 0.0. Defaults to `0`.
        """
        return self._add(name, shape, dtype, [scale], [zero_point], 0, 0)

    def name_of(self, index):
        """The name of a tensor."""
        return self._tensors[index].name

    def set_name(self, index, name):
        """Renames a tensor."""
        self._tensors[index].name = name

    def add_constant(
        self, name, values, dtype, scale=None, axis=0, zero_point=0
    ):
        """Adds a constant tensor and returns its index.

        Args:
            name: String.
            values: Integer array.
            dtype: String: `"int8"`, `"int4"` or `"int2"` (packed here),
                `"int32"`, or `"lut"`: int8, as indices into a table where that
                is smaller; an operator then expands them, so add what reads
                them next.
            scale: Array of one scale, or of one for each index along `axis`;
                `None`, not quantized. Defaults to `None`.
            axis: Int. Defaults to `0`.
            zero_point: Int. Defaults to `0`.
        """
        zero_points = None
        if scale is not None:
            scale = np.atleast_1d(scale)
            zero_points = [zero_point] * len(scale)
        of_tensor = scale, zero_points, axis
        if dtype == "lut":
            by_channel = np.size(scale) > 1
            compressed = lut.compress(values, axis if by_channel else None)
            if compressed is not None:
                if not by_channel:
                    of_tensor = scale, zero_points, 0  # TFLM takes 0 alone
                y = self._add(name, np.shape(values), "int8", *of_tensor, 0)
                return self._expanded(compressed, y)
            dtype = "int8"
        if dtype == "int4":
            stored = packing.pack_int4(values)
        elif dtype == "int2":
            stored = packing.pack_int2(values)
        else:
            stored = np.ascontiguousarray(values, dtype).reshape(-1)
        buffer = self._add_buffer(stored.view(np.uint8))
        return self._add(name, np.shape(values), dtype, *of_tensor, buffer)

    def _expanded(self, compressed, y):
        """Weights as indices, and the operator that expands them to y."""
        key = compressed.ancillary.tobytes()
        if key not in self._tables:
            self._tables[key] = self._add_bytes(compressed.ancillary)
        indices = self._add_bytes(compressed.indices)
        self.add_operator(lut.OPERATOR, [indices, self._tables[key]], [y])
        return y

    def _add_bytes(self, data):
        """A constant that no runtime but TFLM reads: it needs no name."""
        buffer = self._add_buffer(data)
        return self._add(None, data.shape, "uint8", None, None, 0, buffer)

    def _add_buffer(self, data):
        self._buffers.append(self._schema.BufferT(data=data))
        return len(self._buffers) - 1

    def _add(self, name, shape, dtype, scale, zero_points, axis, buffer):
        quantization = None
        if scale is not None:
            quantization = self._schema.QuantizationParametersT(
                scale=np.asarray(scale, np.float32),
                zeroPoint=np.asarray(zero_points, np.int64),
                quantizedDimension=axis,
            )
        tensor = self._schema.TensorT(
            name=name,
            shape=np.asarray(shape, np.int32),
            type=getattr(self._schema.TensorType, dtype.upper()),
            buffer=buffer,
            quantization=quantization,
        )
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def add_operator(self, name, inputs, outputs, options=None, **settings):
        """Adds an operator, in the lowest version that covers its tensors.

        Args:
            name: String, a builtin operator: `"CONV_2D"`, or a custom one.
            inputs: List of tensor indices.
            outputs: List of tensor indices.
            options: String, the table of its options: `"Conv2DOptions"`.
                Defaults to `None`.
            **settings: The fields of that table. Enumerations, here
                `padding`, `fusedActivationFunction`, `inDataType` and
                `outDataType`, are given as strings.
        """
        fields = {key: self._enum(key, v) for key, v in settings.items()}
        version = self._version(name, inputs)
        if name == "TRANSPOSE_CONV" and "fusedActivationFunction" in settings:
            version = _TRANSPOSED_RELU_VERSION
        operator = self._schema.OperatorT(
            opcodeIndex=self._opcode(name, version),
            inputs=np.asarray(inputs, np.int32),
            outputs=np.asarray(outputs, np.int32),
        )
        if options is not None:
            kinds = self._schema.BuiltinOptions
            operator.builtinOptionsType = getattr(kinds, options)
            operator.builtinOptions = getattr(self._schema, options + "T")(
                **fields
            )
        self._operators.append(operator)

    def _enum(self, key, value):
        if key == "padding":
            return getattr(self._schema.Padding, value.upper())
        if key == "fusedActivationFunction":
            return getattr(self._schema.ActivationFunctionType, value.upper())
        if key in ("inDataType", "outDataType"):
            return getattr(self._schema.TensorType, value.upper())
        return value

    def _version(self, name, inputs):
        if not hasattr(self._schema.BuiltinOperator, name):
            return 1
        return lowest_version(name, [self._tensors[i] for i in inputs])

    def _opcode(self, name, version):
        if (name, version) not in self._codes:
            self._codes.append((name, version))
        return self._codes.index((name, version))

    def finish(self, inputs, outputs, metadata=None):
        """Serialises the graph.

        Args:
            inputs: Dict from the names of the signature to tensor indices.
            outputs: The same for the outputs.
            metadata: Dict from names to bytes, what else is in the file.
                `None`: nothing. Defaults to `None`.

        Returns:
            The bytes of the file.
        """
        entries = [self._metadata(*entry) for entry in (metadata or {}).items()]
        graph = self._schema.SubGraphT(
            name="main",
            tensors=self._tensors,
            operators=self._operators,
            inputs=np.asarray(list(inputs.values()), np.int32),
            outputs=np.asarray(list(outputs.values()), np.int32),
        )
        signature = self._schema.SignatureDefT(
            signatureKey="serving_default",
            inputs=self._tensor_map(inputs),
            outputs=self._tensor_map(outputs),
        )
        model = self._schema.ModelT(
            version=3,
            description=self._description,
            operatorCodes=[self._operator_code(*code) for code in self._codes],
            subgraphs=[graph],
            buffers=self._buffers,
            signatureDefs=[signature],
            metadata=entries or None,
        )
        return serialization.serialize(model)

    def _metadata(self, name, contents):
        buffer = self._add_buffer(np.frombuffer(contents, np.uint8))
        return self._schema.MetadataT(name=name, buffer=buffer)

    def _tensor_map(self, names):
        return [
            self._schema.TensorMapT(name=name, tensorIndex=index)
            for name, index in names.items()
        ]

    def _operator_code(self, name, version):
        kinds = self._schema.BuiltinOperator
        code = getattr(kinds, name, kinds.CUSTOM)
        # Readers older than the 32-bit field look at the 8-bit one, in which
        # 127 says "see the other".
        return self._schema.OperatorCodeT(
            builtinCode=code,
            deprecatedBuiltinCode=min(code, 127),
            version=version,
            customCode=name if code == kinds.CUSTOM else None,
        )
