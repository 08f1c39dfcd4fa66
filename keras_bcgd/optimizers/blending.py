"""The blending, and its rho: a number, a schedule or a function."""

import numbers

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule


def check_blending(blending):
    """Returns `blending`, a number as a float, or raises."""
    if isinstance(blending, numbers.Real) and not isinstance(blending, bool):
        if 0 <= blending <= 1:
            return float(blending)
    elif isinstance(blending, LearningRateSchedule) or callable(blending):
        return blending
    raise ValueError(
        "`blending` must be a number in [0, 1], a "
        "keras.optimizers.schedules.LearningRateSchedule or a callable without "
        f"arguments. Received: blending={blending!r}"
    )


def rho_of_update(blending, updates):
    """rho of the next update: a float, or a scalar tensor in [0, 1].

    What a schedule or a function gives cannot be checked beforehand: it is
    clipped.

    Args:
        blending: What `check_blending` has passed.
        updates: Scalar of integers, the number of updates made so far.
    """
    if isinstance(blending, float):
        return blending
    if isinstance(blending, LearningRateSchedule):
        rho = blending(updates)
    else:
        rho = blending()
    dtype = keras.backend.result_type(keras.config.floatx(), "float32")
    return ops.clip(ops.cast(rho, dtype), 0, 1)


def blend(y, w, rho, is_update):
    """(1 - rho) y + rho w (slide "Blended Gradient Descent").

    Args:
        y: Float tensor.
        w: Float tensor of the same shape.
        rho: Float or scalar tensor.
        is_update: Boolean scalar tensor, whether y is to be blended now, or
            `None`: it is.

    Returns:
        Tensor of the same shape.
    """
    if not isinstance(rho, float):
        rho = ops.cast(rho, y.dtype)
    elif not rho:
        return y
    blended = (1 - rho) * y + rho * w
    if is_update is None:
        return blended
    return ops.where(is_update, blended, y)


def serialize_blending(blending):
    """What stands for it in a config: a float or a dict."""
    if isinstance(blending, float):
        return blending
    return keras.saving.serialize_keras_object(blending)


def deserialize_blending(blending, custom_objects=None):
    """What a value in a config stands for."""
    if not isinstance(blending, dict):
        return blending
    return keras.saving.deserialize_keras_object(
        blending, custom_objects=custom_objects
    )
