"""Batches of inputs from the forms of data that `fit` takes as well."""

import keras
import numpy as np


def read(data, batch_size):
    """The batches of any form of data.

    Args:
        data: Array, `keras.utils.PyDataset` or another iterable of batches.
        batch_size: Int, for an array.

    Returns:
        `(batches, number)`: an iterable, and an int or `None`: not known.

    Raises:
        ValueError: If `data` is none of the above.
    """
    if isinstance(data, keras.utils.PyDataset):
        total = data.num_batches
        indices = range(total) if total is not None else iter(int, 1)
        return (data[i] for i in indices), total
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        starts = range(0, len(data), batch_size)
        return (data[i : i + batch_size] for i in starts), len(starts)
    if isinstance(data, (str, bytes, dict)) or not hasattr(data, "__iter__"):
        raise ValueError(
            "`data` must be an array, a keras.utils.PyDataset, a "
            "tf.data.Dataset or another iterable of batches. "
            f"Received: data={data!r}"
        )
    return data, None


def inputs_of(batch, index):
    """What the model is to be called with, checked.

    Args:
        batch: The batch: these inputs, or a tuple that begins with them.
        index: Int, its number, for the message.

    Raises:
        ValueError: If it is empty or not finite.
    """
    x = batch[0] if isinstance(batch, tuple) else batch
    for part in keras.tree.flatten(x):
        part = keras.ops.convert_to_numpy(part)
        if part.size == 0:
            raise ValueError(
                "`data` must have samples in each batch. Received: batch "
                f"{index} of shape {part.shape}"
            )
        if np.issubdtype(part.dtype, np.floating):
            wrong = np.sum(~np.isfinite(part))
            if wrong:
                raise ValueError(
                    f"`data` must be finite. Received: {wrong} values NaN or "
                    f"infinite in batch {index}"
                )
    return x
