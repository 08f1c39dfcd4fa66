"""The outputs: their scale, 16 bits, softmax, means before them."""

import types

import numpy as np
import pytest
from export_helpers import exported
from export_helpers import grid_inputs
from export_helpers import network
from export_helpers import numpy_of
from export_helpers import outputs_of
from export_helpers import reference
from export_helpers import run
from export_networks import classifier
from keras import layers

import keras_bcgd as kb
from keras_bcgd.export import arithmetic
from keras_bcgd.export import logits
from keras_bcgd.tflite.runner import KERNELS


@pytest.mark.parametrize("kernels", KERNELS)
def test_logits_are_the_nearest_steps(kernels, tmp_path):
    """Between the smallest runner-up and the largest; others saturate."""
    model, x = classifier(), grid_inputs((8, 8, 3), 64)
    path, report = exported(
        model,
        tmp_path,
        64,
        representative_data=x,
        task="classification",
    )
    assert "saturate" in report.notes[0]
    expected = reference(model, x)
    runner_up = np.sort(expected, axis=1)[:, -2].min()
    assert report.output_scale * 255 < 1.2 * max(
        expected.max() - runner_up, expected.max()
    )
    low = report.output_scale * (-128 - report.output_zero_point)
    difference = run(path, x, kernels) - np.maximum(expected, low)
    assert np.max(np.abs(difference)) < 0.6 * report.output_scale
    assert np.any(expected < low - report.output_scale)


@pytest.mark.parametrize("kernels", KERNELS)
def test_data_without_spread(kernels, tmp_path):
    """Logits of 0 would ask for steps finer than the kernels can make."""
    model = network((4,), kb.QuantDense(3, bits=8, use_bias=False))
    model.layers[0].kernel.assign(1e5 * numpy_of(model.layers[0].kernel))
    path, _ = exported(model, tmp_path, 1, representative_data=np.zeros((1, 4)))
    assert not np.any(run(path, np.zeros((1, 4)), kernels))


@pytest.mark.parametrize("bits, weight_format", [(8, "int8"), (4, "int4")])
@pytest.mark.parametrize("kernels", KERNELS)
def test_int16_logits(kernels, bits, weight_format, tmp_path):
    model, x = classifier(bits), grid_inputs((8, 8, 3))
    path, report = exported(
        model,
        tmp_path,
        output_type="int16",
        weight_format="auto" if weight_format == "int4" else "int8",
        representative_data=x,
    )
    if weight_format == "int8":
        difference = run(path, x, kernels) - reference(model, x)
        assert np.max(np.abs(difference)) < 2.5 * report.output_scale
    assert report.output_scale < 1e-3


@pytest.mark.parametrize("size", [2, 8])
@pytest.mark.parametrize("kernels", KERNELS)
def test_int16_logits_of_a_convolution(kernels, size, tmp_path):
    """The classifier of MobileNet; the mean of 64 codes is split, exactly."""
    model = network(
        (size, size, 3),
        kb.QuantConv2D(8, 3, bits=4, padding="same"),
        kb.QuantReLU(4),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Dropout(0.1),
        kb.QuantConv2D(10, 1, bits=8, padding="same"),
        layers.Reshape((10,)),
    )
    x = grid_inputs((size, size, 3))
    path, report = exported(
        model, tmp_path, output_type="int16", representative_data=x
    )
    assert [row.op for row in report.layers][-1] == "FULLY_CONNECTED"
    assert not report.notes
    steps = (run(path, x, kernels) - outputs_of(model, x)) / report.output_scale
    assert np.max(np.abs(steps)) < 2.5


def test_bounds_hold_without_data(tmp_path):
    model, x = classifier(), grid_inputs((8, 8, 3))
    path, report = exported(model, tmp_path)
    assert "finer" in report.notes[-1]
    expected = reference(model, x)
    best = expected.max(axis=1)
    outputs = run(path, x, "xnnpack").max(axis=1)
    assert np.max(np.abs(outputs - best)) < 0.6 * report.output_scale


SOFTMAXES = {
    "argument": lambda: [kb.QuantDense(10, bits=8, activation="softmax")],
    "layer": lambda: [kb.QuantDense(10, bits=8), layers.Softmax()],
    "activation": lambda: [
        kb.QuantDense(10, bits=8),
        layers.Activation("softmax"),
    ],
}


@pytest.mark.parametrize("form", SOFTMAXES)
def test_softmax(form, tmp_path):
    model = network((12,), kb.QuantReLU(4), *SOFTMAXES[form]())
    x = grid_inputs((12,), 64)
    path, report = exported(model, tmp_path, 64, representative_data=x)
    assert report.output_scale == 1 / 256
    expected = model.predict(x, verbose=0)
    for kernels in KERNELS:
        assert np.max(np.abs(run(path, x, kernels) - expected)) < 0.01


def test_range_of_the_data_is_that_of_the_input(tmp_path):
    x = 2 * grid_inputs((8, 8, 3)) - 0.5
    path, report = exported(
        classifier(), tmp_path, input_range=None, representative_data=x
    )
    assert report.input_scale == pytest.approx(2 / 255)


def test_data_outside_of_the_range_is_told(tmp_path):
    x = 2 * grid_inputs((8, 8, 3))
    _, report = exported(classifier(), tmp_path, representative_data=x)
    assert "outside of `input_range`" in report.notes[0]


@pytest.mark.parametrize("kernels", KERNELS)
def test_average_before_the_last_layer_is_exact(kernels, tmp_path):
    model = network(
        (8, 8, 3),
        kb.QuantReLU(4),
        layers.GlobalAveragePooling2D(),
        kb.QuantDense(3, bits=8),
    )
    x = grid_inputs((8, 8, 3))
    path, report = exported(model, tmp_path, representative_data=x)
    assert not report.notes
    low = report.output_scale * (-128 - report.output_zero_point)
    difference = run(path, x, kernels) - np.maximum(reference(model, x), low)
    assert np.max(np.abs(difference)) < 0.51 * report.output_scale


def test_average_inside_is_told_to_round(tmp_path):
    model = network(
        (16, 16, 3),
        kb.QuantReLU(4),
        layers.AveragePooling2D(8),
        kb.QuantConv2D(3, 1, bits=8),
    )
    x = grid_inputs((16, 16, 3))
    path, report = exported(model, tmp_path, representative_data=x)
    assert "rounds: its mean of 64 codes" in report.inexact[0]
    low = report.output_scale * (-128 - report.output_zero_point)
    difference = run(path, x, "xnnpack") - np.maximum(reference(model, x), low)
    step = 15 * numpy_of(model.layers[0].alpha) / 255
    weights = np.abs(numpy_of(model.layers[-1].quantized_kernel)).sum(2).max()
    bound = 0.51 * (step * weights + report.output_scale)
    assert np.max(np.abs(difference)) < bound


def test_ratios_of_16_bits_are_those_that_float32_holds_best():
    """As kernels compute it in float64, from the scales in the file."""
    errors = []
    rng = np.random.default_rng(0)
    node = types.SimpleNamespace(kind="dense")
    for scale, unit, read in np.exp(rng.uniform(-9, -1, (200, 3))):
        grid = arithmetic.Grid(read, 0)
        found = logits._with_exact_ratio(scale, unit, node, grid)
        assert scale <= found < 1.01 * scale
        stored = np.float32(found)
        weights = np.float32(stored / (np.float32(read) * (found / unit)))
        ratio = np.float64(np.float32(read)) * weights / stored
        fraction = np.frexp(ratio)[0] * 2**15
        # Odd numbers put the fewest sums halfway between two steps. (Those of
        # 14 bits are twice as large as ones of 15.)
        assert np.round(fraction) % 4 in (1, 2, 3)
        errors.append(abs(fraction / np.round(fraction) - 1))
    # Of one scale that is not chosen 2e-8 are usual.
    assert np.mean(errors) < 3e-9
