"""QuantizationMonitor: its numbers against NumPy's, through `fit`."""

import keras
import numpy as np
import pytest
from keras import ops

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


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6)).astype("float32")
    return x, rng.standard_normal((64, 3)).astype("float32")


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


def test_layers_of_models_within_the_model():
    inner = network()
    model = keras.Sequential([keras.Input((6,)), inner])
    monitor = kb.QuantizationMonitor()
    fit(model, kb.BlendedOptimizer(keras.optimizers.SGD(0.1)), [monitor])
    assert set(monitor.latest) == {
        "alpha/relu",
        "changed_codes/first",
        "distance/first",
    }


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
