"""Models, labels and data in files that a user names."""

import os
import tempfile
import zipfile
import zlib

import keras
import numpy as np


def load_model(path):
    """A Keras model of a .keras file, not compiled."""
    with open(path, "rb"):  # a missing file says so itself
        pass
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"cannot read the Keras model {path}: it is not a .keras file, or "
            "a damaged one"
        )
    # What a damaged file, or a layer that is not known, ends in is open.
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(
            f"cannot read the Keras model {path}: {_first_cause(error)}"
        ) from error


def _first_cause(error):
    """What Keras says, without the configurations that it adds."""
    cause = str(error).rpartition("Exception encountered: ")[2].strip()
    line = cause.partition("\n")[0].partition(" Full object config")[0]
    return line or type(error).__name__


def load_labels(path):
    """The lines of a text file."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read the labels {path}: {error}") from error


def load_data(path, inputs=(), outputs=()):
    """`(x, y)` of an .npy or .npz file; `y` is `None` without labels.

    Args:
        path: String.
        inputs: List of strings, the names of several inputs: `x` is then a
            dict of the arrays of these names. Defaults to `()`.
        outputs: The same of several outputs, for `y`. Defaults to `()`.
    """
    try:
        with open(path, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                return arrays, None
            needed = inputs or ["x"]
            if not all(name in arrays for name in needed):
                listed = ", ".join(f"`{name}`" for name in needed)
                raise ValueError(
                    f"it must have {'arrays' if inputs else 'an array'} "
                    f"{listed}. Received: {', '.join(arrays) or 'no array'}"
                )
            x = {name: arrays[name] for name in needed}
            wanted = outputs or ["y"]
            y = {name: arrays[name] for name in wanted if name in arrays}
            return (
                x if inputs else x["x"],
                y or None if outputs else y.get("y"),
            )
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read the data {path}: {error}") from error


def save_model(model, path):
    """Whole or not at all: elsewhere first, then under its name."""
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as temporary:
        part = os.path.join(temporary, "aligned.keras")
        model.save(part)
        os.replace(part, path)
