"""Data in any of the forms that `fit` takes, labels too, as NumPy arrays."""

import operator

import keras
import numpy as np

from keras_bcgd.batches import inputs_of
from keras_bcgd.batches import read


def batches_of(data, batch_size=32):
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

    >>> [x.shape for x, in batches_of(np.zeros((5, 2)), batch_size=3)]
    [(3, 2), (2, 2)]
    """
    if _is_arrays(data):
        source = _slices(data, batch_size)
    else:
        source, _ = read(data, batch_size)
    number = 0
    for batch in source:
        batch = batch if isinstance(batch, tuple) else (batch,)
        inputs_of(batch, number)
        number += 1
        yield keras.tree.map_structure(np.asarray, batch)
    if not number:
        raise ValueError(
            "`data` must hold at least one sample. "
            f"Received: data of type {type(data).__name__} without any"
        )


def gather(data):
    """All of `data`, in the forms of `batches_of`, as one batch."""
    return keras.tree.map_structure(
        lambda *arrays: np.concatenate(arrays), *batches_of(data)
    )


def _is_arrays(data):
    """Whether data is several arrays as a whole, not batch by batch."""
    if isinstance(data, list):
        return len(data) > 0 and all(hasattr(part, "shape") for part in data)
    return isinstance(data, (dict, tuple))


def _slices(data, batch_size):
    number = len(keras.tree.flatten(data)[0])
    for start in range(0, number, batch_size):
        part = operator.itemgetter(slice(start, start + batch_size))
        yield keras.tree.map_structure(part, data)
