"""The batches of cifar10_data.Batches, made on the device.

For `keras_bcgd.fit_on_device`: what is random comes from cifar10_data.Draws,
and images and labels lie on the device as they are in the file.
"""

import numpy as np
from keras import ops

from training import cifar10_data


def batch_maker(normalization="paper"):
    """A function of `(images, labels)` and an item of `Draws`: the batch.

    To the last bit that of `cifar10_data.Batches`: a byte becomes a float by a
    table that NumPy makes, where a compiler may divide in its own way.

    Args:
        normalization: String, see `cifar10_data.normalize`.
    """
    every_byte = np.arange(256).reshape(256, 1, 1).repeat(3, axis=2)
    table = cifar10_data.normalize(every_byte, normalization)

    def make_batch(arrays, draws):
        images, labels = arrays
        _, height, width, colors = images.shape
        rows, columns = ops.unstack(
            draws["corners"] - cifar10_data.CROP_PADDING, 2, axis=1
        )
        rows = ops.expand_dims(rows, 1) + ops.arange(height)
        columns = ops.expand_dims(columns, 1) + ops.arange(width)
        flips = ops.expand_dims(draws["flips"], 1)
        columns = ops.where(flips, ops.flip(columns, 1), columns)
        rows, columns = ops.expand_dims(rows, 2), ops.expand_dims(columns, 1)
        inside = ops.logical_and(
            ops.logical_and(rows >= 0, rows < height),
            ops.logical_and(columns >= 0, columns < width),
        )
        chosen = ops.reshape(draws["chosen"], (-1, 1, 1))
        places = (
            chosen * height + ops.clip(rows, 0, height - 1)
        ) * width + ops.clip(columns, 0, width - 1)
        # One pixel after another: no padded copy of any image is made.
        pixels = ops.take(ops.reshape(images, (-1, colors)), places, axis=0)
        pixels = ops.cast(pixels, "int32")
        pixels = ops.where(ops.expand_dims(inside, 3), pixels, 0)
        x = ops.take(table.ravel(), pixels * colors + ops.arange(colors))
        return x, ops.take(labels, draws["chosen"], axis=0)

    return make_batch
