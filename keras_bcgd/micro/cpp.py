"""The headers and arrays in C++, but for main.cc."""

import re

import numpy as np

_WIDTH = 80


def files(name, data, methods, arena, sample):
    """The texts by the names of their files.

    Args:
        name: String, what identifiers begin with.
        data: Bytes, the contents of the TFLite file.
        methods: List of strings, `operators.methods`.
        arena: `arena.Arena`.
        sample: `sample.Sample`.

    Returns:
        Dict from strings to strings.
    """
    parts = {
        "model.h": _model_header(name),
        "ops.h": _operators(name, methods),
        "arena.h": _arena(name, arena),
        "sample.h": _sample(name, sample, arena.runtime),
    }
    texts = {
        f"{name}_{part}": _guarded(f"{name}_{part}", text)
        for part, text in parts.items()
    }
    return {**texts, f"{name}_model.cc": _model(name, data)}


def _guarded(file, text):
    macro = re.sub(r"\W", "_", file).upper() + "_"
    return (
        f"#ifndef {macro}\n#define {macro}\n\n{text.strip()}\n\n"
        f"#endif  // {macro}\n"
    )


def _model_header(name):
    return f"""
// A TFLite file, at a multiple of 16 bytes, and how many bytes it has.
extern const unsigned char {name}_model[];
extern const unsigned int {name}_model_len;
"""


def _model(name, data):
    return f"""\
#include "{name}_model.h"

alignas(16) const unsigned char {name}_model[] = {{
{_rows(f"0x{byte:02x}" for byte in data)}
}};
const unsigned int {name}_model_len = sizeof({name}_model);
"""


def _operators(name, methods):
    added = "\n".join(
        f"  if (resolver.{method}() != kTfLiteOk) return kTfLiteError;"
        for method in methods
    )
    return f"""
#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

// Room for the operators of the file and no others.
using {name}_resolver = tflite::MicroMutableOpResolver<{max(len(methods), 1)}>;

inline TfLiteStatus {name}_add_operators({name}_resolver& resolver) {{
{added}
  return kTfLiteOk;
}}
"""


def _arena(name, arena):
    return f"""
#include <stddef.h>

// The memory in which TensorFlow Lite Micro loads and runs the file, measured:
// by the interpreter of {arena.runtime},
// with its portable kernels, on {arena.machine}.
//
// There a pointer takes {arena.pointer_bytes} bytes. Where it takes 4, these \
kernels need no more:
// this is an upper bound. Kernels of a vendor may need more, for buffers of
// their own.

// What is computed, weights that an operator expands and the buffers of kernels
// ("non-persistent"), whatever the size of a pointer.
constexpr size_t {name}_tensor_bytes = {arena.tensors};
// What the interpreter keeps of the graph ("persistent"), pointers above all.
constexpr size_t {name}_persistent_bytes = {arena.persistent};
// The smallest arena that was enough, in steps of 16 bytes. It may be more than
// both: to load the file takes room for a moment.
constexpr size_t {name}_arena_bytes = {arena.size};
"""


def _sample(name, sample, runtime):
    parts = [
        f"""
#include <stdint.h>

// An input, and what the interpreter of {runtime}
// computed of it. Codes, as the file has them.
"""
    ]
    for kind, ends in (("input", sample.inputs), ("output", sample.outputs)):
        parts += [
            _codes(f"{name}_{kind}_{place}", end)
            for place, end in enumerate(ends)
        ]
    return "\n".join(parts)


def _codes(name, end):
    about = end.about
    shape = "x".join(map(str, about.shape)) or "1"
    dtype = np.dtype(about.dtype).name
    grid = ""
    if about.scale:
        grid = f", {about.scale:.9g} * (code - {about.zero_point})"
    return f"""\
// "{_printable(about.name)}": {dtype}, {shape}{grid}
constexpr {dtype}_t {name}[] = {{
{_rows(map(str, end.codes.reshape(-1).tolist()))}
}};
"""


def _printable(text):
    """A name in a comment: a backslash at its end would continue the line."""
    return re.sub(r"[^\w .:;/()+-]", "?", text, flags=re.ASCII)


def _rows(numbers):
    """Lines of numbers with commas."""
    lines, line = [], " "
    for number in numbers:
        if len(line) + len(number) + 2 > _WIDTH:
            lines.append(line)
            line = " "
        line += f" {number},"
    return "\n".join([*lines, line])
