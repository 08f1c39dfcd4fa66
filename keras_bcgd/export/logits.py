"""The scale of the outputs that no QuantReLU quantizes."""

import keras
import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import chain
from keras_bcgd.export import trained

_PREDICTION_BATCH = 256
# What lies so far below the largest logit adds e**-8 to a softmax.
_SOFTMAX_DEPTH = 8.0


def logits_grid(model, stage, grid, data, output_type, feeds_softmax):
    """The grid of the logits, from data or from bounds that always hold.

    In int8 it spans the logits that decide: from the smallest runner-up of a
    sample to the largest logit; smaller ones saturate.

    Args:
        model: The Keras model.
        stage: `Stage` of its last convolution or dense layer.
        grid: `Grid` of the input of that stage.
        data: Array of inputs of the model, or `None`.
        output_type: String: `"int8"` or `"int16"`.
        feeds_softmax: Boolean. Whether a softmax follows, to which smaller
            logits matter as well.

    Returns:
        `Grid`.
    """
    real = trained.read_trained(stage)
    if data is None:
        logits, highs = arithmetic.output_range(
            real.codes, real.slope, real.constant, grid
        )
        high = highs.max()
    else:
        logits = _predict(model, stage, data)
        high = logits.max()

    if output_type == "int16":
        largest = max(abs(logits.min()), abs(high), 1e-6)
        return arithmetic.Grid(1.05 * largest / 32767, 0, -32768, 32767)
    if feeds_softmax:
        largest = logits.max(axis=-1, keepdims=True)
        low = np.maximum(logits, largest - _SOFTMAX_DEPTH).min()
    elif logits.shape[-1] > 1:
        low = np.sort(logits, axis=-1)[..., -2].min()
    else:
        low = logits.min()
    margin = 0.02 * (high - low)
    step = np.abs(real.slope).max() * grid.scale
    return arithmetic.range_grid(low - margin, high + margin, step)


def _predict(model, stage, data):
    """What a stage computes, before a softmax of its own, in float."""
    layers = chain.layer_chain(model, chain.Problems())
    last = stage.norm or stage.layer
    layers = layers[: layers.index(last) + 1]
    layer = stage.layer
    if layer.activation is keras.activations.softmax:
        layers[layers.index(layer)] = _without_activation(stage)
    outputs = []
    for start in range(0, len(data), _PREDICTION_BATCH):
        x = keras.ops.convert_to_tensor(
            data[start : start + _PREDICTION_BATCH], keras.config.floatx()
        )
        for layer in layers:
            # Augmentation is on by default in a call.
            if not chain.does_nothing(layer):
                x = layer(x)
        outputs.append(keras.ops.convert_to_numpy(x))
    logits = np.concatenate(outputs).astype(np.float64)
    if not np.all(np.isfinite(logits)):
        raise ValueError(
            "The logits of `representative_data` must be finite. Received: "
            f"{np.sum(~np.isfinite(logits))} values NaN or infinite"
        )
    return logits


def _without_activation(stage):
    layer = stage.layer
    copy = type(layer).from_config({**layer.get_config(), "activation": None})
    copy.build((None, *stage.input_shape))
    copy.set_weights(layer.get_weights())
    return copy
