"""The weights of a float network, from a file, in a quantized one.

Keras addresses the layers in a file by the names of their classes. So the file
is loaded into a twin of stock layers, and that layer by layer into the model.
"""

import keras
import numpy as np

from keras_bcgd import layers as quant_layers
from keras_bcgd.network import graph
from keras_bcgd.network.functional import without_training

_BITS = ("bits", "projection", "per_channel", "branch_bits")
_STOCK = {
    quant_layers.QuantConv1D: keras.layers.Conv1D,
    quant_layers.QuantConv2D: keras.layers.Conv2D,
    quant_layers.QuantConv2DTranspose: keras.layers.Conv2DTranspose,
    quant_layers.QuantDepthwiseConv2D: keras.layers.DepthwiseConv2D,
    quant_layers.QuantDense: keras.layers.Dense,
    quant_layers.QuantSeparableConv2D: keras.layers.SeparableConv2D,
}


def load_float_weights(model, filepath):
    """Loads a file of weights of a float network into a quantized one.

    The float network has the structure of the model with stock layers: a
    Conv2D for each QuantConv2D, and so of the others, a ReLU for each
    QuantReLU, an Add and a ReLU for each QuantAddReLU, an Activation for a
    QuantActivation or QuantHardSigmoid, a PReLU with one slope for each
    channel for a QuantPReLU, nothing for a QuantIdentity. The model takes its
    weights as the float weights y, and keeps its alphas, which
    `keras_bcgd.calibrate` finds from data.

    To make a quantized network from a float model itself there is
    `quantize_model`. Of two layers, `set_weights` and `get_weights` do this.

    Args:
        model: A built `keras.Sequential` or functional model.
        filepath: String or path-like, what `keras.Model.load_weights` takes: a
            file from `save_weights` or `save`.

    Raises:
        ValueError: If `model` is no such model, or the file is of a network
            with other layers.

    Example:

    ```python
    float_model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(9)])
    float_model.save_weights("float.weights.h5")
    model = keras.Sequential([keras.Input((64,)), keras_bcgd.QuantDense(9)])
    keras_bcgd.load_float_weights(model, "float.weights.h5")
    ```
    """
    if not graph.is_graph(model):
        raise ValueError(
            "`model` must be a built keras.Sequential or functional model; of "
            "another, set the weights of its layers by `set_weights`. "
            f"Received: model={model!r}"
        )
    twin = _Twin()
    try:
        twin.of(model).load_weights(filepath)
    except ValueError as error:
        raise ValueError(
            "`filepath` must be a file of the weights of this network with "
            "stock layers; that of a quantized network is for "
            f"`model.load_weights`. Received: filepath={str(filepath)!r}. "
            f"{error}"
        ) from error
    twin.copy_weights()


class _Twin:
    """The same network of stock layers: what is shared stays so."""

    def __init__(self):
        self.made = {}  # id of a layer or model: itself, its twin

    def of(self, layer):
        """The twin of a layer or of a model."""
        if id(layer) not in self.made:
            make = self._model if graph.is_graph(layer) else _stock_layer
            self.made[id(layer)] = layer, make(layer)
        return self.made[id(layer)][1]

    def _model(self, model):
        if not isinstance(model, keras.Sequential):
            return keras.models.clone_model(
                without_training(model),
                clone_function=self.of,
                call_function=_call,
            )
        (start,) = model.inputs
        layers = [keras.Input(batch_shape=start.shape, dtype=start.dtype)]
        layers += [self.of(layer) for layer in model.layers]
        return keras.Sequential(layers, name=model.name)

    def copy_weights(self):
        for layer, twin in self.made.values():
            if graph.is_graph(layer) or not twin.weights:
                continue
            # Copies: JAX gives a buffer up with the first model that runs.
            values = [np.array(w) for w in twin.get_weights()]
            if isinstance(layer, quant_layers.QuantPReLU):
                layer.negative.slopes.assign(values[0].reshape(-1))
                continue
            layer.set_weights(values)
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()


class _Add(keras.layers.Add):
    """An addition before a ReLU."""


class _Nothing(keras.layers.Identity):
    """What the float network has in the place of a QuantIdentity."""


class PReLU(keras.layers.PReLU):
    """One slope for each channel; a file has it under this name."""

    def build(self, input_shape):
        self.shared_axes = list(range(1, len(input_shape) - 1))
        super().build(input_shape)


# What stands for a layer without a kernel, the more special classes first.
_WITHOUT_KERNEL = {
    quant_layers.QuantAddReLU: _Add,
    quant_layers.QuantReLU: keras.layers.ReLU,
    quant_layers.QuantAdd: keras.layers.Add,
    quant_layers.QuantMultiply: keras.layers.Multiply,
    quant_layers.QuantIdentity: _Nothing,
    quant_layers.QuantPReLU: PReLU,
    quant_layers.QuantLeakyReLU: keras.layers.LeakyReLU,
}


def _stock_layer(layer):
    config, name = layer.get_config(), layer.name
    if isinstance(layer, quant_layers.QuantActivation):
        return keras.layers.Activation(layer.function, name=name)
    if isinstance(layer, quant_layers.QuantHardSigmoid):
        return keras.layers.Activation("hard_sigmoid", name=name)
    if isinstance(layer, quant_layers.QuantConcatenate):
        return keras.layers.Concatenate(layer.axis, name=name)
    for quantized, stock in _WITHOUT_KERNEL.items():
        if isinstance(layer, quantized):
            return stock(name=name)
    for quantized, stock in _STOCK.items():
        if isinstance(layer, quantized):
            for argument in _BITS:
                config.pop(argument, None)
            return stock.from_config(config)
    return type(layer).from_config(config)


def _call(layer, *args, **kwargs):
    """Calls a layer of the twin, as the float network has it.

    The order of layers in a file depends on how many follow one another.
    """
    if isinstance(layer, _Nothing):
        return (*args, *kwargs.values())[0]
    output = layer(*args, **kwargs)
    if isinstance(layer, _Add):
        output = keras.layers.ReLU(name=f"{layer.name}.relu")(output)
    return output
