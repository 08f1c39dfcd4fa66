"""The memory that TFLM's interpreter takes for a file, measured."""

import dataclasses
import importlib.metadata
import platform
import struct

import numpy as np

from keras_bcgd.micro import sample as samples
from keras_bcgd.tflite import micro
from keras_bcgd.tflite import reader

# The arena begins at a multiple of so many bytes, and ends at one.
ALIGNMENT = 16


@dataclasses.dataclass
class Arena:
    """The arena in which a file loads and runs.

    Attributes:
        size: Int, its bytes. A little more than the sum of the others, where
            loading takes room for a moment.
        tensors: Int, bytes of what is computed and of buffers of kernels.
        persistent: Int, bytes of what the interpreter keeps of the graph.
        runtime: String, what measured it.
        machine: String, the processor that it ran on.
        pointer_bytes: Int, of that processor.
    """

    size: int
    tensors: int
    persistent: int
    runtime: str
    machine: str
    pointer_bytes: int


def measure(data, interpreter, sample):
    """The smallest arena, in steps of `ALIGNMENT`, of a file.

    What the interpreter says that it took may be too little: while it loads it
    also plans, in room that it gives back. So the file is run in that arena,
    and where it fails in larger ones.

    Args:
        data: Bytes, the contents of the file.
        interpreter: `tflite.micro.MicroInterpreter` after a run.
        sample: `Sample`, what it computes.

    Returns:
        An `Arena`.
    """
    tensors, persistent = interpreter.allocations()
    size = -(-(tensors + persistent) // ALIGNMENT) * ALIGNMENT
    if not runs(data, sample, size):
        size = _smallest(data, sample, size)
    version = importlib.metadata.version("tflite-micro")
    return Arena(
        size=size,
        tensors=tensors,
        persistent=persistent,
        runtime=f"tflite-micro {version}",
        machine=platform.machine(),
        pointer_bytes=struct.calcsize("P"),
    )


def runs(data, sample, size):
    """Whether a file runs in an arena of a size, and computes the sample."""
    outputs = [end.about for end in sample.outputs]
    try:
        interpreter = micro.MicroInterpreter(data, arena_bytes=size)
        found = samples.run(interpreter, sample.inputs, outputs)
    except (RuntimeError, ValueError):
        return False
    return all(
        np.array_equal(codes, end.codes)
        for codes, end in zip(found, sample.outputs, strict=True)
    )


def _smallest(data, sample, low):
    """By bisection, above a size that is too small."""
    high = -(-micro.large_arena(reader.parse(data)) // ALIGNMENT) * ALIGNMENT
    while high - low > ALIGNMENT:
        middle = (low + high) // (2 * ALIGNMENT) * ALIGNMENT
        if runs(data, sample, middle):
            high = middle
        else:
            low = middle
    return high
