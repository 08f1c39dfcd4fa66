"""Refuses early, by name and with a sentence, what cannot be exported."""

import math
import os

import keras
import numpy as np

from keras_bcgd.export.operators.widening import WIDE
from keras_bcgd.network.traits import FINAL
from keras_bcgd.utils.batches import gather


def check_path(path):
    """The path as a string, once it can be written."""
    path = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.exists(path) and not os.path.isfile(path):
        raise IsADirectoryError(
            "`path` must be a file, not a folder or a device. "
            f"Received: path={path!r}"
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


def check_align(align):
    """Raises a `ValueError` unless it is a Boolean."""
    if not isinstance(align, bool):
        raise ValueError(
            f"`align` must be True or False. Received: align={align!r}"
        )


def check_labels(labels, classes):
    """The names of the classes as a list, checked, or `None`.

    Args:
        labels: The argument.
        classes: Int, the last dimension of the output.
    """
    if labels is None:
        return None
    if isinstance(labels, (str, bytes)) or not hasattr(labels, "__iter__"):
        raise ValueError(
            f"`labels` must be a list of strings. Received: labels={labels!r}"
        )
    labels = list(labels)
    for label in labels:
        is_line = isinstance(label, str) and label.splitlines() == [label]
        # Some readers skip blank lines, and then miscount.
        if not is_line or not label.strip():
            raise ValueError(
                "`labels` must be strings of one line, none of them blank. "
                f"Received: {label!r} among them"
            )
    if len(labels) != classes:
        raise ValueError(
            f"`labels` must be one for each of the {classes} outputs. "
            f"Received: {len(labels)} labels"
        )
    return labels


# Operators that copy codes of 16 bits as well.
_COPY_16_BITS = ("crop", "reshape", "resize", "transpose")


def output_type(graph, output_type):
    """The type of the output, checked; `"auto"` is 16 bits for logits."""
    last = graph.output
    if last.kind in FINAL.values():
        last = last.inputs[0]
    while last.kind in _COPY_16_BITS:
        last = last.inputs[0]
    has_wide = last is graph.logits and last.kind in WIDE
    if output_type == "auto":
        return "int16" if has_wide else "int8"
    if output_type == "int16" and not has_wide:
        raise ValueError(
            '`output_type="int16"` needs a QuantDense, Dense, QuantConv2D or '
            "Conv2D as the last layer, and nothing behind it but copies of "
            "its numbers and a softmax or a sigmoid. "
            f"Received: {last.name!r}"
        )
    return output_type


def check_calibration(graph, data):
    """Raises a `ValueError` if grids must come from data and there is none."""
    names = [f"'{node.layer.name}'" for node in graph.calibrated]
    if names and data is None:
        raise ValueError(
            "`representative_data` is required: no layer quantizes the output "
            f"of {', '.join(names)}. Or put a QuantReLU or a QuantIdentity "
            "after each of them. Received: representative_data=None"
        )


def read_data(data, model):
    """Representative data as an array, checked, or `None`."""
    if data is None:
        return None
    input_shape = tuple(model.input_shape[1:])
    is_array = hasattr(data, "dtype") and hasattr(data, "shape")
    if is_array or np.shape(_first(data)) == input_shape:
        data = np.asarray(data)
    else:
        batch = gather(data, model, "representative_data")
        (data,) = keras.tree.flatten(batch[0])
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


def _first(data):
    """The first of a list of samples."""
    return data[0] if isinstance(data, list) and data else None


def input_range(input_range, data):
    """The real inputs of the smallest and the largest code."""
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
