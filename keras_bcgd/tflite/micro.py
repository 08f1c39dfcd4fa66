"""TensorFlow Lite Micro, the runtime of microcontrollers, on this machine.

`tflite-micro` brings its interpreter with the portable kernels ("reference"),
compiled for x86-64. What a kernel of a microcontroller's vendor does is not
seen here.
"""

import contextlib
import math
import os
import re
import sys
import tempfile

import numpy as np

from keras_bcgd.tflite import reader

INSTALL = "pip install keras-bcgd[micro]"

# Room in an arena beside the tensors: for each operator and each channel.
_ROOM = 2**20
_ROOM_OF_OPERATOR = 2**12
_CHANNEL_BYTES = 32

# What it says of its arena after a run.
_ALLOCATIONS = (
    r"Arena allocation head (\d+) bytes\n.*Arena allocation tail (\d+) bytes"
)


def load_runtime():
    """The module `tflite_micro.runtime`.

    Raises:
        ImportError: If `tflite-micro` is not installed.
    """
    try:
        from tflite_micro import runtime
    except ImportError as error:
        raise ImportError(
            "Files run as on a microcontroller by `tflite-micro`, which is "
            f"not installed. Install it with `{INSTALL}`."
        ) from error
    return runtime


class MicroInterpreter:
    """TFLM's interpreter with those methods of LiteRT's that we use.

    Args:
        data: Bytes, the contents of a file.
        keep_tensors: Boolean. Whether tensors inside keep their contents, so
            that `get_tensor` reads them. Defaults to `False`.
        arena_bytes: Int, the size of the arena. `None`: a size that is more
            than enough. Defaults to `None`.

    Raises:
        ValueError: If it cannot load the file; with what it said.
        ImportError: If `tflite-micro` is not installed.
    """

    def __init__(self, data, keep_tensors=False, arena_bytes=None):
        runtime = load_runtime()
        configs = runtime.InterpreterConfig
        file = reader.parse(data)
        self._graph = file.model.subgraphs[0]
        self._inputs = [int(i) for i in self._graph.inputs]
        self._outputs = [int(i) for i in self._graph.outputs]
        with stderr_of_c() as said:
            try:
                self._interpreter = runtime.Interpreter.from_bytes(
                    data,
                    arena_size=arena_bytes or large_arena(file),
                    intrepreter_config=configs.kPreserveAllTensors
                    if keep_tensors
                    else configs.kAllocationRecording,
                )
            except RuntimeError as error:
                failure = error
            else:
                return
        raise ValueError(" ".join([str(failure), *said]))

    def get_input_details(self):
        """List of dicts, as `ai_edge_litert` has them."""
        details = self._interpreter.get_input_details
        return [
            self._details(index, details(place))
            for place, index in enumerate(self._inputs)
        ]

    def get_output_details(self):
        """List of dicts, as `ai_edge_litert` has them."""
        details = self._interpreter.get_output_details
        return [
            self._details(index, details(place))
            for place, index in enumerate(self._outputs)
        ]

    def get_tensor_details(self):
        """List of dicts with the index and the name of every tensor."""
        return [
            {"index": index, "name": _name(tensor)}
            for index, tensor in enumerate(self._graph.tensors)
        ]

    def _details(self, index, found):
        quantization = found["quantization_parameters"]
        scales, zero_points = (
            quantization[name] for name in ("scales", "zero_points")
        )
        one = len(scales) == 1
        return {
            "index": index,
            "name": _name(self._graph.tensors[index]),
            "shape": found["shape"],
            "dtype": found["dtype"],
            "quantization": (
                (float(scales[0]), int(zero_points[0])) if one else (0.0, 0)
            ),
        }

    def set_tensor(self, index, values):
        """Sets an input."""
        self._interpreter.set_input(values, self._inputs.index(index))

    def get_tensor(self, index):
        """An output, or with `keep_tensors` a tensor inside."""
        if index in self._outputs:
            return self._interpreter.get_output(self._outputs.index(index))
        return np.asarray(self._interpreter.GetTensor(index, 0)["tensor_data"])

    def invoke(self):
        """Runs the file once."""
        self._interpreter.invoke()

    def allocations(self):
        """What a run took of the arena; not with `keep_tensors`.

        Returns:
            `(tensors, persistent)`, bytes: what is computed and the buffers of
            kernels; and what the interpreter keeps of the graph.
        """
        with stderr_of_c() as said:
            self._interpreter.print_allocations()
        found = re.search(_ALLOCATIONS, "\n".join(said))
        if found is None:
            raise RuntimeError(
                "tflite-micro prints its allocations in a form that is not "
                f"known: {' '.join(said)}"
            )
        return tuple(map(int, found.groups()))


def _name(tensor):
    return (tensor.name or b"").decode()


def large_arena(file):
    """Bytes in which a file fits, even if no tensor shares its place.

    Args:
        file: `reader.TFLiteFile`.
    """
    total = _ROOM + _ROOM_OF_OPERATOR * len(file.operators)
    for tensor in file.tensors:
        # Of weights in less than a byte, or in a table, a copy is made.
        total += 8 * math.prod(tensor.shape)
        total += _CHANNEL_BYTES * len(tensor.scales)
    return total


@contextlib.contextmanager
def stderr_of_c():
    """What C code writes to stderr: a list of lines, filled at the end."""
    lines = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            text = file.read().decode(errors="replace")
            lines += [line.strip() for line in text.splitlines()]
