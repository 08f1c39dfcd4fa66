"""quantize_model against the float model, networks built by hand, the exporter.

"Equal" is to the last bit where both compute the same operations.
"""

import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_bcgd as kb
from keras_bcgd.export.graph import read_graph

FLOAT = {"weight_bits": 32, "activation_bits": 32, "first_last": 32}


def numpy_of(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def shaken(model):
    """The model with weights that are other than those it begins with."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        noise = 0.1 * rng.standard_normal(weight.shape)
        weight.assign(weight + np.abs(noise))
    finalize_statistics(model)
    return model


def finalize_statistics(model):
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()


def images(shape=(4, 8, 8, 3), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(-128, 128, shape) / 64).astype("float32")


def conv_bn(x, filters, name, size=3):
    x = layers.Conv2D(
        filters, size, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def plain():
    """No normalization, activations inside of the layers."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", name="first"),
            layers.DepthwiseConv2D(3, activation="relu6", name="depthwise"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(6, name="hidden"),
            layers.ReLU(6.0, name="hidden_relu"),
            layers.Dropout(0.5, name="dropout"),
            layers.Dense(3, name="classifier"),
        ],
        name="plain",
    )


def residual():
    """Sums before a ReLU: the shortcut first, and two branches."""
    inputs = keras.Input((8, 8, 3))
    x = conv_bn(inputs, 4, "stem")
    x = shortcut = layers.Activation("relu", name="stem_relu")(x)
    x = conv_bn(x, 4, "a")
    x = layers.Add(name="a_add")([shortcut, x])
    x = layers.Activation("relu", name="a_relu")(x)
    other = conv_bn(x, 6, "short", 1)
    x = conv_bn(x, 6, "b")
    x = layers.Add(name="b_add")([other, x])
    x = layers.ReLU(name="b_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="residual"
    )


def bottlenecks():
    """Sums without a ReLU, as in MobileNetV2."""
    inputs = keras.Input((8, 8, 3))
    x = shortcut = conv_bn(inputs, 4, "stem")
    x = layers.ReLU(6.0, name="expand_relu")(conv_bn(x, 8, "expand", 1))
    x = conv_bn(x, 4, "project", 1)
    x = layers.Add(name="add")([shortcut, x])
    x = layers.ReLU(6.0, name="last_relu")(conv_bn(x, 8, "last", 1))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="bottlenecks"
    )


def pre_activation():
    """Normalization and ReLU before the convolutions, sums of sums."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    for name in ("a", "b"):
        y = layers.BatchNormalization(name=f"{name}_bn")(x)
        y = layers.ReLU(name=f"{name}_relu")(y)
        y = layers.Conv2D(4, 3, padding="same", name=f"{name}_conv")(y)
        x = layers.Add(name=f"{name}_add")([x, y])
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="pre_activation"
    )


def dense_block():
    """Concatenations and an average of what has signs, as in DenseNet."""
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="stem_relu")(conv_bn(inputs, 4, "stem"))
    y = layers.Conv2D(4, 3, padding="same", name="a_conv")(x)
    x = layers.Concatenate(name="a_concat")([x, y])
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.AveragePooling2D(2, name="exact_average")(x)
    x = layers.Conv2D(4, 1, name="transition")(x)
    x = layers.AveragePooling2D(2, name="average")(x)
    x = layers.Conv2D(4, 1, name="last")(x)
    x = layers.ReLU(name="last_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="dense_block"
    )


def concatenated(parts, name, after=None):
    """Two convolutions side by side, each with what `parts` puts after it."""
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="stem_relu")(conv_bn(inputs, 4, "stem"))
    branches = [parts(conv_bn(x, 4, branch), branch) for branch in "ab"]
    x = layers.Concatenate(name="concat")(branches)
    if after is not None:
        x = after(x)
    x = layers.ReLU(name="last_relu")(conv_bn(x, 4, "last"))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x), name=name)


def concatenated_before_a_relu():
    """The ReLU rounds all parts."""
    relu = layers.ReLU(name="concat_relu")
    return concatenated(lambda x, branch: x, "concat_relu", relu)


def concatenated_after_relus():
    """As in Inception: the parts have two alphas, and are to have one step."""
    return concatenated(
        lambda x, branch: layers.ReLU(name=f"{branch}_relu")(x), "relus_concat"
    )


def nested():
    """A Sequential and a functional model within a functional one."""
    inner_inputs = keras.Input((8, 8, 4))
    x = conv_bn(inner_inputs, 4, "a")
    x = layers.ReLU(name="a_relu")(layers.Add(name="a_add")([x, inner_inputs]))
    block = keras.Model(inner_inputs, x, name="block")
    stem = keras.Sequential(
        [
            layers.Conv2D(4, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="bn"),
        ],
        name="stem",
    )
    inputs = keras.Input((8, 8, 3))
    x = block(layers.ReLU(name="stem_relu")(stem(inputs)))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="nested"
    )


def shared():
    """A ReLU that is called three times, and a convolution called twice."""
    relu = layers.ReLU(name="relu")
    conv = layers.Conv2D(3, 3, padding="same", name="twice")
    inputs = keras.Input((8, 8, 3))
    x = relu(conv(relu(conv(inputs))))
    x = relu(layers.Conv2D(4, 3, name="once")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x))


def several():
    """Two inputs, two outputs, and a tower that both inputs go through."""
    tower_inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(tower_inputs)
    tower = keras.Model(
        tower_inputs, [x, layers.MaxPooling2D(2)(x)], name="tower"
    )
    inputs = {name: keras.Input((8, 8, 3), name=name) for name in "ab"}
    a, pooled = tower(inputs["a"])
    b, _ = tower(inputs["b"])
    x = layers.Concatenate(name="concat")([a, b])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    y = layers.GlobalMaxPooling2D(name="max_pool")(pooled)
    return keras.Model(
        inputs,
        [layers.Dense(3, name="first")(x), layers.Dense(2, name="second")(y)],
    )


def shared_by_models():
    """A convolution, a ReLU and an idle layer in three models."""
    conv = layers.Conv2D(3, 3, padding="same", activation="relu", name="shared")
    relu = layers.ReLU(name="relu")
    dropout = layers.Dropout(0.1, name="dropout")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="a")(conv(dropout(inputs)))
    first = keras.Model(inputs, relu(x), name="first")
    second = keras.Sequential(
        [keras.Input((8, 8, 3)), conv, dropout, layers.MaxPooling2D()],
        name="second",
    )
    inputs = keras.Input((8, 8, 3))
    x = second(first(dropout(inputs)))
    x = relu(layers.Conv2D(3, 1, name="b")(x))
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x))


def shared_model():
    """A model that is used directly and in another one."""
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="relu")(conv_bn(inputs, 3, "a"))
    encoder = keras.Model(inputs, x, name="encoder")
    inputs = keras.Input((8, 8, 3))
    parent = keras.Sequential(
        [inputs, encoder, layers.Conv2D(3, 1, name="b")], name="parent"
    )
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(encoder(parent(inputs)))
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x))


@keras.saving.register_keras_serializable(package="tests")
class Doubles(layers.Layer):
    def call(self, x):
        return 2 * x


def kept():
    """What is copied: operations, statistics of data, swish."""
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(images())
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(0.5)(normalization(inputs))
    x = Doubles(name="double")(x) + 1.0
    x = layers.SeparableConv2D(
        5, 3, activation="relu", depth_multiplier=2, name="separable"
    )(x)
    x = layers.Conv2D(4, 1, activation="swish", name="conv")(x)
    x = layers.Conv2DTranspose(4, 2, name="transposed")(x)
    x = layers.LeakyReLU(name="leaky")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x))


MODELS = [
    plain,
    residual,
    bottlenecks,
    pre_activation,
    dense_block,
    nested,
    shared,
    several,
    kept,
]
# Of which Keras saves the weights alone: it cannot load such a model.
SHARING = [shared_by_models, shared_model]
# Those whose every layer has an integer form.
EXPORTED = MODELS[:6]


def inputs_of(model):
    if len(model.inputs) == 1:
        return images()
    return {
        tensor.name: images(seed=ord(tensor.name)) for tensor in model.inputs
    }


def predicted(model):
    outputs = model(inputs_of(model), training=False)
    return [numpy_of(output) for output in keras.tree.flatten(outputs)]


def assert_equal_outputs(first, second):
    for a, b in zip(predicted(first), predicted(second), strict=True):
        np.testing.assert_array_equal(a, b)


def quantized(model, *args, **kwargs):
    """`quantize_model`, whose one warning is tested by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kb.quantize_model(model, *args, **kwargs)


def layer_at(model, path):
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


def becomes(model, **kwargs):
    """{path: what it becomes, bits} of the planned layers that change."""
    plan = kb.conversion_plan(model, **kwargs)
    return {
        row.name: (row.becomes, row.weight_bits, row.activation_bits)
        for row in plan.layers
        if row.becomes
    }


# The same network


@pytest.mark.parametrize("build", MODELS + SHARING)
def test_at_32_bits_it_is_the_float_model(build):
    source = shaken(build())
    found = quantized(source, **FLOAT)
    assert_equal_outputs(source, found)
    assert found.name == source.name
    assert not kb.conversion_plan(source, **FLOAT).layers[0].becomes


@pytest.mark.parametrize("build", MODELS)
def test_saved_loaded_and_cloned(build, tmp_path):
    model = quantized(shaken(build()), 2, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_equal_outputs(model, loaded)
    clone = keras.models.clone_model(model)
    clone.set_weights([numpy_of(weight) for weight in model.weights])
    finalize_statistics(clone)
    assert_equal_outputs(model, clone)


@pytest.mark.parametrize("build", [residual, several])
def test_trained(build):
    """Every float weight y moves, and every kernel is on its grid."""
    model = quantized(shaken(build()), 2, 2)
    sgd = keras.optimizers.SGD(0.01)
    model.compile(kb.BlendedOptimizer(sgd), loss="mse")
    targets = [np.ones_like(y) for y in predicted(model)]
    kernels = [
        layer
        for layer in model.layers
        if isinstance(layer, (kb.QuantConv2D, kb.QuantDense))
    ]
    before = [numpy_of(layer.kernel) for layer in kernels]
    model.fit(
        inputs_of(model),
        targets if len(targets) > 1 else targets[0],
        epochs=2,
        verbose=0,
    )
    for layer, start in zip(kernels, before, strict=True):
        assert np.any(numpy_of(model.optimizer.shadow(layer.kernel)) != start)
        scale, codes = layer.kernel_scale_and_codes()
        np.testing.assert_allclose(
            numpy_of(layer.kernel), scale * codes, rtol=1e-5
        )


@pytest.mark.parametrize(
    "build, options",
    [
        (kb.models.resnet_cifar, {"depth": 8, "input_shape": (8, 8, 3)}),
        (
            kb.models.resnet_cifar,
            {"depth": 8, "input_shape": (8, 8, 3), "shortcut": "B"},
        ),
        pytest.param(
            kb.models.mobilenet_cifar,
            {"input_shape": (8, 8, 3)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_equals_the_network_built_by_hand(build, options):
    """Layer by layer the config, and the outputs."""
    source = shaken(build(weight_bits=32, activation_bits=32, **options))
    found = quantized(
        source,
        2,
        3,
        first_last=None,
        overrides={"classifier": {"weight_bits": 8}},
    )
    bits = {"branch_bits": 8, "classifier_bits": 8}
    expected = build(weight_bits=2, activation_bits=3, **bits, **options)
    configs = [
        {
            layer.name: (type(layer), layer.get_config())
            for layer in m.layers[1:]
        }
        for m in (found, expected)
    ]
    assert configs[0] == configs[1]
    for layer in source.layers:
        for weight in layer.weights:
            target = getattr(expected.get_layer(layer.name), weight.name)
            target.assign(numpy_of(weight))
    assert_equal_outputs(found, expected)


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


# What becomes of each layer


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


def test_a_shared_relu_becomes_one_for_each_call():
    model = quantized(shared())
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("QuantReLU") == 3
    names = {layer.name for layer in model.layers}
    assert {"relu", "relu_1", "relu_2", "twice", "once"} <= names
    assert kinds.count("QuantConv2D") == 2


@pytest.mark.parametrize(
    "build, paths",
    [
        (shared_by_models, ["first/shared", "second/shared"]),
        (shared_model, ["encoder/a_conv", "parent/encoder/a_conv"]),
    ],
)
def test_what_models_share_stays_shared(build, paths, tmp_path):
    source = shaken(build())
    assert quantized(source, **FLOAT).count_params() == source.count_params()
    model = quantized(source, 2, 2)
    kernels = [
        [weight for weight in m.weights if weight.name == "kernel"]
        for m in (source, model)
    ]
    assert len(kernels[0]) == len(kernels[1])
    model.compile(kb.BlendedOptimizer(keras.optimizers.SGD(0.01)), loss="mse")
    model.fit(images(), np.ones((4, 3)), verbose=0)
    assert layer_at(model, paths[0]) is layer_at(model, paths[1])
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = quantized(build(), 2, 2)
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert_equal_outputs(model, loaded)


def test_one_decision_for_what_models_share():
    """First or last, and exceptions: by any of its paths."""
    for build, name in (
        (shared_by_models, "first/shared"),
        (shared_model, "parent/encoder/a_conv"),
    ):
        found = becomes(build())
        assert found[name][1] == 8
        assert sum(path.endswith(name[-6:]) for path in found) == 1
    source = shared_by_models()
    found = becomes(source, overrides={"second/*": {"weight_bits": 3}})
    assert found["first/shared"][1] == 3
    plan = str(kb.conversion_plan(source)).splitlines()
    (line,) = [line for line in plan if line.startswith("first/shared")]
    assert line.endswith("also second/shared")


def test_a_shared_relu_has_an_alpha_in_each_model():
    model = quantized(shared_by_models())
    one, other = (layer_at(model, path) for path in ("first/relu", "relu"))
    assert type(one) is type(other) is kb.QuantReLU
    assert one is not other


def test_weights_that_cannot_stay_shared_are_refused():
    """A wrapper is copied by its config: it gets a layer of its own."""
    dense = layers.Dense(3, name="dense")
    inputs = keras.Input((2, 4))
    x = layers.Concatenate()(
        [layers.TimeDistributed(dense, name="wrapper")(inputs), dense(inputs)]
    )
    with pytest.raises(ValueError, match="'wrapper'.*'dense'"):
        kb.quantize_model(keras.Model(inputs, x))


def names_taken():
    """Names that new layers would have: of ReLUs, sums and a model."""
    relu = layers.ReLU(name="relu")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, activation="relu", name="conv")(inputs)
    x = relu(layers.Conv2D(3, 3, name="conv_relu")(x))
    x = relu(layers.Conv2D(3, 1, name="relu_1")(x))
    y = layers.SeparableConv2D(3, 1, name="conv_relu_1")(x)
    x = layers.Add(name="conv_relu_1_codes")([x, y])
    x = layers.Conv2D(3, 1, name="conv_relu_1_depthwise")(x)
    x = layers.Flatten(name="conv_relu_1_depthwise_codes")(x)
    return keras.Model(inputs, layers.Dense(3, name="relu_2")(x))


def names_taken_in_a_sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="conv_relu_1"),
            layers.Conv2D(3, 3, activation="relu", name="conv"),
            layers.Conv2D(3, 3, activation="relu", name="conv_relu"),
            layers.Flatten(),
            layers.Dense(3, name="conv_relu_relu"),
        ]
    )


@pytest.mark.parametrize("build", [names_taken, names_taken_in_a_sequential])
def test_new_names_are_not_taken(build):
    source = shaken(build())
    model = quantized(source)
    old = {layer.name: type(layer).__name__ for layer in source.layers}
    for layer in model.layers:
        kind = old.get(layer.name, type(layer).__name__)
        assert kind.removeprefix("Separable") in type(layer).__name__
    assert len(model.layers) > len(source.layers)
    assert_equal_outputs(source, quantized(source, **FLOAT))


def test_new_names_are_those_of_their_own_model():
    """What is taken in one model is free in another."""
    parts = [
        keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Conv2D(3, 3, padding="same", activation="relu", name=n),
            ],
            name=f"conv{i}",
        )
        for i, n in enumerate(["conv", "conv", "conv1_relu"])
    ]
    model = quantized(keras.Sequential([keras.Input((8, 8, 3)), *parts]))
    assert all(layer_at(model, f"conv{i}/conv_relu") for i in (0, 1))


def test_layers_called_by_keyword():
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="relu")(inputs=conv_bn(inputs, 3, "a"))
    y = conv_bn(x, 3, "b")
    x = layers.Add(name="add")(inputs=[x, y])
    x = layers.Activation("relu", name="last_relu")(inputs=x)
    x = layers.SeparableConv2D(3, 1, activation="relu")(inputs=x)
    x = layers.Flatten()(inputs=x)
    source = shaken(
        keras.Model(inputs, layers.Dense(3, name="classifier")(inputs=x))
    )
    assert_equal_outputs(source, quantized(source, **FLOAT))
    model = quantized(source)
    layer = model.get_layer("last_relu")
    assert type(layer) is kb.QuantAddReLU
    branch, _ = layer.input
    np.testing.assert_array_equal(
        numpy_of(keras.Model(model.input, branch)(images())),
        numpy_of(
            keras.Model(model.input, model.get_layer("b_bn").output)(images())
        ),
    )


def test_models_within_the_model():
    model = quantized(nested(), 2, 3)
    assert type(layer_at(model, "stem/conv")) is kb.QuantConv2D
    assert layer_at(model, "stem/conv").bits == 8
    assert layer_at(model, "block/a_conv").bits == 2
    assert type(layer_at(model, "block/a_relu")) is kb.QuantAddReLU
    assert isinstance(model.get_layer("stem"), keras.Sequential)


def test_first_and_last():
    assert [
        becomes(plain(), first_last=n)["first"][1] for n in (8, 1, None)
    ] == [
        8,
        1,
        4,
    ]
    found = becomes(several(), first_last=8)
    bits = {name: row[1] for name, row in found.items() if row[1]}
    assert bits == {"tower/conv": 8, "first": 8, "second": 8}
    found = becomes(residual(), weight_bits=3)
    bits = {name: row[1] for name, row in found.items() if row[1]}
    assert bits.pop("stem_conv") == bits.pop("classifier") == 8
    assert set(bits.values()) == {3}
    assert "classifier" not in becomes(plain(), first_last=32)


def test_what_cannot_be_quantized_is_listed_once():
    with pytest.warns(UserWarning) as record:
        kb.quantize_model(kept())
    (ours,) = (found for found in record if found.category is UserWarning)
    text = str(ours.message)
    assert "no layer but an operation: stays float: 'add" in text
    assert "silu has no quantized form, its output stays float: 'conv'" in text
    assert "Conv2DTranspose has no quantized form, its weights stay" in text
    assert "LeakyReLU has no quantized form, its output stays float" in text
    assert ours.filename == __file__


def my_relu(x):
    return ops.relu(x)


RELUS = [
    (ops.relu, None),
    (ops.relu6, 6.0),
    (layers.ReLU(), None),
    (layers.ReLU(2.0), 2.0),
    (keras.activations.relu6, 6.0),
]


@pytest.mark.parametrize("relu, largest", RELUS)
def test_what_else_is_a_relu(relu, largest):
    source = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation=relu, name="inside"),
            layers.Activation(relu, name="alone"),
            layers.Dense(2),
        ]
    )
    found = becomes(source)
    assert found["inside"][0] == "QuantDense + QuantReLU"
    assert found["alone"][0] == "QuantReLU"
    model = quantized(source, 4, 4)
    for name in ("inside_relu", "alone"):
        bound = model.get_layer(name).alpha_constraint
        assert bound.max_value == (largest and largest / 15)
    x = np.random.default_rng(0).standard_normal((4, 4))
    for options in (FLOAT, {"weight_bits": 2, "activation_bits": 32}):
        model = quantized(source, **options)
    model = quantized(source, **FLOAT)
    np.testing.assert_array_equal(numpy_of(model(x)), numpy_of(source(x)))


@pytest.mark.parametrize(
    "layer, note",
    [
        (
            layers.ReLU(threshold=0.5),
            "ReLU with threshold=0.5 has no quantized",
        ),
        (
            layers.ReLU(negative_slope=0.1),
            "ReLU with negative_slope=0.1 has no quantized form",
        ),
        (
            layers.Dense(3, activation=layers.ReLU(threshold=0.5)),
            "ReLU with threshold=0.5 has no quantized form",
        ),
        (
            layers.Dense(3, activation=my_relu),
            "my_relu is not known, its output stays float; for a ReLU use "
            "activation='relu' or layers.ReLU",
        ),
        (layers.Dense(3, activation="gelu"), "gelu has no quantized form"),
    ],
)
def test_notes_on_activations(layer, note):
    plan = kb.conversion_plan(with_layer(layer))
    (problem,) = plan.layers[0].problems
    assert note in problem


def test_notes_on_operations():
    inputs = keras.Input((4,))
    x = layers.Dense(3)(inputs)
    x = ops.relu(x) + ops.relu6(x)
    x = ops.concatenate([x, x + 1.0])
    plan = kb.conversion_plan(keras.Model(inputs, layers.Dense(2)(x)))
    found = [(row.kind, row.problems) for row in plan.layers[1:-1]]
    advice = [
        ("Relu", " (use layers.ReLU())"),
        ("Relu6", " (use layers.ReLU(6.0))"),
        ("Add", " (use layers.Add())"),
        ("Add", ""),
        ("Concatenate", " (use layers.Concatenate())"),
    ]
    assert found == [
        (kind, [f"no layer but an operation{text}: stays float"])
        for kind, text in advice
    ]


def test_the_plan_is_a_table():
    text = str(kb.conversion_plan(plain(), 2, 3)).splitlines()
    assert text[0].split() == "layer type becomes W bits A bits note".split()
    assert text[1].split() == "first Conv2D QuantConv2D + QuantReLU 8 3".split()
    assert text[3].split() == "pool MaxPooling2D - - -".split()
    assert len(text) == 9
    lines = str(kb.conversion_plan(kept())).splitlines()
    (line,) = [line for line in lines if line.startswith("leaky")]
    assert line.endswith(
        "LeakyReLU has no quantized form, its output stays float"
    )


# Exceptions


def test_overrides_by_name_class_and_function():
    model = residual()
    found = becomes(model, overrides={"?_conv": {"weight_bits": 1}})
    bits = {name: row[1] for name, row in found.items() if row[1]}
    assert bits["a_conv"] == bits["b_conv"] == 1
    assert (bits["stem_conv"], bits["short_conv"]) == (8, 4)
    found = becomes(model, overrides={layers.Dense: {"weight_bits": 2}})
    assert (found["classifier"][1], found["stem_conv"][1]) == (2, 8)

    def rule(layer):
        return {"weight_bits": 5} if layer.name == "short_conv" else None

    found = becomes(model, overrides=rule)
    assert (found["short_conv"][1], found["a_conv"][1]) == (5, 4)
    found = becomes(model, overrides={"a_relu": {"activation_bits": 6}})
    assert (found["a_relu"][2], found["b_relu"][2]) == (6, 4)
    found = becomes(nested(), overrides={"block/*": {"weight_bits": 1}})
    assert (found["block/a_conv"][1], found["stem/conv"][1]) == (1, 8)


def test_later_overrides_count_more():
    general = {"*": {"weight_bits": 2, "activation_bits": 2}}
    special = {"hidden": {"weight_bits": 6}}
    found = becomes(plain(), overrides={**general, **special})
    assert found["hidden"][1] == 6
    assert found["first"] == ("QuantConv2D + QuantReLU", 2, 2)
    found = becomes(plain(), overrides={**special, **general})
    assert found["hidden"][1] == 2


def test_layers_left_in_float():
    overrides = {"first": "float", layers.ReLU: "float", "pool": {}}
    del overrides["pool"]
    found = becomes(plain(), overrides=overrides)
    assert "first" not in found and "hidden_relu" not in found
    model = quantized(plain(), overrides=overrides)
    assert type(model.get_layer("first")) is layers.Conv2D
    assert model.get_layer("first").activation is keras.activations.relu
    assert becomes(plain(), overrides=lambda layer: "float") == {}


def test_overrides_reach_the_layers():
    model = quantized(
        residual(),
        overrides={
            "a_conv": {"projection": "exact", "per_channel": True},
            "a_relu": {"alpha_gradient": "ae", "branch_bits": 6},
            "stem_relu": {"alpha_initializer": "slides"},
        },
    )
    layer = model.get_layer("a_conv")
    assert (layer.projection, layer.per_channel) == ("exact", True)
    layer = model.get_layer("a_relu")
    assert (layer.alpha_gradient, layer.branch_bits) == ("ae", 6)
    assert float(model.get_layer("stem_relu").alpha) == np.float32(1 / 15)
    assert model.get_layer("b_conv").projection == "lloyd"


BAD_OVERRIDES = [
    ({"nowhere": {"weight_bits": 2}}, "'nowhere', which matches no layer"),
    ({layers.LSTM: "float"}, "LSTM, which matches no layer"),
    ({"pool": "float"}, "'pool', which matches no layer that can be quantized"),
    ({"hidden": {"activation_bits": 2}}, "sets activation_bits, of which no"),
    ({"hidden_relu": {"weight_bits": 2}}, "sets weight_bits, of which no"),
    ({"hidden": {"bits": 2}}, "'hidden' must be \"float\" or a dict with some"),
    ({"hidden": None}, "Received: None"),
    ({"hidden": {"weight_bits": 9}}, "layer 'hidden': `weight_bits` must be"),
    ({3: "float"}, "Received: 3 among them"),
    ([("hidden", "float")], "`overrides` must be a dict or a function"),
    (lambda layer: 3, "Received: 3"),
]


@pytest.mark.parametrize("overrides, message", BAD_OVERRIDES)
def test_bad_overrides_are_refused(overrides, message):
    with pytest.raises(ValueError) as raised:
        kb.conversion_plan(plain(), overrides=overrides)
    assert message in str(raised.value)
    assert "`overrides`" in str(raised.value)


# What is refused


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"weight_bits": 9}, "`weight_bits` must be an integer from 1 to 8"),
        ({"activation_bits": 0}, "Received: activation_bits=0"),
        ({"branch_bits": 3}, "Received: branch_bits=3"),
        ({"first_last": "float"}, "Received: first_last='float'"),
        ({"projection": "best"}, "Received: 'best'"),
        ({"per_channel": 1}, "Received: per_channel=1"),
        ({"alpha_gradient": "x"}, "Received: alpha_gradient='x'"),
        ({"alpha_initializer": None}, "Received: alpha_initializer=None"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError) as raised:
        kb.quantize_model(plain(), **kwargs)
    assert message in str(raised.value)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


class WithoutConfig(layers.Layer):
    def __init__(self, function, name=None):
        super().__init__(name=name)
        self.function = function

    def call(self, x):
        return self.function(x)


class ForgetsItsConfig(layers.Layer):
    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * x

    def get_config(self):
        return super().get_config()


def with_layer(layer):
    return keras.Sequential([keras.Input((4,)), layer, layers.Dense(2)])


def quantized_by_keras():
    model = with_layer(layers.Dense(4, name="mine"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.quantize("int8")
    return model


@pytest.mark.parametrize(
    "build, messages",
    [
        (lambda: "model.keras", ["`model` must be", "'model.keras'"]),
        (lambda: keras.Sequential([layers.Dense(2)]), ["no known input shape"]),
        (Subclassed, ["Only Sequential and functional", "Subclassed"]),
        (
            lambda: with_layer(WithoutConfig(abs, name="mine")),
            ["'mine' (WithoutConfig)", "get_config"],
        ),
        (
            lambda: with_layer(ForgetsItsConfig(2.0, name="mine")),
            ["'mine' (ForgetsItsConfig)", "factor"],
        ),
        (
            lambda: with_layer(layers.Lambda(lambda x: 2 * x, name="mine")),
            ["'mine' (Lambda)", "enable_unsafe_deserialization"],
        ),
        (
            lambda: with_layer(kb.QuantReLU(name="mine")),
            ["quantized already", "the layers mine"],
        ),
        (
            lambda: with_layer(kb.QuantDense(3, bits=2, name="mine")),
            ["quantized already", "the layers mine"],
        ),
        (quantized_by_keras, ["quantized already", "the layers mine, dense"]),
        (
            lambda: with_layer(layers.ReLU(max_value=0, name="mine")),
            ["'mine'", "`max_value` above 0", "max_value=0"],
        ),
    ],
)
def test_models_that_are_refused(build, messages):
    with pytest.raises(ValueError) as raised:
        kb.quantize_model(build())
    for message in messages:
        assert message in str(raised.value)


class Backbone(keras.Model):
    """A functional model with a class of its own, as in Keras Hub."""

    def __init__(self, width):
        inputs = keras.Input((4,))
        x = layers.Dense(width, activation="relu", name="hidden")(inputs)
        super().__init__(inputs, layers.Dense(2, name="last")(x))
        self.width = width


def test_functional_models_of_a_class_of_their_own():
    source = Backbone(3)
    found = quantized(source, first_last=32, activation_bits=32)
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(numpy_of(found(x)), numpy_of(source(x)))
    assert becomes(source)["hidden"] == ("QuantDense + QuantReLU", 8, 4)


def test_layers_of_ones_own_are_copied():
    own = Subclassed(name="own")
    source = keras.Sequential(
        [keras.Input((4,)), Doubles(), own, layers.Dense(2)]
    )
    with pytest.warns(UserWarning, match="weights stay float: 'own'"):
        found = kb.quantize_model(source, first_last=32)
    kinds = [type(layer) for layer in found.layers]
    assert kinds == [Doubles, Subclassed, layers.Dense]
    x = np.ones((2, 4), "float32")
    np.testing.assert_array_equal(numpy_of(found(x)), numpy_of(source(x)))


# Networks of keras.applications, at 32x32 with random weights


def of_applications(name, alpha=None):
    return getattr(keras.applications, name)(
        input_shape=(32, 32, 3),
        weights=None,
        classes=10,
        classifier_activation=None,
        **({"alpha": alpha} if alpha else {}),
    )


@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2"])
def test_mobilenets(name):
    """As below, but that nothing is saved or exported."""
    source = of_applications(name, 0.1)
    assert not kb.conversion_plan(source).left_in_float
    x = images((2, 32, 32, 3))
    same = quantized(source, **FLOAT)
    np.testing.assert_array_equal(numpy_of(same(x)), numpy_of(source(x)))
    assert_all_trained(quantized(source))


def assert_all_trained(model):
    graph = read_graph(model)
    assert not graph.calibrated
    assert all(n.quantizer.trained for n in graph.nodes if n.quantizer)


# A width, the layers that quantize_model leaves in float, and those that the
# exporter refuses, by their class and how many.
APPLICATIONS = {
    "MobileNet": (0.25, 0, {}),
    "MobileNetV2": (0.35, 0, {}),
    "ResNet50": (None, 0, {}),
    "VGG16": (None, 0, {}),
    "DenseNet121": (None, 0, {}),
    "EfficientNetB0": (
        None,
        65,
        {"Activation": 33, "QuantConv2D": 32, "Multiply": 16},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
@pytest.mark.filterwarnings(
    # Of weights that were never trained.
    "ignore:The inputs of these layers are so small:UserWarning"
)
def test_applications(name, tmp_path):
    """Converted, saved, loaded: equal outputs; the file agrees with it."""
    alpha, left, refused = APPLICATIONS[name]
    source = of_applications(name, alpha)
    plan = kb.conversion_plan(source)
    assert sum(bool(row.problems) for row in plan.layers) == left
    x = images((2, 32, 32, 3))
    same = quantized(source, **FLOAT)
    np.testing.assert_array_equal(numpy_of(same(x)), numpy_of(source(x)))
    model = quantized(source)
    if not refused:
        x = images((32, 32, 32, 3))
        kb.calibrate(model, x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy_of(loaded(x)), numpy_of(model(x)))
    path = tmp_path / "model.tflite"
    if not refused:
        assert_all_trained(loaded)
        span = (-2, 127 / 64)
        kb.align_for_export(loaded, span, x)
        report = kb.export_tflite(loaded, path, span, x)
        assert all(row.trained for row in report.layers)
        assert "is brought to one" not in str(report)
        # Random weights amplify the few codes that differ all the same.
        assert kb.verify_tflite(loaded, path, x).agreement >= 0.9
        return
    with pytest.raises(ValueError) as raised:
        kb.export_tflite(loaded, path, representative_data=x)
    kinds = [
        line.split("(")[1].split(")")[0]
        for line in str(raised.value).splitlines()[1:]
    ]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == refused
    assert not path.exists()
