"""reestimate_batch_norm against NumPy."""

import keras
import numpy as np
import pytest
from keras import layers
from numpy.lib.stride_tricks import sliding_window_view

import keras_bcgd as kb

# Sums of float32 products in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
WEIGHTS = {
    "gamma_initializer": keras.initializers.RandomUniform(0.5, 1.5, seed=0),
    "beta_initializer": keras.initializers.RandomNormal(stddev=0.5, seed=0),
}


def numpy_of(tensor):
    return np.array(keras.ops.convert_to_numpy(tensor))


def values(model):
    return [numpy_of(v) for v in model.variables]


def images(count=20):
    rng = np.random.default_rng(0)
    return rng.standard_normal((count, 6, 6, 2)).astype("float32")


def batch_norm(name, **kwargs):
    return layers.BatchNormalization(name=name, **WEIGHTS, **kwargs)


def chain(dropout=0.5):
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            kb.QuantConv2D(3, 3, bits=2, name="conv"),
            batch_norm("bn1"),
            kb.QuantReLU(bits=4, name="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(dropout),
            kb.QuantDense(4, bits=4, name="dense"),
            batch_norm("bn2", epsilon=1e-2),
        ]
    )


# Written out, and apart from the code


def conv(x, layer):
    windows = sliding_window_view(x, (3, 3), (1, 2))
    kernel = numpy_of(layer.quantized_kernel)
    return np.einsum("bijckl,klco->bijo", windows, kernel) + numpy_of(
        layer.bias
    )


def dense(x, layer):
    return x @ numpy_of(layer.quantized_kernel) + numpy_of(layer.bias)


def staircase(x, layer):
    alpha = numpy_of(layer.alpha)
    return np.clip(np.ceil(x / alpha), 0, 2**layer.bits - 1) * alpha


def moments(x):
    axes = tuple(range(x.ndim - 1))
    return x.mean(axes), x.var(axes)


def normalize(x, layer):
    mean, variance = moments(x)
    return numpy_of(layer.beta) + numpy_of(layer.gamma) * (x - mean) / np.sqrt(
        variance + layer.epsilon
    )


def moments_of_chain(model, x):
    """Those of both layers in one batch: the second is fed by the first."""
    layer = model.get_layer
    first = conv(x.astype("float64"), layer("conv"))
    x = staircase(normalize(first, layer("bn1")), layer("relu"))
    second = dense(x.mean((1, 2)), layer("dense"))
    return {"bn1": moments(first), "bn2": moments(second)}


def averages(model, name):
    layer = model.get_layer(name)
    return numpy_of(layer.moving_mean), numpy_of(layer.moving_variance)


def test_averages_are_those_of_numpy():
    """The last batch is smaller, and counts for less."""
    model, x = chain(), images(20)
    kb.reestimate_batch_norm(model, x, batch_size=8)
    batches = [x[:8], x[8:16], x[16:]]
    found = [moments_of_chain(model, batch) for batch in batches]
    for name in ("bn1", "bn2"):
        expected = np.average([f[name] for f in found], 0, [8, 8, 4])
        np.testing.assert_allclose(averages(model, name), expected, **CLOSE)


def test_one_batch_answers_as_training_does():
    """The network in inference is the one that was trained."""
    model, x = chain(dropout=0.0), images()
    expected = numpy_of(model(x, training=True))
    kb.reestimate_batch_norm(model, x)
    np.testing.assert_allclose(numpy_of(model(x)), expected, **CLOSE)


def test_averages_are_the_limit_of_keras_own():
    """Training with a learning rate of 0 goes there, over many epochs."""
    model, x = chain(dropout=0.0), images(24)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    for name in ("bn1", "bn2"):
        model.get_layer(name).momentum = 0.98
    y = np.zeros((24, 4), "float32")
    model.fit(x, y, batch_size=8, shuffle=False, epochs=200, verbose=0)
    limit = {name: averages(model, name) for name in ("bn1", "bn2")}
    kb.reestimate_batch_norm(model, x, batch_size=8)
    found = [moments_of_chain(model, part) for part in np.split(x, 3)]
    for name, expected in limit.items():
        error = np.abs(np.subtract(averages(model, name), expected))
        # The last three batches weigh 1, .98 and .98 ** 2, and the variance of
        # 1 that there was before .98 ** 600.
        spread = np.ptp([f[name] for f in found], 0)
        assert np.all(error < 0.01 * spread + 1e-5)


def test_nothing_else_changes():
    model, x = chain(), images()
    optimizer = kb.BlendedOptimizer(keras.optimizers.Adam(0.01))
    model.compile(optimizer, "mse")
    model.fit(x, np.ones((20, 4), "float32"), verbose=0)
    before, state = values(model), [numpy_of(v) for v in optimizer.variables]
    kb.reestimate_batch_norm(model, x)
    changed = {
        "/".join(variable.path.split("/")[-2:])
        for variable, old in zip(model.variables, before, strict=True)
        if not np.array_equal(numpy_of(variable), old)
    }
    assert changed == {
        f"{name}/moving_{kind}"
        for name in ("bn1", "bn2")
        for kind in ("mean", "variance")
    }
    for variable, old in zip(optimizer.variables, state, strict=True):
        np.testing.assert_array_equal(numpy_of(variable), old, variable.path)
    for name in ("bn1", "bn2"):
        layer = model.get_layer(name)
        assert layer.momentum == 0.99
        assert "call" not in vars(layer)


def test_again_gives_the_same():
    model, x = chain(), images()
    kb.reestimate_batch_norm(model, x, batch_size=8)
    first = values(model)
    kb.reestimate_batch_norm(model, x, batch_size=8)
    for a, b in zip(first, values(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_averages_that_diverged_are_forgotten():
    model, x = chain(), images()
    kb.reestimate_batch_norm(model, x)
    expected = averages(model, "bn1")
    model.get_layer("bn1").moving_mean.assign([np.inf, np.nan, 0.0])
    model.get_layer("bn1").moving_variance.assign([np.nan, 1.0, np.inf])
    kb.reestimate_batch_norm(model, x)
    np.testing.assert_array_equal(averages(model, "bn1"), expected)


def test_so_many_batches_and_no_more():
    model, x = chain(), images()
    kb.reestimate_batch_norm(model, x[:8], batch_size=4)
    expected = averages(model, "bn2")
    kb.reestimate_batch_norm(model, x, batch_size=4, batches=2)
    np.testing.assert_array_equal(averages(model, "bn2"), expected)


# Where the layers are


class Block(layers.Layer):
    """A layer of a user, with one in it that no list of layers shows."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.branches = {"main": [batch_norm("inner")]}

    def build(self, input_shape):
        self.branches["main"][0].build(input_shape)

    def call(self, x):
        return 2 * self.branches["main"][0](x)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.block = batch_norm("first"), Block()

    def call(self, x):
        return self.block(self.first(x))


def nested():
    """Both layers within models, the second within a model within one."""
    inner = keras.Sequential([keras.Input((3,)), batch_norm("bn")])
    middle = keras.Sequential([keras.Input((3,)), inner])
    inputs = keras.Input((3,))
    return keras.Model(inputs, middle(Block()(inputs)))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 3), "float32"))
    return model


@pytest.mark.parametrize("make", [nested, subclassed])
def test_layers_at_any_depth(make):
    model = make()
    x = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
    expected = numpy_of(model(3 * x + 1, training=True))
    kb.reestimate_batch_norm(model, 3 * x + 1)
    np.testing.assert_allclose(numpy_of(model(3 * x + 1)), expected, **CLOSE)


def test_a_separable_convolution_of_this_package():
    """A composite layer: its parts run one by one."""
    inputs = keras.Input((6, 6, 2))
    x = kb.QuantSeparableConv2D(3, 3, bits=4)(inputs)
    model = keras.Model(inputs, batch_norm("bn")(x))
    expected = moments(numpy_of(keras.Model(inputs, x)(images())))
    kb.reestimate_batch_norm(model, images())
    np.testing.assert_allclose(averages(model, "bn"), expected, **CLOSE)


def test_a_shared_layer_has_the_mean_of_its_calls():
    inputs, shared = keras.Input((3,)), batch_norm("bn")
    model = keras.Model(inputs, shared(inputs) + shared(5 * inputs + 1))
    x = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
    kb.reestimate_batch_norm(model, x)
    expected = np.mean([moments(x), moments(5 * x + 1)], 0)
    np.testing.assert_allclose(averages(model, "bn"), expected, **CLOSE)


def test_masked_steps_do_not_count():
    model = keras.Sequential(
        [keras.Input((4, 3)), layers.Masking(), batch_norm("bn")]
    )
    x = np.random.default_rng(0).standard_normal((8, 4, 3)).astype("float32")
    x[::2, 2:] = 0
    seen = x[np.any(x, -1)]
    kb.reestimate_batch_norm(model, x)
    np.testing.assert_allclose(averages(model, "bn"), moments(seen), **CLOSE)


def test_channels_in_front():
    model = keras.Sequential([keras.Input((3, 5)), batch_norm("bn", axis=1)])
    x = np.random.default_rng(0).standard_normal((8, 3, 5)).astype("float32")
    kb.reestimate_batch_norm(model, x)
    expected = moments(np.moveaxis(x, 1, -1))
    np.testing.assert_allclose(averages(model, "bn"), expected, **CLOSE)


def test_frozen_layers_stay():
    """And what comes after is fed what they make in inference."""
    model, x = chain(), images()
    model.get_layer("bn1").trainable = False
    before = averages(model, "bn1")
    kb.reestimate_batch_norm(model, x)
    np.testing.assert_array_equal(averages(model, "bn1"), before)
    inputs = keras.Sequential(model.layers[:-1])(x)
    np.testing.assert_allclose(
        averages(model, "bn2"), moments(numpy_of(inputs)), **CLOSE
    )


def test_a_layer_that_is_not_called_stays():
    model = subclassed()
    model.call = model.first.__call__
    model.block.branches["main"][0].moving_mean.assign([1.0, 2.0, 3.0])
    with pytest.warns(UserWarning, match=r"did not call.*: block\w*/inner$"):
        kb.reestimate_batch_norm(model, np.eye(3, dtype="float32"))
    (inner,) = model.block.branches["main"]
    assert numpy_of(inner.moving_mean).tolist() == [1, 2, 3]


def with_setting(**setting):
    """Two layers, one after another, which not every Keras has."""
    try:
        first = batch_norm("bn1", **setting)
    except ValueError as error:
        pytest.skip(f"no such batch normalization: {error}")
    return keras.Sequential([keras.Input((3,)), first, batch_norm("bn2")])


@pytest.mark.parametrize("setting", ["synchronized", "renorm"])
def test_settings_of_several_replicas_and_of_small_batches(setting):
    """Both are for training: all samples are here, and none are corrected."""
    model = with_setting(**{setting: True})
    x = 3 * np.random.default_rng(0).standard_normal((8, 3)).astype("float32")
    kb.reestimate_batch_norm(model, x)
    first = model.get_layer("bn1")
    found = [averages(model, name) for name in ("bn1", "bn2")]
    expected = [moments(x), moments(normalize(x, first))]
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert getattr(first, setting)


def test_the_averages_of_renormalization():
    """That in training goes on; that of inference is what the variance is."""
    model = with_setting(renorm=True)
    x = np.random.default_rng(0).standard_normal((8, 3)).astype("float32")
    kb.reestimate_batch_norm(model, x)
    layer = model.get_layer("bn1")
    expected = np.sqrt(x.var(0) + layer.epsilon)
    np.testing.assert_allclose(numpy_of(layer.moving_stddev), expected, **CLOSE)
    assert not numpy_of(layer.renorm_mean).any()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    """The averages are float32, of what the layer before has rounded."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            kb.QuantDense(4, bits=4, dtype=policy),
            batch_norm("bn", dtype=policy),
        ]
    )
    x = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
    kb.reestimate_batch_norm(model, x)
    narrow = model.layers[0](x)
    assert keras.backend.standardize_dtype(narrow.dtype) != "float32"
    expected = moments(numpy_of(keras.ops.cast(narrow, "float32")))
    np.testing.assert_allclose(averages(model, "bn"), expected, **CLOSE)


def test_inputs_by_their_names():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    model = keras.Model({"a": a, "b": b}, batch_norm("bn")(a - b))
    x = np.random.default_rng(0).standard_normal((2, 8, 3)).astype("float32")
    kb.reestimate_batch_norm(model, {"a": x[0], "b": x[1]})
    expected = moments(x[0] - x[1])
    np.testing.assert_allclose(averages(model, "bn"), expected, **CLOSE)


# Errors


def breaking():
    yield images(8)
    raise OSError("the disk is gone")


def with_nan():
    yield images(8)
    yield np.full((8, 6, 6, 2), 3e38, "float32")


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"data": breaking()}, OSError, "the disk is gone"),
        ({"data": []}, ValueError, "`data` must hold at least one sample"),
        ({"data": images()[..., :1]}, Exception, "expected axis -1"),
        (
            {"data": with_nan()},
            ValueError,
            r"must be finite. Received: 3 channels .* layer 'bn1', in batch 1",
        ),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer"),
        ({"batches": 0}, ValueError, "`batches` must be .*None"),
        ({"verbose": 3}, ValueError, "`verbose` must be one of auto, 0, 1, 2"),
        ({"model": "m"}, ValueError, "`model` must be a built keras.Model"),
        (
            {"model": keras.Sequential([layers.BatchNormalization()])},
            ValueError,
            "`model` must be a built keras.Model",
        ),
    ],
)
# NumPy's, where a variance overflows.
@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")
def test_after_an_error_the_model_is_as_it_was(changes, error, message):
    model = chain()
    kb.reestimate_batch_norm(model, images(4))
    before = values(model)
    with pytest.raises(error, match=message):
        arguments = {"model": model, "data": images()} | changes
        kb.reestimate_batch_norm(**arguments)
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)
    for name in ("bn1", "bn2"):
        assert model.get_layer(name).momentum == 0.99
        assert "call" not in vars(model.get_layer(name))


def test_a_model_without_any_is_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)], name="m")
    with pytest.raises(ValueError, match="Received: the model 'm' with none"):
        kb.reestimate_batch_norm(model, np.eye(3))


def test_a_frozen_model_is_refused():
    model = chain()
    model.trainable = False
    with pytest.raises(ValueError, match="with 2, all frozen"):
        kb.reestimate_batch_norm(model, images())


def test_progress_is_shown_if_asked(capsys):
    kb.reestimate_batch_norm(chain(), images(), batch_size=8, verbose=1)
    assert "3/3" in capsys.readouterr().out
    kb.reestimate_batch_norm(chain(), images(), batch_size=8, verbose=0)
    assert not capsys.readouterr().out
