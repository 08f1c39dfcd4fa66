"""Checks of arguments that several functions take."""

import numbers
import operator

import keras

VERBOSE = ("auto", 0, 1, 2)


def check_choice(name, value, allowed):
    """Raises a `ValueError` if an argument is none of the allowed values."""
    if isinstance(value, bool) or value not in allowed:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(str, allowed))}. "
            f"Received: {name}={value!r}"
        )


def check_count(name, value, allow_none=False):
    """Raises a `ValueError` if an argument is no whole number above 0."""
    if allow_none and value is None:
        return
    is_whole = isinstance(value, numbers.Integral)
    if is_whole and not isinstance(value, bool) and value > 0:
        return
    allowed = "an integer above 0" + (", or None" if allow_none else "")
    raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")


def check_model(model):
    """Raises a `ValueError` if an argument `model` is no Keras model."""
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`model` must be a keras.Model. Received: model={model!r}"
        )


def check_bits(
    bits, allow_float=False, allow_none=False, smallest=1, name="bits"
):
    """Returns `bits` as an int, or raises.

    Args:
        bits: Int. A bit width from `smallest` to 8.
        allow_float: Boolean. Whether 32, "not quantized", is allowed too.
            Defaults to `False`.
        allow_none: Boolean. Whether `None` is allowed too. Defaults to
            `False`.
        smallest: Int. Defaults to `1`.
        name: String, the name of the argument. Defaults to `"bits"`.

    Returns:
        The bit width, an int or `None`.

    Raises:
        ValueError: If `bits` is anything else.
    """
    if allow_none and bits is None:
        return None
    allowed = f"an integer from {smallest} to 8"
    if allow_float:
        allowed += ", or 32 (not quantized)"
    if allow_none:
        allowed += ", or None"
    try:
        number = None if isinstance(bits, bool) else operator.index(bits)
    except TypeError:
        number = None
    if number in range(smallest, 9) or (allow_float and number == 32):
        return number
    raise ValueError(f"`{name}` must be {allowed}. Received: {name}={bits!r}")


def check_axis(axis, rank):
    """Returns the kept axes of a tensor as ascending ints, or raises.

    Args:
        axis: Int, tuple of ints or `None`, see `project`.
        rank: Int, the rank of the tensor.

    Returns:
        A tuple of distinct ints from 0 to `rank - 1`; empty for `None`.

    Raises:
        ValueError: If an axis is none of the tensor's, or given twice.
    """
    if axis is None:
        return ()
    axes = axis if isinstance(axis, (list, tuple)) else (axis,)
    try:
        kept = {range(rank)[a] for a in axes if not isinstance(a, bool)}
    except (IndexError, TypeError):
        kept = ()
    if len(kept) < len(axes):
        raise ValueError(
            "`axis` must be None, or an int or a tuple of distinct ints from "
            f"{-rank} to {rank - 1} for a tensor of rank {rank}. "
            f"Received: axis={axis!r}"
        )
    return tuple(sorted(kept))
