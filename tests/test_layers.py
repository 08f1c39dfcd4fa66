"""Quantized layers against their stock twins, and what their kernels hold."""

import json
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
import reference
from keras import ops

from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantConv1D
from keras_bcgd import QuantConv2D
from keras_bcgd import QuantConv2DTranspose
from keras_bcgd import QuantDense
from keras_bcgd import QuantDepthwiseConv2D
from keras_bcgd import QuantIdentity
from keras_bcgd import QuantProjection
from keras_bcgd import QuantReLU
from keras_bcgd import project

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"

IMAGES = (2, 6, 6, 4)
SERIES = (2, 12, 4)
# Quantized layer, stock twin, input shape, arguments.
LAYERS = [
    (QuantDense, keras.layers.Dense, (5, 7), {"units": 3}),
    (
        QuantDense,
        keras.layers.Dense,
        (2, 5, 7),
        {"units": 3, "use_bias": False, "activation": "tanh"},
    ),
    (
        QuantConv2D,
        keras.layers.Conv2D,
        IMAGES,
        {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"},
    ),
    (
        QuantConv2D,
        keras.layers.Conv2D,
        IMAGES,
        {
            "filters": 6,
            "kernel_size": (3, 2),
            "dilation_rate": 2,
            "groups": 2,
            "activation": "relu",
            "use_bias": False,
        },
    ),
    (
        QuantDepthwiseConv2D,
        keras.layers.DepthwiseConv2D,
        IMAGES,
        {"kernel_size": 3, "depth_multiplier": 2},
    ),
    (
        QuantDepthwiseConv2D,
        keras.layers.DepthwiseConv2D,
        IMAGES,
        {
            "kernel_size": 3,
            "strides": 2,
            "padding": "same",
            "activation": "relu",
            "use_bias": False,
        },
    ),
    (
        QuantConv1D,
        keras.layers.Conv1D,
        SERIES,
        {"filters": 6, "kernel_size": 3, "strides": 2, "padding": "same"},
    ),
    (
        QuantConv1D,
        keras.layers.Conv1D,
        SERIES,
        {
            "filters": 6,
            "kernel_size": 3,
            "dilation_rate": 2,
            "padding": "causal",
            "activation": "relu",
            "use_bias": False,
        },
    ),
    (
        QuantConv1D,
        keras.layers.Conv1D,
        SERIES,
        {"filters": 6, "kernel_size": 2, "groups": 2},
    ),
    (
        QuantConv2DTranspose,
        keras.layers.Conv2DTranspose,
        IMAGES,
        {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"},
    ),
    (
        QuantConv2DTranspose,
        keras.layers.Conv2DTranspose,
        IMAGES,
        {
            "filters": 5,
            "kernel_size": (3, 2),
            "strides": (2, 3),
            "output_padding": (1, 0),
            "activation": "relu",
            "use_bias": False,
        },
    ),
]
QUANTIZED = [
    (QuantDense, (5, 7), {"units": 3}),
    (QuantConv2D, IMAGES, {"filters": 6, "kernel_size": 3}),
    (QuantDepthwiseConv2D, IMAGES, {"kernel_size": 3, "depth_multiplier": 2}),
    (QuantConv1D, SERIES, {"filters": 6, "kernel_size": 3}),
    (QuantConv2DTranspose, IMAGES, {"filters": 5, "kernel_size": 3}),
]


def numpy_of(variable):
    return ops.convert_to_numpy(variable)


def random_input(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype("float32")


def twin_of(layer, twin_class, shape, kwargs):
    """The stock layer with the kernel that the quantized layer uses."""
    twin = twin_class(**kwargs)
    twin.build(shape)
    twin.kernel.assign(numpy_of(layer.quantized_kernel))
    if twin.use_bias:
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
        twin.bias.assign(numpy_of(layer.bias))
    return twin


def trained(layer, shape, optimizer=None, epochs=1):
    """A model of one layer after some steps, and its data."""
    model = keras.Sequential([keras.Input(shape[1:]), layer])
    x = random_input((24, *shape[1:]))
    y = np.ones((24, *model.output_shape[1:]), "float32")
    if optimizer is None:
        optimizer = BlendedOptimizer(keras.optimizers.SGD(0.05))
    model.compile(optimizer, "mse")
    model.fit(x, y, batch_size=8, verbose=0, epochs=epochs)
    return model, x, y


# The stock layer with another kernel.


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("cls, twin_class, shape, kwargs", LAYERS)
def test_output_equals_the_twins(cls, twin_class, shape, kwargs, bits):
    layer = cls(**kwargs, bits=bits)
    layer.build(shape)
    twin = twin_of(layer, twin_class, shape, kwargs)
    x = random_input(shape)
    np.testing.assert_array_equal(numpy_of(layer(x)), numpy_of(twin(x)))


@pytest.mark.parametrize("cls, twin_class, shape, kwargs", LAYERS)
def test_32_bits_is_the_stock_layer(cls, twin_class, shape, kwargs):
    layer, twin = cls(**kwargs, bits=32), twin_class(**kwargs)
    layer.build(shape)
    twin.build(shape)
    twin.set_weights(layer.get_weights())
    x = random_input(shape)
    np.testing.assert_array_equal(numpy_of(layer(x)), numpy_of(twin(x)))
    with pytest.raises(ValueError, match="no codes"):
        layer.kernel_scale_and_codes()


@pytest.mark.skipif(not ON_TENSORFLOW, reason="written with a GradientTape")
@pytest.mark.parametrize("is_quantized", [False, True])
@pytest.mark.parametrize("cls, twin_class, shape, kwargs", LAYERS)
def test_gradients_are_the_twins(cls, twin_class, shape, kwargs, is_quantized):
    import tensorflow as tf

    layer = cls(**kwargs, bits=2)
    layer.build(shape)
    if is_quantized:
        layer.kernel.assign(numpy_of(layer.quantized_kernel))
        layer.kernel_is_quantized.assign(True)
    twin = twin_of(layer, twin_class, shape, kwargs)
    x = tf.constant(random_input(shape))
    gradients = []
    for one in (layer, twin):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = ops.sum(ops.square(one(x)))
        sources = [x, *one.trainable_variables]
        gradients.append(tape.gradient(loss, sources))
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_allclose(numpy_of(a), numpy_of(b), 1e-6)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("cls, shape, kwargs", QUANTIZED)
def test_scale_is_per_layer_or_per_output_channel(
    cls, shape, kwargs, per_channel
):
    layer = cls(**kwargs, bits=4, per_channel=per_channel)
    layer.build(shape)
    outputs = 1
    if per_channel:
        outputs = layer.compute_output_shape(shape)[-1]
    scale, codes = layer.kernel_scale_and_codes()
    assert scale.size == outputs
    # Every output channel in one column; Keras' kernels end with it, but for
    # those of transposed convolutions, in which the inputs do.
    y = numpy_of(layer.kernel)
    w = numpy_of(layer.quantized_kernel)
    np.testing.assert_allclose(w, scale * codes, 1e-5)
    if cls is QuantConv2DTranspose:
        y, w = np.moveaxis(y, 2, 3), np.moveaxis(w, 2, 3)
    size = y.size // outputs
    columns = y.reshape((size, outputs)).T, w.reshape((size, outputs)).T
    for column, result in zip(*columns, strict=True):
        np.testing.assert_allclose(
            result, reference.project(column, 4), 1e-5, 1e-7
        )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("cls, shape, kwargs", QUANTIZED)
def test_mixed_precision_projects_the_float32_weights(
    cls, shape, kwargs, policy
):
    layer = cls(**kwargs, bits=4, dtype=policy)
    layer.build(shape)
    expected = reference.project(numpy_of(layer.kernel), 4)
    w = numpy_of(layer.quantized_kernel)
    assert w.dtype == "float32"
    np.testing.assert_allclose(w, expected, 1e-5, 1e-7)
    dtype = keras.backend.standardize_dtype(layer(random_input(shape)).dtype)
    assert dtype == policy.removeprefix("mixed_")


# What `kernel` and `quantized_kernel` hold.


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_before_training_the_network_uses_the_projection(bits):
    layer = QuantDense(3, bits=bits)
    layer.build((None, 7))
    y = numpy_of(layer.kernel)
    assert len(np.unique(y)) == y.size
    expected = reference.project(y, bits)
    np.testing.assert_allclose(
        numpy_of(layer.quantized_kernel), expected, 1e-5, 1e-7
    )


@pytest.mark.parametrize(
    "method", ["lloyd", "lloyd_converged", "exact", "warm"]
)
@pytest.mark.parametrize("cls, shape, kwargs", QUANTIZED)
def test_after_training_the_kernel_is_used_as_it_is(cls, shape, kwargs, method):
    layer = cls(**kwargs, bits=4, projection=method, per_channel=True)
    model, x, _ = trained(layer, shape)
    kernel = numpy_of(layer.kernel)
    np.testing.assert_array_equal(numpy_of(layer.quantized_kernel), kernel)
    scale, codes = layer.kernel_scale_and_codes()
    np.testing.assert_allclose(scale * codes, kernel, 1e-5, 1e-8)
    assert np.abs(codes).max() <= 7
    np.testing.assert_array_equal(codes, np.round(codes))


def test_a_compiled_prediction_follows_the_state():
    """`predict` is traced while the kernel is float, and used after `fit`."""
    layer = QuantConv2D(4, 3, bits=2)
    model = keras.Sequential([keras.Input(IMAGES[1:]), layer])
    x = random_input((8, *IMAGES[1:]))
    model.compile(BlendedOptimizer(keras.optimizers.SGD(0.05)), "mse")
    before = model.predict(x, verbose=0)
    model.fit(x, np.ones_like(before), verbose=0)
    after = model.predict(x, verbose=0)
    twin = keras.layers.Conv2D(4, 3)
    twin.build((None, *IMAGES[1:]))
    twin.kernel.assign(numpy_of(layer.kernel))
    twin.bias.assign(numpy_of(layer.bias))
    stock = keras.Sequential([keras.Input(IMAGES[1:]), twin])
    np.testing.assert_array_equal(after, stock.predict(x, verbose=0))
    assert np.abs(after - before).max() > 1e-3


def test_a_plain_optimizer_projects_too():
    layer = QuantDense(3, bits=2)
    model, x, _ = trained(layer, (5, 7), keras.optimizers.SGD(0.05))
    kernel = numpy_of(layer.kernel)
    assert len(np.unique(kernel)) <= 3
    # Only BlendedOptimizer marks kernels: the layer projects w again.
    assert not bool(numpy_of(layer.kernel_is_quantized))
    np.testing.assert_allclose(
        numpy_of(layer.quantized_kernel), kernel, 1e-6, 1e-8
    )


@pytest.mark.parametrize("per_channel, mark", [(False, 3), (True, 19)])
@pytest.mark.parametrize("cls, shape, kwargs", QUANTIZED)
def test_the_flag_is_state_of_the_kernel(cls, shape, kwargs, per_channel, mark):
    """The optimizer finds it there; the constraint is a config, no more."""
    layer = cls(**kwargs, bits=3, per_channel=per_channel)
    trained(layer, shape)
    assert layer.kernel.kernel_is_quantized is layer.kernel_is_quantized
    assert int(numpy_of(layer.kernel_is_quantized)) == mark
    projection = layer.kernel.constraint
    assert projection is layer.kernel_projection
    assert vars(projection) == projection.get_config()


def test_reading_the_projection_changes_nothing():
    layer = QuantDense(3, bits=2)
    layer.build((None, 7))
    layer.kernel_projection(layer.kernel)
    assert not bool(numpy_of(layer.kernel_is_quantized))


def test_codes_of_float_weights_marked_as_quantized_are_refused():
    layer = QuantDense(3, bits=2)
    trained(layer, (5, 7))
    layer.kernel.assign(random_input((7, 3)))
    with pytest.raises(ValueError, match="is marked as quantized"):
        layer.kernel_scale_and_codes()
    layer.kernel_is_quantized.assign(False)
    layer.kernel_scale_and_codes()


def test_lora_needs_float_weights():
    with pytest.raises(ValueError, match="`lora_rank` needs float weights"):
        QuantDense(3, bits=4, lora_rank=2)
    layer = QuantDense(3, bits=32, lora_rank=2)
    assert layer(random_input((5, 7))).shape == (5, 3)


def test_no_scale_is_chosen_inside_a_float_kernel_of_zeros():
    layer = QuantDense(3, bits=4, kernel_initializer="zeros")
    layer.build((None, 7))
    np.testing.assert_array_equal(numpy_of(layer.quantized_kernel), 0)


# Saving and copying.


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("cls, shape, kwargs", QUANTIZED)
def test_saving_keeps_the_state(tmp_path, cls, shape, kwargs, steps):
    layer = cls(**kwargs, bits=4)
    if steps:
        model, x, _ = trained(layer, shape)
    else:
        model = keras.Sequential([keras.Input(shape[1:]), layer])
        x = random_input((24, *shape[1:]))
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    copy = loaded.layers[0]
    assert bool(numpy_of(copy.kernel_is_quantized)) == steps
    np.testing.assert_array_equal(numpy_of(copy.kernel), numpy_of(layer.kernel))
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


@pytest.mark.parametrize("cls, shape, kwargs", QUANTIZED)
def test_weights_of_a_32_bit_layer_load(tmp_path, cls, shape, kwargs):
    path = tmp_path / "float.weights.h5"
    model, x, _ = trained(cls(**kwargs, bits=32), shape)
    model.save_weights(path)
    layer = cls(**kwargs, bits=1)
    quantized, _, _ = trained(layer, shape)
    fresh = keras.Sequential([keras.Input(shape[1:]), layer])
    fresh.load_weights(path)
    y = numpy_of(model.layers[0].kernel)
    np.testing.assert_array_equal(numpy_of(layer.kernel), y)
    np.testing.assert_allclose(
        numpy_of(layer.quantized_kernel), reference.project(y, 1), 1e-5
    )


def test_set_weights_carries_the_state():
    layer = QuantDense(3, bits=2)
    model, x, _ = trained(layer, (5, 7))
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    assert bool(numpy_of(copy.layers[0].kernel_is_quantized))
    np.testing.assert_array_equal(
        copy.predict(x, verbose=0), model.predict(x, verbose=0)
    )


# Weights of another grid.


def two_dense(bits, activation_bits=4, per_channel=False):
    """A network of two quantized layers, compiled."""
    keras.utils.set_random_seed(3)
    kwargs = {"bits": bits, "per_channel": per_channel}
    relu = keras.layers.ReLU()
    if activation_bits != 32:
        relu = QuantReLU(activation_bits)
    model = keras.Sequential(
        [
            keras.Input((7,)),
            QuantDense(16, **kwargs),
            relu,
            QuantDense(3, use_bias=False, **kwargs),
        ]
    )
    model.compile(BlendedOptimizer(keras.optimizers.SGD(0.05)), "mse")
    return model


def fit(model, x, **kwargs):
    y = np.sin(np.arange(x.shape[0] * 3)).reshape(-1, 3)
    return model.fit(x, y, batch_size=8, verbose=0, shuffle=False, **kwargs)


def by_hand(model, bits, x, kernels=None):
    """The output of `two_dense` with the projections of its kernels."""
    first, relu, last = model.layers
    if kernels is None:
        kernels = [numpy_of(first.kernel), numpy_of(last.kernel)]
    w, v = [reference.project(kernel, bits) for kernel in kernels]
    hidden = x @ w + numpy_of(first.bias)
    hidden, _, _ = reference.quant_relu(hidden, float(relu.alpha), relu.bits)
    return hidden @ v


def load_file(suffix):
    def load(target, source, folder):
        path = folder / f"file{suffix}"
        if suffix == ".keras":
            source.save(path)
        else:
            source.save_weights(path)
        target.load_weights(path)

    return load


def set_on_layers(target, source, folder):
    for layer, other in zip(target.layers, source.layers, strict=True):
        layer.set_weights(other.get_weights())


def set_on_model(target, source, folder):
    target.set_weights(source.get_weights())


LOADS = {
    "weights.h5": load_file(".weights.h5"),
    "keras": load_file(".keras"),
    "layer.set_weights": set_on_layers,
    "model.set_weights": set_on_model,
}
# Keras tells that the file has the optimizer of another model.
LOADING = pytest.mark.filterwarnings(
    "ignore:Skipping variable loading",
    "ignore:The saved optimizer",
    "ignore:Quantized weights were loaded",
)


@LOADING
@pytest.mark.parametrize("is_traced", [False, True])
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_more_bits_are_projected_to_fewer(tmp_path, load, is_traced):
    x = random_input((24, 7))
    source, target = two_dense(4), two_dense(2)
    fit(source, x, epochs=3)
    if is_traced:
        fit(target, x)
        target.predict(x, verbose=0)
    kernels = [numpy_of(source.layers[i].kernel) for i in (0, 2)]
    assert max(len(np.unique(kernel)) for kernel in kernels) > 3
    load(target, source, tmp_path)
    expected = by_hand(target, 2, x, kernels)
    np.testing.assert_allclose(
        target.predict(x, verbose=0), expected, 1e-4, 1e-5
    )
    for layer in (target.layers[0], target.layers[2]):
        _, codes = layer.kernel_scale_and_codes()
        assert np.abs(codes).max() == 1
    fit(target, x)
    for layer in (target.layers[0], target.layers[2]):
        assert len(np.unique(numpy_of(layer.kernel))) == 3
        np.testing.assert_array_equal(
            numpy_of(layer.quantized_kernel), numpy_of(layer.kernel)
        )


@LOADING
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_training_goes_on_from_weights_of_more_bits(tmp_path, load):
    x = random_input((24, 7))
    source, target = two_dense(4), two_dense(2)
    fit(source, x, epochs=3)
    source.optimizer.learning_rate = 0.0  # A file has it too.
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.0), blending=0.0)
    target.compile(optimizer, "mse")
    fit(target, x)
    load(target, source, tmp_path)
    kernels = [numpy_of(source.layers[i].kernel) for i in (0, 2)]
    fit(target, x)
    for layer, y in zip(target.layers[::2], kernels, strict=True):
        np.testing.assert_array_equal(
            numpy_of(optimizer.shadow(layer.kernel)), y
        )


class LoadBetweenEpochs(keras.callbacks.Callback):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.load_weights(self.path)


@LOADING
def test_more_bits_are_loaded_while_training(tmp_path):
    x = random_input((24, 7))
    source, target = two_dense(4), two_dense(2)
    fit(source, x, epochs=3)
    source.optimizer.learning_rate = 0.0
    path = tmp_path / "file.weights.h5"
    source.save_weights(path)
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.0), blending=0.0)
    target.compile(optimizer, "mse")
    losses = fit(target, x, epochs=2, callbacks=[LoadBetweenEpochs(path)])
    y = np.sin(np.arange(x.shape[0] * 3)).reshape(-1, 3)
    kernels = [numpy_of(source.layers[i].kernel) for i in (0, 2)]
    expected = by_hand(target, 2, x, kernels)
    loss = losses.history["loss"]
    assert loss[1] == pytest.approx(np.mean((expected - y) ** 2), rel=1e-4)
    assert abs(loss[1] - loss[0]) > 1e-3
    np.testing.assert_allclose(
        target.predict(x, verbose=0), expected, 1e-4, 1e-5
    )


@LOADING
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
@pytest.mark.parametrize("bits", [(1, 2), (3, 4)])
def test_fewer_bits_are_taken_as_they_are(tmp_path, load, bits):
    x = random_input((24, 7))
    source, target = two_dense(bits[0]), two_dense(bits[1])
    fit(source, x)
    load(target, source, tmp_path)
    np.testing.assert_array_equal(
        target.predict(x, verbose=0), source.predict(x, verbose=0)
    )


@LOADING
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_scales_of_channels_are_no_grid_of_a_layer(tmp_path, load):
    x, bits = random_input((24, 7)), 4
    source, target = two_dense(bits, per_channel=True), two_dense(bits)
    fit(source, x, epochs=3)
    load(target, source, tmp_path)
    np.testing.assert_allclose(
        target.predict(x, verbose=0), by_hand(target, bits, x), 1e-4, 1e-5
    )
    fit(target, x)
    load(source, target, tmp_path)
    np.testing.assert_array_equal(
        source.predict(x, verbose=0), target.predict(x, verbose=0)
    )


@pytest.mark.parametrize("name", ["weights.h5", "layer.set_weights"])
def test_one_warning_tells_of_more_bits(tmp_path, name):
    source, target = two_dense(4), two_dense(2)
    fit(source, random_input((24, 7)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        LOADS[name](target, source, tmp_path)
        LOADS[name](source, two_dense(2), tmp_path)
    texts = [str(warning.message) for warning in caught]
    (text,) = [text for text in texts if "uses their projection" in text]
    assert "grid is another: 2 bits, one scale for the layer" in text


@LOADING
@pytest.mark.parametrize("bits", [2, 4])
def test_a_file_of_version_0_1_loads(tmp_path, bits):
    """Its flag is a Boolean: it does not say at how many bits."""
    x = random_input((24, 7))
    source, target = two_dense(4), two_dense(bits)
    fit(source, x)
    source.compile()
    path = tmp_path / "old.weights.h5"
    source.save_weights(path)
    with h5py.File(path, "r+") as file:
        for name, key in [("quant_dense", "2"), ("quant_dense_1", "1")]:
            group = file[f"layers/{name}/vars"]
            flag = bool(group[key][()])
            del group[key]
            group[key] = flag
            assert group[key].dtype == bool
    target.load_weights(path)
    if bits == 4:
        expected = source.predict(x, verbose=0)
        assert target.get_weights()[2] == source.get_weights()[2]
    else:
        expected = by_hand(target, 2, x)
    np.testing.assert_allclose(
        target.predict(x, verbose=0), expected, 1e-4, 1e-5
    )


# Weights of stock layers.


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("cls, twin_class, shape, kwargs", LAYERS)
def test_the_list_of_a_stock_layer_is_float(
    cls, twin_class, shape, kwargs, steps
):
    twin = twin_class(**kwargs)
    twin.build(shape)
    layer = cls(**kwargs, bits=2)
    if steps:
        trained(layer, shape)
    else:
        layer.build(shape)
    layer.set_weights(twin.get_weights())
    y = numpy_of(twin.kernel)
    np.testing.assert_array_equal(numpy_of(layer.kernel), y)
    assert not numpy_of(layer.kernel_is_quantized)
    twin.kernel.assign(reference.project(y, 2))
    x = random_input(shape)
    np.testing.assert_allclose(
        numpy_of(layer(x)), numpy_of(twin(x)), 1e-5, 1e-6
    )


def test_the_flag_is_found_before_the_weights_of_an_activation():
    layers = [
        cls(3, activation=keras.layers.PReLU())
        for cls in (QuantDense, keras.layers.Dense)
    ]
    x = random_input((5, 7))
    for layer in layers:
        layer(x)
    layers[1].set_weights([w + 0.25 for w in layers[1].get_weights()])
    layers[0].set_weights(layers[1].get_weights())
    values = {w.name: numpy_of(w) for w in layers[0].weights}
    assert values.pop("kernel_is_quantized") == 0
    for weight in layers[1].weights:
        np.testing.assert_array_equal(values[weight.name], numpy_of(weight))


def test_a_list_of_another_length_is_refused():
    layer = QuantDense(3, bits=2)
    layer.build((None, 7))
    with pytest.raises(ValueError, match="weight list of length 1"):
        layer.set_weights([random_input((7, 3))])


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_file_of_stock_layers_is_refused_with_advice(tmp_path, suffix):
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(3)])
    path = tmp_path / f"float{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(path)
    quantized = keras.Sequential([keras.Input((7,)), QuantDense(3, bits=2)])
    with pytest.raises(ValueError, match="keras_bcgd.load_float_weights"):
        quantized.load_weights(path)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_file_without_alphas_keeps_them(tmp_path, suffix):
    """That of the same network with 32-bit weights and activations."""
    x = random_input((24, 7))
    source, target = two_dense(32, 32), two_dense(2)
    target.layers[1].alpha.assign(0.3125)
    path = tmp_path / f"float{suffix}"
    (source.save if suffix == ".keras" else source.save_weights)(path)
    with pytest.warns(UserWarning, match="no alpha for a QuantReLU"):
        target.load_weights(path)
    assert float(target.layers[1].alpha) == 0.3125
    kernels = [numpy_of(source.layers[i].kernel) for i in (0, 2)]
    np.testing.assert_allclose(
        target.predict(x, verbose=0), by_hand(target, 2, x, kernels), 1e-4, 1e-5
    )


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_a_quantized_identity_keeps_its_alpha(tmp_path, suffix):
    source = keras.Sequential([keras.Input((7,)), keras.layers.Identity()])
    target = keras.Sequential([keras.Input((7,)), QuantIdentity()])
    target.layers[0].alpha.assign(0.3125)
    path = tmp_path / f"float{suffix}"
    (source.save if suffix == ".keras" else source.save_weights)(path)
    with pytest.warns(UserWarning, match="no alpha for a QuantIdentity"):
        target.load_weights(path)
    assert float(target.layers[0].alpha) == 0.3125


@pytest.mark.parametrize("cls, shape, kwargs", QUANTIZED)
def test_config_round_trip(cls, shape, kwargs):
    layer = cls(
        **kwargs,
        bits=2,
        projection="exact",
        per_channel=True,
        bias_regularizer="l2",
        name="mine",
    )
    config = layer.get_config()
    assert layer.constraint_name not in config
    json.dumps(config)
    assert cls.from_config(config).get_config() == config


def test_a_tampered_file_is_refused(tmp_path):
    path, tampered = tmp_path / "a.keras", tmp_path / "b.keras"
    model = keras.Sequential([keras.Input((7,)), QuantDense(3, bits=4)])
    model.save(path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tampered, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                content = content.replace(b'"bits": 4', b'"bits": 9')
            new.writestr(name, content)
    # Keras wraps the layer's ValueError, with its text.
    with pytest.raises(TypeError, match="`bits` must be an integer"):
        keras.saving.load_model(tampered)


# Bad input.


@pytest.mark.parametrize("bits", [0, 9, 2.5, "4", True, None, -1, 16])
@pytest.mark.parametrize("cls, shape, kwargs", QUANTIZED)
def test_bad_bits(cls, shape, kwargs, bits):
    message = f"`bits` must be an integer from 1 to 8.*bits={bits!r}"
    with pytest.raises(ValueError, match=message):
        cls(**kwargs, bits=bits)


@pytest.mark.parametrize("cls, shape, kwargs", QUANTIZED)
def test_a_constraint_beside_bits_is_refused(cls, shape, kwargs):
    constraint = {cls.constraint_name: "non_neg"}
    with pytest.raises(ValueError, match=f"`{cls.constraint_name}` cannot"):
        cls(**kwargs, **constraint, bits=4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"projection": "best"}, "must be one of lloyd"),
        ({"projection": "twn", "bits": 4}, "for 2 bits only"),
        ({"per_channel": 1}, "`per_channel` must be True or False"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        QuantDense(3, **arguments)


def test_a_model_of_all_layers_trains_and_reloads(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input(IMAGES[1:]),
            QuantConv2D(8, 3, bits=4, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            QuantReLU(bits=4),
            QuantDepthwiseConv2D(3, bits=8, per_channel=True),
            keras.layers.BatchNormalization(),
            QuantReLU(bits=4, alpha_gradient="ae"),
            keras.layers.Flatten(),
            QuantDense(2, bits=8),
        ]
    )
    x = random_input((64, *IMAGES[1:]))
    y = (np.sum(x, axis=(1, 2, 3)) > 0).astype("int32")
    model.compile(
        BlendedOptimizer(keras.optimizers.Adam(0.01)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(x, y, batch_size=16, epochs=15, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    assert loaded.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)


def test_the_projection_of_a_stock_layer_is_the_same():
    y = random_input((7, 3))
    scale, codes = project(y, 4, "exact", axis=1)
    layer = keras.layers.Dense(
        3, kernel_constraint=QuantProjection(4, "exact", axis=1)
    )
    layer.build((None, 7))
    np.testing.assert_array_equal(
        numpy_of(layer.kernel.constraint(y)), numpy_of(scale * codes)
    )
