"""Networks with products, sums and other activations: files and refusals."""

import keras
import numpy as np
import pytest
from export_helpers import assert_all_codes
from export_helpers import grid_inputs
from export_helpers import normalize
from export_helpers import outputs_of
from export_helpers import run

import keras_bcgd as kb
from keras_bcgd.tflite.runner import KERNELS

layers = keras.layers


def conv_bn(x, filters, size=3, bits=4):
    x = kb.QuantConv2D(
        filters, size, bits=bits, padding="same", use_bias=False
    )(x)
    return layers.BatchNormalization()(x)


def network(build, seed=0):
    """A small network around `build`, as after training."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 3))
    x = build(conv_bn(inputs, 4))
    model = keras.Model(inputs, kb.QuantReLU(4)(conv_bn(x, 4)), name="net")
    x = grid_inputs((6, 6, 3), seed=1)
    normalize(model, x)
    kb.calibrate(model, x, verbose=0)
    return model


def excited(x):
    x = kb.QuantActivation("swish")(x)
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = kb.QuantReLU(4)(conv_bn(kb.QuantIdentity()(y), 4, 1))
    y = kb.QuantActivation("sigmoid")(conv_bn(y, 4, 1, bits=2))
    return kb.QuantMultiply(minimum=-0.2784645)([x, y])


def hard_gate(x):
    x = kb.QuantReLU(4)(x)
    y = kb.QuantHardSigmoid(bits=6)(conv_bn(x, 4))
    return kb.QuantMultiply(bits=5, minimum=0.0)([x, y])


def bottleneck(x):
    x = kb.QuantIdentity()(x)
    y = kb.QuantIdentity()(conv_bn(kb.QuantActivation("hard_swish")(x), 4))
    return kb.QuantAdd()([x, y])


def read_elsewhere(x):
    """One operand of a concatenation has its own reader."""
    x = kb.QuantActivation("tanh")(x)
    y = kb.QuantIdentity()(conv_bn(x, 4))
    z = kb.QuantConcatenate()([x, y])
    z = kb.QuantIdentity()(conv_bn(z, 4))
    return kb.QuantAdd()([z, y])


def padded_hard_sigmoid(x):
    """Around a map of 1/2 there are zeros, not 1/2."""
    x = kb.QuantIdentity()(x)
    return kb.QuantHardSigmoid()(layers.ZeroPadding2D(2)(x))


def pooled_hard_sigmoid(x):
    return kb.QuantHardSigmoid(bits=5)(layers.MaxPooling2D()(x))


def leaky(x):
    x = kb.QuantLeakyReLU(0.5)(x)
    x = kb.QuantPReLU(keras.initializers.Constant(0.25))(conv_bn(x, 4))
    return layers.MaxPooling2D()(x)


def nested(x):
    inner = keras.Input(x.shape[1:])
    y = kb.QuantActivation("swish")(inner)
    return keras.Model(inner, excited(conv_bn(y, 4)), name="inner")(x)


NETWORKS = [
    excited,
    hard_gate,
    bottleneck,
    read_elsewhere,
    padded_hard_sigmoid,
    pooled_hard_sigmoid,
    leaky,
    nested,
]


@pytest.mark.parametrize("build", NETWORKS)
def test_aligned_networks_compute_the_same_codes(build, tmp_path):
    model = network(build)
    kb.align_for_export(model, input_range=(0, 1), verbose=0)
    report = assert_all_codes(model, tmp_path)
    # What concatenations have in other scales is brought to one.
    assert report.is_exact, str(report)
    assert not report.inexact_elsewhere, str(report)


def test_a_hard_sigmoid_is_not_moved_over_a_padding(tmp_path):
    """Rounded before it, the border would be 0."""
    inputs = keras.Input((6, 6, 3))
    x = layers.ZeroPadding2D(2)(conv_bn(inputs, 4))
    model = keras.Model(inputs, kb.QuantHardSigmoid()(x))
    x = np.float32(grid_inputs((6, 6, 3)))
    normalize(model, x)
    path = str(tmp_path / "m.tflite")
    kb.export_tflite(model, path, (0, 1), x, batch_size=16, verbose=0)
    for kernels in KERNELS:
        found = run(path, x, kernels)
        np.testing.assert_allclose(found[:, :2], 0.5, 1e-6)
        # The convolution is rounded to 8 bits first, not in Keras.
        assert np.abs(found - outputs_of(model, x)).max() < 0.02


def test_operands_that_training_did_not_round(tmp_path):
    """The file rounds them by calibration, and says so."""

    def build(x):
        return kb.QuantMultiply()([x, kb.QuantActivation("sigmoid")(x)])

    model = network(build)
    path = str(tmp_path / "m.tflite")
    x = np.float32(grid_inputs((6, 6, 3)))
    report = kb.export_tflite(model, path, (0, 1), x, verbose=0)
    assert not report.is_exact
    assert "rounded to 8 bits in the file, not in training" in str(report)


# Refusals


def problems(build):
    inputs = keras.Input((6, 6, 3))
    x = build(conv_bn(inputs, 4))
    model = keras.Model(inputs, kb.QuantReLU(4)(conv_bn(x, 4)))
    with pytest.raises(ValueError) as raised:
        kb.check_exportable(model)
    return str(raised.value).splitlines()[1:]


REFUSED = {
    "fewer codes of an identity": (
        lambda x: kb.QuantIdentity(4, minimum=0.0, name="it")(x),
        "- 'it' (QuantIdentity): use bits=8 (in `quantize_model`, "
        "branch_bits=8)",
    ),
    "fewer codes of a sum": (
        lambda x: kb.QuantAdd(6, name="it")([x, x]),
        "- 'it' (QuantAdd): use bits=8 (in `quantize_model`, branch_bits=8)",
    ),
    "fewer codes of a concatenation": (
        lambda x: kb.QuantConcatenate(bits=6, name="it")([x, x]),
        "- 'it' (QuantConcatenate): use bits=8 (in `quantize_model`, "
        "branch_bits=8)",
    ),
    "fewer codes of a product": (
        lambda x: kb.QuantMultiply(4, name="it")([x, x]),
        "- 'it' (QuantMultiply): use bits=8, or give its `minimum`",
    ),
    "gelu": (
        lambda x: layers.Activation("gelu", name="it")(x),
        "- 'it' (Activation): use a QuantReLU in its place",
    ),
    "float swish": (
        lambda x: layers.Activation("swish", name="it")(x),
        "- 'it' (Activation): use a QuantActivation in its place",
    ),
    "float leaky": (
        lambda x: layers.LeakyReLU(name="it")(x),
        "- 'it' (LeakyReLU): use a QuantLeakyReLU in its place",
    ),
    "float prelu": (
        lambda x: layers.PReLU(name="it")(x),
        "- 'it' (PReLU): use a QuantPReLU in its place",
    ),
    "float product": (
        lambda x: layers.Multiply(name="it")([x, x]),
        "- 'it' (Multiply): use a QuantMultiply in its place",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    build, message = REFUSED[name]
    assert problems(build) == [message]


@pytest.mark.parametrize(
    "make",
    [
        lambda: kb.QuantActivation("swish", name="it"),
        lambda: kb.QuantPReLU(name="it"),
        lambda: kb.QuantHardSigmoid(name="it"),
    ],
)
def test_a_layer_that_is_called_twice_is_refused_by_its_name(make):
    layer = make()

    def build(x):
        return layer(conv_bn(layer(x), 4))

    (line,) = problems(build)
    assert line.startswith(f"- 'it' ({type(layer).__name__}): it is called")


# Stock layers


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: kb.QuantActivation("swish", name="it"), "QuantActivation"),
        (lambda: kb.QuantActivation("tanh", name="it"), "QuantActivation"),
        (lambda: kb.QuantHardSigmoid(name="it"), "QuantHardSigmoid"),
        (lambda: kb.QuantLeakyReLU(name="it"), "QuantLeakyReLU"),
        (lambda: kb.QuantPReLU(name="it"), "QuantPReLU"),
        (lambda: kb.QuantAdd(name="it"), "QuantAdd"),
        (lambda: kb.QuantMultiply(name="it"), "QuantMultiply"),
        (lambda: kb.QuantConcatenate(name="it"), "QuantConcatenate"),
    ],
)
def test_stock_layers_do_not_have_it(make, kind):
    def build(x):
        layer = make()
        is_merge = isinstance(layer, (kb.QuantAdd, kb.QuantMultiply))
        is_merge = is_merge or isinstance(layer, kb.QuantConcatenate)
        return layer([x, x]) if is_merge else layer(x)

    with pytest.raises(ValueError) as raised:
        kb.to_stock_layers(network(build), (0, 1))
    assert str(raised.value).splitlines()[1:] == [
        f"- 'it' ({kind}): no stock layers compute it, but `export_tflite` "
        "writes it"
    ]


@pytest.mark.parametrize(
    "build",
    [
        lambda x: kb.QuantIdentity(minimum=-0.5)(x),
        lambda x: kb.QuantIdentity(minimum=0.0)(x),
        lambda x: kb.QuantIdentity(5, minimum=-0.25)(x),
        lambda x: kb.QuantActivation("relu", bits=4)(x),
    ],
)
def test_stock_layers_of_what_they_have(build):
    model = network(build)
    stock = kb.to_stock_layers(model, (0, 1))
    x = np.float32(grid_inputs((6, 6, 3)))
    expected, found = (m.predict(x, verbose=0) for m in (model, stock))
    alpha = float(model.layers[-1].alpha)
    apart = np.abs(np.round(expected / alpha) - np.round(found / alpha))
    # A sum that float32 puts on the other side of a threshold.
    assert np.mean(apart > 0.1) < 0.01
