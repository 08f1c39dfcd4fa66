"""calibrate and best_alpha against brute force and NumPy."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_bcgd as kb
from keras_bcgd.activations import HALF_GAUSSIAN_ALPHA
from keras_bcgd.calibration.histogram import Histogram
from keras_bcgd.calibration.histogram import identity_error
from keras_bcgd.calibration.histogram import staircase_error


def numpy_of(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def samples(kind, count=20_000):
    rng = np.random.default_rng(0)
    if kind == "gaussian":
        return rng.standard_normal(count)
    if kind == "heavy":  # some values are far beyond the others
        return rng.standard_normal(count) * np.exp(rng.standard_normal(count))
    if kind == "lumpy":  # on a grid, as after a layer without normalization
        return rng.integers(-40, 60, count) / 16
    return rng.uniform(-0.01, 0.02, count)


KINDS = ("gaussian", "heavy", "lumpy", "small")


def staircase(x, alpha, bits):
    """Written out, and apart from the code."""
    return np.clip(np.ceil(x / alpha), 0, 2**bits - 1) * alpha


def identity(x, step, bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return np.clip(np.round(x / step), low, high) * step


def staircase_mse(x, alpha, bits):
    return np.mean((staircase(x, alpha, bits) - np.maximum(x, 0)) ** 2)


def identity_mse(x, step, bits):
    return np.mean((identity(x, step, bits) - x) ** 2)


def histogram_of(x):
    histogram = Histogram()
    histogram.add(x)
    return histogram


# The histogram


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_errors_are_those_of_the_numbers(kind, bits):
    x = samples(kind)
    alphas = np.max(x) / 2**bits * np.array([0.1, 0.4, 1.0, 1.7])
    histogram = histogram_of(x)
    for found, exact in (
        (staircase_error(histogram, alphas, bits), staircase_mse),
        (identity_error(histogram, alphas, max(bits, 2)), identity_mse),
    ):
        width = bits if exact is staircase_mse else max(bits, 2)
        expected = [exact(x, alpha, width) * len(x) for alpha in alphas]
        # A bin is 1/16384 of the range, 1/6 of the smallest step here.
        np.testing.assert_allclose(found, expected, rtol=0.05)


def test_a_histogram_grows():
    rng = np.random.default_rng(0)
    parts = [scale * rng.standard_normal(1000) for scale in (0, 0.1, 3, 1, 40)]
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    x = np.concatenate(parts)
    assert (histogram.low, histogram.high) == (x.min(), x.max())
    assert histogram.counts.sum() == len(x)
    total = np.cumsum(histogram.counts)
    for i in range(0, len(total), 500):
        expected = np.sum(x <= histogram.edges[i + 1])
        assert total[i] == pytest.approx(expected, abs=1)


# best_alpha


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_mse_is_that_of_brute_force(kind, bits):
    x = samples(kind)
    fine = np.geomspace(0.005, 1, 3000) * np.max(x) / (2**bits - 1)
    best = min(staircase_mse(x, alpha, bits) for alpha in fine)
    found = staircase_mse(x, kb.best_alpha(x, bits), bits)
    # Five percent apart, the search may miss the best tooth of a saw.
    assert found <= 1.02 * best + 1e-12


@pytest.mark.parametrize("bits", range(1, 9))
def test_mse_of_a_gaussian(bits):
    x = np.random.default_rng(0).standard_normal(500_000)
    expected = HALF_GAUSSIAN_ALPHA[bits]
    assert kb.best_alpha(x, bits) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_max_and_percentile(kind):
    x = samples(kind)
    assert kb.best_alpha(x, 3, "max") == np.max(x) / 7
    found = 7 * kb.best_alpha(x, 3, "percentile", 90.0)
    positive = x[x > 0]
    below = [np.mean(positive <= found * f) for f in (0.99, 1.01)]
    assert below[0] <= 0.905 and below[1] >= 0.895
    assert kb.best_alpha(x, 3, "percentile", 100) == np.max(x) / 7


def test_nothing_above_0_tells_nothing():
    assert kb.best_alpha(np.array([-1.0, 0.0]), 4) is None
    assert kb.best_alpha(np.zeros(3), 4, "max") is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x": [np.nan, 1.0]}, "`x` must be finite. Received: 1 values NaN"),
        ({"x": [np.inf, 1.0]}, "`x` must be finite"),
        ({"x": ["a"]}, "`x` must be an array of numbers. Received: list"),
        ({"bits": 0}, "`bits` must be an integer from 1 to 8"),
        ({"bits": 2.5}, "`bits` must be an integer from 1 to 8"),
        ({"percentile": -5}, "`percentile` must be a number above 0"),
        ({"percentile": 200}, "Received: percentile=200"),
        ({"method": "best"}, "`method` must be one of"),
    ],
)
def test_arguments_of_best_alpha_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        kb.best_alpha(**{"x": [1.0, 2.0], "bits": 4} | arguments)


# calibrate


def images(count=48):
    rng = np.random.default_rng(1)
    return rng.standard_normal((count, 6, 6, 3)).astype("float32")


def network(bits=3):
    """All that has an alpha, one of them in a model within the model."""
    keras.utils.set_random_seed(3)
    inner_inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(4, 3, padding="same", name="conv")(inner_inputs)
    inner = keras.Model(
        inner_inputs, kb.QuantReLU(bits, name="relu")(x), name="inner"
    )
    inputs = keras.Input((6, 6, 3))
    x = kb.QuantConv2D(4, 3, padding="same", name="conv")(inputs)
    x = shortcut = kb.QuantReLU(bits, name="relu")(x)
    x = kb.QuantConv2D(4, 3, padding="same", name="branch")(inner(x))
    x = kb.QuantAddReLU(bits, name="sum")([x, shortcut])
    x = layers.Conv2D(5, 3, name="last")(x)
    x = kb.QuantIdentity(8, name="codes")(x)
    return keras.Model(inputs, layers.Flatten()(x))


NAMES = ["inner/relu", "relu", "sum", "codes"]


def quantizers(model):
    return {
        "inner/relu": model.get_layer("inner").get_layer("relu"),
        **{name: model.get_layer(name) for name in NAMES[1:]},
    }


def alphas(model):
    return {name: float(q.alpha) for name, q in quantizers(model).items()}


def test_each_layer_suits_what_it_is_fed():
    """Layer by layer in NumPy and Keras, the ones before already quantized."""
    model, x = network(), images()
    kb.calibrate(model, x, batch_size=len(x), verbose=0)
    found = alphas(model)

    def best(values, error, bits, scale):
        fine = np.geomspace(0.05, 1, 2000) * scale
        errors = [error(values, alpha, bits) for alpha in fine]
        return min(errors)

    outputs = {}
    for name in ("conv", "inner/conv", "branch", "last"):
        layer = model
        for part in name.split("/"):
            layer = layer.get_layer(part)
        fed = {"conv": x, "inner/conv": "relu", "branch": "inner/relu"}
        fed = fed.get(name, "sum")
        fed = outputs[fed] if isinstance(fed, str) else fed
        y = numpy_of(layer(fed)).astype("float64")
        quantizer, rounded, measure = {
            "conv": ("relu", staircase, staircase_mse),
            "inner/conv": ("inner/relu", staircase, staircase_mse),
            "branch": ("sum", staircase, staircase_mse),
            "last": ("codes", identity, identity_mse),
        }[name]
        bits, alpha = (8 if quantizer == "codes" else 3), found[quantizer]
        if quantizer == "sum":
            y = y + outputs["relu"]
        scale = np.max(np.abs(y)) / (2**bits / 2 - 1)
        assert measure(y, alpha, bits) <= 1.02 * best(y, measure, bits, scale)
        if quantizer == "sum":
            step = alpha / 2 ** (8 - 3 - 1)
            y = identity(y - outputs["relu"], step, 8) + outputs["relu"]
        outputs[quantizer] = rounded(y, alpha, bits).astype("float32")


def test_a_shared_layer_is_one():
    relu = kb.QuantReLU(2, name="relu")
    parts = [
        keras.Sequential([keras.Input((4,)), layers.Dense(4), relu], name=name)
        for name in ("first", "second")
    ]
    model = keras.Sequential([keras.Input((4,)), *parts])
    x = np.random.default_rng(0).standard_normal((8, 4))
    report = kb.calibrate(model, x, verbose=0)
    assert [row.name for row in report.layers] == ["first/relu"]
    assert (
        report.layers[0].before != report.layers[0].alpha == float(relu.alpha)
    )


def test_several_batches_are_as_one_histogram():
    """The first layer is fed the same, whatever the batches."""
    whole, parts = network(), network()
    kb.calibrate(whole, images(), "max", batch_size=48, verbose=0)
    kb.calibrate(parts, images(), "max", batch_size=7, verbose=0)
    assert alphas(whole)["relu"] == alphas(parts)["relu"]
    kb.calibrate(whole, images(), batch_size=48, verbose=0)
    kb.calibrate(parts, images(), batch_size=7, verbose=0)
    for name in NAMES:
        assert alphas(parts)[name] == pytest.approx(
            alphas(whole)[name], rel=0.1
        )
    assert alphas(parts)["relu"] == pytest.approx(
        alphas(whole)["relu"], rel=0.02
    )


def test_so_many_batches_and_no_more():
    model, expected = network(), network()

    def endless():
        while True:
            yield images()[:16]

    kb.calibrate(model, endless(), batches=2, verbose=0)
    kb.calibrate(expected, images()[:16], verbose=0)
    for name in NAMES:
        assert alphas(model)[name] == pytest.approx(
            alphas(expected)[name], rel=0.02
        )


def test_only_alphas_change():
    model = network()
    before = [numpy_of(w) for w in model.weights]
    report = kb.calibrate(model, images(), verbose=0)
    changed = [
        w.path
        for w, value in zip(model.weights, before, strict=True)
        if not np.array_equal(numpy_of(w), value)
    ]
    assert len(changed) == 4 and all(path.endswith("alpha") for path in changed)
    # And the layers are as they were: traced, saved, called again.
    assert all("call" not in vars(q) for q in quantizers(model).values())
    assert sorted(row.name for row in report.layers) == sorted(NAMES)


def test_the_report_is_a_table():
    model = network()
    before = alphas(model)
    report = kb.calibrate(model, images(), verbose=0)
    rows = {row.name: row for row in report.layers}
    for name, quantizer in quantizers(model).items():
        assert rows[name].before == before[name]
        assert rows[name].alpha == float(quantizer.alpha)
        assert 0 <= rows[name].cut_off < 0.1
    x = numpy_of(model.get_layer("conv")(images()))
    x, alpha = x[x > 0], rows["relu"].alpha
    error = np.sqrt(staircase_mse(x, alpha, 3) / np.mean(x**2))
    assert rows["relu"].error == pytest.approx(error, rel=0.01)
    assert rows["relu"].cut_off == pytest.approx(np.mean(x > 7 * alpha), 0.01)
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["layer", "type", "bits"]
    assert len(lines) == 5


def test_progress_is_shown_if_asked(capsys):
    kb.calibrate(network(), images(), batch_size=16, verbose=1)
    assert "3/3" in capsys.readouterr().out
    kb.calibrate(network(), images(), batch_size=16, verbose=0)
    assert not capsys.readouterr().out


def test_calibration_makes_the_start_better():
    """Inputs of another size than unit Gaussian ones, as without norms."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    source = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(8),
        ]
    )
    x = 0.05 * rng.standard_normal((256, 16)).astype("float32")
    expected = numpy_of(source(x))
    model = kb.quantize_model(source, 8, 4)

    def error():
        return np.mean((numpy_of(model(x)) - expected) ** 2)

    before = error()
    kb.calibrate(model, x, verbose=0)
    assert error() < 0.05 * np.mean(expected**2) < 0.1 * before


def test_an_alpha_that_is_fed_nothing_stays():
    model = network()
    kernel = model.get_layer("conv").kernel
    kernel.assign(-np.abs(numpy_of(kernel)))
    before = alphas(model)["relu"]
    with pytest.warns(UserWarning, match="as they were: relu"):
        report = kb.calibrate(model, np.ones((2, 6, 6, 3)), verbose=0)
    assert alphas(model)["relu"] == before
    (row,) = [row for row in report.layers if row.name == "relu"]
    assert row.cut_off is None and row.error is None
    assert str(report)


def test_the_bound_of_alpha_is_kept():
    model = network()
    message = "alphas are at the lower bound: relu, inner/relu, sum. Give"
    with pytest.warns(UserWarning, match=message):
        report = kb.calibrate(model, 1e-6 * images(), verbose=0)
    assert alphas(model)["relu"] == np.float32(1e-3)
    assert report.layers


def test_an_alpha_with_one_value_is_no_bound():
    """As in the place of a ReLU whose largest output is small."""
    bound = kb.AlphaBound(5e-4, 5e-4)
    relu = kb.QuantReLU(4, alpha_constraint=bound)
    model = keras.Sequential([keras.Input((1,)), relu])
    kb.calibrate(model, np.ones((4, 1)), verbose=0)
    assert float(relu.alpha) == np.float32(5e-4)


def test_cut_off_is_what_relu6_would_leave():
    """Beyond 6 it is no loss; most of these inputs are there."""
    bits = 4
    bound = kb.AlphaBound(1e-3, 6 / 15)
    relu = kb.QuantReLU(bits, alpha_constraint=bound)
    model = keras.Sequential([keras.Input((1,)), relu])
    x = 100 * samples("gaussian").astype("float32")[:, None]
    (row,) = kb.calibrate(model, x, verbose=0).layers
    positive = x[x > 0]
    lost = np.mean((positive > 15 * row.alpha) & (positive < 6))
    assert row.cut_off == pytest.approx(lost, abs=1e-3)
    assert row.cut_off < 0.01 < np.mean(positive > 6)
    # Where the bound does not bind, it changes nothing.
    relu.alpha.assign(0.3)
    relu.alpha_constraint = kb.AlphaBound(0.1, 0.1)
    (row,) = kb.calibrate(model, x / 50, verbose=0).layers
    positive = positive / 50
    expected = np.mean((positive > 1.5 + 1e-6) & (positive < 1.5 - 1e-6))
    assert row.cut_off == pytest.approx(expected, abs=1e-3)


def test_cut_off_of_a_signed_grid():
    """The lowest code has no counterpart: -4 is on the grid, 4 is not."""
    identity = kb.QuantIdentity(3, alpha_initializer="ones")
    identity.alpha_constraint = kb.AlphaBound(1.0, 1.0)
    model = keras.Sequential([keras.Input((1,)), identity])
    x = np.array([[-5.0], [-3.9], [-1.0], [2.0], [3.5], [8.0]])
    (row,) = kb.calibrate(model, x, verbose=0).layers
    assert row.cut_off == 3 / 6


@pytest.mark.parametrize("method", ["mse", "max"])
def test_a_bounded_staircase_is_fed_a_clipped_relu(method):
    """In the place of a ReLU6 it is nearest to the ReLU6."""
    x = 8 * samples("gaussian").astype("float32")[:, None]
    bound = kb.AlphaBound(1e-3, 6 / 15)
    relu = kb.QuantReLU(4, alpha_constraint=bound)
    model = keras.Sequential([keras.Input((1,)), relu])
    kb.calibrate(model, x, method, batch_size=1000, verbose=0)
    expected = kb.best_alpha(np.minimum(x, 6), 4, method)
    assert float(relu.alpha) == pytest.approx(expected, rel=0.01)
    assert float(relu.alpha) <= np.float32(6 / 15)
    assert kb.best_alpha(x, 4, method) > 0.5


# What is refused


def with_value(value):
    x = images()
    x[40, 0, 0, 0] = value
    return x


BAD = [
    ({"method": "best"}, "`method` must be one of mse, max, percentile"),
    ({"percentile": 0}, "Received: percentile=0"),
    (
        {"percentile": 101},
        "`percentile` must be a number above 0 and at most 100",
    ),
    ({"batches": 0}, "`batches` must be an integer above 0, or None"),
    ({"batch_size": 2.0}, "Received: batch_size=2.0"),
    ({"verbose": "yes"}, "Received: verbose='yes'"),
    ({"data": iter(())}, "`data` must hold at least one sample"),
    ({"data": "images"}, "`data` must be an array, a dict of arrays"),
    ({"data": with_value(np.nan)}, "1 values NaN or infinite in batch 1"),
    ({"data": with_value(np.inf)}, "`data` must be finite"),
    ({"percentile": "most"}, "Received: percentile='most'"),
    ({"percentile": np.nan}, "Received: percentile=nan"),
    ({"model": keras.Sequential()}, "`model` must be a built keras.Model"),
    ({"model": "model.keras"}, "Received: model='model.keras'"),
]


@pytest.mark.parametrize("changes, message", BAD)
def test_bad_arguments_are_refused_and_nothing_changes(changes, message):
    model = network()
    before = alphas(model)
    arguments = {"model": model, "data": images(), "verbose": 0, **changes}
    with pytest.raises(ValueError) as raised:
        kb.calibrate(**arguments)
    assert message in str(raised.value)
    assert alphas(model) == before


def test_a_model_without_alphas_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)], name="m")
    with pytest.raises(ValueError, match="the model 'm' without any"):
        kb.calibrate(model, np.ones((2, 4)), verbose=0)


def test_what_is_not_finite_inside_names_the_layer():
    model = network()
    model.get_layer("branch").bias.assign(np.full(4, np.inf))
    before = alphas(model)
    with pytest.raises(ValueError, match="the input of layer 'sum'"):
        kb.calibrate(model, images(), verbose=0)
    assert alphas(model) == before
    assert "call" not in vars(model.get_layer("sum"))
