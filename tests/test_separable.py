"""QuantSeparableConv2D against its stock twin, and what it is made of."""

import json

import keras
import numpy as np
import pytest
import reference
from keras import ops

import keras_bcgd as kb

IMAGES = (2, 6, 6, 4)
ARGUMENTS = [
    {"filters": 5, "kernel_size": 3},
    {
        "filters": 5,
        "kernel_size": (3, 2),
        "padding": "same",
        "dilation_rate": (2, 1),
        "depth_multiplier": 2,
        "activation": "relu",
        "use_bias": False,
    },
    {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"},
]


def numpy_of(variable):
    return ops.convert_to_numpy(variable)


def random_input(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype("float32")


def built(**kwargs):
    layer = kb.QuantSeparableConv2D(**kwargs)
    layer.build(IMAGES)
    if layer.use_bias:
        layer.bias.assign(np.linspace(-1, 1, layer.bias.shape[0]))
    return layer


def twin_of(layer, kwargs):
    """The stock layer with the kernels that the quantized one uses."""
    twin = keras.layers.SeparableConv2D(**kwargs)
    twin.build(IMAGES)
    twin.depthwise_kernel.assign(numpy_of(layer.depthwise.quantized_kernel))
    twin.pointwise_kernel.assign(numpy_of(layer.pointwise.quantized_kernel))
    if twin.use_bias:
        twin.bias.assign(numpy_of(layer.bias))
    return twin


def trained(layer, epochs=1):
    model = keras.Sequential([keras.Input(IMAGES[1:]), layer])
    optimizer = kb.BlendedOptimizer(keras.optimizers.SGD(0.05))
    model.compile(optimizer, "mse")
    fit(model, epochs)
    return model


def fit(model, epochs=1):
    x = random_input((24, *IMAGES[1:]))
    y = np.ones((24, *model.output_shape[1:]), "float32")
    model.fit(x, y, batch_size=8, verbose=0, shuffle=False, epochs=epochs)
    return model.predict(x, verbose=0)


@pytest.mark.parametrize("bits", [1, 4, 8, 32])
@pytest.mark.parametrize("kwargs", ARGUMENTS)
def test_output_equals_the_twins_but_for_the_codes(kwargs, bits):
    layer = built(**kwargs, bits=bits, branch_bits=None)
    x = random_input(IMAGES)
    expected = numpy_of(twin_of(layer, kwargs)(x))
    np.testing.assert_allclose(numpy_of(layer(x)), expected, 1e-5, 1e-6)
    assert layer.compute_output_shape(IMAGES) == expected.shape
    whole = built(**kwargs, bits=bits)
    whole.set_weights(twin_of(layer, kwargs).get_weights())
    difference = np.abs(numpy_of(whole(x)) - expected)
    assert np.max(difference) < 0.1 * np.max(np.abs(expected))
    assert np.any(difference > 1e-4) == (bits != 32)


def test_the_codes_are_those_of_an_identity():
    layer = built(filters=5, kernel_size=3)
    x = random_input(IMAGES)
    between = numpy_of(layer.codes(layer.depthwise(x)))
    codes = between / float(numpy_of(layer.codes.alpha))
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
    np.testing.assert_array_equal(
        numpy_of(layer(x)), numpy_of(layer.pointwise(between))
    )
    assert built(filters=5, kernel_size=3, branch_bits=6).codes.bits == 6
    assert built(filters=5, kernel_size=3, branch_bits=None).codes is None
    assert built(filters=5, kernel_size=3, bits=32).codes is None


@pytest.mark.parametrize("per_channel", [False, True])
def test_both_kernels_are_projected(per_channel):
    layer = built(
        filters=5, kernel_size=3, depth_multiplier=2, per_channel=per_channel
    )
    for part, channels in ((layer.depthwise, 8), (layer.pointwise, 5)):
        scale, codes = part.kernel_scale_and_codes()
        assert scale.size == (channels if per_channel else 1)
        y, w = numpy_of(part.kernel), numpy_of(part.quantized_kernel)
        y = y.reshape(-1, channels).T if per_channel else y.reshape(1, -1)
        w = w.reshape(-1, channels).T if per_channel else w.reshape(1, -1)
        for column, found in zip(y, w, strict=True):
            expected = reference.project(column, 4)
            np.testing.assert_allclose(found, expected, 1e-5, 1e-7)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    layer = built(filters=5, kernel_size=3, dtype=policy)
    assert numpy_of(layer.pointwise.quantized_kernel).dtype == "float32"
    dtype = keras.backend.standardize_dtype(layer(random_input(IMAGES)).dtype)
    assert dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_training_saving_and_going_on(tmp_path, suffix):
    layer = kb.QuantSeparableConv2D(5, 3, bits=4, per_channel=True)
    model = trained(layer)
    assert int(numpy_of(layer.depthwise.kernel_is_quantized)) == 20
    path = tmp_path / f"model{suffix}"
    if suffix == ".keras":
        model.save(path)
        copy = keras.saving.load_model(path)
    else:
        model.save_weights(path)
        copy = trained(kb.QuantSeparableConv2D(5, 3, per_channel=True))
        copy.load_weights(path)
    x = random_input((24, *IMAGES[1:]))
    np.testing.assert_array_equal(
        copy.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    if suffix == ".keras":
        np.testing.assert_array_equal(fit(copy), fit(model))


def test_weights_of_a_stock_layer_and_of_its_like():
    layer = kb.QuantSeparableConv2D(5, 3, bits=2)
    trained(layer)
    before = layer.get_weights()
    twin = keras.layers.SeparableConv2D(5, 3)
    twin.build(IMAGES)
    layer.set_weights(twin.get_weights())
    for part, kernel in (
        (layer.depthwise, twin.depthwise_kernel),
        (layer.pointwise, twin.pointwise_kernel),
    ):
        assert not numpy_of(part.kernel_is_quantized)
        np.testing.assert_array_equal(numpy_of(part.kernel), numpy_of(kernel))
    layer.set_weights(before)
    for weight, value in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert numpy_of(layer.pointwise.kernel_is_quantized) == 2
    with pytest.raises(ValueError, match="weight list of length 1"):
        layer.set_weights(before[:1])


def test_every_argument_of_the_stock_layer_is_in_the_config():
    given = {
        "filters": 5,
        "kernel_size": (3, 2),
        "strides": (1, 1),
        "padding": "same",
        "dilation_rate": (2, 2),
        "depth_multiplier": 2,
        "activation": "relu",
        "use_bias": True,
        "depthwise_initializer": "he_normal",
        "pointwise_initializer": "zeros",
        "bias_initializer": "ones",
        "depthwise_regularizer": "l1",
        "pointwise_regularizer": "l2",
        "bias_regularizer": "l2",
        "activity_regularizer": "l2",
        "bias_constraint": "non_neg",
        "bits": 2,
        "projection": "exact",
        "per_channel": True,
        "branch_bits": 6,
        "name": "mine",
        "trainable": False,
    }
    layer = kb.QuantSeparableConv2D(**given)
    config = layer.get_config()
    json.dumps(config)
    copy = kb.QuantSeparableConv2D.from_config(config)
    assert copy.get_config() == config
    stock = keras.layers.SeparableConv2D(5, 3).get_config()
    assert set(stock) <= set(config)
    copy.build(IMAGES)
    assert not copy.trainable_variables
    assert copy.depthwise.depthwise_regularizer is not None
    assert copy.pointwise.kernel_regularizer is not None
    assert copy.pointwise.bias_constraint is not None
    np.testing.assert_array_equal(numpy_of(copy.pointwise_kernel), 0)
    np.testing.assert_array_equal(numpy_of(copy.bias), 1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"bits": 9}, "`bits` must be an integer from 1 to 8.*bits=9"),
        ({"projection": "best"}, "must be one of lloyd"),
        ({"per_channel": 1}, "`per_channel` must be True or False"),
        ({"branch_bits": 3}, "`branch_bits` must be .*branch_bits=3"),
        ({"depthwise_constraint": "non_neg"}, "`depthwise_constraint` cannot"),
        ({"pointwise_constraint": "non_neg"}, "`pointwise_constraint` cannot"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        kb.QuantSeparableConv2D(5, 3, **arguments)


def test_summary_and_calibration_see_the_parts():
    model = trained(kb.QuantSeparableConv2D(5, 3, bits=4, name="s"))
    table = kb.summary(model)
    outputs = 4 * 4
    macs = {row["layer"]: row["macs"] for row in table.rows}
    assert macs == {
        "s/s_depthwise": outputs * 4 * 9,
        "s/s_codes": None,
        "s/s_pointwise": outputs * 4 * 5,
    }
    before = float(numpy_of(model.layers[0].codes.alpha))
    kb.calibrate(model, random_input((8, *IMAGES[1:])), verbose=0)
    assert float(numpy_of(model.layers[0].codes.alpha)) != before
