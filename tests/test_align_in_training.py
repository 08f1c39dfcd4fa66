"""AlignForExport: the model in training becomes that of its file."""

import keras
import numpy as np
import pytest
from export_helpers import INPUT_RANGE
from export_helpers import grid_inputs
from export_helpers import numpy_of
from training_helpers import assert_same

import keras_bcgd as kb

layers = keras.layers
SHAPE = (8, 8, 3)


def data(samples=32):
    x = grid_inputs(SHAPE, samples).astype("float32")
    return x, np.random.default_rng(1).integers(0, 4, samples)


def residual(bits=2, **settings):
    """A block whose branch has 256 codes, which alignment has to move."""
    keras.utils.set_random_seed(0)

    def conv(x):
        x = kb.QuantConv2D(
            8, 3, bits=bits, padding="same", use_bias=False, **settings
        )(x)
        return layers.BatchNormalization(momentum=0.5)(x)

    inputs = keras.Input(SHAPE)
    x = kb.QuantReLU(4)(conv(inputs))
    branch = kb.QuantReLU(4)(conv(x))
    x = kb.QuantAddReLU(4, branch_bits=8)([conv(branch), x])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, kb.QuantDense(4, bits=8)(x))


def bare(projection="lloyd"):
    """A kernel without batch normalization, whose scale alignment moves."""
    keras.utils.set_random_seed(0)
    alpha = keras.initializers.Constant(0.1)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            kb.QuantConv2D(
                8,
                3,
                bits=4,
                projection=projection,
                bias_initializer="normal",
                name="moved",
            ),
            kb.QuantIdentity(8, alpha_initializer=alpha),
            kb.QuantConv2D(8, 1, bits=1, use_bias=False),
            layers.BatchNormalization(momentum=0.5),
            kb.QuantReLU(2),
            layers.GlobalAveragePooling2D(),
            kb.QuantDense(4, bits=8),
        ]
    )


def compiled(model, rate=0.05, blending=1e-5, **settings):
    sgd = keras.optimizers.SGD(rate, momentum=0.9, **settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kb.BlendedOptimizer(sgd, blending, l2=1e-3), loss)
    return model


def fit(model, *callbacks, epochs=3, **kwargs):
    return model.fit(
        *data(),
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
        **kwargs,
    )


def aligned(epoch=-1):
    return kb.AlignForExport(epoch, input_range=INPUT_RANGE)


def values(model):
    return {v.path: numpy_of(v) for v in model.variables}


class Seen(keras.callbacks.Callback):
    """The weights when the last epoch begins, after other callbacks."""

    def on_epoch_begin(self, epoch, logs=None):
        self.weights = values(self.model)


def quantized(model):
    return [layer for layer in model.layers if hasattr(layer, "kernel")]


def test_nothing_is_left_to_move():
    model, align = compiled(residual()), aligned()
    fit(model, align)
    assert align.report.layers
    after = kb.align_for_export(model, INPUT_RANGE)
    assert after.is_exact and not after.layers


def test_without_it_there_is():
    """Or the test above would test nothing."""
    model = compiled(residual())
    fit(model)
    assert kb.align_for_export(model, INPUT_RANGE).layers


def test_the_file_has_the_answers_of_the_model_in_training(tmp_path):
    pytest.importorskip("ai_edge_litert")
    model = compiled(residual())
    fit(model, aligned())
    path = tmp_path / "model.tflite"
    report = kb.export_tflite(model, path, INPUT_RANGE, data()[0])
    assert report.model is model and report.is_exact
    assert kb.verify_tflite(model, path, data()[0], verbose=0).is_equal


@pytest.mark.parametrize("network", [residual, bare])
def test_codes_are_trained_and_nothing_else(network):
    model, align, seen = compiled(network(), rate=0.5), aligned(), Seen()
    fit(model, align, seen)
    assert align.report.layers
    kernels = {layer.kernel.path: layer for layer in quantized(model)}
    changed = 0
    for path, value in values(model).items():
        if path not in kernels:
            np.testing.assert_array_equal(value, seen.weights[path], path)
            continue
        before = np.abs(seen.weights[path])
        scale = min(before[before > 0])
        codes = value / scale
        if kernels[path].bits <= 2:
            np.testing.assert_allclose(codes, np.round(codes), atol=1e-5)
        changed += np.sum(value != seen.weights[path])
    assert changed > 0


def test_training_computes_what_the_file_does():
    """Batch normalization too: the loss in training is that of `evaluate`."""
    model = compiled(residual(), rate=0.0)
    history = fit(model, aligned(), epochs=1)
    loss = model.evaluate(*data(), batch_size=8, verbose=0)
    # Sums in another order.
    assert history.history["loss"][0] == pytest.approx(loss, rel=1e-5)


def ratio(after, before):
    """Of two arrays that are one times a number, this number."""
    ratios = (after / np.where(before == 0, 1, before))[before != 0]
    # float32 products.
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-6)
    return ratios[0]


@pytest.mark.parametrize("projection", ["lloyd", "exact"])
def test_y_follows_a_kernel_that_is_moved(projection):
    """And w is not taken for new float weights at the next steps."""
    model = compiled(bare(projection), rate=0.0, blending=0.0)
    model.optimizer.l2 = 0.0
    layer = model.get_layer("moved")
    y = numpy_of(layer.kernel)
    w = numpy_of(layer.quantized_kernel)
    fit(model, aligned(), epochs=1)
    moved = ratio(numpy_of(layer.kernel), w)
    assert abs(moved - 1) > 5e-6
    now = ratio(numpy_of(kb.shadow(model, layer.kernel)), y)
    # The codes of one Lloyd round are those nearest to another scale.
    tolerance = 1e-6 if projection == "exact" else 0.1
    assert now == pytest.approx(moved, rel=tolerance)


def test_one_scale_for_each_channel():
    model = compiled(residual(bits=3, per_channel=True), rate=0.0, blending=0.0)
    model.optimizer.l2 = 0.0
    codes = [layer.kernel_scale_and_codes()[1] for layer in quantized(model)]
    fit(model, aligned(), epochs=1)
    for layer, before in zip(quantized(model), codes, strict=True):
        after = layer.kernel_scale_and_codes()[1]
        # Of the y that lie halfway between two codes, to float32.
        assert np.mean(after != before) < 0.01


class Stop(keras.callbacks.Callback):
    """Ends a training after some epochs, which leaves a file."""

    def __init__(self, epochs, path):
        super().__init__()
        self.epochs, self.path = epochs, path

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 == self.epochs:
            self.model.save(self.path)
            self.model.stop_training = True


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_training_that_goes_on(epochs, tmp_path):
    """Stopped before, just before and after the epoch of the alignment."""
    whole = compiled(bare(), rate=0.2)
    fit(whole, aligned(2), epochs=4)
    path = tmp_path / "model.keras"
    fit(compiled(bare(), rate=0.2), aligned(2), Stop(epochs, path), epochs=4)
    model, align = keras.models.load_model(path), aligned(-2)
    fit(model, align, epochs=4, initial_epoch=epochs)
    assert (align.report is None) == (epochs == 3)
    assert_same(model, whole)


def test_afterwards_all_is_trained_again():
    model = compiled(residual())
    fit(model, aligned())
    before = values(model)
    fit(model, epochs=1)
    for path, value in values(model).items():
        if "kernel" not in path and "seed" not in path:
            assert np.any(value != before[path]), path


class Fail(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def test_after_an_interrupted_training():
    model, align = compiled(residual()), aligned()
    with pytest.raises(KeyboardInterrupt):
        fit(model, align, Fail(), epochs=1)
    before = values(model)
    align.epoch = 1
    fit(model, align, epochs=1)
    gammas = [path for path in before if path.endswith("gamma")]
    assert all(np.any(values(model)[g] != before[g]) for g in gammas)


def test_an_epoch_that_does_not_come():
    model, align = compiled(residual()), aligned(5)
    fit(model, align, epochs=1)
    assert align.report is None


def test_within_a_loss_scale():
    model = residual()
    inner = kb.BlendedOptimizer(keras.optimizers.SGD(0.05))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), loss)
    fit(model, aligned(), epochs=1)
    assert not kb.align_for_export(model, INPUT_RANGE).layers


def test_gradients_that_are_accumulated():
    model = compiled(residual(), gradient_accumulation_steps=2)
    fit(model, aligned())
    assert not kb.align_for_export(model, INPUT_RANGE).layers


class Draws(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return np.arange(8 * index, 8 * index + 8)


def test_fit_on_device():
    model = compiled(residual())

    def make_batch(arrays, chosen):
        return tuple(keras.ops.take(a, chosen, axis=0) for a in arrays)

    kb.fit_on_device(
        model,
        data(),
        Draws(),
        make_batch,
        steps_per_execution=2,
        epochs=3,
        verbose=0,
        callbacks=[aligned()],
    )
    assert not kb.align_for_export(model, INPUT_RANGE).layers


@pytest.mark.parametrize("epoch", [1.0, True, None])
def test_other_epochs_are_refused(epoch):
    with pytest.raises(ValueError, match="`epoch` must be an integer. Receiv"):
        kb.AlignForExport(epoch)


def test_more_epochs_than_there_are():
    with pytest.raises(ValueError, match="`epoch` must be at least -2"):
        fit(compiled(residual()), aligned(-3), epochs=2)


def test_stock_optimizer_is_refused():
    model = residual()
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="compiled with a keras_bcgd.Blended"):
        fit(model, aligned())


@pytest.mark.parametrize("is_built", [False, True])
def test_averaged_weights_are_refused(is_built):
    model = compiled(residual(), use_ema=True)
    if is_built:
        fit(model, epochs=1)
    with pytest.raises(ValueError, match="without `use_ema`"):
        fit(model, aligned())
