"""Data in any of the forms that `fit` takes, batch by batch."""

import itertools

import keras
import numpy as np

from keras_bcgd.utils.checks import check_count


def read_batches(data, model, batch_size=32, batches=None, name="data"):
    """Reads data in any form, as NumPy arrays.

    Args:
        data: What `fit` takes, labels or not:

            - an array of inputs, or a dict of them;
            - a list of arrays: the inputs of a model that has several, batches
              for any other one, also for a subclassed one, which does not tell
              (a tuple `([a, b],)` does);
            - a tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)` of arrays,
              where x may be a list or a dict;
            - a `keras.utils.PyDataset`, a `tf.data.Dataset` or another
              iterable of batches, each of them x or such a tuple;
            - a function that returns one, as TFLite's `representative_dataset`
              does: its batches are lists of the inputs.
        model: `keras.Model` that the inputs are for.
        batch_size: Int, the batches into which arrays are cut. Defaults to
            `32`.
        batches: Int, how many are read; `None`: all. Defaults to `None`.
        name: String, the argument that errors name. Defaults to `"data"`.

    Returns:
        `(iterator, number)`: of tuples `(x,)`, `(x, y)` or `(x, y,
        sample_weight)`, and how many there are at most, `None` if that is not
        known.

    Raises:
        ValueError: If `data` is none of the above, or at the iterator, if it
            holds no sample or an input that is NaN or infinite.

    Example:

    >>> model = keras.Sequential([keras.Input((2,))])
    >>> read, number = read_batches(np.zeros((5, 2)), model, batch_size=3)
    >>> [x.shape for x, in read], number
    ([(3, 2), (2, 2)], 2)
    """
    check_count("batch_size", batch_size)
    check_count("batches", batches, allow_none=True)
    number = None
    if callable(data) and not hasattr(data, "__iter__"):
        data = data()
    if _is_arrays(data, model):
        parts = _parts(data, name)
        starts = range(0, _number_of_samples(parts, name), batch_size)
        source = (_part(parts, start, batch_size) for start in starts)
        number = len(starts)
    elif isinstance(data, keras.utils.PyDataset):
        number = data.num_batches
        indices = itertools.count() if number is None else range(number)
        source = (data[i] for i in indices)
    elif isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
        raise _unknown_form(data, name)
    else:
        source = data
    if batches is not None:
        number = batches if number is None else min(number, batches)
    source = itertools.islice(source, batches)
    several = _has_several_inputs(model)
    return _checked(source, data, several, name), number


def gather(data, model, name="data"):
    """All of `data`, in the forms of `read_batches`, as one batch."""
    read, _ = read_batches(data, model, name=name)
    return keras.tree.map_structure(_join, *read)


def _join(*parts):
    return None if parts[0] is None else np.concatenate(parts)


def _is_arrays(data, model):
    """Whether data is arrays as a whole, not batch by batch."""
    if isinstance(data, list):
        is_arrays = len(data) > 0 and all(map(_is_array, data))
        return is_arrays and _has_several_inputs(model)
    return isinstance(data, (dict, tuple)) or hasattr(data, "dtype")


def _is_array(x):
    return hasattr(x, "dtype") and len(getattr(x, "shape", ())) > 0


def _has_several_inputs(model):
    # A subclassed model does not tell.
    return len(getattr(model, "inputs", None) or ()) > 1


def _number_of_samples(parts, name):
    arrays = keras.tree.flatten(parts)
    counts = {len(x) for x in arrays if x is not None}
    if len(counts) > 1:
        raise ValueError(
            f"`{name}` must have as many samples in each of its arrays. "
            f"Received: {_describe(parts)}"
        )
    return counts.pop()


def _part(parts, start, size):
    return keras.tree.map_structure(
        lambda x: None if x is None else x[start : start + size], parts
    )


def _parts(batch, name, where=""):
    """The tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)`, checked."""
    parts = batch if isinstance(batch, tuple) else (batch,)
    while parts and parts[-1] is None:
        parts = parts[:-1]
    inputs = keras.tree.flatten(parts[:1])
    others = [x for x in keras.tree.flatten(parts[1:]) if x is not None]
    known = inputs and len(parts) <= 3
    if not known or not all(map(_is_array, inputs + others)):
        raise _unknown_form(batch, name, where)
    return parts


def _checked(source, data, several_inputs, name):
    """The batches as NumPy arrays."""
    index = -1
    for index, batch in enumerate(source):
        if isinstance(batch, list) and len(batch) == 1 and not several_inputs:
            (batch,) = batch  # as TFLite has it
        parts = _parts(batch, name, f"in batch {index}: ")
        parts = keras.tree.map_structure(_numpy, parts)
        for x in keras.tree.flatten(parts[0]):
            _check_inputs(x, index, name)
        yield parts
    if index < 0:
        raise ValueError(
            f"`{name}` must hold at least one sample. "
            f"Received: {type(data).__name__} without any"
        )


def _numpy(x):
    return None if x is None else keras.ops.convert_to_numpy(x)


def _check_inputs(x, index, name):
    if x.size == 0:
        raise ValueError(
            f"`{name}` must have samples in each batch. Received: none in "
            f"batch {index}, of shape {x.shape}"
        )
    if np.issubdtype(x.dtype, np.floating):
        wrong = np.sum(~np.isfinite(x))
        if wrong:
            raise ValueError(
                f"`{name}` must be finite. Received: {wrong} values NaN or "
                f"infinite in batch {index}"
            )


def _unknown_form(data, name, where=""):
    return ValueError(
        f"`{name}` must be an array, a dict of arrays, a list of them for a "
        "model with several inputs, a tuple (x, y) or (x, y, sample_weight), a "
        "keras.utils.PyDataset, a tf.data.Dataset or another iterable of "
        "batches, or a function that returns one. "
        f"Received: {where}{_describe(data)}"
    )


def _describe(data):
    """Types and shapes; the data themselves may be long."""
    kind = type(data).__name__
    if isinstance(data, dict):
        parts = [f"{key!r}: {_describe(x)}" for key, x in data.items()]
    elif isinstance(data, (list, tuple)):
        parts = [_describe(x) for x in data[:4]]
    elif hasattr(data, "shape"):
        return f"{kind} of shape {tuple(data.shape)}"
    else:
        return kind
    return f"{kind}({', '.join(parts[:3] + ['...'] * (len(parts) > 3))})"
