"""Bilinear interpolation by an integer factor, as other layers.

Each pixel is copied `factor` times along an axis, so is the border once more,
and of what is around each copy a weighted mean is taken: of the weights 1, 2, 1
for the factor 2; 1, 1, 1 for 3; 1, 2, 2, 2, 1 for 4. That is what
interpolation between the centers of pixels amounts to, and of codes it is a
sum of integers.
"""

import keras
import numpy as np

# Settings of a Resizing that do more than to copy pixels or interpolate.
OTHER_SETTINGS = ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio")


class WeightedMean(keras.layers.Layer):
    """The mean of each window with integer weights, of each channel by itself.

    Args:
        weights_of_window: Integer array of the shape of the window.
    """

    def __init__(self, weights_of_window, **kwargs):
        super().__init__(**kwargs)
        self.codes = np.asarray(weights_of_window, np.int64)
        self.kernel_size = self.codes.shape

    def call(self, x):
        kernel = np.repeat(self.codes[..., None, None], x.shape[-1], 2)
        kernel = keras.ops.convert_to_tensor(kernel, x.dtype)
        total = keras.ops.depthwise_conv(
            x, kernel, padding="valid", data_format="channels_last"
        )
        return total / float(self.codes.sum())

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        rows, columns = self.kernel_size
        return batch, height - rows + 1, width - columns + 1, channels


def weights_along(factor):
    """The weights along one axis, of which the sum is what they divide by."""
    if factor % 2:
        return np.ones(factor, np.int64)
    return np.array([1, *[2] * (factor - 1), 1], np.int64)


def factors(layer):
    """By how much a built layer interpolates along both axes, or `None`.

    `None`: it does not, or not bilinearly, by integers or as upsampling does.
    """
    kinds = (keras.layers.Resizing, keras.layers.UpSampling2D)
    if type(layer) not in kinds or layer.interpolation != "bilinear":
        return None
    if layer.data_format != "channels_last":
        return None
    if type(layer) is keras.layers.UpSampling2D:
        return tuple(layer.size)
    sizes = tuple(layer.input.shape)[1:3]
    if None in sizes or any(getattr(layer, name) for name in OTHER_SETTINGS):
        return None
    if layer.height % sizes[0] or layer.width % sizes[1]:
        return None
    return layer.height // sizes[0], layer.width // sizes[1]


def has_parts(layer):
    """Whether `parts_of` has something for a built layer."""
    return factors(layer) is not None and None not in layer.input.shape[1:3]


def window_size(layer):
    """By how much the sums of weights divide, of a layer with `factors`."""
    rows, columns = map(weights_along, factors(layer))
    return int(rows.sum() * columns.sum())


def parts_of(layer):
    """The layers that do what a layer with `factors` does.

    Args:
        layer: A layer whose `factors` are not `None`, and whose input has a
            known size.

    Returns:
        List of `(layer, sources)`, as the parts of a `layers.Composite`.
    """
    size = factors(layer)
    copies = keras.layers.UpSampling2D(
        size,
        data_format="channels_last",
        name=f"{layer.name}_copies",
    )
    parts = [(copies, [0])]
    shape = [n * f for n, f in zip(layer.input.shape[1:3], size, strict=True)]
    for axis in (0, 1):
        _with_border(parts, shape, axis, size[axis] // 2, layer.name)
    window = np.outer(*map(weights_along, size))
    mean = WeightedMean(window, name=layer.name)
    return [*parts, (mean, [len(parts)])]


def _with_border(parts, shape, axis, count, name):
    """Appends what repeats the first and last `count` rows, or columns."""
    if not count:
        return
    whole = len(parts)
    ends = []
    for side, crop in (
        ("first", (0, shape[axis] - count)),
        ("last", (shape[axis] - count, 0)),
    ):
        crops = [(0, 0), (0, 0)]
        crops[axis] = crop
        end = keras.layers.Cropping2D(
            tuple(crops),
            data_format="channels_last",
            name=f"{name}_{side}_{axis}",
        )
        parts.append((end, [whole]))
        ends.append(len(parts))
    joined = keras.layers.Concatenate(axis + 1, name=f"{name}_border_{axis}")
    parts.append((joined, [ends[0], whole, ends[1]]))
    shape[axis] += 2 * count
