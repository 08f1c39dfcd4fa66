"""Dead and saturated activations: what only data can tell."""

import contextlib
import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from keras_bcgd import layers as quant_layers
from keras_bcgd.activations import largest_level
from keras_bcgd.network import model_layers
from keras_bcgd.network import traits


@dataclasses.dataclass
class ActivationStatistics:
    """What one layer computed.

    Attributes:
        largest_of_width: Dict from numbers of channels to arrays, the largest
            magnitude in each channel. It has several if the layer was called
            on tensors of several widths.
        saturated_count: Int, how many inputs were beyond the grid.
        count: Int, how many outputs there were.
    """

    largest_of_width: dict = dataclasses.field(default_factory=dict)
    saturated_count: int = 0
    count: int = 0

    @property
    def largest(self):
        """Array, the largest magnitude in each channel, of all widths."""
        return np.concatenate(list(self.largest_of_width.values()))

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
        """The share of inputs beyond the grid."""
        return self.saturated_count / self.count

    def add(self, output, axis, saturated):
        """Counts what one call computed; `saturated` says where."""
        others = tuple(i for i in range(output.ndim) if i != axis)
        largest = np.max(np.abs(output), others)
        before = self.largest_of_width.get(largest.size, 0.0)
        self.largest_of_width[largest.size] = np.maximum(before, largest)
        self.saturated_count += int(np.sum(saturated))
        self.count += output.size


def activation_statistics(model, inputs):
    """Runs a model on data and watches its activations.

    These are the layers QuantReLU, QuantIdentity, their subclasses, ReLU, and
    those whose `activation` is ReLU or ReLU6. Saturated are the inputs beyond
    the top level of a grid, beyond either end of a QuantIdentity's, and beyond
    the `max_value` of a ReLU, if it has one.

    Channels are the last axis, or the second where the last layer that ran
    before and has a `data_format` (a convolution, say) has "channels_first".

    Args:
        model: `keras.Model`.
        inputs: Iterable of what the model is called on.

    Returns:
        Dict from the paths of layers to their `ActivationStatistics`.
    """
    found = {}
    with contextlib.ExitStack() as stack:
        formats = [keras.config.image_data_format()]
        for path, layer in model_layers.leaves(model).items():
            if hasattr(layer, "data_format"):
                on_call = functools.partial(_set_format, formats, layer)
                stack.enter_context(model_layers.watch(layer, before=on_call))
            if _is_activation(layer):
                found[path] = ActivationStatistics()
                on_call = functools.partial(
                    _update, found[path], formats, layer
                )
                stack.enter_context(model_layers.watch(layer, on_call))
        for x in inputs:
            formats[:] = [keras.config.image_data_format()]
            model(x, training=False)
    return {path: seen for path, seen in found.items() if seen.count}


def input_of_call(layer, args):
    """What a call of a layer with a grid rounds, as a float32 array.

    Of a QuantAddReLU it is the sum, before the branch alone is rounded.

    Args:
        layer: The Keras layer.
        args: Tuple, the arguments of its `call`.
    """
    (x, *_) = args
    if isinstance(layer, quant_layers.QuantAddReLU):
        x = x[0] + x[1]
    elif isinstance(layer, quant_layers.QuantIdentity):
        x = layer.merge(x)
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def is_saturated(layer, x):
    """Whether each input of a layer is beyond its grid, by more than rounding.

    Args:
        layer: QuantReLU, QuantIdentity or ReLU.
        x: Array, as from `input_of_call`.

    Returns:
        Boolean array.
    """
    low, high = _ends(layer)
    x = x.astype("float64")
    return (x < low * (1 + _ROUNDING)) | (x > high * (1 + _ROUNDING))


_ROUNDING = 1e-6
_WITH_INPUTS = (
    keras.layers.ReLU,
    quant_layers.QuantReLU,
    quant_layers.QuantIdentity,
)


def _is_activation(layer):
    return traits.has_relu(layer) or isinstance(layer, _WITH_INPUTS)


def _set_format(formats, layer, args):
    formats[:] = [layer.data_format]


def _update(seen, formats, layer, args, output):
    output = ops.convert_to_numpy(ops.cast(output, "float32"))
    is_first = formats == ["channels_first"] and output.ndim > 2
    axis = 1 if is_first else output.ndim - 1
    if isinstance(layer, _WITH_INPUTS):
        saturated = is_saturated(layer, input_of_call(layer, args))
    else:
        # Within a convolution, say: ReLU6 has cut its input off already.
        saturated = output >= _ends(layer)[1]
    seen.add(output, axis, saturated)


def _ends(layer):
    """The smallest and the largest number that a layer does not cut off."""
    if isinstance(layer, quant_layers.QuantReLU):
        end = largest_level(layer.bits) * model_layers.alpha_of(layer)
        return -np.inf, end
    if isinstance(layer, quant_layers.QuantIdentity):
        low, high = layer.smallest_and_largest_code
        step = model_layers.alpha_of(layer)
        return low * step, high * step
    top = getattr(layer, "max_value", None)
    if traits.has_relu(layer):
        top = traits.largest_of_relu(layer)
    return -np.inf, np.inf if top is None else float(top)
