"""The float weights of a layer, in the layers that take its place."""

import keras
import numpy as np

from keras_bcgd import layers as quant_layers


def copy(old, new_layers):
    """Copies, as JAX gives a buffer up with the first model that runs.

    Args:
        old: The layer of the float model.
        new_layers: List of the layers that take its place.
    """
    if not getattr(old, "weights", None):
        return
    if isinstance(new_layers[0], quant_layers.QuantDepthwiseConv2D) and (
        type(old) is keras.layers.SeparableConv2D
    ):
        depthwise, pointwise = (
            layer
            for layer in new_layers
            if isinstance(layer, quant_layers.QuantKernel)
        )
        _assign(depthwise.kernel, old.depthwise_kernel)
        _assign(pointwise.kernel, old.pointwise_kernel)
        if old.use_bias:
            _assign(pointwise.bias, old.bias)
        return
    new = new_layers[0]
    if isinstance(new, quant_layers.QuantPReLU):
        slopes = keras.ops.convert_to_numpy(old.alpha)
        _assign(new.negative.slopes, slopes.reshape(-1))
        return
    if isinstance(new, quant_layers.QuantKernel):
        _assign(new.kernel, old.kernel)
        if old.use_bias:
            _assign(new.bias, old.bias)
        return
    new.set_weights([np.array(weight) for weight in old.get_weights()])
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()


def _assign(variable, value):
    variable.assign(np.array(keras.ops.convert_to_numpy(value)))
