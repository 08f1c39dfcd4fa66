"""The methods by which TFLM's resolver gets the operators of a file."""

# The builtin operators that TFLM's `MicroMutableOpResolver` adds.
_BUILTIN = frozenset(
    """
    ABS ADD ADD_N ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
    BROADCAST_ARGS BROADCAST_TO CAST CEIL CONCATENATION CONV_2D COS CUMSUM
    DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU
    EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD
    FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF
    L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND
    LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM
    MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE REDUCE_ALL
    REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE
    SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
    SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
    TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK WHILE ZEROS_LIKE
    """.split()
)
# What is called otherwise than its operator.
_NAMES = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "PADV2": "PadV2",
    "TFLM_DECODE": "Decode",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}
_VARIABLES = ("ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE")


def method(name):
    """The method of the resolver that adds an operator: `AddConv2D`.

    Returns:
        String, or `None`: it has none, or none that suffices.
    """
    if name not in _BUILTIN and name not in _NAMES:
        return None
    return "Add" + _NAMES.get(name, name.title().replace("_", ""))


def methods(file):
    """The methods that add all operators of a file.

    Args:
        file: `reader.TFLiteFile`.

    Returns:
        List of strings, each once, in alphabetical order.

    Raises:
        ValueError: If TFLM does not have an operator, or there are variables.
    """
    names = sorted({operator.name for operator in file.operators})
    unknown = [name for name in names if method(name) is None]
    if set(unknown) & set(_VARIABLES):
        raise ValueError(
            "`path` must have no variables, which need more than these "
            f"sources. Received: {', '.join(unknown)} in path={file.path!r}"
        )
    if unknown:
        raise ValueError(
            "`path` must have builtin operators that TensorFlow Lite Micro "
            f"has, or TFLM_DECODE. Received: {', '.join(unknown)} in "
            f"path={file.path!r}"
        )
    return sorted(map(method, names))
