"""What becomes of each layer: weights, activations, names, signed grids."""

import warnings

import keras
import numpy as np
import pytest
from conversion_helpers import EXPORTED
from conversion_helpers import FLOAT
from conversion_helpers import becomes
from conversion_helpers import bottlenecks
from conversion_helpers import concatenated_after_relus
from conversion_helpers import concatenated_before_a_relu
from conversion_helpers import conv_bn
from conversion_helpers import dense_block
from conversion_helpers import images
from conversion_helpers import numpy_of
from conversion_helpers import plain
from conversion_helpers import pre_activation
from conversion_helpers import predicted
from conversion_helpers import quantized
from conversion_helpers import residual
from conversion_helpers import shaken
from keras import layers
from keras import ops

import keras_bcgd as kb
from keras_bcgd.export.graph import read_graph


def test_weights_are_copies():
    source = shaken(plain())
    before = [numpy_of(weight) for weight in source.weights]
    found = quantized(source)
    found.compile(kb.BlendedOptimizer(keras.optimizers.SGD(0.1)), loss="mse")
    found.fit(images(), np.ones((4, 3)), epochs=2, verbose=0)
    for weight, value in zip(source.weights, before, strict=True):
        np.testing.assert_array_equal(numpy_of(weight), value)
    source.compile(keras.optimizers.SGD(0.1), loss="mse")
    source.fit(images(), np.ones((4, 3)), verbose=0)


def test_quantized_weights_are_projections():
    source = shaken(residual())
    found = quantized(source, 3, overrides={"*_conv": {"per_channel": True}})
    for name, axis in (("stem_conv", 3), ("a_conv", 3), ("classifier", None)):
        layer, kernel = found.get_layer(name), source.get_layer(name).kernel
        bits = 3 if name == "a_conv" else 8
        scale, codes = kb.project(kernel, bits, axis=axis)
        expected = numpy_of(scale) * numpy_of(codes)
        np.testing.assert_allclose(
            numpy_of(layer.quantized_kernel), expected, rtol=1e-6
        )
        np.testing.assert_array_equal(numpy_of(layer.kernel), numpy_of(kernel))


def test_separable_convolution():
    inputs = keras.Input((8, 8, 3))
    outputs = layers.SeparableConv2D(
        5, 3, strides=2, padding="same", depth_multiplier=2, name="s"
    )(inputs)
    source = shaken(keras.Model(inputs, outputs))
    layer = source.get_layer("s")
    found = quantized(source, branch_bits=None, first_last=None)
    for weight in (layer.depthwise_kernel, layer.pointwise_kernel):
        scale, codes = kb.project(weight, 4)
        weight.assign(scale * codes)
    np.testing.assert_allclose(
        predicted(found)[0], predicted(source)[0], rtol=1e-5, atol=1e-5
    )


CONVOLUTIONS = {
    "QuantConv1D": lambda x: layers.Conv1D(
        4, 3, padding="causal", dilation_rate=2, activation="relu", name="it"
    )(layers.Reshape((32, 6))(x)),
    "QuantConv2DTranspose": lambda x: layers.Conv2DTranspose(
        4, 3, strides=2, padding="same", activation="relu", name="it"
    )(x),
    "QuantConv2D": lambda x: layers.Conv2D(
        6, 3, groups=3, activation="relu", name="it"
    )(x),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_other_convolutions(kind):
    """Their arguments stay, and the weights are those projected."""
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Dense(2)(layers.Flatten()(CONVOLUTIONS[kind](inputs)))
    source = shaken(keras.Model(inputs, outputs))
    found = quantized(source, 4, 32, first_last=None, per_channel=True)
    old, new = source.get_layer("it"), found.get_layer("it")
    assert type(new).__name__ == kind
    for name in ("strides", "padding", "dilation_rate", "kernel_size"):
        assert getattr(new, name) == getattr(old, name)
    assert getattr(new, "groups", None) == getattr(old, "groups", None)
    for layer in (old, source.layers[-1]):
        axis = new.channel_axes if layer is old else 1
        scale, codes = kb.project(layer.kernel, 4, axis=axis)
        layer.kernel.assign(scale * codes)
    np.testing.assert_allclose(
        predicted(found)[0], predicted(source)[0], rtol=1e-5, atol=1e-5
    )


def test_a_separable_float_twin():
    """At 32 bits it is the stock layer; quantized it stays one layer."""
    inputs = keras.Input((8, 8, 3))
    x = kb.QuantSeparableConv2D(5, 3, bits=32, activation="relu", name="s")(
        inputs
    )
    source = shaken(keras.Model(inputs, x))
    found = quantized(source, 4, 32, first_last=None, branch_bits=None)
    layer = source.get_layer("s")
    assert found.get_layer("s").bits == 4
    assert found.get_layer("s").branch_bits is None
    again = quantized(source)
    assert again.get_layer("s").branch_bits == 8
    with pytest.raises(ValueError, match="quantized already"):
        kb.quantize_model(keras.Sequential(again.layers[:2]))
    for weight in (layer.depthwise_kernel, layer.pointwise_kernel):
        scale, codes = kb.project(weight, 4)
        weight.assign(scale * codes)
    np.testing.assert_allclose(
        predicted(found)[0], predicted(source)[0], rtol=1e-5, atol=1e-5
    )


def test_frozen_layers_stay_frozen():
    source = plain()
    source.get_layer("first").trainable = False
    source.get_layer("hidden_relu").trainable = False
    found = quantized(source)
    frozen = [layer.name for layer in found.layers if not layer.trainable]
    assert frozen == ["first", "first_relu", "hidden_relu"]


def test_mixed_precision_stays():
    source = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation="relu", dtype="mixed_bfloat16"),
            layers.Dense(2),
        ]
    )
    found = quantized(source)
    policies = [layer.dtype_policy.name for layer in found.layers]
    assert policies == ["mixed_bfloat16", "mixed_bfloat16", "float32"]


def test_a_compiled_model_gives_one_that_is_not():
    source = plain()
    source.compile("sgd", loss=lambda y, z: ops.mean((y - z) ** 2))
    assert not quantized(source).compiled
    assert source.compiled


def test_activations_are_split_off():
    found = quantized(plain(), 4, 3)
    kinds = {layer.name: type(layer).__name__ for layer in found.layers}
    assert kinds == {
        "first": "QuantConv2D",
        "first_relu": "QuantReLU",
        "depthwise": "QuantDepthwiseConv2D",
        "depthwise_relu": "QuantReLU",
        "pool": "MaxPooling2D",
        "flatten": "Flatten",
        "hidden": "QuantDense",
        "hidden_relu": "QuantReLU",
        "dropout": "Dropout",
        "classifier": "QuantDense",
    }
    assert found.get_layer("hidden_relu").bits == 3
    assert found.get_layer("first").activation is keras.activations.linear


def test_weights_or_activations_alone():
    found = becomes(plain(), activation_bits=32)
    assert found["first"] == ("QuantConv2D", 8, None)
    assert "hidden_relu" not in found
    found = becomes(plain(), weight_bits=32, first_last=32)
    assert found["first"] == ("Conv2D + QuantReLU", None, 4)
    assert found["hidden_relu"] == ("QuantReLU", None, 4)
    assert "hidden" not in found
    assert found == becomes(plain(), weight_bits=32)  # 32W4A
    found = becomes(
        plain(), weight_bits=32, overrides={"*": {"weight_bits": 2}}
    )
    assert found["first"] == ("QuantConv2D + QuantReLU", 2, 4)
    model = quantized(plain(), 32, 4)
    assert type(model.get_layer("first")) is layers.Conv2D
    assert type(model.get_layer("first_relu")) is kb.QuantReLU


def test_sums_before_a_relu():
    model = quantized(shaken(residual()), 4, 4)
    first, second = model.get_layer("a_relu"), model.get_layer("b_relu")
    assert type(first) is type(second) is kb.QuantAddReLU
    assert (first.branch_bits, first.shortcut_is_branch) == (8, False)
    assert second.shortcut_is_branch
    assert "a_add" not in [layer.name for layer in model.layers]
    # The branch is what has no QuantReLU, wherever it was given.
    branch, shortcut = first.input
    x = images()
    values = map(numpy_of, keras.Model(model.input, [branch, shortcut])(x))
    values = list(values)
    assert np.min(values[0]) < 0 <= np.min(values[1])


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_the_bound_of_a_relu6_is_kept(bits):
    """Whatever alpha is set to; a ReLU without a bound gets none."""
    model = quantized(plain(), 4, bits)
    for name, largest in (("depthwise_relu", 6), ("hidden_relu", 6)):
        layer = model.get_layer(name)
        layer.alpha.assign(layer.alpha_constraint(1000.0))
        found = numpy_of(layer(np.array([-1.0, 5000.0], "float32")))
        np.testing.assert_allclose(found, [0, largest], rtol=1e-6)
    assert model.get_layer("first_relu").alpha_constraint.max_value is None


def test_a_small_bound_leaves_alpha_room():
    """Of a ReLU up to 0.2, in 8 bits, the largest alpha is below 1e-3."""
    source = keras.Sequential(
        [keras.Input((4,)), layers.ReLU(0.2, name="relu"), layers.Dense(2)]
    )
    bound = quantized(source, 4, 8).get_layer("relu").alpha_constraint
    np.testing.assert_allclose(bound.max_value, 0.2 / 255)
    np.testing.assert_allclose(bound.min_value, 0.02 / 255)
    bound = quantized(plain(), 4, 8).get_layer("hidden_relu").alpha_constraint
    assert bound.min_value == 1e-3


def test_any_name_of_a_layer():
    """None is taken for where a Sequential begins, or for an output."""
    for name in ("input", "output of the model"):
        source = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Dropout(0.1, name=name),
                layers.AveragePooling2D(2, name="pool"),
                layers.Conv2D(2, 1, name="conv"),
                layers.Flatten(),
                layers.Dense(2),
            ]
        )
        assert becomes(source)["pool"][0] == "AveragePooling2D + QuantIdentity"


def test_the_name_of_the_input_stays():
    source = keras.Sequential(
        [keras.Input((4,), name="image"), layers.Dense(2)]
    )
    model = quantized(source, **FLOAT)
    assert model.inputs[0].name == "image"
    x = {"image": np.ones((2, 4), "float32")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns: a dict of one input
        found, expected = (m.predict(x, verbose=0) for m in (model, source))
    np.testing.assert_array_equal(found, expected)


def test_regularizers_stay_where_they_are():
    """Those of an output with a ReLU see it after the ReLU."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(
        3, 3, padding="same", activation="relu", activity_regularizer="l1"
    )(inputs)
    y = layers.SeparableConv2D(
        3,
        3,
        padding="same",
        activation="relu",
        activity_regularizer="l2",
        bias_constraint="non_neg",
        name="separable",
    )(x)
    y = layers.SeparableConv2D(
        3, 3, padding="same", activity_regularizer="l2", name="linear"
    )(y)
    x = layers.Add(name="add")([x, y])
    x = layers.ReLU(activity_regularizer="l1", name="relu")(x)
    y = layers.Add(activity_regularizer="l1", name="both")(
        [x, conv_bn(x, 3, "a")]
    )
    x = layers.ReLU(activity_regularizer="l1", name="last_relu")(y)
    source = shaken(keras.Model(inputs, layers.Flatten()(x)))
    expected = losses_of(source)
    assert len(expected) == 6
    np.testing.assert_array_equal(
        losses_of(quantized(source, **FLOAT)), expected
    )
    model = quantized(source, 8, 8)
    kb.calibrate(model, images(), verbose=0)
    # Of 8 bits; before a ReLU they would be twice as large.
    np.testing.assert_allclose(losses_of(model), expected, rtol=0.1)
    layer = model.get_layer("separable")
    assert isinstance(layer.bias_constraint, keras.constraints.NonNeg)


def losses_of(model):
    model(images())
    return sorted(float(loss) for loss in model.losses)


def test_branches_stay_float_if_asked():
    model = quantized(residual(), branch_bits=None)
    assert type(model.get_layer("a_add")) is layers.Add
    assert type(model.get_layer("a_relu")) is kb.QuantReLU
    for build in (bottlenecks, pre_activation, dense_block):
        found = becomes(build(), branch_bits=None)
        assert not any("Identity" in names for names, _, _ in found.values())


@pytest.mark.parametrize(
    "build, expected",
    [
        (bottlenecks, {"stem_bn", "project_bn", "add"}),
        (pre_activation, {"stem", "a_conv", "b_conv", "a_add", "b_add"}),
        (dense_block, {"a_concat", "transition", "average"}),
        (concatenated_before_a_relu, set()),
        (concatenated_after_relus, {"concat"}),
        (residual, set()),
        (plain, set()),
    ],
)
def test_signed_grids(build, expected):
    found = becomes(build())
    names = {name for name, row in found.items() if "QuantIdentity" in row[0]}
    # The sum before the last normalization is read by it alone.
    assert names == expected
    model = quantized(build())
    for name in expected:
        assert type(model.get_layer(f"{name}_codes")) is kb.QuantIdentity


def test_an_average_of_many_codes_is_rounded():
    """4 x 15 values of 4 bits fit in 8 bits, 4 x 255 do not."""
    for bits, expected in ((4, False), (8, True)):
        found = becomes(dense_block(), activation_bits=bits)
        assert ("exact_average" in found) == expected


@pytest.mark.parametrize("build", EXPORTED)
def test_training_rounds_what_the_file_rounds(build):
    """The exporter finds nothing to calibrate or to round by itself."""
    graph = read_graph(quantized(shaken(build())))
    assert not graph.calibrated
    quantizers = [node.quantizer for node in graph.nodes if node.quantizer]
    assert len(quantizers) >= 3
    assert all(quantizer.trained for quantizer in quantizers)


@pytest.mark.parametrize(
    "heads, expected",
    [
        (lambda x: layers.Dense(3)(x), False),
        (lambda x: [layers.Dense(3)(x), layers.Dense(2)(x)], False),
        (lambda x: layers.Dense(3)(layers.Dense(4)(x)), True),
        (lambda x: [layers.Dense(3)(x), x], True),
    ],
)
def test_a_global_average_before_logits_stays_exact(heads, expected):
    """There a file has its sums; elsewhere 8 bits, which training rounds to."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    model = keras.Model(inputs, heads(x))
    (row,) = (
        row for row in kb.conversion_plan(model).layers if row.name == "average"
    )
    assert row.identity == expected
