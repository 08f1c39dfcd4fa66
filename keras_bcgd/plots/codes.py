"""plot_weight_codes: weights before and after the projection."""

import itertools
import math

import keras
import numpy as np
from keras import ops

from keras_bcgd.callbacks.monitor import float_weights
from keras_bcgd.callbacks.monitor import quantized_layers
from keras_bcgd.layers.quant_kernel import QuantKernel
from keras_bcgd.plots import figures

_MAX_PANELS = 12


def plot_weight_codes(model_or_layer, model=None):
    """The float weights y and the quantized ones w of each layer.

    In units of the scale: a histogram of y, and a bar at each code, as high as
    its share of w. With one scale for each channel every weight is divided by
    its own.

    Args:
        model_or_layer: `keras.Model`, of which the first 12 quantized layers
            are drawn, or one quantized layer, built.
        model: The compiled model that a layer belongs to: the optimizer of a
            model holds y once it is trained. Without it, or where a model was
            loaded without its optimizer, y is drawn only if the layer still
            holds it. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If nothing is quantized, or weights are NaN or infinite.
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    keras_bcgd.plot_weight_codes(model).savefig("codes.png")
    ```
    """
    if isinstance(model_or_layer, keras.Model):
        model = model_or_layer
        found = quantized_layers(model).items()
        layers = dict(itertools.islice(found, _MAX_PANELS))
    else:
        is_kernel = isinstance(model_or_layer, QuantKernel)
        has_codes = is_kernel and model_or_layer.is_quantized
        layers = {model_or_layer.name: model_or_layer} if has_codes else {}
    if not layers:
        raise ValueError(
            "`model_or_layer` must be a quantized layer, or a model with one. "
            f"Received: model_or_layer={model_or_layer}"
        )
    weights = {
        path: ops.convert_to_numpy(_y(model, layer))
        for path, layer in layers.items()
    }
    for path, y in weights.items():
        wrong = np.sum(~np.isfinite(y))
        if wrong:
            raise ValueError(
                "`model_or_layer` must have finite weights. Received: "
                f"{wrong} weights NaN or infinite in layer '{path}'"
            )
    columns = min(3, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = figures.new_figure(max(5.0, 4.2 * columns), 0.4 + 2.8 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (path, layer) in zip(axes, layers.items(), strict=False):
        _draw_codes(ax, path, layer, weights[path])
    for ax in axes[len(layers) :]:
        ax.set_axis_off()
    for ax in axes[: len(layers)]:
        ax.set_xlabel("weight / scale")
    for ax in axes[: len(layers) : columns]:
        ax.set_ylabel("% of weights, per code")
    figure.align_ylabels()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def _y(model, layer):
    return layer.kernel if model is None else float_weights(model, layer)


def _draw_codes(ax, path, layer, y):
    scale, codes = layer.kernel_scale_and_codes()
    values, counts = np.unique(codes, return_counts=True)
    shares = 100 * counts / codes.size
    units = np.ravel(y / np.where(scale > 0, scale, 1))
    top = max(2, math.ceil(np.max(np.abs(units))))
    # Bins of a whole part of a code, so that none straddles two codes.
    parts = 4 if top <= 4 else 2 if top <= 16 else 1
    bins = np.arange(-top - 0.5, top + 0.5 + 1e-9, 1 / parts)
    # Both sum to 100 % over the width of a code.
    weights = np.full(units.size, 100 * parts / units.size)
    width = 1 if parts == 1 else 0.5
    ax.bar(
        values, shares, width, color=figures.SKY, label="quantized weights w"
    )
    if not np.allclose(units, np.ravel(codes), atol=1e-3):
        label = "float weights y"
        ax.hist(
            units,
            bins,
            weights=weights,
            histtype="step",
            color=figures.ORANGE,
            linewidth=1.5,
            label=label,
        )
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_title(f"{path}, {layer.bits} bits", fontsize="medium")
