"""Input columns of very different size: told, and what helps."""

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd.tflite.runner import TFLiteRunner

layers = keras.layers

# Standard deviations from .01 to 1,000, as of ages and incomes.
SIZES = np.array([0.01, 1.0, 30.0, 1000.0])


def table(samples=2000, seed=0):
    """Columns that matter alike to the label."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(samples, len(SIZES)))
    labels = (normal.sum(axis=1) > 0).astype("int32")
    return np.float32(normal * SIZES), labels


def trained(*first, x, y):
    model = keras.Sequential(
        [
            keras.Input((len(SIZES),)),
            *first,
            kb.QuantIdentity(8),
            kb.QuantDense(16, bits=4),
            layers.BatchNormalization(),
            kb.QuantReLU(4),
            kb.QuantDense(1, bits=8),
        ]
    )
    model.compile(
        kb.BlendedOptimizer(keras.optimizers.Adam(0.02)),
        keras.losses.BinaryCrossentropy(from_logits=True),
    )
    model.fit(x, y, epochs=5, verbose=0)
    return model


def accuracy_of_file(path, x, y):
    runner = TFLiteRunner(path)
    codes = runner.run(runner.quantize(x))
    return np.mean((codes[:, 0] > runner.output_zero_point) == y)


def test_coarse_normalization_is_refused_and_the_advice_helps(tmp_path):
    x, y = table()
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = trained(normalization, x=x, y=y)
    path = tmp_path / "m.tflite"
    with pytest.raises(
        ValueError, match="columns 0, 1 and 2 that 'normal.*norma"
    ):
        kb.export_tflite(model, path, representative_data=x)
    assert not path.exists()

    # The advice: the layers behind it, with normalized data.
    inner = keras.Sequential([keras.Input((len(SIZES),)), *model.layers[1:]])
    x = np.array(normalization(x))
    report = kb.export_tflite(inner, path, representative_data=x)
    logits = model.predict(table()[0], verbose=0)[:, 0]
    accuracy = np.mean((logits > 0) == y)
    assert accuracy > 0.95
    assert abs(accuracy_of_file(path, x, y) - accuracy) < 0.01
    assert report.is_exact


def test_coarse_columns_without_normalization_are_told(tmp_path):
    x, _ = table()
    model = keras.Sequential(
        [keras.Input((len(SIZES),)), kb.QuantDense(3, bits=8)]
    )
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(model, path, representative_data=x)
    assert "the columns 0, 1 and 2 of the input" in report.inexact[0]
    assert str(report).splitlines()[0].startswith("NOT exact: the columns")
    report = kb.export_tflite(model, path, representative_data=x / SIZES)
    assert "columns" not in str(report.inexact)


def test_constant_columns_are_not_named(tmp_path):
    x = table()[0] / SIZES
    x[:, 1] = 0.0
    model = keras.Sequential(
        [keras.Input((len(SIZES),)), kb.QuantDense(3, bits=8)]
    )
    report = kb.export_tflite(
        model, tmp_path / "m.tflite", representative_data=x
    )
    assert "columns" not in str(report.inexact)
