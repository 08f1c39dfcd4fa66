"""Refuses early, by name and with a sentence, what cannot be exported."""

import math
import os

import keras
import numpy as np

from keras_bcgd.export.operators.widening import WIDE
from keras_bcgd.network import ends
from keras_bcgd.network.traits import FINAL
from keras_bcgd.utils import checks
from keras_bcgd.utils.batches import gather

_TASKS = (None, "classification", "regression")


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


def check_labels(labels, outputs):
    """The names of the classes as a list, checked, or `None`.

    Args:
        labels: The argument.
        outputs: Dict from the names of the outputs to their nodes.
    """
    if labels is None:
        return None
    if len(outputs) > 1:
        names = ", ".join(f"'{name}'" for name in outputs)
        raise ValueError(
            "`labels` must be None for a model with several outputs: the "
            "metadata of a file do not say whose they are. Received: labels "
            f"for the {len(outputs)} outputs {names}"
        )
    (output,) = outputs.values()
    classes = output.output_shape[-1]
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


def output_types(graph, output_type):
    """The type of each output; `"auto"` is 16 bits for logits.

    Args:
        graph: `node.Graph`.
        output_type: String, the argument.

    Returns:
        List of strings, one for each output.

    Raises:
        ValueError: If no output can have 16 bits, as it says.
    """
    wide = {
        output
        for node, outputs in graph.logits.items()
        if node.kind in WIDE
        and all(_shown(output) is node for output in outputs)
        for output in outputs
    }
    if output_type == "int16" and not wide:
        names = ", ".join(repr(_shown(node).name) for node in graph.outputs)
        raise ValueError(
            '`output_type="int16"` needs a QuantDense, Dense, QuantConv2D or '
            "Conv2D as the last layer, and no activation behind it but a "
            f"softmax or a sigmoid. Received: {names}"
        )
    if output_type in ("auto", "int16"):
        return ["int16" if o in wide else "int8" for o in graph.outputs]
    return [output_type] * len(graph.outputs)


def _shown(output):
    """The node whose numbers an output shows, or their softmax or sigmoid."""
    node = output
    if node.kind in FINAL.values():
        node = node.inputs[0]
    while node.kind in _COPY_16_BITS:
        node = node.inputs[0]
    return node


def tasks(task, names):
    """What each output decides, checked.

    Args:
        task: String, `None`, or a dict of them by the names of outputs.
        names: List of strings, the outputs.

    Returns:
        List of strings and `None`.
    """
    found = ends.by_output(task, names, "task")
    for one in found:
        checks.check_choice("task", one, _TASKS)
    return found


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
    """Representative data, checked.

    Args:
        data: The argument.
        model: A built `keras.Sequential` or functional model.

    Returns:
        List of arrays, one for each input of the model, or `None`.
    """
    if data is None:
        return None
    argument = "representative_data"
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    is_array = hasattr(data, "dtype") and hasattr(data, "shape")
    if len(shapes) > 1:
        batch = gather(data, model, argument)
        arrays = ends.inputs_by_name(batch[0], model, argument)
    elif is_array or np.shape(_first(data)) == shapes[0]:
        arrays = {"": np.asarray(data)}
    else:
        batch = gather(data, model, argument)
        (array,) = keras.tree.flatten(batch[0])
        arrays = {"": array}
    for (name, array), shape in zip(arrays.items(), shapes, strict=True):
        _check_data(array, shape, name)
    return list(arrays.values())


def _check_data(data, shape, name):
    of_input = f" for the input '{name}'" if name else ""
    if not np.issubdtype(data.dtype, np.number) or data.size == 0:
        raise ValueError(
            "`representative_data` must be an array of numbers with at least "
            f"one sample. Received: shape {data.shape}, dtype {data.dtype}"
            f"{of_input}"
        )
    if data.shape[1:] != shape:
        raise ValueError(
            "`representative_data` must have the shape (samples, "
            f"{', '.join(map(str, shape))}){of_input}. "
            f"Received: shape {data.shape}"
        )
    if not np.all(np.isfinite(data)):
        raise ValueError(
            "`representative_data` must be finite. Received: "
            f"{np.sum(~np.isfinite(data))} values NaN or infinite{of_input}"
        )


def _first(data):
    """The first of a list of samples."""
    return data[0] if isinstance(data, list) and data else None


def input_ranges(input_range, names):
    """The range of each input, where one is given.

    Args:
        input_range: The argument: a pair for all inputs, or a list of one for
            each, or a dict of them by name, with `None` for those that data
            tell.
        names: List of strings, the inputs.

    Returns:
        List of `(low, high)` and `None`.

    Raises:
        ValueError: If there are not as many, or a name is not one of them.
    """
    if isinstance(input_range, dict):
        ends.check_names(input_range, names, "input_range", "input")
        found = [input_range.get(name) for name in names]
    elif len(names) > 1 and _is_list_of_ranges(input_range):
        found = list(input_range)
        if len(found) != len(names):
            listed = ", ".join(f"'{name}'" for name in names)
            raise ValueError(
                "`input_range` must be one pair for all inputs, or a list or "
                f"dict with a pair or None for each of {listed}. "
                f"Received: input_range={input_range!r}, of {len(found)}"
            )
    else:
        found = [input_range] * len(names)
    return [None if one is None else _checked_pair(one) for one in found]


def _is_list_of_ranges(input_range):
    return isinstance(input_range, (list, tuple)) and any(
        part is None or np.ndim(part) for part in input_range
    )


def range_of(data):
    """The range of the codes that data ask for, 0 in it."""
    return _checked_range(min(0.0, data.min()), max(0.0, data.max()))


def check_has_range(ranges, data, names):
    """Raises a `ValueError` if nothing tells the scale of an input."""
    missing = [
        name for name, one in zip(names, ranges, strict=True) if one is None
    ]
    if data is not None or not missing:
        return
    received = "neither"
    if len(names) > 1:
        listed = ", ".join(f"'{name}'" for name in missing)
        received = f"neither for {listed}"
    raise ValueError(
        "`input_range` or `representative_data` is required: the integer "
        "input needs a scale. For images divided by 255 use "
        f"`input_range=(0, 1)`. Received: {received}"
    )


def _checked_pair(pair):
    try:
        low, high = pair
    except (TypeError, ValueError):
        low = high = None
    return _checked_range(low, high, pair)


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
