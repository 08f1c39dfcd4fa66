"""Data in any of the forms that `fit` takes, as batches of NumPy arrays."""

import operator

import keras
import numpy as np


def batches(data, batch_size=32):
    """Reads data batch by batch.

    Args:
        data: Array, or a list or dict of arrays (several inputs); a tuple
            `(x, y)` or `(x, y, sample_weight)` of these; a
            `keras.utils.PyDataset`; or an iterable of batches, such as a
            `tf.data.Dataset`, each `x` or a tuple as above.
        batch_size: Int, the batches into which arrays are cut. Defaults to
            `32`.

    Yields:
        Tuples `(x,)`, `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        ValueError: If there is no sample, or an input is NaN or infinite.

    Example:

    >>> [x.shape for x, in batches(np.zeros((5, 2)), batch_size=3)]
    [(3, 2), (2, 2)]
    """
    count = 0
    for batch in _raw_batches(data, batch_size):
        batch = batch if isinstance(batch, tuple) else (batch,)
        batch = keras.tree.map_structure(np.asarray, batch)
        size = _num_samples(batch)
        if not size:
            continue
        for x in keras.tree.flatten(batch[0]):
            if x.dtype.kind == "f" and not np.all(np.isfinite(x)):
                raise ValueError(
                    "The inputs in `data` must be finite. Received: NaN or "
                    f"infinity among samples {count} to {count + size - 1}"
                )
        count += size
        yield batch
    if not count:
        raise ValueError(
            "`data` must hold at least one sample. "
            f"Received: data of type {type(data).__name__} without any"
        )


def gather(data):
    """All of `data`, in the forms of `batches`, as one batch."""
    parts = list(batches(data))
    return keras.tree.map_structure(
        lambda *arrays: np.concatenate(arrays), *parts
    )


def _raw_batches(data, batch_size):
    if isinstance(data, keras.utils.PyDataset):
        for i in range(len(data)):
            yield data[i]
    elif _is_arrays(data):
        for start in range(0, _num_samples(data), batch_size):
            part = slice(start, start + batch_size)
            yield keras.tree.map_structure(operator.itemgetter(part), data)
    else:
        yield from data


def _is_arrays(data):
    """Whether data is arrays as a whole, not batch by batch."""
    if isinstance(data, list):
        return all(hasattr(part, "shape") for part in data)
    return isinstance(data, (dict, tuple)) or hasattr(data, "shape")


def _num_samples(data):
    arrays = keras.tree.flatten(data)
    return len(arrays[0]) if arrays else 0
