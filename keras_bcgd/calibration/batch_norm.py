"""reestimate_batch_norm: moving averages measured with the final weights."""

import contextlib
import functools
import inspect
import warnings

import keras
import numpy as np

from keras_bcgd.network import model_layers
from keras_bcgd.network.frugal import frugal
from keras_bcgd.utils.batches import read_batches
from keras_bcgd.utils.checks import VERBOSE
from keras_bcgd.utils.checks import check_choice
from keras_bcgd.utils.progress_bar import Progress

# While a layer is measured its moving averages are those of the last batch
# alone, and its output is not corrected by older ones.
_MEASURING = {"momentum": 0.0, "renorm": False}


def reestimate_batch_norm(
    model, data, batch_size=128, batches=None, verbose="auto"
):
    """Measures the moving averages of batch normalization once more.

    They lag behind the weights: by `1 / (1 - momentum)` steps, in which weights
    of few bits jump from code to code, those that oscillate until the end of
    training. This sets every `moving_mean` and `moving_variance` to what the
    weights as they are now make of some data, as the section on re-estimation
    in Nagel et al. does.

    Every batch runs through the model once. Batch normalization uses the
    statistics of the batch, as in training, so that a layer is fed what it was
    trained with; all else is as in inference: nothing is dropped or augmented.
    Then

    ```
    moving_mean     = mean over the batches of their means
    moving_variance = mean over the batches of their variances
    ```

    where batches of fewer samples count for less. That is what Keras' moving
    averages are, but for the weights: the variance is not that of all data
    together, which also has the variance between batches, of which training
    knows nothing. So take the batch size of the training, and the data of it.

    Layers that are frozen (`trainable=False`) run with their moving averages,
    as in Keras' training, and keep them. All other weights, alphas and the
    optimizer's state stay as they are. Do it after training (and after
    `calibrate`), before the file is exported.

    Args:
        model: A built Keras model, quantized or not, with BatchNormalization
            layers at any depth.
        data: Training inputs, in a form that `calibrate` takes: an array, a
            dict of arrays, a list of them (if the model has several inputs;
            else of batches), a tuple `(x, y)`, a `PyDataset`, a
            `tf.data.Dataset` or another iterable of batches.
        batch_size: Int, for an array. Defaults to `128`.
        batches: Int, how many batches are used; `None`: all. Some dozens are
            enough for large data. Defaults to `None`.
        verbose: `"auto"`, 0, 1, or 2: 0 shows no progress bar, `"auto"` one
            after some seconds. Defaults to `"auto"`.

    Raises:
        ValueError: If an argument is not one of the above, if no
            BatchNormalization is trainable, if there are no data, or they or
            what a layer is fed are not finite. After this or any other error
            the model is as it was.

    Example:

    ```python
    model.fit(x_train, y_train, epochs=2, verbose=0)
    keras_bcgd.reestimate_batch_norm(model, x_train)
    ```

    References:
        [Nagel et al., 2022](https://arxiv.org/abs/2203.11086): "Overcoming
        Oscillations in Quantization-Aware Training".
    """
    check_choice("verbose", verbose, VERBOSE)
    layers = _layers_to_measure(model)
    read, number = read_batches(data, model, batch_size, batches)
    bar = Progress(number, verbose, "batch")
    try:
        with contextlib.ExitStack() as stack:
            for layer in layers:
                stack.enter_context(layer.measured())
            run = frugal(model)
            for index, (x, *_) in enumerate(read):
                run(x)
                for layer in layers:
                    layer.check(index)
                bar.add(1)
        for layer in layers:
            layer.set_averages()
    except BaseException:
        for layer in layers:
            layer.restore()
        raise
    unused = [layer.path for layer in layers if not layer.samples]
    if unused:
        warnings.warn(
            "The model did not call these layers, their moving averages are "
            f"as they were: {', '.join(unused)}",
            stacklevel=2,
        )


class _Measured:
    """A BatchNormalization, and the sums of its batches' statistics."""

    def __init__(self, path, layer):
        self.path = path
        self.layer = layer
        self.samples = 0
        self.sums = np.zeros((2, *layer.moving_mean.shape), "float64")
        self._state = [_numpy(v) for v in layer.non_trainable_variables]

    @contextlib.contextmanager
    def measured(self):
        """A context in which each call uses and counts batch statistics."""
        layer, call = self.layer, self.layer.call
        signature = inspect.signature(call)

        @functools.wraps(call)
        def measured_call(*args, **kwargs):
            given = signature.bind(*args, **kwargs)
            given.arguments["training"] = True
            output = call(*given.args, **given.kwargs)
            self._add(len(output))
            return output

        settings = {k: v for k, v in _MEASURING.items() if hasattr(layer, k)}
        before = {name: getattr(layer, name) for name in settings}
        attributes = vars(layer)
        kept = {"call": attributes["call"]} if "call" in attributes else {}
        # A momentum of 0 does not get rid of what is infinite.
        layer.moving_mean.assign(np.zeros_like(self.sums[0]))
        layer.moving_variance.assign(np.ones_like(self.sums[1]))
        for name, value in settings.items():
            setattr(layer, name, value)
        # Not by `setattr`, with which Keras tracks what a layer holds.
        attributes["call"] = measured_call
        try:
            yield
        finally:
            del attributes["call"]
            attributes.update(kept)
            for name, value in before.items():
                setattr(layer, name, value)

    def _add(self, samples):
        now = [self.layer.moving_mean, self.layer.moving_variance]
        self.samples += samples
        self.sums += samples * np.stack([_numpy(v) for v in now])

    def check(self, index):
        """Raises a `ValueError` if a sum is not finite."""
        wrong = np.sum(~np.isfinite(self.sums).all(0))
        if wrong:
            raise ValueError(
                "What the model computes for `data` must be finite. Received: "
                f"{wrong} channels with a mean or variance that is NaN or "
                f"infinite in the input of layer '{self.path}', in batch "
                f"{index}"
            )

    def set_averages(self):
        self.restore()
        if not self.samples:
            return
        mean, variance = self.sums / self.samples
        self.layer.moving_mean.assign(mean)
        self.layer.moving_variance.assign(variance)
        if getattr(self.layer, "renorm", False):
            # From which Keras derives the variance in the next step.
            stddev = np.sqrt(variance + self.layer.epsilon)
            self.layer.moving_stddev.assign(stddev)

    def restore(self):
        for variable, value in zip(
            self.layer.non_trainable_variables, self._state, strict=True
        ):
            variable.assign(value)


def _layers_to_measure(model):
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a built keras.Model. Received: model={model!r}"
        )
    found, seen = {}, set()
    for path, leaf in model_layers.leaves(model).items():
        found.update(_batch_norms(path, leaf, seen))
    trainable = [
        _Measured(path, layer)
        for path, layer in found.items()
        if layer.trainable
    ]
    if not trainable:
        how_many = f"{len(found)}, all frozen" if found else "none"
        raise ValueError(
            "`model` must have a BatchNormalization that is not frozen "
            f"(trainable=False). Received: the model '{model.name}' with "
            f"{how_many}"
        )
    return trainable


def _batch_norms(path, layer, seen):
    """A layer, or those inside a layer that is neither model nor Composite."""
    if id(layer) in seen:
        return
    seen.add(id(layer))
    if isinstance(layer, keras.layers.BatchNormalization):
        yield path, layer
    for value in keras.tree.flatten(list(vars(layer).values())):
        if isinstance(value, keras.layers.Layer):
            yield from _batch_norms(f"{path}/{value.name}", value, seen)


def _numpy(variable):
    # A copy: NumPy may share the memory of a variable.
    return np.array(keras.ops.convert_to_numpy(variable))
