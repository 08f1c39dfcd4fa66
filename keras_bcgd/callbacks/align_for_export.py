"""AlignForExport: trains on with the network that the file will compute."""

import contextlib
import numbers

import keras
import numpy as np
from keras import ops

from keras_bcgd.callbacks.held import Held
from keras_bcgd.constraints import QuantProjection
from keras_bcgd.export import align_for_export
from keras_bcgd.optimizers import blended_optimizer
from keras_bcgd.optimizers import rescale
from keras_bcgd.optimizers import round_to_codes


class AlignForExport(keras.callbacks.Callback):
    """Aligns the model in training, then trains the codes of its weights only.

    At the start of one epoch the model is aligned as `align_for_export` does
    it. From then on the codes of quantized kernels are trained and nothing
    else: gamma, beta, biases, alphas and the scales of kernels stay, and batch
    normalization computes with its moving statistics. So every forward pass is
    that of the file, validation included, and `export_tflite` has nothing left
    to move: `report.model` is the model itself. At the end of `fit` all may be
    trained again.

    Keep the schedule so that the learning rate is small by then: what is held
    no longer follows the codes.

    A training that goes on from a checkpoint with `initial_epoch` ends as one
    that was never stopped. The training must be one of `BlendedOptimizer`,
    whose float weights y follow where alignment moves the scale of a kernel;
    without `use_ema`, whose means would replace what is held.

    Args:
        epoch: Int, the epoch at whose start the model is aligned, from 0; below
            0 it counts from the end, `epochs` of `fit`. Defaults to `-1`, the
            last one.
        **options: The arguments of `align_for_export`: `input_range`,
            `representative_data`, `weight_format`, `minimize`, `target`. Export
            with the same ones.

    Attributes:
        report: `AlignmentReport` of what was moved; `None`: not aligned yet.

    Raises:
        ValueError: If `epoch` is no integer; at the start of training, if there
            are fewer epochs, or the optimizer is another; at the start of the
            epoch as `align_for_export`.

    Example:

    ```python
    align = keras_bcgd.AlignForExport(input_range=(0, 1))
    model.fit(x_train, y_train, epochs=2, callbacks=[align], verbose=0)
    print(align.report)
    report = keras_bcgd.export_tflite(model, "model.tflite", (0, 1))
    assert report.model is model
    ```
    """

    def __init__(self, epoch=-1, **options):
        super().__init__()
        if isinstance(epoch, bool) or not isinstance(epoch, numbers.Integral):
            raise ValueError(
                f"`epoch` must be an integer. Received: epoch={epoch!r}"
            )
        self.epoch = int(epoch)
        self.options = {"verbose": 0} | options
        self.report = None
        self._held = None

    def on_train_begin(self, logs=None):
        self._release()  # what an interrupted training left
        epochs = self.params["epochs"]
        self._first = self.epoch + epochs if self.epoch < 0 else self.epoch
        if self._first < 0:
            raise ValueError(
                f"`epoch` must be at least -{epochs}, as `fit` has epochs="
                f"{epochs}. Received: epoch={self.epoch}"
            )
        optimizer = blended_optimizer(self.model)
        if optimizer is None:
            raise ValueError(
                "AlignForExport needs a model compiled with a "
                "keras_bcgd.BlendedOptimizer. "
                f"Received: optimizer={self.model.optimizer!r}"
            )
        inner = optimizer.get_config()["inner_optimizer"]
        if inner["config"].get("use_ema"):
            raise ValueError(
                "AlignForExport needs an optimizer without `use_ema`: at the "
                "end its means replace the weights that were aligned. "
                "Received: use_ema=True"
            )

    def on_epoch_begin(self, epoch, logs=None):
        if epoch < self._first or self._held is not None:
            return
        model = self.model
        _build_optimizer(model)
        kernels = _kernels(model)
        if epoch == self._first:
            self._align(model, kernels)
        self._held = Held(model, kernels)

    def _align(self, model, kernels):
        before = [ops.convert_to_numpy(kernel) for kernel in kernels]
        before = [np.array(w) for w in before]  # not views of what changes
        self.report = align_for_export(model, **self.options)
        optimizer = blended_optimizer(model)
        for kernel, w in zip(kernels, before, strict=True):
            rescale(optimizer, kernel, w)
            round_to_codes(optimizer, kernel)

    def on_train_end(self, logs=None):
        self._release()

    def _release(self):
        if self._held is not None:
            self._held.release()
            self._held = None


def _build_optimizer(model):
    """Makes y and w of the float weights, which else the first step does."""
    if model.optimizer.built:
        return
    strategy = getattr(model, "distribute_strategy", None)
    scope = contextlib.nullcontext() if strategy is None else strategy.scope()
    with scope:
        model.optimizer.build(model.trainable_variables)


def _kernels(model):
    """The quantized kernels that are trained."""
    return [
        variable
        for variable in model.trainable_variables
        if isinstance(variable.constraint, QuantProjection)
    ]
