"""The inputs and outputs of a model, by name."""

import keras


def input_names(model):
    """The names of the inputs of a built model, in the order of its tensors."""
    return _unique([tensor.name for tensor in model.inputs])


def output_names(model):
    """The names of the outputs of a built model, each another one.

    The keys, if the model gives a dict; else the layers that compute them.

    Args:
        model: A built `keras.Sequential` or functional model.

    Returns:
        List of strings, in the order of `model.outputs`.

    Example:

    >>> x = keras.Input((2,))
    >>> outputs = {"size": keras.layers.Dense(1)(x)}
    >>> output_names(keras.Model(x, outputs))
    ['size']
    """
    # A Sequential model has none, and one output.
    struct = None if isinstance(model, keras.Sequential) else model.output
    if isinstance(struct, dict) and len(struct) == len(model.outputs):
        # In the order in which Keras flattens it.
        return keras.tree.flatten({key: str(key) for key in struct})
    names = getattr(model, "output_names", None)
    return _unique(names or [tensor.name for tensor in model.outputs])


def _unique(names):
    """Names with a number behind those that were there before."""
    found = []
    for name in names:
        same, number = name, 0
        while same in found:
            number += 1
            same = f"{name}_{number}"
        found.append(same)
    return found


def inputs_by_name(x, model, argument):
    """The arrays for each input of a model.

    Args:
        x: Array, list of arrays in the order of the inputs, or dict from
            their names.
        model: A built `keras.Sequential` or functional model.
        argument: String, what errors name.

    Returns:
        Dict from names to arrays, in the order of the inputs.

    Raises:
        ValueError: If there are not as many, or others.
    """
    names = input_names(model)
    if isinstance(x, dict) and len(names) > 1:
        missing = [name for name in names if name not in x]
        if missing:
            raise ValueError(
                f"`{argument}` must have an array for each of the inputs "
                f"{_listed(names)}. Received: {_listed(x)}"
            )
        return {name: x[name] for name in names}
    arrays = keras.tree.flatten(x)
    if len(arrays) != len(names):
        raise ValueError(
            f"`{argument}` must have {_arrays(len(names))}, for "
            f"{_listed(names)}. Received: {len(arrays)}"
        )
    return dict(zip(names, arrays, strict=True))


def _arrays(count):
    return f"{count} array{'s' if count != 1 else ''}"


def _listed(names):
    return ", ".join(f"'{name}'" for name in names) or "none"


def as_model_takes(arrays, model):
    """Arrays in the structure in which a model was given its inputs.

    Args:
        arrays: Dict from the names of the inputs to arrays.
        model: A built `keras.Sequential` or functional model.
    """
    arrays = [arrays[name] for name in input_names(model)]
    if len(arrays) == 1:
        return arrays[0]
    return keras.tree.pack_sequence_as(model.input, arrays)


def by_output(value, names, argument):
    """One value for all outputs, or a dict of them, as a list.

    Args:
        value: Dict from names of outputs to values; what is left out is
            `None`. Anything else is for all of them.
        names: List of strings, the outputs.
        argument: String, what errors name.

    Returns:
        List, in the order of `names`.

    Raises:
        ValueError: If a key is not the name of an output.
    """
    if not isinstance(value, dict):
        return [value] * len(names)
    check_names(value, names, argument, "output")
    return [value.get(name) for name in names]


def check_names(given, names, argument, what):
    """Raises a `ValueError` if a key of a dict is not among some names."""
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ValueError(
            f"`{argument}` must have as keys names of {what}s: "
            f"{_listed(names)}. Received: {_listed(unknown)}"
        )
