"""plot_staircase: a QuantReLU above the histogram of what it reads."""

import itertools

import keras
import numpy as np

from keras_bcgd.activations import largest_level
from keras_bcgd.analysis.activation_statistics import input_of_call
from keras_bcgd.analysis.activation_statistics import is_saturated
from keras_bcgd.layers import QuantReLU
from keras_bcgd.network import model_layers
from keras_bcgd.plots import figures
from keras_bcgd.utils.batches import read_batches
from keras_bcgd.utils.checks import check_model

_MAX_SAMPLES = 256


def plot_staircase(layer, model, data):
    """The staircase of a QuantReLU above the histogram of what it reads.

    Args:
        layer: `QuantReLU` or `QuantAddReLU` of the model, its name, or its
            path: `"block/relu"` in a model `block` within the model.
        model: `keras.Model`.
        data: Inputs, in a form that `keras_bcgd.calibrate` takes; the first 256
            samples are used.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the model has no such layer, or several of that name,
            or `data` is empty or not finite.
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    figure = keras_bcgd.plot_staircase("relu1", model, x_train)
    figure.savefig("relu1.png")
    ```
    """
    check_model(model)
    path, layer = _find_staircase(layer, model)
    figure = figures.new_figure(7.0, 5.0)
    x = _inputs_of(layer, model, data)
    alpha, top = model_layers.alpha_of(layer), largest_level(layer.bits)
    end = top * alpha
    low = min(float(np.quantile(x, 0.001)), -0.1 * end)
    high = max(float(np.quantile(x, 0.999)), 1.2 * end)
    stairs, shares = figure.subplots(2, 1, sharex=True)
    steps = alpha * np.arange(top + 1)
    edges = [low, *steps, max(high, 1.2 * end)]
    stairs.stairs(
        [0.0, *steps[1:], end],
        edges,
        baseline=None,
        color=figures.BLUE,
        linewidth=2,
        label=f"staircase, {layer.bits} bits",
    )
    stairs.plot(
        [low, 0, high],
        [0, 0, high],
        "--",
        color=figures.GREY,
        label="ReLU",
        zorder=1,
    )
    stairs.set_ylim(-0.05 * end, 1.25 * end)
    stairs.set_ylabel("output")
    stairs.legend(loc="upper left")
    stairs.set_title(f"{path}, alpha = {alpha:.3g}", fontsize="medium")
    saturated = is_saturated(layer, x)
    parts = {
        "0": (x <= 0, figures.GREY),
        "on the steps": ((x > 0) & ~saturated, figures.BLUE),
        "saturated": (saturated, figures.ORANGE),
    }
    bins = _bins_with_edges(low, high, (0.0, end), 120)
    widths = np.diff(bins)
    for name, (chosen, color) in parts.items():
        counts, _ = np.histogram(x[chosen], bins)
        shares.bar(
            bins[:-1],
            100 * counts / x.size / widths * alpha,
            widths,
            align="edge",
            color=color,
            label=f"{name}: {100 * np.mean(chosen):.1f} %",
        )
    shares.set_xlabel("input of the layer (pre-activation)")
    shares.set_ylabel("share of inputs, % per step")
    shares.set_xlim(low, high)
    shares.legend(loc="upper right")
    return figure


def _find_staircase(layer, model):
    """The path of a layer, and the layer."""
    found = model_layers.leaves_of_class(model, QuantReLU)
    if isinstance(layer, str):
        # The path of a layer may be the name of another one.
        chosen = [layer] if layer in found else []
        chosen = chosen or [p for p in found if found[p].name == layer]
    else:
        chosen = [path for path in found if found[path] is layer]
    if len(chosen) > 1:
        raise ValueError(
            "`layer` must tell which of the layers of that name is meant, by "
            f"its path: {', '.join(chosen)}. Received: layer={layer!r}"
        )
    if not chosen:
        raise ValueError(
            "`layer` must be a QuantReLU of `model`, its name or its path. "
            f"Received: layer={layer!r}"
        )
    (path,) = chosen
    return path, found[path]


def _inputs_of(layer, model, data):
    """What the staircase of a layer reads, for some data."""
    found = []

    def keep(args, output):
        found.append(np.ravel(input_of_call(layer, args)))

    read, _ = read_batches(data, model, _MAX_SAMPLES)
    left = _MAX_SAMPLES
    with model_layers.watch(layer, keep):
        for x, *_ in read:
            x = keras.tree.map_structure(lambda a, n=left: a[:n], x)
            model(x, training=False)
            left -= len(keras.tree.flatten(x)[0])
            if left == 0:
                break
    return np.concatenate(found).astype("float64")


def _bins_with_edges(low, high, inner, count):
    """Bins of about one width, such that none lies across an inner edge."""
    edges = [low, *(edge for edge in inner if low < edge < high), high]
    parts = [np.array([low])]
    for start, stop in itertools.pairwise(edges):
        number = max(1, round(count * (stop - start) / (high - low)))
        parts.append(np.linspace(start, stop, number + 1)[1:])
    return np.concatenate(parts)
