"""Stand-ins for the headers of TFLM, and the methods of its resolver.

TFLM itself is not compiled by the tests.
"""

# In TFLM's micro_mutable_op_resolver.h of August 2026, by the operator that it
# adds; without the custom ones but TFLM_DECODE.
METHODS = dict(
    line.split()
    for line in """
    ABS AddAbs
    ADD AddAdd
    ADD_N AddAddN
    ARG_MAX AddArgMax
    ARG_MIN AddArgMin
    ASSIGN_VARIABLE AddAssignVariable
    AVERAGE_POOL_2D AddAveragePool2D
    BATCH_MATMUL AddBatchMatMul
    BATCH_TO_SPACE_ND AddBatchToSpaceNd
    BROADCAST_ARGS AddBroadcastArgs
    BROADCAST_TO AddBroadcastTo
    CALL_ONCE AddCallOnce
    CAST AddCast
    CEIL AddCeil
    CONCATENATION AddConcatenation
    CONV_2D AddConv2D
    COS AddCos
    CUMSUM AddCumSum
    TFLM_DECODE AddDecode
    DEPTH_TO_SPACE AddDepthToSpace
    DEPTHWISE_CONV_2D AddDepthwiseConv2D
    DEQUANTIZE AddDequantize
    DIV AddDiv
    DYNAMIC_UPDATE_SLICE AddDynamicUpdateSlice
    EMBEDDING_LOOKUP AddEmbeddingLookup
    ELU AddElu
    EQUAL AddEqual
    EXP AddExp
    EXPAND_DIMS AddExpandDims
    FILL AddFill
    FLOOR AddFloor
    FLOOR_DIV AddFloorDiv
    FLOOR_MOD AddFloorMod
    FULLY_CONNECTED AddFullyConnected
    GATHER AddGather
    GATHER_ND AddGatherNd
    GREATER AddGreater
    GREATER_EQUAL AddGreaterEqual
    HARD_SWISH AddHardSwish
    IF AddIf
    L2_NORMALIZATION AddL2Normalization
    L2_POOL_2D AddL2Pool2D
    LEAKY_RELU AddLeakyRelu
    LESS AddLess
    LESS_EQUAL AddLessEqual
    LOG AddLog
    LOGICAL_AND AddLogicalAnd
    LOGICAL_NOT AddLogicalNot
    LOGICAL_OR AddLogicalOr
    LOGISTIC AddLogistic
    LOG_SOFTMAX AddLogSoftmax
    MAXIMUM AddMaximum
    MAX_POOL_2D AddMaxPool2D
    MIRROR_PAD AddMirrorPad
    MEAN AddMean
    MINIMUM AddMinimum
    MUL AddMul
    NEG AddNeg
    NOT_EQUAL AddNotEqual
    PACK AddPack
    PAD AddPad
    PADV2 AddPadV2
    PRELU AddPrelu
    QUANTIZE AddQuantize
    READ_VARIABLE AddReadVariable
    REDUCE_ALL AddReduceAll
    REDUCE_MAX AddReduceMax
    REDUCE_MIN AddReduceMin
    RELU AddRelu
    RELU6 AddRelu6
    RESHAPE AddReshape
    RESIZE_BILINEAR AddResizeBilinear
    RESIZE_NEAREST_NEIGHBOR AddResizeNearestNeighbor
    REVERSE_V2 AddReverseV2
    ROUND AddRound
    RSQRT AddRsqrt
    SELECT_V2 AddSelectV2
    SHAPE AddShape
    SIN AddSin
    SLICE AddSlice
    SOFTMAX AddSoftmax
    SPACE_TO_BATCH_ND AddSpaceToBatchNd
    SPACE_TO_DEPTH AddSpaceToDepth
    SPLIT AddSplit
    SPLIT_V AddSplitV
    SQUEEZE AddSqueeze
    SQRT AddSqrt
    SQUARE AddSquare
    SQUARED_DIFFERENCE AddSquaredDifference
    STRIDED_SLICE AddStridedSlice
    SUB AddSub
    SUM AddSum
    SVDF AddSvdf
    TANH AddTanh
    TRANSPOSE_CONV AddTransposeConv
    TRANSPOSE AddTranspose
    UNPACK AddUnpack
    UNIDIRECTIONAL_SEQUENCE_LSTM AddUnidirectionalSequenceLSTM
    VAR_HANDLE AddVarHandle
    WHILE AddWhile
    ZEROS_LIKE AddZerosLike
    """.strip().splitlines()
)

_COMMON = """
#pragma once
#include <stddef.h>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
union TfLitePtrUnion {
  char* raw;
};
struct TfLiteTensor {
  TfLitePtrUnion data;
  size_t bytes;
};
"""

_RESOLVER = """
#pragma once
#include "tensorflow/lite/c/common.h"
namespace tflite {
struct MicroOpResolver {
  unsigned int added = 0;
  unsigned int most = 0;
};
template <unsigned int count>
struct MicroMutableOpResolver : MicroOpResolver {
  MicroMutableOpResolver() { most = count; }
  TfLiteStatus Added() { return ++added > most ? kTfLiteError : kTfLiteOk; }
METHODS
};
}  // namespace tflite
"""

_SCHEMA = """
#pragma once
namespace tflite {
struct Model {};
inline const Model* GetModel(const void* data) {
  return static_cast<const Model*>(data);
}
}  // namespace tflite
"""

# It knows one input for each output, and gives that for this.
_INTERPRETER = """
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
namespace tflite {
struct File {
  explicit File(const char* path) {
    FILE* file = fopen(path, "rb");
    bytes = fread(data, 1, sizeof(data), file);
    fclose(file);
  }
  char data[65536];
  size_t bytes;
};
class MicroInterpreter {
 public:
  MicroInterpreter(const Model*, const MicroOpResolver& resolver,
                   uint8_t* arena, size_t arena_bytes)
      : resolver_(resolver),
        is_aligned_(reinterpret_cast<uintptr_t>(arena) % 16 == 0),
        arena_bytes_(arena_bytes) {}
  TfLiteStatus AllocateTensors() {
    const bool fits = is_aligned_ && arena_bytes_ == ARENA_BYTES;
    const bool all = resolver_.added == resolver_.most;
    return fits && all ? kTfLiteOk : kTfLiteError;
  }
  TfLiteTensor* input(int place) { return &Tensor('i', place); }
  TfLiteTensor* output(int place) { return &Tensor('o', place); }
  TfLiteStatus Invoke() {
    for (int place = 0; place < INPUTS; ++place) {
      char path[] = "input_?";
      path[6] = static_cast<char>('0' + place);
      const File expected(path);
      if (memcmp(expected.data, input_[place], expected.bytes) != 0) {
        return kTfLiteError;
      }
    }
    return kTfLiteOk;
  }

 private:
  TfLiteTensor& Tensor(char kind, int place) {
    char path[] = "output_?";
    if (kind == 'i') strcpy(path, "input_?");
    path[strlen(path) - 1] = static_cast<char>('0' + place);
    const File file(path);
    char* data = kind == 'i' ? input_[place] : output_[place];
    if (kind == 'o') memcpy(data, file.data, file.bytes);
    TfLiteTensor& tensor = kind == 'i' ? inputs_[place] : outputs_[place];
    tensor.data.raw = data;
    tensor.bytes = file.bytes;
    return tensor;
  }
  const MicroOpResolver& resolver_;
  const bool is_aligned_;
  const size_t arena_bytes_;
  char input_[4][65536];
  char output_[4][65536];
  TfLiteTensor inputs_[4];
  TfLiteTensor outputs_[4];
};
}  // namespace tflite
"""

_LOG = """
#pragma once
#include <stdarg.h>
#include <stdio.h>
__attribute__((format(printf, 1, 2)))
inline void MicroPrintf(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vprintf(format, arguments);
  va_end(arguments);
}
"""

_SETUP = """
#pragma once
namespace tflite {
inline void InitializeTarget() {}
}  // namespace tflite
"""


def write(folder):
    """Writes the headers below a folder."""
    methods = "\n".join(
        f"  TfLiteStatus {name}() {{ return Added(); }}"
        for name in METHODS.values()
    )
    for path, text in {
        "c/common.h": _COMMON,
        "micro/micro_interpreter.h": _INTERPRETER,
        "micro/micro_log.h": _LOG,
        "micro/micro_mutable_op_resolver.h": _RESOLVER.replace(
            "METHODS", methods
        ),
        "micro/system_setup.h": _SETUP,
        "schema/schema_generated.h": _SCHEMA,
    }.items():
        file = folder / "tensorflow" / "lite" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
