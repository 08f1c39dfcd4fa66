"""What the readers write to: a file in one format, and its table."""

import numpy as np

from keras_bcgd.network.trained import read_alpha
from keras_bcgd.onnx import staircase
from keras_bcgd.onnx.formats import Grid
from keras_bcgd.onnx.report import OnnxLayer


class Unsupported(ValueError):
    """Says what to do about a layer; `conversion` adds its name."""


class Writer:
    """Writes kernels and rounding in one format.

    Args:
        file: `file.OnnxFile`.
        form: One of `formats.FORMATS`.

    Attributes:
        file: As given.
        layers: List of `OnnxLayer`, what was written.
    """

    def __init__(self, file, form):
        self.file = file
        self._form = form
        self.layers = []

    @property
    def has_gemm(self):
        """Whether dense layers are a Gemm of transposed weights."""
        return self._form.has_gemm

    def quantized_kernel(self, layer, name, codes, scale, axis):
        """Writes the kernel of a quantized layer; returns its name."""
        weights = self._form.weights(
            self.file, name, codes, scale, axis, layer.bits
        )
        ends = float(np.min(scale)), float(np.max(scale))
        self._note(name, layer, bits=layer.bits, weights=codes.size, scale=ends)
        return weights

    def float_kernel(self, layer, name, kernel):
        """Writes the kernel of a stock layer; returns its name."""
        self._note(name, layer, weights=kernel.size)
        return self.file.constant(f"{name}/kernel", kernel)

    def round(self, x, grid, name, layer, is_output=True):
        """Puts a tensor on a `Grid`, which a row of the table says.

        Args:
            x: `Tensor`.
            grid: `Grid`.
            name: String.
            layer: The Keras layer that has the step.
            is_output: Boolean. Whether this is what the layer computes, not
                what it reads. Defaults to `True`.
        """
        if is_output:
            scale = grid.step, grid.step
            self._note(name, layer, bits=grid.bits, scale=scale)
        return self._form.codes(self.file, x, grid, name)

    def staircase(self, x, layer, name, sums=None):
        """Applies the staircase of a QuantReLU or QuantAddReLU.

        Args:
            x: `Tensor`.
            layer: The Keras layer.
            name: String.
            sums: As for `staircase.half_step`. Defaults to `None`.
        """
        alpha = read_alpha(layer)
        self._note(name, layer, bits=layer.bits, scale=(alpha, alpha))
        return staircase.write(
            self.file, self._form, x, alpha, layer.bits, name, sums
        )

    def on_signed_grid(self, x, layer, name):
        """Rounds to the grid of a QuantIdentity."""
        grid = Grid(read_alpha(layer), *layer.smallest_and_largest_code)
        return self.round(x, grid, name, layer)

    def in_one_order(self, *tensors):
        """Tensors whose values stand in the same places."""
        orders = [x.order for x in tensors]
        if all(order is orders[0] for order in orders):
            return tensors
        return [self.file.in_keras_order(x) for x in tensors]

    def _note(self, name, layer, **row):
        self.layers.append(OnnxLayer(name, type(layer).__name__, **row))


def output_shape(layer, *tensors):
    """The shape of what a layer computes, without the batch."""
    shapes = [(None, *x.shape) for x in tensors]
    shape = layer.compute_output_shape(shapes if len(shapes) > 1 else shapes[0])
    return tuple(shape[1:])
