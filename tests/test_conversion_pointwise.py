"""quantize_model: other activations than the ReLU, products, gates."""

import warnings

import keras
import numpy as np
import pytest
from conversion_helpers import FLOAT
from conversion_helpers import becomes
from conversion_helpers import images
from conversion_helpers import layer_at
from conversion_helpers import numpy_of
from conversion_helpers import predicted
from conversion_helpers import quantized
from conversion_helpers import shaken
from keras import layers
from keras import ops

import keras_bcgd as kb

# The activations of layers and what they become, and with how many bits.
FUNCTIONS = {
    "sigmoid": ("QuantActivation", 8),
    "tanh": ("QuantActivation", 8),
    "hard_sigmoid": ("QuantHardSigmoid", 8),
    "silu": ("QuantActivation", 4),
    "swish": ("QuantActivation", 4),
    "hard_silu": ("QuantActivation", 4),
    "hard_swish": ("QuantActivation", 4),
    "leaky_relu": ("QuantLeakyReLU", 8),
}


def network(*parts):
    return shaken(
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(4, 3, name="first"),
                *parts,
                layers.Flatten(),
                layers.Dense(3, name="classifier"),
            ],
            name="net",
        )
    )


def excited(gate="sigmoid", keepdims=True):
    """A block with squeeze and excitation, and what follows it."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="swish", name="stem")(inputs)
    y = layers.GlobalAveragePooling2D(keepdims=keepdims, name="squeeze")(x)
    if keepdims:
        y = layers.Conv2D(2, 1, activation="relu", name="down")(y)
        y = layers.Conv2D(4, 1, activation=gate, name="up")(y)
    else:
        y = layers.Dense(2, activation="relu", name="down")(y)
        y = layers.Dense(4, activation=gate, name="up")(y)
        y = layers.Reshape((1, 1, 4), name="reshape")(y)
    x = layers.Multiply(name="excite")([x, y])
    x = layers.Conv2D(4, 1, name="last")(x)
    x = layers.Activation("swish", name="last_swish")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(3, name="classifier")(x)
    return shaken(keras.Model(inputs, outputs, name="excited"))


def of_mobilenet(is_keras=True):
    """relu6(x + 3) / 6 as operations, and x times it."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    y = layers.ReLU(6.0, name="relu")(x + 3.0) * (1.0 / 6.0)
    x = layers.Multiply(name="product")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(3, name="classifier")(x)
    return shaken(keras.Model(inputs, outputs, name="mobile"))


def others():
    """Everything once."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="hard_silu", name="a")(inputs)
    x = layers.Conv2D(4, 1, activation="tanh", name="b")(x)
    x = layers.DepthwiseConv2D(3, activation="silu", name="c")(x)
    x = layers.Conv2D(4, 1, name="d")(x)
    x = layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
    x = layers.Conv2D(4, 1, name="e")(x)
    x = layers.LeakyReLU(0.125, name="leaky")(x)
    x = layers.Conv2D(4, 1, name="f")(x)
    x = layers.ReLU(negative_slope=0.25, name="relu")(x)
    y = layers.Conv2D(4, 1, activation="hard_sigmoid", name="g")(x)
    x = layers.Multiply(name="product")([x, y])
    x = layers.Flatten()(x)
    x = layers.Dense(5, name="hidden")(x)
    x = layers.PReLU(name="flat_prelu")(x)
    outputs = layers.Dense(3, activation="sigmoid", name="classifier")(x)
    model = shaken(keras.Model(inputs, outputs, name="others"))
    model.get_layer("flat_prelu").alpha.assign([0.5, -0.5, 0.0, 1.0, 0.25])
    return model


MODELS = [excited, of_mobilenet, others]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_of_a_layer(name):
    layer, bits = FUNCTIONS[name]
    inside = network(layers.Conv2D(4, 1, activation=name, name="conv"))
    row = becomes(inside)["conv"]
    assert row == (f"QuantConv2D + {layer}", 4, bits)
    function = getattr(keras.activations, name, None)
    function = keras.activations.get(name) if function is None else function
    for activation in (name, function):
        alone = network(layers.Activation(activation, name="it"))
        assert becomes(alone)["it"] == (layer, None, bits)
    new = quantized(alone).get_layer("it")
    assert type(new).__name__ == layer
    if layer == "QuantActivation":
        same = {"silu": "swish", "hard_silu": "hard_swish"}
        assert new.function == same.get(name, name)
        assert new.bits == bits
    if layer == "QuantLeakyReLU":
        assert new.negative_slope == pytest.approx(0.2)


@pytest.mark.parametrize("make", MODELS)
def test_weights_and_outputs_at_32_bits(make):
    model = make()
    new = quantized(model, **FLOAT)
    for a, b in zip(predicted(model), predicted(new), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("make", MODELS)
def test_float_activations_stay(make):
    """With branch_bits=None there is no grid for what has no ReLU."""
    rows = becomes(make(), branch_bits=None)
    assert not any(
        name in what
        for what, _, _ in rows.values()
        for name in ("QuantActivation", "QuantPReLU", "QuantMultiply")
    )


@pytest.mark.parametrize("make", MODELS)
def test_converted_networks_train_and_can_be_exported(make, tmp_path):
    model = make()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "In the model")
        # 8-bit weights leave no room for an exact file.
        new = kb.quantize_model(model, first_last=7)
    kb.check_exportable(new)
    assert kb.conversion_plan(model).left_in_float == []
    x = images((16, 8, 8, 3))
    kb.calibrate(new, x, verbose=0)
    new.compile(
        kb.BlendedOptimizer(keras.optimizers.SGD(1e-3)), "mean_squared_error"
    )
    new.fit(x, np.ones((16, 3)), verbose=0)
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(new, path, representative_data=x, verbose=0)
    assert report.is_exact, str(report)
    found = kb.verify_tflite_on_all_kernels(report.model, path, x, verbose=0)
    assert found.is_equal, str(found)


def test_the_average_of_a_gate_is_rounded_and_that_of_a_classifier_not():
    for keepdims in (True, False):
        rows = becomes(excited(keepdims=keepdims))
        assert rows["squeeze"] == (
            "GlobalAveragePooling2D + QuantIdentity",
            None,
            8,
        )
        assert "pool" not in rows
        assert rows["excite"] == ("QuantMultiply", None, 8)
        model = quantized(excited(keepdims=keepdims))
        # Swish has no smaller value.
        minimum = model.get_layer("excite").minimum
        assert minimum == pytest.approx(-0.27846, abs=1e-4)


def test_a_hard_gate():
    rows = becomes(excited("hard_sigmoid"))
    assert rows["up"] == ("QuantConv2D + QuantHardSigmoid", 4, 8)


@pytest.mark.parametrize("name", ["hard_sigmoid", "relu"])
def test_what_is_padded_before_a_hard_sigmoid_is_rounded(name):
    """The hard sigmoid of the zeros is 1/2; the ReLU rounds before them."""
    model = network(
        layers.ZeroPadding2D(name="pad"), layers.Activation(name, name="it")
    )
    is_rounded = "QuantIdentity" in becomes(model)["first"][0]
    assert is_rounded == (name == "hard_sigmoid")
    pooled = network(
        layers.MaxPooling2D(name="pool"), layers.Activation(name, name="it")
    )
    assert "QuantIdentity" not in becomes(pooled)["first"][0]


def test_the_table():
    lines = str(kb.conversion_plan(excited("hard_sigmoid"))).splitlines()
    assert [line.split()[:1] + line.split()[2:] for line in lines[1:]] == [
        ["stem", "QuantConv2D", "+", "QuantActivation", "8", "4"],
        ["squeeze", *"GlobalAveragePooling2D + QuantIdentity - 8".split()],
        ["down", "QuantConv2D", "+", "QuantReLU", "4", "4"],
        ["up", "QuantConv2D", "+", "QuantHardSigmoid", "4", "8"],
        ["excite", "QuantMultiply", "-", "8"],
        ["last", "QuantConv2D", "4", "-"],
        ["last_swish", "QuantActivation", "-", "4"],
        ["pool", "-", "-", "-"],
        ["classifier", "QuantDense", "8", "-"],
    ]
    rows = becomes(of_mobilenet())
    (product,) = [name for name in rows if name.startswith("multiply")]
    assert rows[product] == ("QuantHardSigmoid", None, 8)
    assert rows["relu"] == (f"in {product}", None, None)
    assert rows["bn"] == ("BatchNormalization + QuantIdentity", None, 8)
    assert rows["product"] == ("QuantMultiply", None, 8)


@pytest.mark.parametrize(
    ("shift", "top", "factor"),
    [(3.0, 6.0, 1 / 5), (2.0, 6.0, 1 / 6), (3.0, 5.0, 1 / 6)],
)
def test_other_numbers_are_no_hard_sigmoid(shift, top, factor):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    y = layers.ReLU(top, name="relu")(x + shift) * factor
    x = layers.Flatten()(layers.Multiply(name="product")([x, y]))
    model = keras.Model(inputs, layers.Dense(3, name="classifier")(x))
    assert not any("HardSigmoid" in row[0] for row in becomes(model).values())


def test_the_network_of_mobilenet_without_grids_computes_the_same():
    """The layer that takes the place of three operations."""
    model = of_mobilenet()
    overrides = {"classifier": "float"}
    new = quantized(model, 8, 8, overrides=overrides)
    kb.calibrate(new, images(), verbose=0)
    for a, b in zip(predicted(model), predicted(new), strict=True):
        assert np.abs(a - b).max() < 0.1 * np.abs(a).max()


# PReLU


def test_slopes_are_copied():
    model = others()
    new = quantized(model)
    for name in ("prelu", "flat_prelu"):
        slopes = numpy_of(model.get_layer(name).alpha).reshape(-1)
        layer = new.get_layer(name)
        assert type(layer) is kb.QuantPReLU
        np.testing.assert_array_equal(numpy_of(layer.negative.slopes), slopes)
    assert new.get_layer("leaky").negative_slope == 0.125
    assert new.get_layer("relu").negative_slope == 0.25


def prelu(value, **kwargs):
    """A PReLU with slopes of one value, and its network."""
    initializer = keras.initializers.Constant(value)
    layer = layers.PReLU(initializer, name="prelu", **kwargs)
    model = network(layer)
    layer.alpha.assign(ops.full(layer.alpha.shape, value))
    return model


@pytest.mark.parametrize(
    ("value", "kwargs"), [(0.5, {}), (1.25, {"shared_axes": [1, 2]})]
)
def test_slopes_that_stay_float(value, kwargs):
    """One for each pixel, or one above 1."""
    model = prelu(value, **kwargs)
    assert "prelu" not in becomes(model)
    (problem,) = kb.conversion_plan(model).left_in_float
    assert problem == (
        "PReLU stays float: it needs one slope for each channel "
        "(shared_axes), at most 1: 'prelu'"
    )


def test_an_initializer_and_a_regularizer_are_kept():
    model = prelu(
        0.5,
        shared_axes=[1, 2],
        alpha_regularizer=keras.regularizers.L2(0.25),
    )
    layer = quantized(model).get_layer("prelu")
    assert layer.alpha_regularizer.l2 == 0.25
    assert layer.alpha_initializer.value == 0.5


def test_a_steep_leaky_relu_stays_float():
    model = network(layers.LeakyReLU(1.5, name="leaky"))
    assert "leaky" not in becomes(model)
    assert "'leaky'" in kb.conversion_plan(model).left_in_float[0]


# Exceptions


def test_overrides():
    overrides = {
        "up": {"activation_bits": 4},
        "stem": {"activation_bits": 8, "weight_bits": 2},
        "excite": {"branch_bits": 7},
        "last_swish": "float",
    }
    model = excited("hard_sigmoid")
    rows = becomes(model, overrides=overrides)
    assert rows["stem"] == ("QuantConv2D + QuantActivation", 2, 8)
    assert rows["excite"] == ("QuantMultiply", None, 7)
    assert "last_swish" not in rows
    assert quantized(model, overrides=overrides).get_layer("excite").bits == 7
    with pytest.raises(ValueError, match="sets alpha_gradient, of which"):
        quantized(
            model, overrides={"last_swish": {"alpha_gradient": "two_valued"}}
        )


@pytest.mark.parametrize("name", ["gelu", "elu", "selu", "softplus", "mish"])
def test_activations_without_integers(name):
    model = network(layers.Activation(name, name="it"))
    assert "it" not in becomes(model)
    plan = kb.conversion_plan(model)
    assert f"{name} has no quantized form" in plan.left_in_float[0]
    assert len(plan.not_exportable) == 1
    assert "'it' (Activation): " in plan.not_exportable[0]
    with pytest.raises(ValueError, match="'it' \\(Activation\\): "):
        kb.check_exportable(model)


def test_a_sigmoid_at_the_end_is_left_to_the_app():
    rows = becomes(others())
    assert rows["classifier"] == ("QuantDense", 8, None)


def test_within_a_model():
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="swish", name="conv"),
            layers.LeakyReLU(0.5, name="leaky"),
        ],
        name="inner",
    )
    model = network()
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(inner(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="classifier")(x))
    new = quantized(model)
    assert type(layer_at(new, "inner/conv_swish")) is kb.QuantActivation
    assert type(layer_at(new, "inner/leaky")) is kb.QuantLeakyReLU
    for a, b in zip(
        predicted(model), predicted(quantized(model, **FLOAT)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    kb.check_exportable(new)


def test_frozen_layers_and_dtypes_are_kept():
    model = network(
        layers.Activation("swish", dtype="mixed_bfloat16", name="it"),
        layers.LeakyReLU(0.5, name="leaky"),
    )
    model.get_layer("it").trainable = False
    model.get_layer("leaky").trainable = False
    new = quantized(model)
    layer = new.get_layer("it")
    assert layer.dtype_policy.name == "mixed_bfloat16"
    assert layer.product.dtype_policy.name == "mixed_bfloat16"
    assert not layer.trainable_weights
    names = {w.path.split("/")[0] for w in new.trainable_weights}
    assert not names & {"it", "leaky"}
