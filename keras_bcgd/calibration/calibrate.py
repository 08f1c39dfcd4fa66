"""calibrate: every alpha of a quantized model from some data, in one pass."""

import contextlib
import dataclasses
import numbers
import warnings

import keras
import numpy as np

from keras_bcgd.activations import largest_level
from keras_bcgd.analysis.activation_statistics import input_of_call
from keras_bcgd.calibration.histogram import METHODS
from keras_bcgd.calibration.histogram import Histogram
from keras_bcgd.calibration.histogram import best_step
from keras_bcgd.calibration.histogram import relative_error
from keras_bcgd.layers import QuantIdentity
from keras_bcgd.layers import QuantReLU
from keras_bcgd.network import model_layers
from keras_bcgd.network.frugal import frugal
from keras_bcgd.utils import tables
from keras_bcgd.utils.batches import read_batches
from keras_bcgd.utils.checks import VERBOSE
from keras_bcgd.utils.checks import check_bits
from keras_bcgd.utils.checks import check_choice


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
        data: Inputs: an array, a dict of arrays, a list of them (if the model
            has several inputs; else of batches), a tuple `(x, y)`, a
            `PyDataset`, a `tf.data.Dataset` or another iterable of batches.
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
    check_choice("method", method, METHODS)
    check_choice("verbose", verbose, VERBOSE)
    _check_percentile(percentile)
    observers = _observers(model, method, percentile)
    read, number = read_batches(data, model, batch_size, batches)
    try:
        with contextlib.ExitStack() as stack:
            for observer in observers:
                context = model_layers.watch(observer.layer, before=observer)
                stack.enter_context(context)
            _run(model, read, number, verbose)
    except BaseException:
        for observer in observers:
            observer.layer.alpha.assign(observer.before)
        raise
    rows = [observer.row() for observer in observers]
    unseen = [row.name for row in rows if row.cut_off is None]
    if unseen:
        warnings.warn(
            "These layers were fed nothing above 0, their alphas are as they "
            f"were: {', '.join(unseen)}",
            stacklevel=2,
        )
    collapsed = [
        row.name
        for row, observer in zip(rows, observers, strict=True)
        if row.name not in unseen and model_layers.has_collapsed(observer.layer)
    ]
    if collapsed:
        warnings.warn(
            "The inputs of these layers are so small that their alphas are at "
            f"the lower bound: {', '.join(collapsed)}. Give them an "
            "AlphaBound with a smaller `min_value`, or larger inputs.",
            stacklevel=2,
        )
    return Calibration(rows)


def best_alpha(x, bits, method="mse", percentile=99.9):
    """The alpha of a staircase that suits some inputs of it.

    Args:
        x: Array of finite numbers.
        bits: Int from 1 to 8, the bits of the staircase.
        method: String; see `calibrate`. Defaults to `"mse"`.
        percentile: Float; see `calibrate`. Defaults to `99.9`.

    Returns:
        A float, or `None` if no number is above 0.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> keras_bcgd.best_alpha([-1.0, 0.5, 3.0], bits=2, method="max")
    1.0
    """
    bits = check_bits(bits)
    check_choice("method", method, METHODS)
    _check_percentile(percentile)
    try:
        x = np.asarray(x, "float64")
    except (TypeError, ValueError):
        raise ValueError(
            f"`x` must be an array of numbers. Received: {type(x).__name__}"
        ) from None
    wrong = np.sum(~np.isfinite(x))
    if wrong:
        raise ValueError(
            f"`x` must be finite. Received: {wrong} values NaN or infinite"
        )
    histogram = Histogram()
    histogram.add(x)
    return best_step(histogram, bits, method, percentile)


@dataclasses.dataclass
class CalibratedLayer:
    """One alpha.

    Attributes:
        name: String, the path of the layer in the model.
        kind: String, its class.
        bits: Int.
        before: Float, the alpha before.
        alpha: Float, the alpha now.
        cut_off: Float, the share of the positive inputs (of all, for a
            QuantIdentity) that are beyond the last code, without those that
            the ReLU6 would clip in whose place a layer is; `None` if none was
            seen.
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
    """Sets an alpha before each call of its layer."""

    def __init__(self, name, layer, method, percentile):
        self.name = name
        self.layer = layer
        self.method = method
        self.percentile = percentile
        self.signed = isinstance(layer, QuantIdentity)
        self.minimum = layer.minimum if self.signed else None
        self.histogram = Histogram()
        self.before = model_layers.alpha_of(layer)

    def __call__(self, args):
        x = input_of_call(self.layer, args)
        if not np.all(np.isfinite(x)):
            raise ValueError(
                "What the model computes for `data` must be finite. Received: "
                f"{np.sum(~np.isfinite(x))} values NaN or infinite in the "
                f"input of layer '{self.name}'"
            )
        clipped_at = self._clipped_at()
        if clipped_at is not None:
            x = np.minimum(x, clipped_at)
        if self.signed:
            x = np.clip(x, *self.layer.domain)
        self.histogram.add(x)
        alpha = best_step(
            self.histogram,
            self.layer.bits,
            self.method,
            self.percentile,
            self.signed,
            self.minimum,
        )
        if alpha is not None:
            alpha = np.asarray(alpha, "float32")
            self.layer.alpha.assign(self.layer.alpha_constraint(alpha))

    def _clipped_at(self):
        """Where the float ReLU clips from which the layer came: a ReLU6."""
        largest = self.layer.alpha_constraint.max_value
        if largest is None or self.signed:
            return None
        return largest * largest_level(self.layer.bits)

    def row(self):
        alpha = model_layers.alpha_of(self.layer)
        cut_off, error = relative_error(
            self.histogram,
            alpha,
            self.layer.bits,
            self.signed,
            self._clipped_at(),
            self.minimum,
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
        for path, layer in model_layers.leaves_of_class(
            model, (QuantReLU, QuantIdentity)
        ).items()
    ]
    if not observers:
        raise ValueError(
            "`model` must have a QuantReLU, a QuantAddReLU or a QuantIdentity."
            f" Received: the model '{model.name}' without any"
        )
    return observers


def _run(model, read, number, verbose):
    """Runs the batches, in inference mode, one operation after another."""
    verbose = 1 if verbose == "auto" else verbose
    progress = keras.utils.Progbar(number, verbose=verbose, unit_name="batch")
    run = frugal(model)
    for done, (x, *_) in enumerate(read, 1):
        run(x)
        progress.update(done, finalize=done == number)


def _check_percentile(percentile):
    is_number = isinstance(percentile, numbers.Real)
    if not is_number or not 0 < percentile <= 100:
        raise ValueError(
            "`percentile` must be a number above 0 and at most 100. "
            f"Received: percentile={percentile!r}"
        )
