"""Checks of arguments that several functions take."""

import numbers

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
