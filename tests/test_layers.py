"""Quantized layers against their stock twins, and what their kernels hold."""

import json
import zipfile

import keras
import numpy as np
import pytest
import reference
from keras import ops

from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantConv2D
from keras_bcgd import QuantDense
from keras_bcgd import QuantDepthwiseConv2D
from keras_bcgd import QuantProjection
from keras_bcgd import QuantReLU
from keras_bcgd import project

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"

IMAGES = (2, 6, 6, 4)
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
]
QUANTIZED = [
    (QuantDense, (5, 7), {"units": 3}),
    (QuantConv2D, IMAGES, {"filters": 6, "kernel_size": 3}),
    (QuantDepthwiseConv2D, IMAGES, {"kernel_size": 3, "depth_multiplier": 2}),
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
    # Every output channel in one column; Keras' kernels end with it.
    y = numpy_of(layer.kernel)
    w = numpy_of(layer.quantized_kernel)
    size = y.size // outputs
    columns = y.reshape((size, outputs)).T, w.reshape((size, outputs)).T
    for column, result in zip(*columns, strict=True):
        np.testing.assert_allclose(
            result, reference.project(column, 4), 1e-5, 1e-7
        )
    np.testing.assert_allclose(w, scale * codes, 1e-5)


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
