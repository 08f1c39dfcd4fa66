"""Conversion: goes through a model and hands each layer to its function."""

import collections

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.export import support
from keras_bcgd.network import traits
from keras_bcgd.stock import averages
from keras_bcgd.stock import convolutions
from keras_bcgd.stock import copies
from keras_bcgd.stock import quantizers
from keras_bcgd.stock.builder import Unsupported
from keras_bcgd.stock.tensor import Tensor

# Layers through which the staircase can be moved: monotone, and they keep 0.
_COMMUTING = (
    keras.layers.Cropping2D,
    keras.layers.Flatten,
    keras.layers.MaxPooling2D,
    keras.layers.Reshape,
    keras.layers.ZeroPadding2D,
)

# Functions of `(builder, layer, *inputs)` that return the output.
_FUNCTIONS = {
    keras.layers.Add: quantizers.add,
    keras.layers.AveragePooling2D: averages.average,
    keras.layers.BatchNormalization: convolutions.normalization,
    keras.layers.Concatenate: copies.concatenate,
    keras.layers.GlobalAveragePooling2D: averages.global_average,
    keras.layers.InputLayer: copies.nothing,
    keras.layers.ReLU: copies.relu,
    keras.layers.Softmax: copies.softmax,
    quant_layers.PadChannels: copies.pad_channels,
    quant_layers.QuantAddReLU: quantizers.add_relu,
    quant_layers.QuantIdentity: quantizers.identity,
    quant_layers.QuantReLU: quantizers.staircase,
    **dict.fromkeys(_COMMUTING, copies.commuting),
    **dict.fromkeys(traits.CONVOLUTIONS, convolutions.convolution),
}


def _function(layer):
    """The function that converts a layer."""
    if getattr(layer, "data_format", None) == "channels_first":
        raise Unsupported("use data_format='channels_last'")
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

    def run(self, model, inputs):
        """The outputs of a model for these inputs, lists of `Tensor`."""
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                inputs = self._convert(layer, inputs)
            return inputs
        self._refuse_repeated_calls(model)
        tensors = dict(zip(map(id, model.inputs), inputs, strict=True))
        operations = [
            (op, keras.tree.flatten(op.input), keras.tree.flatten(op.output))
            for op in model.operations
            if not isinstance(op, keras.layers.InputLayer)
        ]
        readers = collections.Counter(map(id, model.outputs))
        for _, sources, _ in operations:
            readers.update(map(id, sources))
        for op, sources, results in operations:
            outputs = self._convert(op, [tensors[id(t)] for t in sources])
            tensors.update(zip(map(id, results), outputs, strict=True))
            for key, x in tensors.items():
                if readers[key] > 1:
                    x.linear = None  # what one reader needs, others do not
        return [tensors[id(tensor)] for tensor in model.outputs]

    def check(self):
        """Raises a `ValueError` that lists the problems, if there are any."""
        if self._problems:
            raise ValueError(
                "The model cannot be made of stock layers. Received:\n- "
                + "\n- ".join(self._problems)
            )

    def _refuse_repeated_calls(self, model):
        """Raises where the graph is not one call of each layer."""
        for entry in model.get_config()["layers"]:
            if len(entry["inbound_nodes"]) > 1:
                layer = model.get_layer(entry["name"])
                self._refuse(layer, "call each layer once")
        self.check()

    def _convert(self, layer, inputs):
        """The outputs of a layer, a list of `Tensor`."""
        if traits.is_model(layer):
            return self.run(layer, inputs)
        try:
            return [_function(layer)(self._builder, layer, *inputs)]
        except Unsupported as error:
            self._refuse(layer, error)
        # To find the other problems, too.
        results = keras.tree.flatten(layer.output)
        return [Tensor(tensor, on_grid=True) for tensor in results]

    def _refuse(self, layer, advice):
        self._problems.append(
            f"'{layer.name}' ({type(layer).__name__}): {advice}"
        )
