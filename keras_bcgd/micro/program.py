"""main.cc: runs the sample and compares what comes out."""

import string

FILE = "main.cc"

_TEXT = string.Template(
    """\
// $name in TensorFlow Lite Micro: runs the sample, compares every value of the
// outputs, prints "equal" or how many differ, and returns 0 or 1.
//
// For this computer, in a checkout of github.com/tensorflow/tflite-micro, with
// HERE the folder of this file:
//
//   make -f tensorflow/lite/micro/tools/make/Makefile microlite
//   GEN=$$(make -s -f tensorflow/lite/micro/tools/make/Makefile list_gendir)
//   LIBS=tensorflow/lite/micro/tools/make/downloads
//   g++ -std=c++17 -fno-rtti -fno-exceptions -DTF_LITE_STATIC_MEMORY -I.
//       -I$$LIBS/flatbuffers/include -I$$LIBS/gemmlowp -I$$LIBS/ruy
//       HERE/main.cc HERE/${name}_model.cc
//       $${GEN}lib/libtensorflow-microlite.a -lm -o $name
//
// (g++ in one line.) For a board, add these files to a project that has TFLM.

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "${name}_arena.h"
#include "${name}_model.h"
#include "${name}_ops.h"
#include "${name}_sample.h"
#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

#ifndef TF_LITE_STATIC_MEMORY
#error "TFLM is compiled with -DTF_LITE_STATIC_MEMORY: do so here as well"
#endif

namespace {

alignas(16) uint8_t arena[${name}_arena_bytes];

template <typename T, size_t count>
bool Set(TfLiteTensor* input, const T (&codes)[count]) {
  if (input == nullptr || input->bytes != sizeof(codes)) return false;
  memcpy(input->data.raw, codes, sizeof(codes));
  return true;
}

// How many codes differ: all, if the output has another size.
template <typename T, size_t count>
size_t Different(const TfLiteTensor* output, const T (&expected)[count]) {
  if (output == nullptr || output->bytes != sizeof(expected)) return count;
  size_t different = 0;
  for (size_t i = 0; i < count; ++i) {
    T code;
    memcpy(&code, output->data.raw + i * sizeof(T), sizeof(T));
    if (code != expected[i]) ++different;
  }
  return different;
}

int Fail(const char* what) {
  MicroPrintf("%s", what);
  return 1;
}

}  // namespace

int main() {
  tflite::InitializeTarget();
  ${name}_resolver resolver;
  if (${name}_add_operators(resolver) != kTfLiteOk) {
    return Fail("an operator cannot be added");
  }
  tflite::MicroInterpreter interpreter(tflite::GetModel(${name}_model),
                                       resolver, arena, sizeof(arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    return Fail("the file cannot be loaded");
  }
$set
  if (interpreter.Invoke() != kTfLiteOk) return Fail("the file does not run");
  size_t different = 0;
$compare
  if (different != 0) {
    MicroPrintf("%d values differ", static_cast<int>(different));
    return 1;
  }
  MicroPrintf("equal");
  return 0;
}
"""
)


def text(name, sample):
    """The program.

    Args:
        name: String, what identifiers begin with.
        sample: `sample.Sample`.
    """
    set_inputs = [
        f"  if (!Set(interpreter.input({place}), {name}_input_{place})) {{\n"
        f'    return Fail("input {place} has another size");\n'
        "  }"
        for place, _ in enumerate(sample.inputs)
    ]
    compare_outputs = [
        f"  different += Different(interpreter.output({place}),\n"
        f"                         {name}_output_{place});"
        for place, _ in enumerate(sample.outputs)
    ]
    return _TEXT.substitute(
        name=name,
        set="\n".join(set_inputs),
        compare="\n".join(compare_outputs),
    )
