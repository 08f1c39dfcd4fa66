"""MUL: two tensors of codes, which may broadcast."""

from keras_bcgd.export import multiplication
from keras_bcgd.export.steps import Step


def make_step(node, inputs, plan):
    """The step of a product, with how many pairs of codes are right."""
    output = plan.output_of(node)
    first, second = (codes.grid for codes in inputs)
    codes = multiplication.codes_of(node, first, second)
    right = multiplication.is_right(*codes, first, second, output.grid)
    return Step(
        node,
        inputs,
        inputs[0],
        output,
        pairs=right.size,
        right=int(right.sum()),
    )


def write(step, inputs, file):
    """Adds the operator."""
    shape = (file.batch_size, *step.node.output_shape)
    y = file.tensor(step.node.name, shape, step.hands_over)
    return file.operator("MUL", inputs, y, "MulOptions")
