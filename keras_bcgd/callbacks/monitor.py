"""QuantizationMonitor: what the codes and the resolutions do while training.

For each quantized kernel the distance of the float weights y from the quantized
ones w, the share of codes that an epoch changed, and how often each code is
used; for each staircase its alpha.
"""

import keras
import numpy as np
from keras import ops

from keras_bcgd.layers import QuantIdentity
from keras_bcgd.layers import QuantReLU
from keras_bcgd.layers.quant_kernel import QuantKernel
from keras_bcgd.network.model_layers import alpha_of
from keras_bcgd.network.model_layers import leaves_of_class
from keras_bcgd.optimizers import blended_optimizer


class QuantizationMonitor(keras.callbacks.Callback):
    """Writes what quantization does to a model, once per epoch.

    The tags, for each layer by its name (in a model `block` within the model,
    by its path `block/relu1`):

    - `alpha/relu1`: the resolution of a `QuantReLU` or `QuantIdentity`;
    - `distance/conv1`: `||y - w|| / ||y||`, where w are the quantized weights
      and y the float ones of `BlendedOptimizer` (or of the layer itself, under
      a stock optimizer);
    - `changed_codes/conv1`: the share of codes that are others than at the end
      of the epoch before (in a tiny layer whose codes have a common divisor
      they may all change with one: the codes are those of the largest scale);
    - `codes/conv1`: the histogram of the codes.

    The step of an epoch is its number, from 1.

    Args:
        writer: What takes the numbers: an object with the methods
            `add_scalar(tag, value, step)` and `add_histogram(tag, values,
            step)`, as the `SummaryWriter` for TensorBoard of tensorboardX or
            PyTorch. Defaults to `None`: nothing is written.

    Attributes:
        latest: Dict, the scalars of the last epoch by their tags.
        history: Dict, a list for each tag and one for `"epoch"`: the scalars
            of all epochs. `keras_bcgd.plot_alphas` draws it.

    Example:

    ```python
    monitor = keras_bcgd.QuantizationMonitor()
    model.fit(x_train, y_train, epochs=3, callbacks=[monitor], verbose=0)
    print(monitor.latest["alpha/relu1"])
    ```
    """

    def __init__(self, writer=None):
        super().__init__()
        for method in ("add_scalar", "add_histogram"):
            if writer is not None and not callable(
                getattr(writer, method, None)
            ):
                raise ValueError(
                    "`writer` must have the methods add_scalar and "
                    "add_histogram, as tensorboardX.SummaryWriter. "
                    f"Received: writer={writer!r}"
                )
        self.writer = writer
        self.latest = {}
        self.history = {}

    def on_train_begin(self, logs=None):
        self._codes = {
            path: layer.kernel_scale_and_codes()[1]
            for path, layer in quantized_layers(self.model).items()
        }

    def on_epoch_end(self, epoch, logs=None):
        self.latest = {}
        for path, layer in layers_with_alpha(self.model).items():
            self.latest[f"alpha/{path}"] = alpha_of(layer)
        for path, layer in quantized_layers(self.model).items():
            scale, codes = layer.kernel_scale_and_codes()
            y = ops.convert_to_numpy(float_weights(self.model, layer))
            distance = _relative_distance(scale * codes, y)
            self.latest[f"distance/{path}"] = distance
            changed = np.mean(codes != self._codes[path])
            self.latest[f"changed_codes/{path}"] = float(changed)
            self._codes[path] = codes
            if self.writer is not None:
                values = np.ravel(codes)
                self.writer.add_histogram(f"codes/{path}", values, epoch + 1)
        for tag, value in ({"epoch": epoch + 1} | self.latest).items():
            self.history.setdefault(tag, []).append(value)
        if self.writer is not None:
            for tag, value in self.latest.items():
                self.writer.add_scalar(tag, value, epoch + 1)


def quantized_layers(model):
    """The layers of a model whose weights are quantized, by their paths."""
    found = leaves_of_class(model, QuantKernel).items()
    return {path: layer for path, layer in found if layer.is_quantized}


def layers_with_alpha(model):
    """The layers of a model that have an alpha, by their paths."""
    return leaves_of_class(model, (QuantReLU, QuantIdentity))


def float_weights(model, layer):
    """The variable that holds y: the optimizer's shadow, else the kernel."""
    optimizer = blended_optimizer(model)
    # A frozen kernel has no shadow, nor has any before the first step.
    if optimizer is None or not optimizer.built or not layer.kernel.trainable:
        return layer.kernel
    return optimizer.shadow(layer.kernel)


def _relative_distance(w, y):
    norm = np.linalg.norm(np.ravel(y))
    return float(np.linalg.norm(np.ravel(y - w)) / norm) if norm else 0.0
