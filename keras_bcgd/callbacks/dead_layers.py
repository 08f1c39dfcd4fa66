"""WarnOnDeadLayers: tells early that a layer has stopped to learn."""

import numbers
import warnings

import keras
import numpy as np
from keras import ops

from keras_bcgd.analysis.activation_statistics import activation_statistics
from keras_bcgd.layers import QuantIdentity
from keras_bcgd.layers import QuantReLU
from keras_bcgd.layers.quant_kernel import QuantKernel
from keras_bcgd.network.model_layers import alpha_of
from keras_bcgd.network.model_layers import has_collapsed
from keras_bcgd.network.model_layers import leaves
from keras_bcgd.utils.batches import read_batches
from keras_bcgd.utils.checks import check_count

_NOT_FINITE = (
    "Lower the learning rate, or go back to weights from before the training "
    "diverged."
)


class WarnOnDeadLayers(keras.callbacks.Callback):
    """Warns once for each layer that quantization has killed.

    Before the first epoch and after each, it looks for

    - weights or alphas that are NaN or infinite;
    - an alpha at the bound of its `AlphaBound`: the staircase has collapsed;
    - a kernel whose codes are all 0, or more of them than `max_zeros`;
    - with `data`, activations of which more than `max_dead` of all channels
      are 0 on all of the data.

    The warnings are `UserWarning`s with the layer, the number and what helps.

    Args:
        data: Inputs to look at activations with, in a form that
            `keras_bcgd.calibrate` takes; at the start of training a few
            batches of it are read and kept. `None`: activations are not looked
            at. Defaults to `None`.
        max_zeros: Float in [0, 1], the share of codes 0. Defaults to `0.99`.
        max_dead: Float in [0, 1], the share of dead channels. Defaults to
            `0.9`.
        batches: Int, how many batches of `data` are kept; `None`: all.
            Defaults to `2`.

    Raises:
        ValueError: If a share is not in [0, 1], or `batches` not above 0; at
            the start of training, if `data` is empty or not finite.

    Example:

    ```python
    watch = keras_bcgd.WarnOnDeadLayers(x_train[:64])
    model.fit(x_train, y_train, epochs=2, callbacks=[watch], verbose=0)
    ```
    """

    def __init__(self, data=None, max_zeros=0.99, max_dead=0.9, batches=2):
        super().__init__()
        for name, share in (("max_zeros", max_zeros), ("max_dead", max_dead)):
            if not isinstance(share, numbers.Real) or not 0 <= share <= 1:
                raise ValueError(
                    f"`{name}` must be a number in [0, 1]. "
                    f"Received: {name}={share!r}"
                )
        check_count("batches", batches, allow_none=True)
        self.data = data
        self.max_zeros = max_zeros
        self.max_dead = max_dead
        self.batches = batches
        self._inputs = []
        self._warned = set()

    def on_train_begin(self, logs=None):
        if self.data is not None and not self._inputs:
            read, _ = read_batches(self.data, self.model, batches=self.batches)
            self._inputs = [x for x, *_ in read]
        self._check("before the first epoch")

    def on_epoch_end(self, epoch, logs=None):
        self._check(f"after epoch {epoch + 1}")

    def _check(self, when):
        for path, layer in leaves(self.model).items():
            if isinstance(layer, (QuantReLU, QuantIdentity)):
                self._check_alpha(path, layer, when)
            elif isinstance(layer, QuantKernel) and layer.is_quantized:
                self._check_codes(path, layer, when)
        if self._inputs:
            found = activation_statistics(self.model, self._inputs)
            for path, seen in found.items():
                self._check_activations(path, seen, when)

    def _check_alpha(self, path, layer, when):
        alpha = alpha_of(layer)
        if not np.isfinite(alpha):
            self._warn(path, f"alpha is {alpha} {when}. {_NOT_FINITE}")
        elif has_collapsed(layer):
            self._warn(
                path,
                f"alpha has collapsed to its bound, {alpha:.3g}, {when}. Start "
                "it from a batch of data, or give BlendedOptimizer a smaller "
                "`alpha_learning_rate_multiplier`.",
            )

    def _check_codes(self, path, layer, when):
        wrong = np.mean(~np.isfinite(ops.convert_to_numpy(layer.kernel)))
        if wrong:
            self._warn(
                path,
                f"{100 * wrong:.2f} % of the weights are NaN or infinite "
                f"{when}. {_NOT_FINITE}",
            )
            return
        zeros = np.mean(layer.kernel_scale_and_codes()[1] == 0)
        if zeros == 1 or zeros > self.max_zeros:
            self._warn(
                path,
                f"{100 * zeros:.2f} % of the weights have the code 0 {when}. "
                "Give it more bits or `per_channel=True`, or regularize less: "
                "a few large weights set the scale.",
            )

    def _check_activations(self, path, seen, when):
        if seen.dead > self.max_dead * seen.channels:
            self._warn(
                path,
                f"{seen.dead} of its {seen.channels} channels are 0 for all of "
                f"the data {when}. Lower the learning rate, or normalize "
                "before it (BatchNormalization).",
            )

    def _warn(self, path, text):
        if path not in self._warned:
            self._warned.add(path)
            warnings.warn(f"Layer '{path}': {text}", stacklevel=2)
