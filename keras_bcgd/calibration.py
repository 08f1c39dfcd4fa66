"""calibrate: every alpha of a quantized model from some data, in one pass."""

import dataclasses
import warnings

import keras
import numpy as np

from keras_bcgd import batches as batches_lib
from keras_bcgd import tables
from keras_bcgd.activations import largest_level
from keras_bcgd.histogram import METHODS
from keras_bcgd.histogram import Histogram
from keras_bcgd.histogram import best_scale
from keras_bcgd.histogram import relative_error
from keras_bcgd.layers import QuantAddReLU
from keras_bcgd.layers import QuantIdentity
from keras_bcgd.layers import QuantReLU
from keras_bcgd.traversal import leaf_layers


def calibrate(
    model,
    data,
    method="mse",
    percentile=99.9,
    batches=None,
    batch_size=32,
    verbose="auto",
):
    """Sets every alpha of a quantized model from some batches of data.

    Each batch runs through the model once. What reaches a staircase (slide
    "Activation Quantization (AQ)") is added to its histogram, its alpha is set
    to suit the histogram so far, and the batch goes on through the staircase
    with that alpha. So every alpha suits what it will be fed: the weights are
    quantized and so are the activations before. (Calibrated on the float
    network instead, the errors of the layers before are not seen.) Batch
    normalization uses its moving averages, as in inference. Where the alpha of
    a QuantReLU is bounded, as `quantize_model` bounds it in the place of a
    ReLU6, its inputs count as clipped there.

    Args:
        model: A built Keras model with QuantReLU, QuantAddReLU or
            QuantIdentity layers. Their alphas are changed, nothing else.
        data: Array of inputs, `keras.utils.PyDataset`, `tf.data.Dataset`, or
            another iterable of batches. A batch is what the model is called
            with, or a tuple that begins with it: `(x, y)`.
        method: String. `"mse"`: the mean squared distance from the ReLU (for a
            QuantIdentity, from its input) is smallest. `"max"`: nothing is
            cut off. `"percentile"`: this share of the positive inputs (for a
            QuantIdentity, of the magnitudes) is not. Defaults to `"mse"`.
        percentile: Float above 0, at most 100. Defaults to `99.9`.
        batches: Int, how many batches are used; `None`: all. Defaults to
            `None`.
        batch_size: Int, for an array. Defaults to `32`.
        verbose: `"auto"`, 0, 1, or 2, as in `fit`. 0 shows no progress bar.
            Defaults to `"auto"`.

    Returns:
        A `Calibration`; printed, it is a table.

    Raises:
        ValueError: If an argument is not one of the above, if there are no
            data, or they or what a layer is fed are not finite: then no alpha
            is changed.

    Example:

    ```python
    model = keras_bcgd.quantize_model(float_model)
    print(keras_bcgd.calibrate(model, x_train[:512], verbose=0))
    ```
    """
    _check_choice("method", method, METHODS)
    _check_choice("verbose", verbose, ("auto", 0, 1, 2))
    if not 0 < percentile <= 100:
        raise ValueError(
            "`percentile` must be above 0 and at most 100. "
            f"Received: percentile={percentile!r}"
        )
    _check_count("batches", batches, allow_none=True)
    _check_count("batch_size", batch_size)
    observers = _observers(model, method, percentile)
    try:
        for observer in observers:
            observer.begin()
        _run(
            model,
            data,
            batches,
            batch_size,
            1 if verbose == "auto" else verbose,
        )
    except BaseException:
        for observer in observers:
            observer.layer.alpha.assign(observer.before)
        raise
    finally:
        for observer in observers:
            observer.end()
    rows = [observer.row() for observer in observers]
    unseen = [row.name for row in rows if row.cut_off is None]
    if unseen:
        warnings.warn(
            "These layers were fed nothing above 0, their alphas are as they "
            f"were: {', '.join(unseen)}",
            stacklevel=2,
        )
    return Calibration(rows)


def best_alpha(x, bits, method="mse", percentile=99.9):
    """The alpha of a staircase that suits some inputs of it.

    Args:
        x: Array of finite numbers.
        bits: Int, the bits of the staircase.
        method: String; see `calibrate`. Defaults to `"mse"`.
        percentile: Float; see `calibrate`. Defaults to `99.9`.

    Returns:
        A float, or `None` if no number is above 0.

    Example:

    >>> keras_bcgd.best_alpha([-1.0, 0.5, 3.0], bits=2, method="max")
    1.0
    """
    _check_choice("method", method, METHODS)
    histogram = Histogram()
    histogram.add(np.asarray(x))
    return best_scale(histogram, bits, method, percentile)


@dataclasses.dataclass
class CalibratedLayer:
    """One alpha.

    Attributes:
        name: String, the path of the layer in the model.
        kind: String, its class.
        bits: Int.
        before: Float, the alpha before.
        alpha: Float, the alpha now.
        cut_off: Float, the share of the positive inputs (of the magnitudes,
            for a QuantIdentity) that are beyond the last code; `None` if none
            was seen.
        error: Float, the root of the mean squared error over that of the
            inputs (of the positive ones, but for a QuantIdentity).
    """

    name: str
    kind: str
    bits: int
    before: float
    alpha: float
    cut_off: float | None
    error: float | None


@dataclasses.dataclass
class Calibration:
    """What `calibrate` did; printed, a table.

    Attributes:
        layers: List of `CalibratedLayer`, in the order of the model.

    Example:

    ```python
    model = keras_bcgd.quantize_model(float_model)
    report = keras_bcgd.calibrate(model, x_train, verbose=0)
    print({layer.name: layer.alpha for layer in report.layers})
    ```
    """

    layers: list

    def __str__(self):
        rows = [
            ["layer", "type", "bits", "before", "alpha", "cut off", "error"]
        ]
        for row in self.layers:
            shares = ["-", "-"]
            if row.cut_off is not None:
                shares = [f"{row.cut_off:.2%}", f"{row.error:.1%}"]
            alphas = [f"{row.before:.4g}", f"{row.alpha:.4g}"]
            rows.append([row.name, row.kind, str(row.bits), *alphas, *shares])
        return "\n".join(tables.columns(rows, left=2))


class _Observer:
    """Stands in for the `call` of a layer while a batch runs through it."""

    def __init__(self, name, layer, method, percentile):
        self.name = name
        self.layer = layer
        self.method = method
        self.percentile = percentile
        self.signed = isinstance(layer, QuantIdentity)
        self.histogram = Histogram()
        self.before = float(layer.alpha)

    def begin(self):
        self._call = self.layer.call
        self.layer.call = self

    def end(self):
        # What is left is the method of the class.
        self.layer.__dict__.pop("call", None)

    def __call__(self, inputs):
        x = inputs
        if isinstance(self.layer, QuantAddReLU):
            x = inputs[0] + inputs[1]
        x = keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
        if not np.all(np.isfinite(x)):
            raise ValueError(
                "What the model computes for `data` must be finite. Received: "
                f"{np.sum(~np.isfinite(x))} values NaN or infinite in the "
                f"input of layer '{self.name}'"
            )
        self.histogram.add(self._clipped(x))
        alpha = best_scale(
            self.histogram,
            self.layer.bits,
            self.method,
            self.percentile,
            self.signed,
        )
        if alpha is not None:
            alpha = np.asarray(alpha, "float32")
            self.layer.alpha.assign(self.layer.alpha_constraint(alpha))
        return self._call(inputs)

    def _clipped(self, x):
        """As the float ReLU clips, a ReLU6 say, from which the layer came."""
        largest = self.layer.alpha_constraint.max_value
        if largest is None or self.signed:
            return x
        return np.minimum(x, largest * largest_level(self.layer.bits))

    def row(self):
        alpha = float(self.layer.alpha)
        cut_off, error = relative_error(
            self.histogram, alpha, self.layer.bits, self.signed
        )
        kind = type(self.layer).__name__
        return CalibratedLayer(
            self.name, kind, self.layer.bits, self.before, alpha, cut_off, error
        )


def _observers(model, method, percentile):
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a built keras.Model. Received: model={model!r}"
        )
    observers = [
        _Observer(path, layer, method, percentile)
        for path, layer in leaf_layers(model)
        if isinstance(layer, (QuantReLU, QuantIdentity))
    ]
    if not observers:
        raise ValueError(
            "`model` must have a QuantReLU, a QuantAddReLU or a QuantIdentity."
            f" Received: the model '{model.name}' without any"
        )
    return observers


def _run(model, data, limit, batch_size, verbose):
    """Runs the batches, in inference mode, one operation after another."""
    source, total = batches_lib.read(data, batch_size)
    if limit is not None:
        total = limit if total is None else min(limit, total)
    progress = keras.utils.Progbar(total, verbose=verbose, unit_name="batch")
    done = 0
    for batch in source:
        if done == limit:
            break
        model(batches_lib.inputs_of(batch, done), training=False)
        done += 1
        progress.update(done, finalize=done == total)
    if not done:
        raise ValueError("`data` must hold at least one batch. Received: none")


def _check_choice(name, value, allowed):
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, allowed))}. "
            f"Received: {name}={value!r}"
        )


def _check_count(name, value, allow_none=False):
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if (allow_none and value is None) or (is_int and value > 0):
        return
    allowed = "an integer above 0" + (", or None" if allow_none else "")
    raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")
