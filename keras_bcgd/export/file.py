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
        target: String, as `targets` has them, or `None`.
    """

    def __init__(self, writer, batch_size, target):
        self.writer = writer
        self.batch_size = batch_size
        self.target = target
        self._names = {}  # of the computed tensors: their index

    def tensor(self, name, shape, codes):
        """Adds a computed tensor; `shape` is with batch."""
        name = self._free(name)
        index = self.writer.add_tensor(
            name,
            shape,
            codes.dtype,
            codes.grid.file_scale,
            codes.grid.zero_point,
        )
        self._names[name] = index
        return FileTensor(index, tuple(shape), codes)

    def _free(self, name):
        """The name, with a number behind it if a tensor has it already.

        As the outputs of a file and what is computed for them may.
        """
        same, number = name, 0
        while same in self._names:
            number += 1
            same = f"{name}_{number}"
        return same

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
            self._rename(x.index, f"{name}/map")
        y = self.tensor(name, shape, x.codes)
        new_shape = self.constant(f"{name}/shape", np.int32(shape))
        return self.operator(
            "RESHAPE",
            [x, new_shape],
            y,
            "ReshapeOptions",
            newShape=list(shape),
        )

    def _rename(self, index, name):
        """Gives a computed tensor another name."""
        names = self._names.items()
        self._names = {same: i for same, i in names if i != index}
        name = self._free(name)
        self.writer.set_name(index, name)
        self._names[name] = index
