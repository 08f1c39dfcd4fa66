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


def load_data(path):
    """`(x, y)` of an .npy or .npz file; `y` is `None` without labels."""
    try:
        with open(path, "rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                return arrays, None
            if "x" not in arrays:
                raise ValueError(
                    "it must have an array `x`. Received: "
                    f"{', '.join(arrays) or 'no array'}"
                )
            return arrays["x"], arrays["y"] if "y" in arrays else None
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
