"""The callbacks that watch quantization, through `fit`."""

import csv
import os
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from training_helpers import data

import keras_bcgd as kb
from keras_bcgd.projections import largest_code


class Recorder:
    """Keeps what it is given to write."""

    def __init__(self):
        self.scalars, self.histograms = {}, {}

    def add_scalar(self, tag, value, step):
        self.scalars[tag, step] = value

    def add_histogram(self, tag, values, step):
        self.histograms[tag, step] = np.array(values)


class Snapshots(keras.callbacks.Callback):
    """The weights as NumPy arrays, at the start and after each epoch."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.w, self.y = [], []

    def on_train_begin(self, logs=None):
        self.w.append(ops.convert_to_numpy(self.layer.quantized_kernel))

    def on_epoch_end(self, epoch, logs=None):
        self.w.append(ops.convert_to_numpy(self.layer.kernel))
        shadow = self.model.optimizer.shadow(self.layer.kernel)
        self.y.append(ops.convert_to_numpy(shadow))


def network():
    return keras.Sequential(
        [
            keras.Input((6,)),
            kb.QuantDense(8, bits=3, name="first"),
            kb.QuantReLU(2, name="relu"),
            kb.QuantDense(3, bits=32, name="last"),
        ]
    )


def codes_of(w):
    """The codes of a 3-bit tensor whose largest code is in it."""
    magnitudes = np.unique(np.abs(w[w != 0]))
    # Multiples of one scale: all magnitudes are whole numbers of it.
    for largest in range(1, largest_code(3) + 1):
        codes = w * largest / magnitudes[-1]
        if np.allclose(codes, np.round(codes), atol=1e-3):
            return np.round(codes)
    raise AssertionError("not on a grid")


def fit(model, optimizer, callbacks, epochs=3, **kwargs):
    model.compile(optimizer, "mse")
    model.fit(*data(), epochs=epochs, verbose=0, callbacks=callbacks, **kwargs)


def test_numbers_are_those_of_numpy():
    model, recorder = network(), Recorder()
    layer = model.get_layer("first")
    seen = Snapshots(layer)
    monitor = kb.QuantizationMonitor(recorder)
    optimizer = kb.BlendedOptimizer(
        keras.optimizers.SGD(0.3), alpha_learning_rate_multiplier=0.05
    )
    fit(model, optimizer, [seen, monitor])
    changes = []
    for epoch in (1, 2, 3):
        before, w, y = seen.w[epoch - 1], seen.w[epoch], seen.y[epoch - 1]
        distance = np.sqrt(np.sum((y - w) ** 2) / np.sum(y**2))
        # float32 sums of 48 squares.
        found = recorder.scalars["distance/first", epoch]
        assert found == pytest.approx(distance, rel=1e-5)
        changed = np.mean(codes_of(before) != codes_of(w))
        assert recorder.scalars["changed_codes/first", epoch] == changed
        histogram = recorder.histograms["codes/first", epoch]
        np.testing.assert_array_equal(histogram, codes_of(w).ravel())
        changes.append(changed)
    assert max(changes) > 0
    alphas = [recorder.scalars["alpha/relu", epoch] for epoch in (1, 2, 3)]
    assert alphas[-1] == float(model.get_layer("relu").alpha)
    assert len(set(alphas)) == 3
    assert {tag for tag, _ in recorder.scalars} == {
        "alpha/relu",
        "changed_codes/first",
        "distance/first",
    }
    assert monitor.latest == {
        tag: value
        for (tag, epoch), value in recorder.scalars.items()
        if epoch == 3
    }


def test_epochs_count_on_after_a_restart():
    model, recorder = network(), Recorder()
    optimizer = kb.BlendedOptimizer(keras.optimizers.SGD(0.1))
    monitor = kb.QuantizationMonitor(recorder)
    fit(model, optimizer, [monitor], epochs=5, initial_epoch=3)
    assert {epoch for _, epoch in recorder.scalars} == {4, 5}


def test_stock_optimizer():
    """The layer itself holds y, or here the constraint's projection of it."""
    model = network()
    monitor = kb.QuantizationMonitor()
    fit(model, keras.optimizers.SGD(0.1), [monitor])
    # Keras applied the constraint: y is w, to the rounding of one projection.
    assert monitor.latest["distance/first"] < 0.2
    assert "alpha/relu" in monitor.latest


def test_optimizer_within_a_loss_scale():
    model = network()
    monitor = kb.QuantizationMonitor()
    inner = kb.BlendedOptimizer(keras.optimizers.SGD(0.1))
    fit(model, keras.optimizers.LossScaleOptimizer(inner), [monitor])
    kernel = model.get_layer("first").kernel
    y = ops.convert_to_numpy(inner.shadow(kernel))
    w = ops.convert_to_numpy(kernel)
    distance = np.sqrt(np.sum((y - w) ** 2) / np.sum(y**2))
    assert monitor.latest["distance/first"] == pytest.approx(distance, rel=1e-5)
    assert distance > 0


def test_a_frozen_layer():
    """Nobody projects its kernel, which is y."""
    model = network()
    layer = model.get_layer("first")
    layer.trainable = False
    monitor = kb.QuantizationMonitor()
    fit(model, kb.BlendedOptimizer(keras.optimizers.SGD(0.1)), [monitor])
    assert monitor.latest["changed_codes/first"] == 0
    y = ops.convert_to_numpy(layer.kernel)
    w = ops.convert_to_numpy(layer.quantized_kernel)
    distance = np.sqrt(np.sum((y - w) ** 2) / np.sum(y**2))
    assert distance > 0
    assert monitor.latest["distance/first"] == pytest.approx(distance, 1e-5)


def nested():
    """Two models within a model, whose layers share their names."""

    def block(name, bits):
        inputs = keras.Input((6,))
        x = kb.QuantDense(6, bits=bits, name="first")(inputs)
        x = kb.QuantIdentity(name="codes")(x)
        return keras.Model(inputs, kb.QuantReLU(2, name="relu")(x), name=name)

    model = keras.Sequential(
        [
            keras.Input((6,)),
            block("a", 2),
            block("b", 3),
            kb.QuantDense(3, bits=4, name="first"),
        ]
    )
    model.get_layer("b").get_layer("relu").alpha.assign(0.2)
    return model


def parts_of(model):
    return {
        "a/first": model.get_layer("a").get_layer("first"),
        "b/first": model.get_layer("b").get_layer("first"),
        "first": model.get_layer("first"),
    }


def test_layers_of_models_within_the_model():
    model, recorder = nested(), Recorder()
    seen = {path: Snapshots(layer) for path, layer in parts_of(model).items()}
    monitor = kb.QuantizationMonitor(recorder)
    optimizer = kb.BlendedOptimizer(keras.optimizers.SGD(0.3))
    fit(model, optimizer, [*seen.values(), monitor], epochs=2)
    kinds = ("distance", "changed_codes")
    expected = {f"{kind}/{path}" for kind in kinds for path in seen}
    for name in ("a", "b"):
        for kind in ("relu", "codes"):
            alpha = model.get_layer(name).get_layer(kind).alpha
            tag = f"alpha/{name}/{kind}"
            assert monitor.latest[tag] == float(alpha)
            expected.add(tag)
    assert set(monitor.latest) == expected
    for path, snapshots in seen.items():
        w, y = snapshots.w[2], snapshots.y[1]
        distance = np.sqrt(np.sum((y - w) ** 2) / np.sum(y**2))
        found = monitor.latest[f"distance/{path}"]
        assert found == pytest.approx(distance, rel=1e-5)
        codes = recorder.histograms[f"codes/{path}", 2]
        layer = parts_of(model)[path]
        np.testing.assert_array_equal(
            codes, layer.kernel_scale_and_codes()[1].ravel()
        )
    changed = np.mean(
        recorder.histograms["codes/a/first", 1]
        != recorder.histograms["codes/a/first", 2]
    )
    assert monitor.latest["changed_codes/a/first"] == changed


def test_csv_of_models_within_the_model(tmp_path):
    path = tmp_path / "codes.csv"
    model = nested()
    logger = train(path, model)
    train(path, model, append=True, epochs=4, initial_epoch=3)
    rows = read(path)
    assert len(rows) == 4 and set(rows[0]) == {"epoch", *logger.latest}
    assert len(logger.latest) == 10


def test_a_kernel_of_zeros_has_no_distance():
    model = network()
    layer = model.get_layer("first")
    layer.kernel.assign(np.zeros((6, 8)))
    monitor = kb.QuantizationMonitor()
    fit(model, kb.BlendedOptimizer(keras.optimizers.SGD(0.0)), [monitor])
    assert monitor.latest["distance/first"] == 0
    assert monitor.latest["changed_codes/first"] == 0


def test_writer_without_methods_is_refused():
    with pytest.raises(ValueError, match="`writer` must have the methods"):
        kb.QuantizationMonitor("logs")


def test_history_of_all_epochs():
    model, recorder = network(), Recorder()
    monitor = kb.QuantizationMonitor(recorder)
    fit(model, kb.BlendedOptimizer(keras.optimizers.SGD(0.1)), [monitor])
    assert monitor.history.pop("epoch") == [1, 2, 3]
    for tag, values in monitor.history.items():
        assert values == [recorder.scalars[tag, e] for e in (1, 2, 3)]
    assert set(monitor.history) == set(monitor.latest)


# QuantizationCSVLogger


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def train(path, model=None, append=False, **epochs):
    model = model or network()
    logger = kb.QuantizationCSVLogger(path, append=append)
    optimizer = kb.BlendedOptimizer(keras.optimizers.SGD(0.1))
    fit(model, optimizer, [logger], **epochs)
    return logger


def test_csv_has_a_row_for_each_epoch(tmp_path):
    path = tmp_path / "codes.csv"
    logger = train(path)
    rows = read(path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert set(rows[0]) == {
        "epoch",
        "alpha/relu",
        "distance/first",
        "changed_codes/first",
    }
    for tag, values in logger.history.items():
        assert [float(row[tag]) for row in rows] == values
    assert os.listdir(tmp_path) == ["codes.csv"]


def test_csv_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "codes.csv"
    first = train(path)
    second = train(path, append=True, epochs=5, initial_epoch=2)
    rows = read(path)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    alphas = first.history["alpha/relu"][:2] + second.history["alpha/relu"]
    assert [float(row["alpha/relu"]) for row in rows] == alphas


def test_csv_in_no_folder_is_refused_before_training(tmp_path):
    model = network()
    with pytest.raises(ValueError, match="in a folder that exists. Received"):
        train(tmp_path / "none" / "codes.csv", model)
    assert int(model.optimizer.iterations) == 0


def test_csv_begins_anew_unless_told(tmp_path):
    path = tmp_path / "codes.csv"
    train(path)
    train(path, epochs=5, initial_epoch=3)
    assert [row["epoch"] for row in read(path)] == ["4", "5"]


def test_csv_is_whole_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "codes.csv"
    train(path)
    before = path.read_bytes()

    def no_space(self, rows):
        self.writerow(dict.fromkeys(self.fieldnames, "half"))
        raise OSError("no space")

    monkeypatch.setattr(csv.DictWriter, "writerows", no_space)
    with pytest.raises(OSError, match="no space"):
        train(path, append=True, epochs=4, initial_epoch=3)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["codes.csv"]


def test_csv_of_another_model_is_refused(tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text("epoch,alpha/other\n1,0.5\n", encoding="utf-8")
    with pytest.raises(ValueError, match="other layers.*alpha/other, alpha/r"):
        train(path, append=True)
    assert "other" in path.read_text(encoding="utf-8")


# WarnOnDeadLayers


def watched(model, watch, epochs=2, rate=0.0):
    """The warnings of a training, as text."""
    optimizer = kb.BlendedOptimizer(keras.optimizers.SGD(rate))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, optimizer, [watch], epochs=epochs)
    return [str(w.message) for w in caught if "Layer '" in str(w.message)]


def test_no_warning_for_layers_that_live():
    x, _ = data()
    assert watched(network(), kb.WarnOnDeadLayers(x), rate=0.1) == []


def test_collapsed_alpha_is_told_once():
    model = network()
    model.get_layer("relu").alpha.assign(1e-3)
    (text,) = watched(model, kb.WarnOnDeadLayers())
    assert "Layer 'relu': alpha has collapsed to its bound, 0.001" in text
    assert "before the first epoch" in text
    assert "alpha_learning_rate_multiplier" in text


def test_alpha_that_collapses_while_training():
    model = network()
    optimizer = kb.BlendedOptimizer(
        keras.optimizers.SGD(0.1), alpha_learning_rate_multiplier=1e4
    )
    # What comes out is to be far below 0: alpha times a positive number.
    model.get_layer("last").kernel.assign(np.ones((8, 3)))
    model.get_layer("last").trainable = False
    model.compile(optimizer, "mse")
    x, y = data()
    with pytest.warns(UserWarning, match="'relu': alpha .*after epoch 1"):
        model.fit(x, y - 100, verbose=0, callbacks=[kb.WarnOnDeadLayers()])


def test_a_kernel_of_zeros():
    model = network()
    model.get_layer("first").kernel.assign(np.zeros((6, 8)))
    (text,) = watched(model, kb.WarnOnDeadLayers(max_zeros=1.0))
    assert "Layer 'first': 100.00 % of the weights have the code 0" in text


def test_weights_and_alphas_that_are_no_numbers():
    model = network()
    kernel = np.zeros((6, 8))
    kernel[0, :4] = np.nan
    model.get_layer("first").kernel.assign(kernel)
    model.get_layer("relu").alpha.assign(np.nan)
    texts = watched(model, kb.WarnOnDeadLayers())
    assert len(texts) == 2
    # On JAX the kernel is projected by now, and all of it is NaN.
    assert "Layer 'first': " in texts[0]
    assert " % of the weights are NaN or infinite before" in texts[0]
    assert "Layer 'relu': alpha is nan before the first epoch" in texts[1]


def test_an_alpha_with_one_value_has_not_collapsed():
    """As in the place of a ReLU whose largest output is small."""
    model = network()
    relu = model.get_layer("relu")
    relu.alpha_constraint = kb.AlphaBound(5e-4, 5e-4)
    relu.alpha.assign(5e-4)
    assert watched(model, kb.WarnOnDeadLayers()) == []


@pytest.mark.parametrize("max_zeros, warnings_", [(0.97, 1), (0.98, 0)])
def test_a_kernel_of_nearly_zeros(max_zeros, warnings_):
    model = network()
    kernel = np.full((6, 8), 1e-3)
    kernel[0, 0] = 1.0  # of 48: 97.9 % are 0
    model.get_layer("first").kernel.assign(kernel)
    found = watched(model, kb.WarnOnDeadLayers(max_zeros=max_zeros))
    assert len(found) == warnings_
    if found:
        assert "97.92 %" in found[0]


@pytest.mark.parametrize("max_dead, warnings_", [(0.8, 1), (0.9, 0)])
def test_dead_activations(max_dead, warnings_):
    model, (x, _) = network(), data()
    bias = np.full(8, -100.0)
    bias[0] = 100.0
    model.get_layer("first").bias.assign(bias)
    found = watched(model, kb.WarnOnDeadLayers(x, max_dead=max_dead))
    assert len(found) == warnings_
    if found:
        assert "Layer 'relu': 7 of its 8 channels are 0" in found[0]
    assert watched(model, kb.WarnOnDeadLayers()) == []


@pytest.mark.parametrize("name", ["max_zeros", "max_dead"])
@pytest.mark.parametrize("share", [-0.1, 1.1, None, float("nan")])
def test_shares_are_checked(name, share):
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received"):
        kb.WarnOnDeadLayers(**{name: share})
