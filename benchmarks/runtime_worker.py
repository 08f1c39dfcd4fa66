"""Runs the files of a folder on one TFLite runtime, each in its own process.

`runtimes.py` starts it in an environment that has NumPy and that runtime and
nothing of this package, on Python 3.7 or newer:

    python runtime_worker.py MODULE FOLDER RESULTS SECONDS

For `FOLDER/a.tflite` and the codes of its inputs, `FOLDER/a.npz`, it writes
`RESULTS/a.KERNELS.npy`, the codes of its outputs, or `a.KERNELS.txt`, why there
are none. A file that crashes the process is one of those.
"""

import importlib
import multiprocessing
import pathlib
import signal
import sys

import numpy as np

# The names of the op resolvers: the three sets of kernels.
KERNELS = {
    "default": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
MICRO_ARENA = 2**22


class Lite:
    """A file on the interpreter of a runtime."""

    def __init__(self, module, path, kernels):
        resolver = getattr(module.OpResolverType, KERNELS[kernels])
        # No `num_threads`: LiteRT 1.1.0 cannot take it.
        self._interpreter = module.Interpreter(
            path, experimental_op_resolver_type=resolver
        )
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()

    def run(self, inputs):
        for details, codes in zip(self._inputs, inputs):  # noqa: B905
            self._interpreter.set_tensor(details["index"], codes)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])


class Micro:
    """The same for microcontrollers: one set of kernels."""

    def __init__(self, module, path, kernels):
        self._interpreter = module.Interpreter.from_file(
            path, arena_size=MICRO_ARENA
        )

    def run(self, inputs):
        for place, codes in enumerate(inputs):
            self._interpreter.set_input(codes, place)
        self._interpreter.invoke()
        return self._interpreter.get_output(0)


def is_micro(module):
    return "tflite_micro" in module.__name__


def run(module, path, kernels, result):
    """Writes what the file computes, or the error."""
    step = "does not load: "
    try:
        interpreter = (Micro if is_micro(module) else Lite)(
            module, str(path), kernels
        )
        step = "does not run: "
        arrays = np.load(path.with_suffix(".npz"))
        inputs = [arrays[str(place)] for place in range(len(arrays.files))]
        found = [
            interpreter.run([codes[i] for codes in inputs])
            for i in range(len(inputs[0]))
        ]
        np.save(result.with_suffix(".npy"), np.stack(found))
    except Exception as error:
        result.with_suffix(".txt").write_text(
            step + (str(error) or repr(error))
        )


def main():
    name, folder, results, seconds = sys.argv[1:]
    module = importlib.import_module(name)
    context = multiprocessing.get_context("fork")
    for path in sorted(pathlib.Path(folder).glob("*.tflite")):
        for kernels in ["default"] if is_micro(module) else KERNELS:
            # The suffix is replaced by that of what comes out.
            result = pathlib.Path(results, path.stem + "." + kernels + ".out")
            process = context.Process(
                target=run, args=(module, path, kernels, result)
            )
            process.start()
            process.join(float(seconds))
            if process.is_alive():
                process.kill()
                process.join()
                text = f"no answer in {seconds} seconds"
            elif process.exitcode < 0:
                text = "crash: " + signal.Signals(-process.exitcode).name
            else:
                continue
            result.with_suffix(".txt").write_text(text)


if __name__ == "__main__":
    main()
