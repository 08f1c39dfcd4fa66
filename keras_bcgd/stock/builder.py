"""Builder: makes the layers of the stock model and remembers them."""

import keras
import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.stock.fake_quant import STEPS
from keras_bcgd.stock.fake_quant import FakeQuant
from keras_bcgd.stock.fake_quant import FakeQuantKernel
from keras_bcgd.stock.tensor import Linear
from keras_bcgd.stock.tensor import StockTensor
from keras_bcgd.stock.tensor import is_rounded_again


class Unsupported(ValueError):
    """Says what to do about a layer; `Conversion` adds its name."""


class Builder:
    """Makes stock layers, fake-quants and convolutions that are written later.

    Args:
        calibrated: Boolean. Whether data will tell the ranges of tensors that
            training left in float.
    """

    def __init__(self, calibrated):
        self.calibrated = calibrated
        self.pending = []  # the fake-quants that wait for such a range
        self.linears = []
        self._names = set()

    def make(self, kind, *args, name, **kwargs):
        """A layer of the stock model, under a name that is still free."""
        unique, count = name, 0
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        return kind(*args, name=unique, dtype="float32", **kwargs)

    def copy(self, layer):
        """The layer again, in float32."""
        config = layer.get_config()
        del config["dtype"]
        return self.make(type(layer), **config)

    def fake_quant(self, value, name, *limits):
        """`value` through a `FakeQuant` with these limits."""
        limits = [None if limit is None else float(limit) for limit in limits]
        layer = self.make(FakeQuant, *limits, name=f"{name}_quant")
        if layer.low is None:
            self.pending.append(layer)
        return layer(value)

    def settle(self, x):
        """Puts a tensor on its grid, before something else than a sum."""
        if not x.on_grid:
            self._put_on_grid(x)
        x.linear = None

    def _put_on_grid(self, x):
        x.on_grid = True
        if x.step is not None:
            high = x.low + STEPS * x.step
            x.value = self.fake_quant(x.value, "range", x.low, high)
        elif self.calibrated:
            x.value = self.fake_quant(x.value, "range", None, None)

    def linear(self, stock, x, codes, slope, bias=None):
        """Calls a stock convolution, whose weights come later."""
        self.settle(x)
        depthwise = isinstance(stock, keras.layers.DepthwiseConv2D)
        channels = np.prod(codes.shape[2:] if depthwise else codes.shape[-1:])
        slope, constant = arithmetic.fold(slope, bias, None, channels)
        if is_rounded_again(stock, codes, slope):
            stock = FakeQuantKernel(stock, name=stock.name, dtype="float32")
        linear = Linear(stock, x.value, codes, slope, constant)
        self.linears.append(linear)
        spacing = x.step if codes.dtype.kind == "i" else None
        value = stock(x.value)
        return StockTensor(value, linear=linear, direct=True, spacing=spacing)

    def linear_before(self, x):
        """`x`, with a `linear` whose constant can be changed."""
        if x.linear is not None:
            return x
        if len(x.value.shape) != 4:
            raise Unsupported(
                "it must follow a convolution or Dense that nothing else reads"
            )
        channels = x.value.shape[-1]
        stock = self.make(keras.layers.DepthwiseConv2D, 1, name="identity")
        ones = np.ones((1, 1, channels, 1), int)
        # TensorFlow makes one of two equal convolutions of a tensor, and then
        # leaves their biases in float.
        return self.linear(stock, x, ones, 1 + len(self.linears) * 2.0**-22)
