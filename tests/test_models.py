"""The networks: sizes, names, arguments, padding, shortcuts, files."""

import dataclasses
import functools
import inspect

import keras
import numpy as np
import pytest
from keras import ops

from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantAddReLU
from keras_bcgd import QuantConv2D
from keras_bcgd import QuantDense
from keras_bcgd import QuantDepthwiseConv2D
from keras_bcgd import QuantReLU
from keras_bcgd.models import Recipe
from keras_bcgd.models import mobilenet_cifar
from keras_bcgd.models import resnet18
from keras_bcgd.models import resnet_cifar
from keras_bcgd.models import vgg11

NETWORKS = [vgg11, resnet_cifar, resnet18, mobilenet_cifar]
# Network, trained parameters without alphas, alphas.
SIZES = [
    (vgg11, 9_231_114, 8),
    (resnet_cifar, 269_722, 19),
    (resnet18, 11_689_512, 17),
    (mobilenet_cifar, 136_778, 11),
]
DEPTHS = [(32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
KERNEL_LAYERS = (QuantConv2D, QuantDepthwiseConv2D, QuantDense)
FLOAT = {"weight_bits": 32, "activation_bits": 32}


def fresh(build, **kwargs):
    """The network for small images, and of few layers if it has a depth."""
    if build is resnet_cifar:
        kwargs = {"depth": 8, **kwargs}
    size = 32 if build in (vgg11, resnet18) else 8
    return build(input_shape=(size, size, 3), classes=10, **kwargs)


# For tests that change nothing.
small = functools.cache(fresh)


def images(model, count=2):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def layers_of(model, cls):
    return [layer for layer in model.layers if isinstance(layer, cls)]


def weights_by_layer(model):
    """{layer: {weight: shape}} of what the float twin has as well."""
    quantized_only = ("alpha", "kernel_is_quantized")
    found = {
        layer.name: {
            weight.name: tuple(weight.shape)
            for weight in layer.weights
            if weight.name not in quantized_only
        }
        for layer in model.layers
    }
    return {name: weights for name, weights in found.items() if weights}


def part(model, start, end, seed=0):
    """What the layers from one name to another make of a random tensor."""
    start, end = model.get_layer(start), model.get_layer(end)
    inner = keras.Model(start.input, end.output)
    x = np.random.default_rng(seed).standard_normal((2, *start.input.shape[1:]))
    x = x.astype("float32")
    return x, ops.convert_to_numpy(inner(x))


def convolution(x, kernel, pad):
    """With stride 2, one output at a time; `pad` is (before, after)."""
    size = kernel.shape[0]
    x = np.pad(x, [(0, 0), pad, pad, (0, 0)])
    starts = range(0, x.shape[1] - size + 1, 2)
    return np.stack(
        [
            np.stack(
                [
                    np.tensordot(x[:, i : i + size, j : j + size], kernel, 3)
                    for j in starts
                ],
                axis=1,
            )
            for i in starts
        ],
        axis=1,
    )


# Sizes


def assert_size(model, parameters, alphas):
    found = [w for w in model.trainable_weights if w.name == "alpha"]
    assert len(found) == alphas
    assert sum(
        np.prod(w.shape, dtype=int) for w in model.trainable_weights
    ) == (parameters + alphas)


@pytest.mark.parametrize(("build", "parameters", "alphas"), SIZES)
def test_number_of_parameters(build, parameters, alphas):
    model = build()
    assert_size(model, parameters, alphas)
    assert f"{parameters:,}" in build.__doc__
    assert f"{alphas} alphas" in build.__doc__
    classes = 1000 if build is resnet18 else 10
    assert model.output_shape == (None, classes)


@pytest.mark.parametrize(("depth", "parameters"), DEPTHS)
def test_deeper_networks(depth, parameters):
    model = resnet_cifar(depth)
    assert_size(model, parameters, depth - 1)
    assert len(layers_of(model, (QuantConv2D, QuantDense))) == depth
    assert model.name == f"resnet{depth}_cifar"


@pytest.mark.parametrize("depth", [2, 7, 21, 20.0, "20", None, True])
def test_bad_depth(depth):
    with pytest.raises(ValueError) as raised:
        resnet_cifar(depth)
    assert str(raised.value) == (
        "`depth` must be 6 n + 2, n > 0: 20, 32, 44, 56 or 110, say. "
        f"Received: depth={depth!r}"
    )


# Arguments


@pytest.mark.parametrize("build", NETWORKS)
def test_arguments_are_in_the_signature(build):
    parameters = inspect.signature(build).parameters
    own = ("depth", "shortcut")
    names = [name for name in parameters if name not in own]
    assert names == list(inspect.signature(vgg11).parameters)
    for name in own:
        assert (name in parameters) == (build is resnet_cifar)
    for name in [*parameters][:-1]:
        assert f"\n        {name}: " in build.__doc__
    assert "\n        **recipe: " in build.__doc__


def test_arguments_of_the_recipe_are_documented():
    for field in dataclasses.fields(Recipe):
        assert f"\n        {field.name}: " in Recipe.__doc__


@pytest.mark.parametrize("build", NETWORKS)
def test_an_argument_of_no_recipe(build):
    with pytest.raises(TypeError, match="'projektion'"):
        build(projektion="exact")


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("shortcut", "A, B"), ("stride_padding", "symmetric, same")],
)
def test_bad_choice(name, allowed):
    with pytest.raises(ValueError) as raised:
        resnet_cifar(**{name: "even"})
    message = f"`{name}` must be one of {allowed}. Received: {name}='even'"
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "bad", "allowed"),
    [
        ("norm_momentum", 1.0, "in [0, 1)"),
        ("norm_momentum", -0.1, "in [0, 1)"),
        ("norm_epsilon", 0.0, "above 0"),
    ],
)
def test_bad_normalization(name, bad, allowed):
    with pytest.raises(ValueError) as raised:
        Recipe(**{name: bad})
    message = f"`{name}` must be {allowed}. Received: {name}={bad!r}"
    assert str(raised.value) == message


@pytest.mark.parametrize("build", NETWORKS)
def test_every_argument_reaches_every_layer(build):
    model = small(
        build,
        weight_bits=2,
        activation_bits=3,
        branch_bits=7,
        classifier_bits=6,
        projection="exact",
        per_channel=True,
        alpha_gradient="ae",
        alpha_initializer="slides",
        alpha_gradient_scale="lsq",
        norm_momentum=0.5,
        norm_epsilon=1e-3,
    )
    relus = layers_of(model, QuantReLU)
    convolutions = layers_of(model, KERNEL_LAYERS)[:-1]
    assert len(relus) > 6 and len(convolutions) > 6
    for relu in relus:
        assert (relu.bits, relu.alpha_gradient) == (3, "ae")
        assert relu.alpha_gradient_scale == "lsq"
        assert float(relu.alpha) == np.float32(1 / 7)
    for conv in convolutions:
        assert (conv.bits, conv.projection) == (2, "exact")
        assert conv.per_channel
    for norm in layers_of(model, keras.layers.BatchNormalization):
        assert (norm.momentum, norm.epsilon) == (0.5, 1e-3)
    assert model.get_layer("classifier").bits == 6
    assert {add.branch_bits for add in layers_of(model, QuantAddReLU)} <= {7}


@pytest.mark.parametrize("build", NETWORKS)
def test_first_and_last_layer_in_float(build):
    model = small(build, first_last_float=True, branch_bits=8, weight_bits=3)
    first, *others, last = layers_of(model, KERNEL_LAYERS)
    assert (first.name, first.bits) == ("conv1", 32)
    assert (last.name, last.bits) == ("classifier", 32)
    assert {layer.bits for layer in others} == {3}


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize(
    ("name", "bad", "allowed"),
    [
        ("weight_bits", 9, "an integer from 1 to 8, or 32 (not quantized)"),
        ("activation_bits", 0, "an integer from 1 to 8, or 32 (not quantized)"),
        ("activation_bits", None, "an integer from 1 to 8, or 32 (not quant"),
        ("branch_bits", 3, "an integer from 4 to 8, or None"),
        ("branch_bits", 32, "an integer from 4 to 8, or None"),
        ("classifier_bits", 9, "an integer from 1 to 8, or 32 (not quantized)"),
        ("classifier_bits", "8", "an integer from 1 to 8, or 32 (not quant"),
    ],
)
def test_bad_bits(build, name, bad, allowed):
    with pytest.raises(ValueError) as raised:
        build(**{name: bad})
    message = str(raised.value)
    assert message.startswith(f"`{name}` must be {allowed}")
    assert message.endswith(f"Received: {name}={bad!r}")


# Variants


@pytest.mark.parametrize(
    ("branch_bits", "classifier_bits", "first_last_float", "expected"),
    [
        (None, None, False, 32),
        (None, 4, False, 4),
        (None, 32, False, 32),
        (8, 1, False, 1),
        (8, 32, False, 32),
        (6, None, True, 32),
        (6, 32, True, 32),
    ],
)
@pytest.mark.parametrize("build", NETWORKS)
def test_bits_of_the_classifier(
    build, branch_bits, classifier_bits, first_last_float, expected
):
    model = small(
        build,
        branch_bits=branch_bits,
        classifier_bits=classifier_bits,
        first_last_float=first_last_float,
    )
    assert model.get_layer("classifier").bits == expected
    sums = layers_of(model, QuantAddReLU)
    assert {layer.branch_bits for layer in sums} <= {branch_bits}
    others = layers_of(model, KERNEL_LAYERS)[1:-1]
    assert {layer.bits for layer in others} == {4}


@pytest.mark.parametrize("build", [resnet_cifar, resnet18])
def test_the_classifier_follows_the_branches(build):
    model = small(build, branch_bits=6)
    assert model.get_layer("classifier").bits == 6


@pytest.mark.parametrize("build", [vgg11, mobilenet_cifar])
def test_branch_bits_without_branches(build):
    """It is the classifier's, as ever, and a warning tells the caller."""
    with pytest.warns(FutureWarning, match="`classifier_bits=5`") as warned:
        model = fresh(build, branch_bits=5)
    assert [warning.filename for warning in warned] == [__file__]
    twin = fresh(build, classifier_bits=5)
    # Keras numbers the inputs.
    configs = [[x.get_config() for x in m.layers[1:]] for m in (model, twin)]
    assert configs[0] == configs[1]
    assert model.get_layer("classifier").bits == 5


@pytest.mark.parametrize("build", NETWORKS)
def test_a_classifier_cannot_be_float_and_quantized(build):
    with pytest.raises(ValueError) as raised:
        build(first_last_float=True, classifier_bits=8)
    assert str(raised.value) == (
        "`classifier_bits` must be 32 (not quantized) or None with "
        "first_last_float=True, which keeps the classifier in float. "
        "Received: classifier_bits=8"
    )


@pytest.mark.parametrize("branch_bits", [None, 8])
@pytest.mark.parametrize("build", NETWORKS)
def test_branches(build, branch_bits):
    model = small(build, branch_bits=branch_bits, classifier_bits=8)
    sums = layers_of(model, QuantAddReLU)
    if branch_bits is None:
        assert not sums
        return
    assert {layer.branch_bits for layer in sums} <= {branch_bits}
    assert not layers_of(model, keras.layers.Add)
    expected = {
        vgg11: [],
        resnet_cifar: [False] * 3,
        # Convolutions on the shortcuts to 128, 256 and 512 channels.
        resnet18: [False, False] + 3 * [True, False],
        mobilenet_cifar: [],
    }[build]
    assert [layer.shortcut_is_branch for layer in sums] == expected


def test_the_branch_is_what_is_rounded():
    """Of the two tensors it is the first, the one without an activation."""
    for build in (resnet_cifar, resnet18):
        model = small(build, branch_bits=8)
        config = {
            layer["name"]: layer for layer in model.get_config()["layers"]
        }
        for layer in layers_of(model, QuantAddReLU):
            ((inputs,),) = (
                node["args"] for node in config[layer.name]["inbound_nodes"]
            )
            branch, shortcut = (
                tensor["config"]["keras_history"][0] for tensor in inputs
            )
            assert branch.endswith("_conv2_bn")
            assert shortcut.endswith("_bn") == layer.shortcut_is_branch


@pytest.mark.parametrize(
    "kwargs", [{}, {"branch_bits": 8, "classifier_bits": 2}]
)
@pytest.mark.parametrize("build", NETWORKS)
def test_float_twin_has_the_same_names(build, kwargs):
    model, twin = small(build, **kwargs), small(build, **FLOAT)
    expected = weights_by_layer(twin)
    found = weights_by_layer(model)
    assert found == expected
    assert len(found) > 10
    # Where there is an alpha, the twin has the ReLU it stands for.
    for relu in layers_of(model, QuantReLU):
        assert isinstance(twin.get_layer(relu.name), keras.layers.ReLU)
    assert not layers_of(twin, QuantReLU)
    assert {layer.bits for layer in layers_of(twin, KERNEL_LAYERS)} == {32}


@pytest.mark.parametrize("build", NETWORKS)
def test_batch_normalization_is_that_of_the_paper(build):
    norms = layers_of(small(build), keras.layers.BatchNormalization)
    convolutions = layers_of(small(build), KERNEL_LAYERS)[:-1]
    assert len(norms) == len(convolutions)
    for norm in norms:
        assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)
    # Only the VGG has biases before the normalization.
    assert {conv.use_bias for conv in convolutions} == {build is vgg11}


# Geometry


def test_shortcut_a_subsamples_and_appends_zeros():
    model = small(resnet_cifar)
    name = "stage3_block1"
    x, output = part(model, f"{name}_subsample", f"{name}_pad_channels")
    assert x.shape == (2, 4, 4, 32)
    assert output.shape == (2, 2, 2, 64)
    np.testing.assert_array_equal(output[..., :32], x[:, ::2, ::2])
    np.testing.assert_array_equal(output[..., 32:], 0)


@pytest.mark.parametrize(
    ("build", "start", "name", "pad"),
    [
        (resnet_cifar, "stage2_block1_conv1_pad", "stage2_block1_conv1", 1),
        (resnet18, "conv1_pad", "conv1", 3),
        (resnet18, "stage2_block1_conv1_pad", "stage2_block1_conv1", 1),
        (resnet18, "stage2_block1_shortcut", "stage2_block1_shortcut", 0),
    ],
)
def test_padding_at_stride_2_is_even(build, start, name, pad):
    model = small(build)
    x, output = part(model, start, name)
    kernel = ops.convert_to_numpy(model.get_layer(name).quantized_kernel)
    expected = convolution(x, kernel, (pad, pad))
    assert output.shape[1] == x.shape[1] // 2
    # float32 sums of up to 576 products.
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [resnet_cifar, resnet18])
def test_padding_at_stride_2_as_keras_does(build):
    model = small(build, stride_padding="same")
    name = "stage2_block1_conv1"
    x, output = part(model, name, name)
    kernel = ops.convert_to_numpy(model.get_layer(name).quantized_kernel)
    expected = convolution(x, kernel, (0, 1))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_shortcut_b_is_a_convolution():
    model = small(resnet_cifar, shortcut="B", branch_bits=8)
    for stage, filters in ((2, 32), (3, 64)):
        conv = model.get_layer(f"stage{stage}_block1_shortcut")
        assert conv.kernel.shape == (1, 1, filters // 2, filters)
        assert conv.strides == (2, 2) and conv.bits == 4
    sums = layers_of(model, QuantAddReLU)
    assert [s.shortcut_is_branch for s in sums] == [False, True, True]
    assert not layers_of(model, keras.layers.MaxPooling2D)


def test_depthwise_padding_at_stride_2_is_at_the_end():
    name = "block2_depthwise"
    model = small(mobilenet_cifar)
    x, output = part(model, name, name)
    kernel = ops.convert_to_numpy(model.get_layer(name).quantized_kernel)
    # Each channel by itself.
    kernel = kernel * np.eye(64)[None, None]
    expected = convolution(x, kernel, (0, 1))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_first_pooling_of_resnet18_is_even():
    model = small(resnet18)
    x, output = part(model, "pool1_pad", "pool1")
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    assert x.shape[1:3] == (16, 16)
    assert output.shape[1:3] == (8, 8)
    windows = [
        padded[:, i : i + 15 : 2, j : j + 15 : 2]
        for i in range(3)
        for j in range(3)
    ]
    np.testing.assert_array_equal(output, np.max(windows, axis=0))


# As a whole


@pytest.mark.parametrize("build", NETWORKS)
def test_save_and_load(build, tmp_path):
    model = small(build, branch_bits=8, classifier_bits=2)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("classifier").bits == 2
    x = images(model)
    expected = ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), expected)
    assert np.std(expected) > 0
    assert [layer.name for layer in loaded.layers] == [
        layer.name for layer in model.layers
    ]


def test_a_network_trains():
    model = fresh(resnet_cifar, branch_bits=8)
    x = images(model, 32)
    model.compile(
        BlendedOptimizer(keras.optimizers.SGD(0.02, momentum=0.9)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # Compiling it takes longer than these steps.
        run_eagerly=True,
    )
    history = model.fit(x, np.arange(32) % 10, epochs=8, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
