"""What training left in a layer: its numbers, checked."""

import keras
import numpy as np


def read_weight(layer, name, weight):
    """A weight as float64, finite.

    Raises:
        ValueError: If it is not; names the layer.
    """
    values = np.float64(keras.ops.convert_to_numpy(weight))
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"The {name} of layer '{layer.name}' ({type(layer).__name__}) must "
            f"be finite. Received: {np.sum(~np.isfinite(values))} of "
            f"{values.size} values NaN or infinite; was training stable?"
        )
    return values


def read_alpha(layer):
    """alpha of a layer, finite and above 0."""
    alpha = float(read_weight(layer, "alpha", layer.alpha))
    if alpha <= 0:
        raise ValueError(
            f"The alpha of layer '{layer.name}' must be above 0. "
            f"Received: alpha={alpha}"
        )
    return alpha
