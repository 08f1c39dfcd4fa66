"""MAX_POOL_2D, of a window or of the whole map."""

from keras_bcgd.export.steps import same_codes


def make_step(node, inputs, plan):
    """The step of a pooling, which keeps the codes."""
    return same_codes(node, inputs)


def write(step, inputs, file):
    """Adds the operator."""
    node, (x,) = step.node, inputs
    y = file.tensor(node.name, shape_of_map(node, x, file), step.hands_over)
    return _pooled(x, y, node.window, node.strides, node.padding, file)


def subsampled(x, strides, name, file):
    """One place of a map in each stride, beginning with the first.

    By a window of one: LiteRT's STRIDED_SLICE takes some times longer.

    Args:
        x: `FileTensor`, a map.
        strides: `(height, width)`.
        name: String.
        file: `File`.
    """
    batch, *sizes, channels = x.shape
    sizes = [-(-size // by) for size, by in zip(sizes, strides, strict=True)]
    y = file.tensor(name, (batch, *sizes, channels), x.codes)
    return _pooled(x, y, (1, 1), strides, "valid", file)


def _pooled(x, y, window, strides, padding, file):
    return file.operator(
        "MAX_POOL_2D",
        [x],
        y,
        "Pool2DOptions",
        padding=padding,
        strideH=strides[0],
        strideW=strides[1],
        filterHeight=window[0],
        filterWidth=window[1],
    )


def shape_of_map(node, x, file, channels=None):
    """The output shape with height and width, also of global pooling."""
    height, width = (1, 1)
    if len(node.output_shape) == 3:
        height, width = node.output_shape[:2]
    channels = x.shape[-1] if channels is None else channels
    return (file.batch_size, height, width, channels)
