"""MAXIMUM, of two tensors with one grid."""

from keras_bcgd.export.steps import same_codes


def make_step(node, inputs, plan):
    """The step of a maximum, which keeps the codes."""
    return same_codes(node, inputs)


def write(step, inputs, file):
    """Adds the operator."""
    shape = (file.batch_size, *step.node.output_shape)
    # The second is what a convolution made of the first, with another shape.
    inputs = [
        file.reshape(x, shape[1:], f"{step.node.name}/in") for x in inputs
    ]
    y = file.tensor(step.node.name, shape, step.hands_over)
    return file.operator("MAXIMUM", inputs, y, "MaximumMinimumOptions")
