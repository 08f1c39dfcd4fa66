"""Activations other than the ReLU: all codes, in Keras and on all kernels."""

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner

layers = keras.layers
Constant = keras.initializers.Constant

SCALES = 20
# What follows one input each, whose first part is the QuantIdentity of it.
FUNCTIONS = {
    "sigmoid": lambda: kb.QuantActivation("sigmoid"),
    "tanh": lambda: kb.QuantActivation("tanh"),
    "hard_sigmoid": lambda: kb.QuantActivation("hard_sigmoid"),
    "hard_sigmoid_4": lambda: kb.QuantActivation("hard_sigmoid", bits=4),
    "swish": lambda: kb.QuantActivation("swish"),
    "swish_4": lambda: kb.QuantActivation("swish", bits=4),
    "hard_swish": lambda: kb.QuantActivation("hard_swish"),
    "hard_swish_4": lambda: kb.QuantActivation("hard_swish", bits=4),
    "leaky_relu_0": lambda: kb.QuantLeakyReLU(0.0),
    "leaky_relu_.1": lambda: kb.QuantLeakyReLU(0.1),
    "leaky_relu_.3": lambda: kb.QuantLeakyReLU(0.3),
    "leaky_relu_.5": lambda: kb.QuantLeakyReLU(0.5),
    "leaky_relu_1": lambda: kb.QuantLeakyReLU(1.0),
    "prelu": lambda: kb.QuantPReLU(
        keras.initializers.RandomUniform(-0.5, 1.0, seed=3)
    ),
}


# Much like others.
SLOW = ("hard_sigmoid_4", "leaky_relu_0", "leaky_relu_1", "swish_4")


def chain(name, x):
    """An activation of an input, and the grid on which it reads this."""
    layer = FUNCTIONS[name]()
    if not hasattr(layer, "codes"):  # the hard sigmoid, which reads any codes
        codes = kb.QuantIdentity()
        return layer(codes(x)), codes, layer
    return layer(x), layer.codes, layer


def network(name, count=SCALES, seed=0):
    """Several inputs, each with an activation of its own scale."""
    rng = np.random.default_rng(seed)
    inputs, outputs, grids = {}, {}, {}
    for i in range(count):
        inputs[f"x{i}"] = keras.Input((2,), name=f"x{i}")
        y, codes, layer = chain(name, inputs[f"x{i}"])
        outputs[f"y{i}"], grids[f"x{i}"] = y, codes
        codes.alpha.assign(np.exp(rng.uniform(np.log(0.004), np.log(0.12))))
        if hasattr(layer, "product"):
            ratio = rng.uniform(0.8, 2.0) * 2.0 ** (8 - layer.bits)
            layer.product.alpha.assign(ratio * float(codes.alpha))
    return keras.Model(list(inputs.values()), outputs), grids


def all_codes(grids):
    """Every value of each grid, 256 samples, the same in both channels."""
    found = {}
    for name, layer in grids.items():
        low, high = layer.smallest_and_largest_code
        codes = np.arange(low, high + 1, dtype="float32")
        alpha = np.float32(keras.ops.convert_to_numpy(layer.alpha))
        found[name] = np.repeat((codes * alpha)[:, None], 2, axis=1)
    return found


def codes_in_keras(model, x, outputs):
    """What a model computes, in steps of the outputs of the file."""
    found = model.predict(x, verbose=0)
    return {
        name: np.round(
            np.float64(found[name]) / outputs[name].scale
            + outputs[name].zero_point
        )
        for name in found
    }


def codes_in_file(path, x, kernels):
    runner = TFLiteRunner(path, kernels)
    found = runner.run_outputs(runner.quantize(x))
    names = [output.name for output in runner.outputs]
    return dict(zip(names, found, strict=True))


def differences(model, grids, path, report):
    """For each kernel set the share of codes that are not those of Keras."""
    x = all_codes(grids)
    expected = codes_in_keras(model, x, report.outputs)
    shares = {}
    for kernels in KERNELS:
        found = codes_in_file(path, x, kernels)
        assert found.keys() == expected.keys()
        apart = [np.abs(found[name] - expected[name]) for name in expected]
        assert np.max(apart) <= 1
        shares[kernels] = np.mean(np.not_equal(apart, 0))
    return shares


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in FUNCTIONS
    ],
)
def test_all_codes_of_many_scales(name, tmp_path):
    """Keras and the file compute the same codes once the model is aligned.

    Without, some outputs lie so near to the middle between two codes that one
    of them gives the next code, no more.
    """
    model, grids = network(name)
    path = str(tmp_path / "m.tflite")
    settings = {"batch_size": 256, "verbose": 0, "align": False}
    report = kb.export_tflite(model, path, **settings)
    before = differences(model, grids, path, report)
    assert max(before.values()) < 0.1, before
    kb.align_for_export(model, verbose=0)
    report = kb.export_tflite(model, path, **settings)
    assert report.is_exact, str(report)
    assert not report.inexact_elsewhere, str(report)
    after = differences(model, grids, path, report)
    assert not any(after.values()), after


def test_inputs_move_with_the_alphas_of_the_aligned_copy(tmp_path):
    model, grids = network("sigmoid", count=12)
    path = str(tmp_path / "m.tflite")
    report = kb.export_tflite(model, path, verbose=0)
    moved = []
    for name, layer in grids.items():
        whole = report.model.get_layer(layer.name.removesuffix("_codes"))
        alpha = float(whole.codes.alpha)
        assert report.inputs[name].scale == pytest.approx(alpha, rel=1e-7)
        moved.append(alpha != float(layer.alpha))
    assert any(moved)
