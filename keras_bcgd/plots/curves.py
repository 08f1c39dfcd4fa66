"""plot_curves: trainings side by side."""

import collections.abc

import numpy as np

from keras_bcgd.plots import figures


def plot_curves(histories, metric="val_accuracy", label=None):
    """A metric by epochs, one curve for each training.

    Args:
        histories: Dict from names to what `fit` returned, or to dicts of
            lists such as `History.history`; or to lists of these: runs that
            differ in their seed, of which the mean is drawn and the range
            shaded.
        metric: String. Defaults to `"val_accuracy"`.
        label: String, the label of the axis. `None`: the metric's name, and
            for accuracies "in %". Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If `histories` is no such dict, or empty, or a history
            lacks the metric or has no epoch.
        ImportError: If matplotlib is not installed.

    Example:

    ```python
    first = model.fit(x_train, y_train, epochs=2, verbose=0)
    second = model.fit(x_train, y_train, epochs=2, verbose=0)
    histories = {"at first": first, "later": second}
    figure = keras_bcgd.plot_curves(histories, metric="accuracy")
    ```
    """
    if not isinstance(histories, collections.abc.Mapping) or not histories:
        raise ValueError(
            "`histories` must be a dict from names to histories, one at least. "
            f"Received: {type(histories).__name__}"
            + ("" if histories else ", empty")
        )
    factor = 100 if "accuracy" in metric else 1
    figure = figures.new_figure(7.0, 4.2)
    ax = figure.subplots()
    for (name, runs), style in zip(
        histories.items(), figures.styles(), strict=False
    ):
        runs = runs if isinstance(runs, list) else [runs]
        if not runs:
            raise ValueError(
                "`histories` must have a history for each name. Received: an "
                f"empty list for '{name}'"
            )
        curves = [_curve(name, run, metric) for run in runs]
        shortest = min(map(len, curves))
        values = factor * np.array([curve[:shortest] for curve in curves])
        epochs = np.arange(1, shortest + 1)
        text = name if len(runs) == 1 else f"{name} (mean of {len(runs)})"
        ax.plot(epochs, values.mean(axis=0), **style, label=text)
        if len(runs) > 1:
            ax.fill_between(
                epochs,
                values.min(axis=0),
                values.max(axis=0),
                color=style["color"],
                alpha=0.2,
                linewidth=0,
            )
    readable = metric.replace("val_", "validation ").replace("_", " ")
    ax.set_ylabel(label or (f"{readable}, %" if factor == 100 else readable))
    figures.whole_epochs(ax)
    ax.legend()
    return figure


def _curve(name, run, metric):
    history = getattr(run, "history", run)
    if not isinstance(history, collections.abc.Mapping):
        raise ValueError(
            "`histories` must hold what `fit` returned, or dicts of lists. "
            f"Received: {type(history).__name__} for '{name}'"
        )
    if metric not in history:
        raise ValueError(
            f"`metric` must be one of {', '.join(history)} of the history "
            f"'{name}'. Received: metric={metric!r}"
        )
    curve = np.asarray(history[metric], "float64")
    if curve.size == 0:
        raise ValueError(
            "`histories` must have one epoch at least. Received: none of "
            f"{metric} in the history '{name}'"
        )
    return curve
