"""Sensitivity against a model evaluated by hand; the choice against all."""

import itertools

import keras
import numpy as np
import pytest
import reference

import keras_bcgd as kb
from keras_bcgd.analysis.bit_allocation import choose_bits
from keras_bcgd.analysis.bit_allocation import packed_bytes


def network():
    """Three layers, one of them in a model within the model."""
    inner = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.ReLU(),
        ],
        name="inner",
    )
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(4, 3, name="conv"),
            keras.layers.BatchNormalization(),
            inner,
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="dense"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


def data(count=40):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 8, 8, 2)).astype("float32")
    return x, rng.integers(0, 3, count)


def kernels(model):
    return {
        "conv": model.get_layer("conv"),
        "depthwise": model.get_layer("inner").get_layer("depthwise"),
        "dense": model.get_layer("dense"),
    }


def test_each_row_is_the_loss_with_that_layer_projected():
    model = network()
    before = model.get_weights()
    x, y = data()
    table = kb.sensitivity(model, (x, y), bits=(1, 2, 4), verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    loss = model.evaluate(x, y, verbose=0)[0]
    assert table.baseline["loss"] == pytest.approx(loss, abs=1e-6)
    assert [(r["layer"], r["bits"]) for r in table.rows] == list(
        itertools.product(["conv", "depthwise", "dense"], [1, 2, 4])
    )
    for row in table.rows:
        kernel = kernels(model)[row["layer"]].kernel
        y_float = np.array(kernel)
        w = reference.project(y_float.astype("float64"), row["bits"])
        kernel.assign(w)
        found, accuracy = model.evaluate(x, y, verbose=0)
        kernel.assign(y_float)
        # float32 sums in another order than in NumPy's float64.
        assert row["loss"] == pytest.approx(found, abs=1e-5)
        assert row["accuracy"] == pytest.approx(accuracy, abs=1e-6)
        assert row["cost"] == pytest.approx(found - loss, abs=2e-5)
        assert row["weights"] == y_float.size
        assert row["bytes"] == np.ceil(y_float.size * row["bits"] / 8)
    assert max(abs(row["cost"]) for row in table.rows) > 0.01


def test_accuracy_falls_where_loss_rises():
    model = network()
    # Labels that it knows: it can only get worse.
    x, _ = data()
    y = np.argmax(model.predict(x, verbose=0), axis=-1)
    table = kb.sensitivity(model, (x, y), (1, 8), "accuracy", verbose=0)
    costs = [row["cost"] for row in table.rows if row["bits"] == 1]
    assert table.baseline["accuracy"] == 1
    assert max(costs) > 0 and min(costs) >= 0
    reverse = kb.sensitivity(
        model, (x, y), (1, 8), "accuracy", mode="min", verbose=0
    )
    for one, other in zip(table.rows, reverse.rows, strict=True):
        assert one["cost"] == -other["cost"]


def test_data_in_batches_is_the_same_data():
    model = network()
    x, y = data(10)

    class Dataset(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return x[5 * i : 5 * i + 5], y[5 * i : 5 * i + 5]

    whole = kb.sensitivity(model, (x, y), bits=2, verbose=0)
    batches = ((x[i : i + 4], y[i : i + 4]) for i in range(0, 10, 4))
    for other in (Dataset(), batches):
        table = kb.sensitivity(model, other, bits=2, verbose=0)
        assert [r["cost"] for r in table.rows] == pytest.approx(
            [r["cost"] for r in whole.rows], abs=1e-6
        )


def test_scales_of_channels():
    model = network()
    kernel = model.get_layer("dense").kernel
    # One scale for all leaves nothing of the small channels.
    y_float = np.array(kernel) * np.array([1.0, 0.1, 0.1])
    kernel.assign(y_float)
    one, each = (
        kb.sensitivity(model, data(), 2, per_channel=flag, verbose=0)
        for flag in (False, True)
    )
    channels = [reference.project(channel, 2) for channel in y_float.T]
    expected = []
    for w in (reference.project(y_float, 2), np.stack(channels, axis=1)):
        kernel.assign(w)
        expected.append(model.evaluate(*data(), verbose=0)[0])
    assert abs(expected[0] - expected[1]) > 1e-3
    found = one.rows[2]["loss"], each.rows[2]["loss"]
    assert found == pytest.approx(expected, abs=1e-5)


def test_separable_convolution_is_one_layer():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.SeparableConv2D(3, 3, name="separable"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    model.compile("sgd", "mse")
    x, _ = data()
    y = model.predict(x, verbose=0)
    table = kb.sensitivity(model, (x, y), 1, verbose=0)
    (row,) = table.rows
    assert row["weights"] == 18 + 6 and row["cost"] > 0
    layer = model.get_layer("separable")
    for kernel in (layer.depthwise_kernel, layer.pointwise_kernel):
        kernel.assign(reference.project(np.array(kernel), 1))
    assert row["loss"] == pytest.approx(model.evaluate(x, y, verbose=0), 1e-5)


def all_choices(costs, sizes, budget):
    """The smallest sum of costs within a budget, by trying everything."""
    options = [list(costs[name]) for name in costs]
    sums = [
        sum(costs[name][b] for name, b in zip(costs, bits, strict=True))
        for bits in itertools.product(*options)
        if sum(sizes[n][b] for n, b in zip(costs, bits, strict=True)) <= budget
    ]
    return min(sums)


def random_problem(seed, layers=4, bits=(1, 2, 3, 4, 8)):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(10, 1000, layers)
    sizes = {
        i: {b: packed_bytes(n, b) for b in bits} for i, n in enumerate(numbers)
    }
    costs = {
        i: {b: rng.exponential() * 4.0**-b + rng.normal() * 1e-3 for b in bits}
        for i in range(layers)
    }
    return costs, sizes


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_the_best_one_for_the_size_it_reaches(seed):
    """Where each greedy step fitted: budgets are the sizes on the way."""
    costs, sizes = random_problem(seed)
    most = sum(max(size.values()) for size in sizes.values())
    best = choose_bits(costs, sizes, most)
    assert sum(costs[i][b] for i, b in best.items()) == pytest.approx(
        sum(min(cost.values()) for cost in costs.values())
    )
    for budget in sizes_on_the_hull(costs, sizes):
        chosen = choose_bits(costs, sizes, budget)
        assert sum(sizes[i][b] for i, b in chosen.items()) <= budget
        found = sum(costs[i][b] for i, b in chosen.items())
        assert found == pytest.approx(all_choices(costs, sizes, budget))


def sizes_on_the_hull(costs, sizes):
    """Corners of the lower convex hull of cost over size, of all choices."""
    points = {}
    options = [list(costs[name]) for name in costs]
    for bits in itertools.product(*options):
        pairs = list(zip(costs, bits, strict=True))
        size = sum(sizes[n][b] for n, b in pairs)
        cost = sum(costs[n][b] for n, b in pairs)
        points[size] = min(cost, points.get(size, np.inf))
    size, cost = min(points.items())
    corners = [size]
    while True:
        steps = [
            ((c - cost) / (s - size), s, c)
            for s, c in points.items()
            if s > size and c < cost
        ]
        if not steps:
            return corners
        _, size, cost = min(steps)
        corners.append(size)


def test_the_choice_is_not_always_the_best_one():
    """A step that pays most for each byte leaves no room for a larger one."""
    sizes = {"a": {1: 1, 2: 2}, "b": {1: 10, 2: 20}}
    costs = {"a": {1: 1.1, 2: 0.0}, "b": {1: 10.0, 2: 0.0}}
    chosen = choose_bits(costs, sizes, 21)
    assert chosen == {"a": 2, "b": 1}
    assert all_choices(costs, sizes, 21) == 1.1 < 10.0


@pytest.mark.parametrize("seed", range(60))
def test_the_choice_is_never_worse_than_uniform_bits(seed):
    """Of seeds 0 to 59 the greedy steps alone are worse for some."""
    costs, sizes = random_problem(seed, bits=(1, 2, 4, 8))
    for bits in (1, 2, 4, 8):
        budget = sum(size[bits] for size in sizes.values())
        chosen = choose_bits(costs, sizes, budget)
        assert sum(sizes[i][b] for i, b in chosen.items()) <= budget
        found = sum(costs[i][b] for i, b in chosen.items())
        assert found <= sum(cost[bits] for cost in costs.values()) + 1e-12


def test_a_cost_that_is_no_number_is_the_worst():
    nan, inf = float("nan"), float("inf")
    sizes = dict.fromkeys("ab", {1: 1, 2: 2, 4: 4})
    costs = {"a": {1: nan, 2: 1.0, 4: nan}, "b": {1: inf, 2: inf, 4: 0.0}}
    assert choose_bits(costs, sizes, 8) == {"a": 2, "b": 4}
    assert choose_bits(costs, sizes, 6) == {"a": 2, "b": 4}


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_never_exceeds_the_budget(seed):
    costs, sizes = random_problem(seed)
    least = sum(min(size.values()) for size in sizes.values())
    for budget in range(least, 4 * least, 97):
        chosen = choose_bits(costs, sizes, budget)
        assert sum(sizes[i][b] for i, b in chosen.items()) <= budget


def test_choice_from_a_measured_table():
    table = kb.sensitivity(network(), data(), (1, 2, 4, 8), verbose=0)
    costs = table._by_layer("cost")
    sizes = table._by_layer("bytes")
    budget = table.packed_bytes(4)
    chosen = table.choose(budget)
    assert set(chosen) == {"conv", "depthwise", "dense"}
    assert table.packed_bytes(chosen) <= budget
    found = sum(costs[n][rule["weight_bits"]] for n, rule in chosen.items())
    assert found <= sum(cost[4] for cost in costs.values())
    assert found >= all_choices(costs, sizes, budget)
    assert table.packed_bytes(8) == 72 + 36 + 192
    for budget in (37, None, "x", float("nan"), True):
        message = f"must be at least 38.*={budget!r}$"
        with pytest.raises(ValueError, match=message):
            table.choose(budget)
    for bits, message in (
        ({"nope": {"weight_bits": 1}}, "table: conv, depthwise, dense. .*nope"),
        ({"conv": {"weight_bits": 1}}, "the layers of the table.*conv$"),
        (dict.fromkeys(chosen, 1), "must hold dicts.*1 for the layer"),
        ("a", "`bits` must be an integer from 1 to 8.*Received: bits='a'"),
        (33, "`bits` must be an integer from 1 to 8"),
    ):
        with pytest.raises(ValueError, match=message):
            table.packed_bytes(bits)


@pytest.mark.parametrize(
    "metric, sign",
    [
        ("loss", 1),
        ("mean_squared_error", 1),
        ("binary_crossentropy", 1),
        ("accuracy", -1),
        ("precision", -1),
        ("recall_1", -1),
        ("mean_io_u", -1),
    ],
)
def test_the_name_of_a_metric_tells_which_is_good(metric, sign):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(1, activation="sigmoid", name="last"),
        ]
    )
    kinds = {
        "accuracy": "accuracy",
        "precision": keras.metrics.Precision(name="precision"),
        "recall_1": keras.metrics.Recall(name="recall_1"),
        # Keras' own IoU warns on JAX; the name is what tells.
        "mean_io_u": keras.metrics.BinaryAccuracy(name="mean_io_u"),
    }
    metrics = [] if metric == "loss" else [kinds.get(metric, metric)]
    model.compile("sgd", "binary_crossentropy", metrics=metrics)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 4)).astype("float32")
    y = (model.predict(x, verbose=0) > 0.5).astype("float32")
    y[::5] = 1 - y[::5]
    table = kb.sensitivity(model, (x, y), 1, metric, verbose=0)
    changes = [row[metric] - table.baseline[metric] for row in table.rows]
    assert any(changes)
    assert [row["cost"] for row in table.rows] == [sign * c for c in changes]


def test_a_metric_that_tells_nothing():
    model = network()
    model.compile(
        "sgd",
        "mse",
        metrics=[
            keras.metrics.MeanSquaredError(name="quality"),
            keras.metrics.F1Score(name="f1", threshold=0.5),
        ],
    )
    x, _ = data()
    y = np.eye(3)[np.arange(len(x)) % 3]
    with pytest.raises(
        ValueError, match='`mode` must be "min" or "max" .*qual'
    ):
        kb.sensitivity(model, (x, y), 2, "quality", verbose=0)
    table = kb.sensitivity(model, (x, y), 2, "quality", "min", verbose=0)
    assert table.rows
    with pytest.raises(ValueError, match=r"one number.*array of shape \(3,\)"):
        kb.sensitivity(model, (x, y), 2, "f1", verbose=0)
    with pytest.raises(ValueError, match="`metric` must be finite.*nan"):
        kb.sensitivity(model, (x, np.nan * y), 2, verbose=0)


def test_choice_is_the_overrides_of_quantize_model():
    model = network()
    table = kb.sensitivity(model, data(), (1, 2, 8), verbose=0)
    chosen = table.choose(table.packed_bytes(2))
    assert len({rule["weight_bits"] for rule in chosen.values()}) > 1
    quantized = kb.quantize_model(model, 4, 4, overrides=chosen)
    found = {name: layer.bits for name, layer in kernels(quantized).items()}
    assert found == {n: rule["weight_bits"] for n, rule in chosen.items()}


def test_layers_of_one_name_go_by_their_paths():
    def inner(name):
        layers = [keras.Input((3,)), keras.layers.Dense(3, name="dense")]
        return keras.Sequential(layers, name=name)

    model = keras.Sequential(
        [inner("a"), inner("b"), keras.layers.Dense(3, name="dense")]
    )
    model.compile("sgd", "mse")
    x = np.ones((4, 3), "float32")
    table = kb.sensitivity(model, (x, x), (1, 2), verbose=0)
    names = {row["layer"] for row in table.rows}
    assert names == {"a/dense", "b/dense", "dense"}
    # The rule that matches all of them comes first: the others overrule it.
    assert list(table.choose(100))[0] == "dense"


def test_prints_a_line_for_each_layer():
    table = kb.sensitivity(network(), data(), (1, 2), verbose=0)
    header, *lines, note = str(table).splitlines()
    assert header.split() == "layer weights float32 bytes 1 bit 2 bits".split()
    assert [line.split()[0] for line in lines] == ["conv", "depthwise", "dense"]
    assert lines[0].split()[1:3] == ["72", "288"]
    assert f"{table.rows[1]['cost']:+.4f}" == lines[0].split()[-1]
    assert f"{table.baseline['loss']:.4f}" in note


def test_kernels_are_put_back_when_it_is_interrupted(monkeypatch):
    model = network()
    before = model.get_weights()
    evaluate, calls = model.evaluate, []

    def interrupted(*args, **kwargs):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(model, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kb.sensitivity(model, data(), verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"bits": ()}, "`bits` must be integers from 1 to 8. Received"),
        ({"bits": 9}, "`bits` must be an integer from 1 to 8. Received"),
        ({"metric": "f1"}, "`metric` must be one of accuracy, loss. Received"),
        ({"mode": "most"}, "`mode` must be one of auto, min, max. Rec"),
        ({"model": "x"}, "`model` must be a keras.Model. Received: model='x'"),
        ({"batch_size": 0}, "`batch_size` must be an integer above 0. Receiv"),
        ({"per_channel": 2}, "`per_channel` must be True or False. Received"),
        ({"verbose": 7}, "`verbose` must be one of .* Received: verbose=7"),
        ({"projection": "x"}, "method must be one of .* Received"),
        ({"data": np.zeros((2, 8, 8, 2))}, "`data` must be labelled"),
        ({"data": []}, "`data` must hold at least one sample"),
        (
            {"data": (np.full((2, 8, 8, 2), np.nan), np.zeros(2))},
            "`data` must be finite. Received: 256 values .* in batch 0",
        ),
    ],
)
def test_arguments_are_checked(arguments, message):
    defaults = {"model": network(), "data": data(), "verbose": 0}
    with pytest.raises(ValueError, match=message):
        kb.sensitivity(**defaults | arguments)


def test_models_that_cannot_be_measured():
    model = keras.Sequential([keras.Input((2,)), kb.QuantDense(3, name="last")])
    with pytest.raises(ValueError, match="must be compiled.*not compiled"):
        kb.sensitivity(model, data(), verbose=0)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="float model.*'last' has 4 bits"):
        kb.sensitivity(model, data(), verbose=0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must have a convolution"):
        kb.sensitivity(model, data(), verbose=0)
