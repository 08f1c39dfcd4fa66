"""What the pictures show, read back from the figures."""

import csv
import sys

import keras
import numpy as np
import pytest
from training_helpers import data

import keras_bcgd as kb

matplotlib = pytest.importorskip("matplotlib", reason="the pictures need it")


def network(bits=2, **options):
    return keras.Sequential(
        [
            keras.Input((6,)),
            kb.QuantDense(8, bits=bits, name="first", **options),
            kb.QuantReLU(2, alpha_initializer="ones", name="relu"),
            kb.QuantDense(3, bits=32, name="last"),
        ]
    )


def train(model, callbacks=(), epochs=3):
    sgd = keras.optimizers.SGD(0.1)
    model.compile(kb.BlendedOptimizer(sgd), "mse", metrics=["mae"])
    return model.fit(
        *data(), epochs=epochs, verbose=0, callbacks=list(callbacks)
    )


def can_be_written(figure, tmp_path):
    """Draws everything; warnings, as of clipped labels, are errors."""
    figure.savefig(tmp_path / "figure.png")
    return (tmp_path / "figure.png").stat().st_size > 5000


def bars(ax):
    """{position of the middle: height} of what `bar` drew."""
    return {
        round(bar.get_x() + bar.get_width() / 2, 6): bar.get_height()
        for container in ax.containers
        for bar in container
        if bar.get_height()
    }


def outline(ax):
    """The area below the histogram's outline."""
    points = ax.patches[-1].get_xy()
    width = np.diff(points[:, 0])
    return np.sum(width[width > 0] * points[:-1, 1][width > 0])


@pytest.mark.parametrize("per_channel", [False, True])
def test_codes_before_training(tmp_path, per_channel):
    model = network(per_channel=per_channel)
    layer = model.get_layer("first")
    figure = kb.plot_weight_codes(layer)
    (ax,) = figure.axes
    _, codes = layer.kernel_scale_and_codes()
    values, counts = np.unique(codes, return_counts=True)
    shares = dict(zip(values, 100 * counts / codes.size, strict=True))
    assert bars(ax) == pytest.approx(shares)
    assert outline(ax) == pytest.approx(100)
    assert ax.get_title() == "first, 2 bits"
    assert ax.get_xlabel() and ax.get_ylabel()
    assert can_be_written(figure, tmp_path)


def test_float_weights_after_training_are_the_optimizers():
    model = network()
    train(model)
    layer = model.get_layer("first")
    y = np.array(model.optimizer.shadow(layer.kernel))
    scale, _ = layer.kernel_scale_and_codes()
    (ax,) = kb.plot_weight_codes(model).axes
    expected = np.mean((y / scale >= 0.5) & (y / scale < 0.75))
    points = ax.patches[-1].get_xy()
    index = np.flatnonzero(np.isclose(points[:, 0], 0.5))[-1]
    assert points[index, 1] == pytest.approx(100 * 4 * expected)
    # Without the optimizer there is nothing but w.
    (ax,) = kb.plot_weight_codes(layer).axes
    assert len(ax.patches) == 3


def test_a_panel_for_each_quantized_layer(tmp_path):
    model = kb.models.resnet_cifar(8, branch_bits=8)
    figure = kb.plot_weight_codes(model)
    titles = [ax.get_title() for ax in figure.axes if ax.axison]
    assert len(titles) == 8 and titles[-1] == "classifier, 8 bits"
    assert can_be_written(figure, tmp_path)


def test_without_quantized_layers():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    for nothing in (model, model.layers[0], kb.QuantDense(2, bits=32)):
        with pytest.raises(ValueError, match="must be a quantized layer"):
            kb.plot_weight_codes(nothing)


def test_codes_of_weights_that_are_no_numbers():
    model = network()
    model.get_layer("first").kernel.assign(np.full((6, 8), np.nan))
    with pytest.raises(ValueError, match="48 weights NaN .*layer 'first'"):
        kb.plot_weight_codes(model)


def test_codes_of_layers_in_models_are_told_apart():
    def block(name):
        dense = kb.QuantDense(6, bits=2, name="dense")
        return keras.Sequential([keras.Input((6,)), dense], name=name)

    figure = kb.plot_weight_codes(keras.Sequential([block("a"), block("b")]))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["a/dense, 2 bits", "b/dense, 2 bits"]


def test_alphas_of_each_kind_of_log(tmp_path):
    path = tmp_path / "codes.csv"
    logger = kb.QuantizationCSVLogger(path)
    train(network(), [logger])
    with open(path, encoding="utf-8") as file:
        expected = [float(row["alpha/relu"]) for row in csv.DictReader(file)]
    assert len(set(expected)) == 3
    for log in (logger, logger.history, path):
        figure = kb.plot_alphas(log)
        (line,) = figure.axes[0].get_lines()
        assert line.get_label() == "relu"
        np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
    assert can_be_written(figure, tmp_path)


def test_many_alphas_are_told_apart(tmp_path):
    log = {"epoch": [1, 2]} | {f"alpha/{i}": [0.1, 0.2] for i in range(28)}
    figure = kb.plot_alphas(log)
    lines = figure.axes[0].get_lines()
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == 28
    assert can_be_written(figure, tmp_path)


@pytest.mark.parametrize("log", [{}, {"epoch": [1], "distance/conv": [0.1]}])
def test_log_without_alphas(log):
    with pytest.raises(ValueError, match="must have an alpha.*Received"):
        kb.plot_alphas(log)


def test_log_of_another_kind():
    with pytest.raises(ValueError, match="`log` must be a Quant.*Received: lo"):
        kb.plot_alphas(3)


@pytest.mark.parametrize("name", ["relu", "a layer"])
def test_staircase_above_its_inputs(tmp_path, name):
    model, (x, _) = network(), data()
    layer = model.get_layer("relu")
    figure = kb.plot_staircase(name if name == "relu" else layer, model, x)
    stairs, shares = figure.axes
    dense = model.get_layer("first")
    read = x @ np.array(dense.quantized_kernel) + np.array(dense.bias)
    expected = [np.mean(read <= 0), 0, np.mean(read > 3)]
    expected[1] = 1 - sum(expected)
    labels = [text.get_text() for text in shares.get_legend().get_texts()]
    for label, share in zip(labels, expected, strict=True):
        assert label.endswith(f": {100 * share:.1f} %")
    # The staircase: its steps, and where they begin.
    (patch,) = [p for p in stairs.patches if p.get_label().startswith("stairc")]
    values, edges, _ = patch.get_data()
    np.testing.assert_allclose(values, [0, 1, 2, 3, 3])
    np.testing.assert_allclose(edges[1:-1], [0, 1, 2, 3])
    # The bars of all three parts: everything but what lies beyond the axis.
    total = sum(
        bar.get_height() * bar.get_width()
        for container in shares.containers
        for bar in container
    )
    low, high = shares.get_xlim()
    inside = np.mean((read >= low) & (read <= high))
    assert total == pytest.approx(100 * inside)
    assert can_be_written(figure, tmp_path)


def labels_of(figure):
    """{part: share in %} of the inputs."""
    texts = [text.get_text() for text in figure.axes[1].get_legend().texts]
    pairs = [text.removesuffix(" %").split(": ") for text in texts]
    return {name: float(share) for name, share in pairs}


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("method", ["mse", "percentile", "max"])
def test_saturated_is_the_same_in_table_picture_and_calibration(bits, method):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, name="dense")(inputs)
    branch = keras.layers.Dense(8, name="branch")(x)
    relu = kb.QuantReLU(bits, name="relu")(x)
    both = kb.QuantAddReLU(bits, name="sum")([branch, relu])
    model = keras.Model(inputs, both)
    x = np.random.default_rng(0).standard_normal((256, 6)).astype("float32")
    report = kb.calibrate(model, x, method, 90.0, batch_size=256, verbose=0)
    rows = {row["layer"]: row for row in kb.summary(model, x).rows}
    for layer in report.layers:
        labels = labels_of(kb.plot_staircase(layer.name, model, x))
        table = rows[layer.name]["saturated"]
        assert labels["saturated"] == round(100 * table, 1)
        share = 1 - labels["0"] / 100  # of the inputs that are above 0
        # Rounded to 0.1 %; and the histogram may err in a bin.
        assert layer.cut_off * share == pytest.approx(table, abs=2e-3)
        assert (table > 0) == (method != "max")


def test_staircase_of_one_of_several_layers_of_a_name():
    def block(name, alpha):
        start = keras.initializers.Constant(alpha)
        relu = kb.QuantReLU(2, alpha_initializer=start, name="relu")
        return keras.Sequential([keras.Input((6,)), relu], name=name)

    model = keras.Sequential([block("a", 0.5), block("b", 0.25)])
    x, _ = data()
    with pytest.raises(ValueError, match="by its path: a/relu, b/relu. Recei"):
        kb.plot_staircase("relu", model, x)
    figure = kb.plot_staircase("b/relu", model, x)
    assert figure.axes[0].get_title() == "b/relu, alpha = 0.25"
    layer = model.get_layer("a").get_layer("relu")
    figure = kb.plot_staircase(layer, model, x)
    assert figure.axes[0].get_title() == "a/relu, alpha = 0.5"
    # The name of a layer of the model itself is its path.
    model.add(kb.QuantReLU(2, alpha_initializer="ones", name="relu"))
    figure = kb.plot_staircase("relu", model, x)
    assert figure.axes[0].get_title() == "relu, alpha = 1"


def test_staircase_of_256_samples_in_batches():
    model, _ = network(), data()
    x = np.random.default_rng(0).standard_normal((300, 6))
    parts = [x[i : i + 100] for i in (0, 100, 200)]
    one, other = (
        labels_of(kb.plot_staircase("relu", model, d)) for d in (x, parts)
    )
    assert one == other


def test_staircase_after_an_addition():
    a, b = keras.Input((2,)), keras.Input((2,))
    add = kb.QuantAddReLU(2, alpha_initializer="ones", name="add")
    model = keras.Model([a, b], add([a, b]))
    x = [np.full((3, 2), 1.0), np.full((3, 2), 1.5)]
    figure = kb.plot_staircase("add", model, x)
    labels = [t.get_text() for t in figure.axes[1].get_legend().get_texts()]
    assert labels[1].endswith(": 100.0 %")  # 2.5 is on the steps, to 3


def test_staircase_of_no_such_layer():
    model, (x, _) = network(), data()
    for other in ("other", "first", kb.QuantReLU()):
        with pytest.raises(ValueError, match="must be a QuantReLU of `model`"):
            kb.plot_staircase(other, model, x)


def test_curves_of_what_fit_returned(tmp_path):
    history = train(network())
    other = {"mae": [0.3, 0.2]}
    figure = kb.plot_curves({"BC": history, "BCGD": other}, metric="mae")
    (ax,) = figure.axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    np.testing.assert_allclose(
        lines["BC"].get_ydata(), history.history["mae"], rtol=1e-12
    )
    np.testing.assert_array_equal(lines["BC"].get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(lines["BCGD"].get_ydata(), [0.3, 0.2])
    assert ax.get_ylabel() == "mae" and ax.get_xlabel() == "epoch"
    assert can_be_written(figure, tmp_path)


def test_curves_of_several_seeds():
    runs = [{"val_accuracy": [0.1, 0.5]}, {"val_accuracy": [0.3, 0.6, 0.7]}]
    (ax,) = kb.plot_curves({"BC": runs}).axes
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_ydata(), [20, 55])  # %
    assert line.get_label() == "BC (mean of 2)"
    assert ax.get_ylabel() == "validation accuracy, %"
    (band,) = ax.collections
    edges = band.get_paths()[0].vertices
    assert {round(y) for y in edges[edges[:, 0] == 1, 1]} == {10, 30}
    assert {round(y) for y in edges[edges[:, 0] == 2, 1]} == {50, 60}


def test_curves_without_the_metric():
    with pytest.raises(ValueError, match="one of loss of the history 'BC'"):
        kb.plot_curves({"BC": {"loss": [1.0]}})


@pytest.mark.parametrize(
    "histories, message",
    [
        ({}, "one at least. Received: dict, empty"),
        ([{"val_accuracy": [1.0]}], "must be a dict from names .*: list"),
        ({"a": []}, "an empty list for 'a'"),
        ({"a": [3]}, "int for 'a'"),
        ({"a": {"val_accuracy": []}}, "none of val_accuracy .* 'a'"),
    ],
)
def test_curves_of_nothing(histories, message):
    with pytest.raises(ValueError, match=message):
        kb.plot_curves(histories)


def test_no_window_is_opened():
    from matplotlib import pyplot

    kb.plot_curves({"BC": {"val_accuracy": [0.5]}})
    assert pyplot.get_fignums() == []


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install keras-bcgd\[plots\]"):
        kb.plot_curves({"BC": {"val_accuracy": [0.5]}})
