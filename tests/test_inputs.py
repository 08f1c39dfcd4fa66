"""The grid of a file's input, chosen by what lies on it."""

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd.export import inputs
from keras_bcgd.tflite.runner import TFLiteRunner


def dense(*first):
    return keras.Sequential(
        [keras.Input((6,)), *first, kb.QuantDense(3, bits=8)]
    )


# Step of the data, their smallest and largest multiple of it.
GRIDS = [
    (1 / 255, 0, 255),
    (1 / 255, 0, 250),  # the brightest are missing
    (1 / 16, 0, 16),
    (1 / 64, -128, 127),
    (0.3, -7, 40),
    (1.0, 3, 9),
]


@pytest.mark.parametrize("step, low, high", GRIDS)
def test_data_on_a_grid_are_not_rounded(step, low, high, tmp_path):
    rng = np.random.default_rng(0)
    x = np.float32(step * rng.integers(low, high + 1, (400, 6)))
    x[0, :2] = np.float32(step * low), np.float32(step * high)
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(dense(), path, representative_data=x)
    assert report.is_exact
    runner = TFLiteRunner(path)
    codes = runner.quantize(x).astype(float)
    back = report.input_scale * (codes - report.input_zero_point)
    np.testing.assert_allclose(back, x, atol=1e-5 * step * 256)


def test_values_between_codes_are_told(tmp_path):
    x = np.random.default_rng(0).uniform(-1, 1, (100, 6))
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(dense(), path, representative_data=x)
    assert "lie between two of the file's 256 codes" in report.inexact[0]
    assert str(report).startswith("NOT exact: 9")
    # The advice: a QuantIdentity, whose rounding training knows.
    model = dense(kb.QuantIdentity(8))
    report = kb.export_tflite(model, path, representative_data=x)
    assert report.is_exact
    verified = kb.verify_tflite(report.model, path, x)
    assert verified.is_equal, verified


def test_a_given_range_is_taken_as_it_is(tmp_path):
    x = np.tile(np.arange(17) / 16, (6, 6)).reshape(-1, 6)
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(dense(), path, (0, 1), x)
    assert report.input_scale == pytest.approx(1 / 255)
    assert not report.is_exact


def test_of_very_many_inputs_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(inputs, "_MOST_INPUTS", 100)
    x = np.random.default_rng(0).uniform(0, 1, (50, 6))
    from keras_bcgd.export.graph import read_graph

    graph = read_graph(dense())
    (grid,) = inputs.choose(graph, [None], [x], ["input"])
    assert "% of the inputs" in inputs.reason(graph, graph.inputs[0], grid, x)
