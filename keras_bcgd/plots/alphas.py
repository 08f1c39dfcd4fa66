"""plot_alphas: the resolutions during training."""

import collections.abc
import csv
import os

from keras_bcgd.callbacks.monitor import QuantizationMonitor
from keras_bcgd.plots import figures


def plot_alphas(log):
    """The alpha of each QuantReLU and QuantIdentity during training.

    Args:
        log: `QuantizationMonitor` that watched the training, the path of a
            file by `QuantizationCSVLogger`, or a dict as
            `QuantizationMonitor.history`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If `log` is none of these, or has no alphas.
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    monitor = keras_bcgd.QuantizationMonitor()
    model.fit(x_train, y_train, epochs=3, callbacks=[monitor], verbose=0)
    keras_bcgd.plot_alphas(monitor).savefig("alphas.png")
    ```
    """
    history = _read_log(log)
    alphas = {
        tag.removeprefix("alpha/"): values
        for tag, values in history.items()
        if tag.startswith("alpha/")
    }
    if not alphas or "epoch" not in history:
        raise ValueError(
            "`log` must have an alpha for one epoch at least. "
            f"Received: log={log!r}"
        )
    figure = figures.new_figure(8.0, max(3.6, 0.9 + 0.2 * len(alphas)))
    ax = figure.subplots()
    for (name, values), style in zip(
        alphas.items(), figures.styles(), strict=False
    ):
        ax.plot(history["epoch"], values, **style, label=name)
    ax.set_ylabel("alpha, the step of the activations")
    ax.set_yscale("log")
    # 0.2 and not 2 x 10^-1.
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    figures.whole_epochs(ax)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _read_log(log):
    if isinstance(log, QuantizationMonitor):
        return log.history
    if isinstance(log, collections.abc.Mapping):
        return log
    if not isinstance(log, (str, os.PathLike)):
        raise ValueError(
            "`log` must be a QuantizationMonitor, the path of a file or a "
            f"dict. Received: log={log!r}"
        )
    with open(log, newline="", encoding="utf-8") as file:
        rows = [
            {key: float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
    return {key: [row[key] for row in rows] for key in (rows or [{}])[0]}
