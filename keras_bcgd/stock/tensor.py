"""A tensor of the stock model, and the convolution that it came from.

A constant can be added to the convolution, and a factor multiplied into it,
until its weights are written.
"""

import dataclasses

import keras
import numpy as np

from keras_bcgd.export.arithmetic import INT8_MAX
from keras_bcgd.stock.fake_quant import STEPS
from keras_bcgd.stock.fake_quant import FakeQuantKernel


@dataclasses.dataclass
class Linear:
    """A convolution whose weights may still change until they are written.

    Its outputs are `slope * sum(codes * x) + constant`.

    Attributes:
        layer: The stock layer, or `FakeQuantKernel` around it.
        inputs: The Keras tensor on which it was called.
        codes: Array of the shape of the kernel; integers, unless the weights
            are float.
        slope: float64 array of shape `(channels,)`.
        constant: float64 array of shape `(channels,)`.
    """

    layer: keras.layers.Layer
    inputs: object
    codes: np.ndarray
    slope: np.ndarray
    constant: np.ndarray

    def write(self):
        """Assigns the weights of the layer."""
        layer, codes, slope = self.layer, self.codes, self.slope
        if isinstance(layer, FakeQuantKernel):
            step = np.abs(slope) / _multiplier(codes)
            # Channels without weights need a step, too.
            step = np.maximum(step, 2.0**-16 * (np.max(step) or 1.0))
            layer.step.assign(step[: layer.step.shape[0]])
            layer = layer.layer
        kernel = np.reshape(codes, (-1, len(slope))) * slope
        layer.kernel.assign(np.reshape(kernel, codes.shape))
        layer.bias.assign(self.constant)


def is_rounded_again(stock, codes, slope):
    """Whether the converter would change codes that it need not change."""
    if codes.dtype.kind != "i":
        return False
    if isinstance(stock, keras.layers.Dense) and np.ptp(slope):
        return False
    largest = np.abs(codes).reshape(-1, len(slope)).max(axis=0)
    return np.any(largest * _multiplier(codes) != INT8_MAX)


def _multiplier(codes):
    """The largest integer by which codes can be multiplied in int8."""
    return INT8_MAX // max(1, np.max(np.abs(codes)))


@dataclasses.dataclass
class StockTensor:
    """A tensor of the stock model and what can still be done to it.

    Attributes:
        value: The Keras tensor.
        on_grid: Boolean. Whether it has passed its fake-quant.
        step: Float, the step of that fake-quant, or `None`: not known yet.
        low: Float, the smallest value, or `None`.
        high: Float, the largest value, or `None`.
        linear: The `Linear` that a constant can still be added to, or `None`.
        direct: Boolean. Whether it is the output of `linear` itself.
        spacing: Float, the step of the inputs of `linear`, or `None`.
    """

    value: object
    on_grid: bool = False
    step: float | None = None
    low: float | None = None
    high: float | None = None
    linear: Linear | None = None
    direct: bool = False
    spacing: float | None = None

    def use_range(self, low, high):
        """Its grid is to be the 256 codes from `low` to `high`."""
        self.low, self.high, self.step = low, high, (high - low) / STEPS

    @property
    def grid(self):
        """The real numbers of its codes; 0 if they are unknown."""
        if self.step is None:
            return np.zeros(1)
        first, last = round(self.low / self.step), round(self.high / self.step)
        return np.arange(first, last + 1) * self.step


def as_numpy(variable):
    """A weight in float64."""
    return np.float64(keras.ops.convert_to_numpy(variable))
