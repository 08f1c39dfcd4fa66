"""Writes a trained model as an integer TFLite file with the same answers.

Module -> what it does:

- `graph`: the layers of a Keras model as stages, one per operator; refuses
  what cannot be exported.
- `arithmetic`: the integers of the file, in NumPy, and why they give the
  trained codes.
- `lowering`: stages to operators.
- `report`: what `export_tflite` returns.
"""

import math
import os

import keras
import numpy as np

from keras_bcgd import tflite_format
from keras_bcgd.export import arithmetic
from keras_bcgd.export import graph
from keras_bcgd.export import lowering
from keras_bcgd.export.report import ExportReport as ExportReport
from keras_bcgd.export.report import LayerReport as LayerReport

WEIGHT_FORMATS = ("int8", "int4", "auto")
OUTPUT_TYPES = ("int8", "int16")

_DESCRIPTION = "Integer network written by keras_bcgd"
_PREDICTION_BATCH = 256


def export_tflite(
    model,
    path,
    input_range=None,
    representative_data=None,
    weight_format="int8",
    batch_size=1,
    output_type="int8",
):
    """Writes a trained model as a TFLite file that computes with integers.

    Between input and output every tensor is an integer. The weights are the
    trained codes times one integer per layer (with the sign turned in
    channels of negative batch normalization gamma), batch normalization and
    the staircase of the QuantReLU are folded into scales and integer biases,
    and the activations are the codes k of the trained network (slides "Full
    Quantization Problem" and "Activation Quantization (AQ)";
    `keras_bcgd.export.arithmetic` has the arithmetic). The file is written
    whole or not at all.

    Args:
        model: A built `keras.Sequential` or functional model, a chain of
            QuantConv2D, QuantDepthwiseConv2D, QuantDense, BatchNormalization
            directly after them, QuantReLU, pooling, ZeroPadding2D, Flatten,
            Reshape, layers for training only such as Dropout, and a softmax
            at the end.
        path: String or path-like, the file to write.
        input_range: `(low, high)`, the real inputs that the 256 int8 input
            codes span: `(0, 1)` for images divided by 255. It must hold 0.
            `None`: the range of `representative_data`. Defaults to `None`.
        representative_data: Array of inputs, as for `model.predict`. Its
            logits choose the scale of the output, so that the two largest of
            each sample are resolved and smaller ones may saturate. `None`:
            that scale comes from bounds that hold for every input, which are
            wide; steps of the output are then coarse. One of `input_range`
            and `representative_data` is required. Defaults to `None`.
        weight_format: String. `"int8"`; `"int4"`, two weights in a byte,
            if every layer has at most 4 bits; `"auto"`, int4 in the layers
            that have. Defaults to `"int8"`.
        batch_size: Int, the fixed batch of the file. Defaults to `1`.
        output_type: String. `"int8"`, or `"int16"` for 65,536 steps of the
            logits, if the last layer is a QuantDense. Defaults to `"int8"`.

    Returns:
        An `ExportReport`; printed, it is a table.

    Raises:
        ValueError: If an argument is not one of the above, or the model has
            something that cannot be exported: the message names every such
            layer.
        OSError: If the file cannot be written.
        ImportError: If `ai-edge-litert` is not installed.

    Example:

    ```python
    report = keras_bcgd.export_tflite(
        model, "digits.tflite", input_range=(0, 1), representative_data=x
    )
    print(report)
    ```
    """
    path = _check_path(path)
    _check_choice("weight_format", weight_format, WEIGHT_FORMATS)
    _check_choice("output_type", output_type, OUTPUT_TYPES)
    if not _is_count(batch_size):
        raise ValueError(
            "`batch_size` must be an integer above 0. "
            f"Received: batch_size={batch_size!r}"
        )
    writer = tflite_format.TFLiteWriter(_DESCRIPTION)
    input_shape, stages = graph.read_stages(model)
    _check_weight_format(stages, weight_format)
    _check_output_type(stages, output_type)
    data = _check_data(representative_data, input_shape)
    grid = arithmetic.input_grid(*_input_range(input_range, data))

    low = lowering.Lowering(writer, weight_format, batch_size)
    x = first = low.input("input", input_shape, grid)
    for stage in stages:
        logits_grid = None
        if stage.is_convolution and stage.relu is None:
            logits_grid = _logits_grid(model, stage, x.grid, data, output_type)
        x = low.add(stage, x, logits_grid, output_type)
    if x is first:
        raise ValueError(
            f"The model '{model.name}' has nothing to compute: it needs a "
            "layer with weights, a QuantReLU or a pooling."
        )
    contents = writer.finish({"input": first.index}, {"output": x.index})
    tflite_format.write_atomically(path, contents)
    return ExportReport(
        path=path,
        file_bytes=len(contents),
        input_scale=grid.file_scale,
        input_zero_point=grid.zero_point,
        output_scale=x.grid.file_scale,
        output_zero_point=x.grid.zero_point,
        layers=low.rows,
        notes=_notes(low.rows, grid, stages, data),
    )


def _check_path(path):
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise IsADirectoryError(
            f"`path` must be a file. Received: path={path!r}, a folder"
        )
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            f"`path` must be in a folder that exists. Received: path={path!r}"
        )
    if not os.access(folder, os.W_OK):
        raise PermissionError(
            "`path` must be in a folder that can be written. "
            f"Received: path={path!r}"
        )
    return path


def _check_choice(name, value, allowed):
    if value not in allowed:
        raise ValueError(
            f"`{name}` must be one of {', '.join(allowed)}. "
            f"Received: {name}={value!r}"
        )


def _is_count(value):
    return (
        isinstance(value, (int, np.integer))
        and not isinstance(value, bool)
        and value > 0
    )


def _check_weight_format(stages, weight_format):
    if weight_format != "int4":
        return
    wide = [
        f"'{stage.layer.name}' (bits={stage.layer.bits})"
        for stage in stages
        if stage.is_convolution and stage.layer.bits > 4
    ]
    if wide:
        raise ValueError(
            '`weight_format="int4"` holds at most 4 bits; use "auto" for int4 '
            f"where it fits. Received: layers with more: {', '.join(wide)}"
        )


def _check_output_type(stages, output_type):
    if output_type == "int8":
        return
    last = stages[-1] if stages else None
    if last is None or last.kind != "dense" or last.relu is not None:
        raise ValueError(
            '`output_type="int16"` needs a QuantDense without activation as '
            "the last layer. Received: "
            f"{'no layer' if last is None else repr(last.layer.name)}"
        )


def _check_data(data, input_shape):
    if data is None:
        return None
    data = np.asarray(data)
    if not np.issubdtype(data.dtype, np.number) or data.size == 0:
        raise ValueError(
            "`representative_data` must be an array of numbers with at least "
            f"one sample. Received: shape {data.shape}, dtype {data.dtype}"
        )
    if data.shape[1:] != input_shape:
        raise ValueError(
            "`representative_data` must have the shape (samples, "
            f"{', '.join(map(str, input_shape))}). "
            f"Received: shape {data.shape}"
        )
    if not np.all(np.isfinite(data)):
        raise ValueError(
            "`representative_data` must be finite. Received: "
            f"{np.sum(~np.isfinite(data))} values NaN or infinite"
        )
    return data


def _input_range(input_range, data):
    if input_range is None and data is None:
        raise ValueError(
            "`input_range` or `representative_data` is required: the integer "
            "input needs a scale. For images divided by 255 use "
            "`input_range=(0, 1)`. Received: neither"
        )
    if input_range is None:
        return _checked_range(min(0.0, data.min()), max(0.0, data.max()))
    try:
        low, high = input_range
    except (TypeError, ValueError):
        low = high = None
    return _checked_range(low, high, input_range)


def _checked_range(low, high, received=None):
    try:
        low, high = float(low), float(high)
        fine = math.isfinite(low) and math.isfinite(high) and low < high
    except (TypeError, ValueError):
        fine = False
    if not fine or not low <= 0 <= high:
        raise ValueError(
            "`input_range` must be two finite numbers, the lower first, with "
            "0.0 between them (zero padding needs a code for it). Received: "
            f"input_range={(low, high) if received is None else received!r}"
        )
    return low, high


def _logits_grid(model, stage, grid, data, output_type):
    """The grid of the logits, from data or from bounds that always hold."""
    if data is None:
        trained = lowering.read_trained(stage)
        lows, highs = arithmetic.output_range(
            trained.codes, trained.slope, trained.constant, grid
        )
        ranked, high = np.sort(lows), highs.max()
        lowest = lows.min()
    else:
        logits = _predict(model, stage, data)
        ranked, high = np.sort(logits, axis=-1), logits.max()
        lowest = logits.min()
    if output_type == "int16":
        largest = 1.05 * max(abs(float(lowest)), abs(float(high)), 1e-6)
        return arithmetic.Grid(largest / 32767, 0, -32768, 32767)
    # The runner-up, so that it is told apart from the largest.
    low = ranked[..., -2].min() if ranked.shape[-1] > 1 else ranked.min()
    margin = 0.02 * (high - low)
    return arithmetic.range_grid(low - margin, high + margin)


def _predict(model, stage, data):
    """What a stage computes, before a softmax, in float."""
    layers = graph.layer_chain(model, graph.Problems())
    last = stage.norm or stage.layer
    layers = layers[: layers.index(last) + 1]
    if getattr(last, "activation", None) is keras.activations.softmax:
        layers[-1] = _without_activation(last, stage.input_shape)
    outputs = []
    for start in range(0, len(data), _PREDICTION_BATCH):
        x = keras.ops.convert_to_tensor(
            data[start : start + _PREDICTION_BATCH], keras.config.floatx()
        )
        for layer in layers:
            x = layer(x)
        outputs.append(keras.ops.convert_to_numpy(x))
    logits = np.concatenate(outputs).astype(np.float64)
    if not np.all(np.isfinite(logits)):
        raise ValueError(
            "The logits of `representative_data` must be finite. Received: "
            f"{np.sum(~np.isfinite(logits))} values NaN or infinite"
        )
    return logits


def _without_activation(layer, input_shape):
    copy = type(layer).from_config({**layer.get_config(), "activation": None})
    copy.build((None, *input_shape))
    copy.set_weights(layer.get_weights())
    return copy


def _notes(rows, grid, stages, data):
    notes = []
    if grid.offset:
        notes.append(
            "0.0 is between two input codes, by "
            f"{abs(grid.offset) / grid.scale:.3f} of a step; convolutions "
            "make up for it, but zero padding of the input does not."
        )
    inexact = [row for row in rows if row.exact < row.thresholds]
    if inexact:
        every = sum(row.thresholds - row.exact for row in inexact)
        default = sum(row.thresholds - row.exact_by_default for row in inexact)
        notes.append(
            f"{every} of {sum(row.thresholds for row in rows)} thresholds are "
            f"not exact on all kernels, {default} on the default ones: a sum "
            "that ends just there may give the next code. Layers: "
            + ", ".join(row.name for row in inexact)
        )
    if data is None and any(
        s.is_convolution and s.relu is None for s in stages
    ):
        notes.append(
            "The scale of the output comes from bounds that hold for every "
            "input; with `representative_data` its steps are finer."
        )
    return notes
