"""MAX_POOL_2D, of a window or of the whole map."""

from keras_bcgd.export.steps import same_codes


def make_step(node, inputs, plan):
    """The step of a pooling, which keeps the codes."""
    return same_codes(node, inputs)


def write(step, inputs, file):
    """Adds the operator."""
    node, (x,) = step.node, inputs
    y = file.tensor(node.name, shape_of_map(node, x, file), step.hands_over)
    return file.operator(
        "MAX_POOL_2D",
        [x],
        y,
        "Pool2DOptions",
        padding=node.padding,
        strideH=node.strides[0],
        strideW=node.strides[1],
        filterHeight=node.window[0],
        filterWidth=node.window[1],
    )


def shape_of_map(node, x, file, channels=None):
    """The output shape with height and width, also of global pooling."""
    height, width = (1, 1)
    if len(node.output_shape) == 3:
        height, width = node.output_shape[:2]
    channels = x.shape[-1] if channels is None else channels
    return (file.batch_size, height, width, channels)
