"""Bytes of images to floats of about unit size, in one of two ways.

"paper": mean 0 and standard deviation 1 in each color. "grid": (byte - 128) /
64, which an 8-bit tensor of an integer file holds exactly, so that the bytes
are the file's input.
"""

import numpy as np

NORMALIZATIONS = ("paper", "grid")


def normalize(images, kind, mean, std):
    """Normalizes images.

    Args:
        images: Float array or tensor of numbers from 0 to 255, colors last.
        kind: String, one of `NORMALIZATIONS`.
        mean: Array of 3 floats, of each color's bytes divided by 255.
        std: Array of 3 floats, likewise.
    """
    if kind == "grid":
        return (images - 128) / 64
    return (images / 255 - mean) / std


def input_range(kind, mean, std):
    """The smallest and the largest number that `normalize` returns."""
    ends = normalize(np.array([[0] * 3, [255] * 3], "float32"), kind, mean, std)
    return float(ends.min()), float(ends.max())
