"""Dead and saturated activations: what only data can tell."""

import contextlib
import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from keras_bcgd import layers as quant_layers
from keras_bcgd import model_layers
from keras_bcgd.activations import largest_level
from keras_bcgd.branches import smallest_and_largest_code

_RELUS = (keras.activations.relu, keras.activations.relu6)


@dataclasses.dataclass
class ActivationStatistics:
    """What the outputs of one layer were.

    Attributes:
        largest: Array, the largest magnitude in each channel.
        saturated_count: Int, how many outputs were at an end of the grid.
        count: Int, how many outputs there were.
    """

    largest: np.ndarray | float = 0.0
    saturated_count: int = 0
    count: int = 0

    @property
    def channels(self):
        """The number of channels, or units."""
        return np.size(self.largest)

    @property
    def dead(self):
        """The number of those whose outputs were all 0."""
        return int(np.sum(self.largest == 0))

    @property
    def saturated(self):
        """The share of outputs at an end of the grid."""
        return self.saturated_count / self.count


def activation_statistics(model, inputs):
    """Runs a model on data and watches its activations.

    These are the layers QuantReLU, QuantAddReLU, QuantIdentity and ReLU, and
    those whose `activation` is ReLU or ReLU6. A grid ends at its top level, a
    QuantIdentity's at both ends, a ReLU's at its `max_value`, if it has one.

    Args:
        model: `keras.Model`.
        inputs: Iterable of what the model is called on.

    Returns:
        Dict from the paths of layers to their `ActivationStatistics`.
    """
    found = {}
    with contextlib.ExitStack() as stack:
        for path, layer in model_layers.leaves(model).items():
            if _is_activation(layer):
                found[path] = ActivationStatistics()
                on_call = functools.partial(_update, found[path], layer)
                stack.enter_context(model_layers.watch(layer, on_call))
        for x in inputs:
            model(x, training=False)
    return {path: seen for path, seen in found.items() if seen.count}


def _is_activation(layer):
    kinds = (
        keras.layers.ReLU,
        quant_layers.QuantReLU,
        quant_layers.QuantIdentity,
    )
    return isinstance(layer, kinds) or (
        getattr(layer, "activation", None) in _RELUS
    )


def _update(seen, layer, args, output):
    output = ops.convert_to_numpy(output).astype("float32")
    axis = _channel_axis(layer, output.ndim)
    others = tuple(i for i in range(output.ndim) if i != axis)
    seen.largest = np.maximum(seen.largest, np.max(np.abs(output), others))
    low, high = _ends(layer)
    seen.saturated_count += int(np.sum((output <= low) | (output >= high)))
    seen.count += output.size


def _channel_axis(layer, rank):
    data_format = getattr(
        layer, "data_format", keras.config.image_data_format()
    )
    return 1 if data_format == "channels_first" and rank > 2 else rank - 1


def _ends(layer):
    """Outputs at or beyond these, to rounding, are at an end of the grid."""
    if isinstance(layer, quant_layers.QuantReLU):
        top = largest_level(layer.bits)
        return -np.inf, (top - 0.5) * float(layer.alpha)
    if isinstance(layer, quant_layers.QuantIdentity):
        low, high = smallest_and_largest_code(layer.bits)
        step = float(layer.alpha)
        return (low + 0.5) * step, (high - 0.5) * step
    top = getattr(layer, "max_value", None)
    if getattr(layer, "activation", None) is keras.activations.relu6:
        top = 6.0
    return -np.inf, np.inf if top is None else float(top)
