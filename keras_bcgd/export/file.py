"""A file being written: tensors that know their shape and codes."""

import dataclasses

import numpy as np

from keras_bcgd.export.steps import Codes


@dataclasses.dataclass
class FileTensor:
    """A computed tensor of the file: its index, shape with batch, and codes."""

    index: int
    shape: tuple
    codes: Codes

    @property
    def grid(self):
        """The `Grid` of its codes."""
        return self.codes.grid

    @property
    def dtype(self):
        """String, the type of its codes."""
        return self.codes.dtype


class File:
    """What all operators need of a `TFLiteWriter`.

    Args:
        writer: `TFLiteWriter`.
        batch_size: Int.
    """

    def __init__(self, writer, batch_size):
        self.writer = writer
        self.batch_size = batch_size

    def tensor(self, name, shape, codes):
        """Adds a computed tensor; `shape` is with batch."""
        index = self.writer.add_tensor(
            name,
            shape,
            codes.dtype,
            codes.grid.file_scale,
            codes.grid.zero_point,
        )
        return FileTensor(index, tuple(shape), codes)

    def constant(self, name, values, dtype="int32", *args, **settings):
        """Adds a constant tensor; returns its index."""
        return self.writer.add_constant(name, values, dtype, *args, **settings)

    def operator(self, name, inputs, output, options=None, **settings):
        """Adds an operator with one output; inputs may be indices."""
        inputs = [getattr(x, "index", x) for x in inputs]
        self.writer.add_operator(
            name, inputs, [output.index], options, **settings
        )
        return output

    def quantize(self, x, codes, name):
        """The same numbers in other codes."""
        y = self.tensor(name, x.shape, codes)
        return self.operator("QUANTIZE", [x], y, "QuantizeOptions")

    def reshape(self, x, shape, name):
        """Gives a tensor another shape, where it has not got it already."""
        shape = (self.batch_size, *shape)
        if x.shape == shape:
            return x
        if self.writer.name_of(x.index) == name:
            self.writer.set_name(x.index, f"{name}/map")
        y = self.tensor(name, shape, x.codes)
        new_shape = self.constant(f"{name}/shape", np.int32(shape))
        return self.operator(
            "RESHAPE",
            [x, new_shape],
            y,
            "ReshapeOptions",
            newShape=list(shape),
        )
