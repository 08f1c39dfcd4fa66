"""write_micro_sources: a folder with what runs a file on a microcontroller."""

import os

from keras_bcgd.micro import arena as arenas
from keras_bcgd.micro import cpp
from keras_bcgd.micro import names
from keras_bcgd.micro import operators
from keras_bcgd.micro import program
from keras_bcgd.micro import sample as samples
from keras_bcgd.micro.report import MicroSourcesReport
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.runner import MICRO
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.utils import files


def write_micro_sources(path, directory, name=None, x=None, overwrite=False):
    """Writes C++ sources that run a file in TensorFlow Lite Micro (TFLM).

    - `NAME_model.h` and `NAME_model.cc`: the file as an array, aligned to 16
      bytes.
    - `NAME_ops.h`: a resolver with the operators of the file and no others.
    - `NAME_arena.h`: the memory that it needs, measured by TFLM's interpreter
      with its portable kernels on this machine. It is the smallest arena, in
      steps of 16 bytes, in which the file loads and computes the sample. With
      pointers of 4 bytes, and these kernels, less is enough. Kernels of a
      vendor may need more.
    - `NAME_sample.h`: one input (a batch, if the file has one) and the outputs
      that TFLM's interpreter computes of it, as codes.
    - `main.cc`: runs the sample, compares every output, prints "equal" or how
      many values differ and returns 0 or 1. How to compile it stands in it.

    No Keras model is needed, and the file may be written by whomever, with
    integer inputs and outputs.

    Args:
        path: String or path-like, the TFLite file.
        directory: String or path-like, the folder to write; the one that it is
            in must exist. The files are written elsewhere first and renamed, so
            that none is half written.
        name: String, what the names of files and identifiers begin with:
            letters, digits and single underscores between them. `None`: that of
            the file. Defaults to `None`.
        x: Array of real inputs, as for the model, of which the first is the
            sample; of several inputs a dict by their names. `None`: random
            codes, each time the same. Defaults to `None`.
        overwrite: Boolean. Whether the folder may hold something. Files of the
            names above are replaced, others stay. Defaults to `False`.

    Returns:
        A `MicroSourcesReport`; printed, a short table.

    Raises:
        ValueError: If an argument is not one of the above, the file is damaged,
            TFLM does not have one of its operators or cannot load it.
        OSError: If the file cannot be read, or the folder cannot be written.
        ImportError: If `ai-edge-litert` or `tflite-micro` is not installed.

    Example:

    ```python
    report = keras_bcgd.write_micro_sources(
        "digits.tflite", "digits_sources", x=x_test
    )
    print(report)
    print(report.arena_bytes, "bytes of RAM")
    ```
    """
    name = names.choose(name, os.fspath(path))
    file = reader.read_tflite(path)
    files.check_folder(directory, overwrite)
    methods = operators.methods(file)
    runner = TFLiteRunner(path, MICRO)
    sample = samples.make(runner, x)
    arena = arenas.measure(file.data, runner.interpreter, sample)
    texts = cpp.files(name, file.data, methods, arena, sample)
    texts[program.FILE] = program.text(name, sample)
    contents = {file: text.encode() for file, text in sorted(texts.items())}
    files.write_folder(directory, contents, overwrite)
    return MicroSourcesReport(
        path=file.path,
        directory=os.fspath(directory),
        name=name,
        files=list(contents),
        methods=methods,
        model_bytes=len(file.data),
        arena_bytes=arena.size,
        tensor_bytes=arena.tensors,
        persistent_bytes=arena.persistent,
        pointer_bytes=arena.pointer_bytes,
        runtime=arena.runtime,
        machine=arena.machine,
    )
