"""The two lines of the README, for each kind of network, after some epochs.

`export_tflite(model, path, representative_data=x)` and nothing else: the file
answers as `report.model`, on all kernels.
"""

import keras
import numpy as np
import pytest
from sklearn import datasets

import keras_bcgd as kb
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner

layers = keras.layers
losses = keras.losses

SHAPE = (8, 8, 1)


@pytest.fixture(scope="module")
def digits():
    """`(x, x_test, digit of each)`; images of 16 levels in [0, 1]."""
    data = datasets.load_digits()
    x = np.float32(data.images[..., None] / 16)
    return x[540:], x[:540], data.target[540:], data.target[:540]


def conv(x, filters, bits, size=3, strides=1):
    x = kb.QuantConv2D(
        filters, size, strides, "same", bits=bits, use_bias=False
    )(x)
    return layers.BatchNormalization()(x)


def classifier(x, outputs):
    x = layers.GlobalAveragePooling2D()(x)
    return kb.QuantDense(outputs, bits=8)(x)


def chain(outputs=10, bits=4, activation=None):
    x = inputs = keras.Input(SHAPE)
    x = kb.QuantReLU(4)(conv(x, 16, bits))
    x = classifier(kb.QuantReLU(4)(conv(x, 32, bits, strides=2)), outputs)
    if activation is not None:
        x = layers.Activation(activation)(x)
    return keras.Model(inputs, x)


def residual(bits):
    x = inputs = keras.Input(SHAPE)
    x = kb.QuantReLU(4)(conv(x, 16, 4))
    for _ in range(3):
        branch = kb.QuantReLU(4)(conv(x, 16, bits))
        x = kb.QuantAddReLU(4)([conv(branch, 16, bits), x])
    return keras.Model(inputs, classifier(x, 10))


def inverted_residual(first_last):
    """As MobileNetV2: sums that no ReLU follows. Made of a float model."""
    x = inputs = keras.Input(SHAPE)
    x = layers.Conv2D(12, 3, padding="same", use_bias=False, name="first")(x)
    x = layers.BatchNormalization()(x)
    for _ in range(3):
        y = layers.Conv2D(36, 1, use_bias=False)(x)
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        y = layers.Conv2D(12, 1, use_bias=False)(y)
        x = layers.Add()([x, layers.BatchNormalization()(y)])
    x = layers.Conv2D(48, 1, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10)(x))
    return kb.quantize_model(model, first_last=first_last)


def per_pixel():
    x = inputs = keras.Input(SHAPE)
    for _ in range(2):
        x = kb.QuantReLU(4)(conv(x, 16, 4))
    return keras.Model(inputs, kb.QuantConv2D(3, 1, bits=8)(x))


def classes(x, digit):
    return digit


def is_large(x, digit):
    return np.float32(digit > 4)[:, None]


def attributes(x, digit):
    return np.float32(np.stack([digit % 2, digit > 4, digit % 3 == 0], 1))


def moments(x, digit):
    """Of very different size, the last one negative."""
    mass = x.sum(axis=(1, 2, 3))
    row = (x[..., 0].sum(axis=2) @ np.arange(8)) / mass
    return np.stack([row, mass, -mass], 1)


def ink(x, digit):
    return np.digitize(x[..., 0], [0.2, 0.7])


CROSS_ENTROPY = losses.SparseCategoricalCrossentropy(from_logits=True)
BINARY = losses.BinaryCrossentropy(from_logits=True)
# Network, loss, labels, and what decides: the largest, or the sign.
NETWORKS = {
    "chain": (chain, CROSS_ENTROPY, classes, "largest"),
    "residual 4W4A": (lambda: residual(4), CROSS_ENTROPY, classes, "largest"),
    "residual 1W4A": (lambda: residual(1), CROSS_ENTROPY, classes, "largest"),
    "MobileNetV2": (
        lambda: inverted_residual(8),
        CROSS_ENTROPY,
        classes,
        "largest",
    ),
    "MobileNetV2, 7 bits": (
        lambda: inverted_residual(7),
        CROSS_ENTROPY,
        classes,
        "largest",
    ),
    "binary": (lambda: chain(1), BINARY, is_large, "sign"),
    "multilabel": (lambda: chain(3), BINARY, attributes, "sign"),
    "regression": (lambda: chain(3), "mse", moments, None),
    "map": (per_pixel, CROSS_ENTROPY, ink, "largest"),
}


# The same with shares as outputs, which the file computes by table.
SHARES = {
    "softmax": (
        lambda: chain(10, activation="softmax"),
        losses.SparseCategoricalCrossentropy(),
        classes,
        "classification",
    ),
    "sigmoid of one": (
        lambda: chain(1, activation="sigmoid"),
        losses.BinaryCrossentropy(),
        is_large,
        "binary",
    ),
    "sigmoid of several": (
        lambda: chain(3, activation="sigmoid"),
        losses.BinaryCrossentropy(),
        attributes,
        "multilabel",
    ),
}


def trained(build, loss, labels, digits):
    """A network after four epochs."""
    x, _, digit, _ = digits
    model = build()
    model.compile(kb.BlendedOptimizer(keras.optimizers.Adam(0.005)), loss)
    model.fit(x, labels(x, digit), epochs=4, batch_size=64, verbose=0)
    return model


def decisions(outputs, kind):
    """`(decision, whether it is a tie)` of each output or row of them."""
    if kind == "sign":
        return outputs > 0, outputs == 0
    largest = outputs == outputs.max(axis=-1, keepdims=True)
    return np.argmax(outputs, axis=-1), largest.sum(axis=-1) > 1


# Of each kind one is fast.
FAST = ("chain", "residual 1W4A", "binary", "regression", "map")
FAST += ("sigmoid of one",)


def by_speed(names):
    return [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST))
        for name in names
    ]


@pytest.mark.parametrize("name", by_speed(NETWORKS))
def test_file_answers_as_the_model(name, digits, tmp_path):
    build, loss, labels, kind = NETWORKS[name]
    x, x_test, _, digit_test = digits
    model = trained(build, loss, labels, digits)
    before = [np.array(weight) for weight in model.get_weights()]

    path = tmp_path / "m.tflite"
    report = kb.export_tflite(model, path, representative_data=x)
    assert report.is_exact, report.inexact
    if name == "MobileNetV2":
        # 8-bit weights leave no room for kernels that round twice.
        kernel_sets = ["xnnpack"]
        (reason,) = report.inexact_elsewhere
        assert "in 'first'; 8-bit weights leave no room" in reason
        assert str(report).startswith("exact on the default kernels, not on")
    else:
        kernel_sets = KERNELS
        assert str(report).startswith("exact: ")
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)  # the user's own model

    expected = np.float64(report.model.predict(x_test, verbose=0))
    assert np.ptp(expected) > 0.1
    for kernels in kernel_sets:
        runner = TFLiteRunner(path, kernels)
        codes = runner.run(runner.quantize(x_test))
        assert codes.dtype == np.int16 and np.abs(codes).max() < 32767
        outputs = runner.output_scale * np.float64(codes)
        difference = np.abs(outputs - expected) / runner.output_scale
        assert difference.max() < 0.6, kernels
        if kind is not None:
            ours, _ = decisions(expected, kind)
            files, tie = decisions(outputs, kind)
            assert np.mean((ours == files) & ~tie) >= 0.999, kernels
        verified = kb.verify_tflite(
            report.model, path, x_test, labels(x_test, digit_test), kernels
        )
        assert verified.is_equal, verified


@pytest.mark.parametrize("name", by_speed(SHARES))
def test_shares_are_those_of_the_model(name, digits, tmp_path):
    *how, task = SHARES[name]
    x, x_test, _, digit_test = digits
    model = trained(*how, digits)
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(model, path, representative_data=x)
    assert report.output_scale == 1 / 32768
    labels = how[2](x_test, digit_test)
    verified = kb.verify_tflite_on_all_kernels(
        report.model, path, x_test, labels
    )
    assert verified.is_equal, verified
    assert {one.task for one in verified.reports} == {task}
    expected = report.model.predict(x_test, verbose=0)
    runner = TFLiteRunner(path)
    codes = runner.run(runner.quantize(x_test))
    assert np.abs(codes / 32768 - expected).max() < 1e-3


def test_a_model_that_needs_no_alignment_is_not_copied(tmp_path):
    model = keras.Sequential([keras.Input((4,)), kb.QuantDense(3, bits=8)])
    report = kb.export_tflite(model, tmp_path / "m.tflite", (0, 1))
    assert report.model is model and report.alignments == []


def test_what_was_aligned_before_stays(digits, tmp_path):
    """The explicit call, then the default export: the same model."""
    x, x_test, *_ = digits
    model = residual(4)
    model(keras.ops.convert_to_tensor(x[:64]), training=True)
    kb.align_for_export(model, representative_data=x)
    report = kb.export_tflite(
        model, tmp_path / "m.tflite", representative_data=x
    )
    moved = [a.slope_change for a in report.alignments]
    assert max(moved, default=0) < 1e-3
    assert report.is_exact


def test_eight_bit_logits_keep_every_value(digits, tmp_path):
    """Regression in 8 bits: nothing saturates, unless asked for."""
    x, x_test, digit, _ = digits
    model = chain(3)
    model.compile(kb.BlendedOptimizer(keras.optimizers.Adam(0.005)), "mse")
    model.fit(x, moments(x, digit), epochs=2, batch_size=64, verbose=0)
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(
        model, path, representative_data=x, output_type="int8"
    )
    expected = report.model.predict(x, verbose=0)
    runner = TFLiteRunner(path)
    codes = runner.run(runner.quantize(x)).astype(float)
    outputs = runner.output_scale * (codes - runner.output_zero_point)
    assert expected.min() < -1
    assert np.abs(outputs - expected).max() < 0.6 * runner.output_scale
    assert not [note for note in report.notes if "saturate" in note]

    report = kb.export_tflite(
        model,
        path,
        representative_data=x,
        output_type="int8",
        task="classification",
    )
    assert [note for note in report.notes if "logits" in note]
