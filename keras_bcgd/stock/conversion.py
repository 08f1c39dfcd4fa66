"""Conversion: goes through a model and hands each layer to its function."""

import collections

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.export import support
from keras_bcgd.network import model_layers
from keras_bcgd.network import traits
from keras_bcgd.network.calls import input_keys
from keras_bcgd.network.calls import read_calls
from keras_bcgd.network.interpolation import WeightedMean
from keras_bcgd.stock import averages
from keras_bcgd.stock import convolutions
from keras_bcgd.stock import copies
from keras_bcgd.stock import quantizers
from keras_bcgd.stock.builder import Unsupported
from keras_bcgd.stock.tensor import StockTensor

_REPEATED = "call each layer once"
_EXPORT_WRITES_IT = "no stock layers compute it, but `export_tflite` writes it"
_NOT_OF_STOCK_LAYERS = (
    quant_layers.NegativeSlope,
    quant_layers.QuantAdd,
    quant_layers.QuantConcatenate,
    quant_layers.QuantHardSigmoid,
    quant_layers.QuantMultiply,
    quant_layers.QuantTable,
)

# Functions of `(builder, layer, *inputs)` that return the output.
_FUNCTIONS = {
    **dict.fromkeys(traits.COMMUTING, copies.commuting),
    keras.layers.Add: quantizers.add,
    keras.layers.AveragePooling2D: averages.average,
    keras.layers.BatchNormalization: convolutions.normalization,
    keras.layers.Concatenate: copies.concatenate,
    keras.layers.GlobalAveragePooling2D: averages.global_average,
    keras.layers.ReLU: copies.relu,
    keras.layers.Softmax: copies.softmax,
    quant_layers.PadChannels: copies.pad_channels,
    quant_layers.QuantAddReLU: quantizers.add_relu,
    quant_layers.QuantIdentity: quantizers.identity,
    quant_layers.QuantReLU: quantizers.staircase,
    **dict.fromkeys(traits.CONVOLUTIONS, convolutions.convolution),
    WeightedMean: averages.weighted_mean,
}


def _function(layer):
    """The function that converts a layer."""
    if getattr(layer, "data_format", None) == "channels_first":
        raise Unsupported("use data_format='channels_last'")
    if isinstance(layer, _NOT_OF_STOCK_LAYERS):
        raise Unsupported(_EXPORT_WRITES_IT)
    function = _FUNCTIONS.get(type(layer))
    if type(layer) is keras.layers.Activation:
        function = copies.ACTIVATIONS.get(layer.activation)
    elif traits.does_nothing(layer):
        function = copies.nothing
    if function is None:
        raise Unsupported(support.GENERAL_ADVICE)
    return function


class Conversion:
    """Goes through a model, layer by layer, and collects what it refuses.

    Args:
        builder: `Builder`.
    """

    def __init__(self, builder):
        self._builder = builder
        self._problems = []
        self._wholes = {}  # id of a part: the layer that it is a part of

    def run(self, model, inputs):
        """The outputs of a model for these inputs, lists of `StockTensor`."""
        for _, layer in model_layers.paths(model):
            if isinstance(layer, quant_layers.Composite):
                parts = (part for part, _ in layer.parts)
                self._wholes.update((id(part), layer) for part in parts)
        calls, keys = read_calls(model, self)
        self._refuse_repeated_calls(calls)
        tensors = dict(zip(input_keys(model), inputs, strict=True))
        readers = collections.Counter(keys)
        for call in calls:
            readers.update(call.sources)
        for call in calls:
            sources = [tensors[key] for key in call.sources]
            tensors[call.key] = self._convert(call, sources)
            for key, x in tensors.items():
                if readers[key] > 1:
                    x.linear = None  # what one reader needs, others do not
        return [tensors[key] for key in keys]

    def add(self, model, advice):
        """Notes a model that is called several times, for `read_calls`."""
        self._refuse(model, _REPEATED)

    def check(self):
        """Raises a `ValueError` that lists the problems, if there are any."""
        if self._problems:
            raise ValueError(
                "The model cannot be made of stock layers. Received:\n- "
                + "\n- ".join(self._problems)
            )

    def _refuse_repeated_calls(self, calls):
        """Raises where a layer is called several times."""
        counts = collections.Counter(
            id(call.layer) for call in calls if call.index == 0
        )
        for call in calls:
            if counts.pop(id(call.layer), 1) > 1:
                self._refuse(call.layer, _REPEATED)
        self.check()

    def _convert(self, call, inputs):
        """What a call computes, a `StockTensor`."""
        layer = call.layer
        try:
            return _function(layer)(self._builder, layer, *inputs)
        except Unsupported as error:
            if call.index == 0:
                self._refuse(layer, error)
        # To find the other problems, too.
        return StockTensor(self._output_of(call, inputs), on_grid=True)

    def _output_of(self, call, inputs):
        """A tensor of the shape of what a call computes."""
        if hasattr(call.layer, "output"):
            return keras.tree.flatten(call.layer.output)[call.index]
        # The part of a layer: no model has called it.
        values = [x.value for x in inputs]
        return call.layer(values if len(values) > 1 else values[0])

    def _refuse(self, layer, advice):
        layer = self._wholes.get(id(layer), layer)
        line = f"'{layer.name}' ({type(layer).__name__}): {advice}"
        if line not in self._problems:
            self._problems.append(line)
