"""What a model and its file are given: the same inputs, matched by name."""

import keras
import numpy as np

from keras_bcgd.network import ends


def by_input(x, model, inputs):
    """The arrays for each input of a file.

    Args:
        x: Array, list of arrays in the order of the model's inputs, or dict
            from their names.
        model: The model. One that does not tell its inputs needs a dict.
        inputs: List of `tflite.runner.Input`, those of the file.

    Returns:
        Dict from the names in the file to arrays.

    Raises:
        ValueError: If these are not the inputs of the file.
    """
    if len(inputs) == 1:
        arrays = keras.tree.flatten(x)
        if len(arrays) != 1:
            raise ValueError(
                "`x` must be one array, as the file at `path` has one input. "
                f"Received: {len(arrays)} arrays"
            )
        found = {inputs[0].name: arrays[0]}
    else:
        found = _by_name(x, model, [one.name for one in inputs])
    for one in inputs:
        shape, given = one.shape[1:], found[one.name].shape
        if given[1:] != shape:
            of_input = f" for the input '{one.name}'" * (len(inputs) > 1)
            raise ValueError(
                "`x` must have the shape (samples, "
                f"{', '.join(map(str, shape))}){of_input}. "
                f"Received: shape {given}"
            )
    return found


def _by_name(x, model, names):
    if has_ends(model):
        x = ends.inputs_by_name(x, model, "x")
    if not isinstance(x, dict) or any(name not in x for name in names):
        received = type(x).__name__
        if isinstance(x, dict):
            received = ", ".join(f"'{name}'" for name in x)
        listed = ", ".join(f"'{name}'" for name in names)
        raise ValueError(
            "`x` must have an array for each of the inputs of the file at "
            f"`path`, by their names {listed}, which are those of the model's "
            f"inputs. Received: {received}"
        )
    return {name: x[name] for name in names}


def for_model(arrays, model):
    """The same arrays in the form that the model takes.

    Args:
        arrays: Dict from names to arrays.
        model: The model.
    """
    if len(arrays) == 1:
        (array,) = arrays.values()
        return array
    return ends.as_model_takes(arrays, model) if has_ends(model) else arrays


def output_names(model, outputs):
    """The names of what a model computes, or an empty list: it does not tell.

    Args:
        model: The model.
        outputs: What it predicted.
    """
    if has_ends(model):
        return ends.output_names(model)
    if isinstance(outputs, dict):
        return keras.tree.flatten({name: str(name) for name in outputs})
    return list(getattr(model, "output_names", None) or [])


def has_ends(model):
    """Whether a model tells its inputs and outputs."""
    return all(getattr(model, name, None) for name in ("inputs", "outputs"))


def with_labels(x, y, model):
    """Data, and labels if there are some, in a form of `read_batches`.

    Args:
        x: The argument of `verify_tflite`, and so `y`.
        y: Labels: an array; for several outputs a dict, list or tuple.
        model: The model.
    """
    several = has_ends(model) and len(model.inputs) > 1
    if isinstance(x, list) and not all(hasattr(part, "dtype") for part in x):
        x = [np.asarray(part) for part in x] if several else np.asarray(x)
    if y is None:
        return x
    if not (hasattr(x, "dtype") or (several and isinstance(x, (dict, list)))):
        raise ValueError(
            "`y` goes with an array `x`; a dataset has the labels itself. "
            f"Received: x of {type(x).__name__}, and y"
        )
    if isinstance(y, dict):
        labels = {name: np.asarray(part) for name, part in y.items()}
    elif isinstance(y, tuple) or _are_of_outputs(y, model):
        labels = tuple(np.asarray(part) for part in y)
    else:
        labels = np.asarray(y)
    samples = number_of_samples(x)
    for part in keras.tree.flatten(labels):
        if part.ndim == 0 or len(part) != samples:
            count = part.size if part.ndim == 0 else len(part)
            raise ValueError(
                "`y` must have one label for each sample in `x`. Received: "
                f"{count} labels for {samples} samples"
            )
    return x, labels


def _are_of_outputs(y, model):
    """Whether labels are a list with an array for each output."""
    count = len(model.outputs) if has_ends(model) else 1
    return isinstance(y, list) and count > 1 and len(y) == count


def number_of_samples(x):
    """How many samples there are in arrays; `None`: it is not known."""
    if isinstance(x, (dict, list, tuple)) and len(x):
        x = keras.tree.flatten(x)[0]
    return len(x) if hasattr(x, "__len__") else None
