"""RESIZE_NEAREST_NEIGHBOR: copies of the nearest pixels."""

import numpy as np

from keras_bcgd.export.steps import same_codes


def make_step(node, inputs, plan):
    """The step of a resizing, which keeps the codes."""
    return same_codes(node, inputs)


def write(step, inputs, file):
    """Adds the operator, with the setting that `nearest_pixels` is of."""
    node, (x,) = step.node, inputs
    height, width, _ = node.output_shape
    size = file.constant(f"{node.name}/size", np.int32([height, width]))
    shape = (file.batch_size, *node.output_shape)
    y = file.tensor(node.name, shape, step.hands_over)
    return file.operator(
        "RESIZE_NEAREST_NEIGHBOR",
        [x, size],
        y,
        "ResizeNearestNeighborOptions",
        halfPixelCenters=True,
    )


def nearest_pixels(old, new):
    """Which pixel each of `new` pixels along an axis of `old` ones copies.

    The one that its center is in, computed in float32 as the runtime does.
    """
    scale = np.float32(old) / np.float32(new)
    centers = np.arange(new, dtype=np.float32) + np.float32(0.5)
    return np.minimum(np.int32(np.floor(centers * scale)), old - 1)
