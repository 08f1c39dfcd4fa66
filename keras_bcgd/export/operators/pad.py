"""PAD and PADV2: zeros around a map, or behind its channels."""

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export.steps import same_codes


def make_step(node, inputs, plan):
    """The step of a padding, which keeps the codes."""
    step = same_codes(node, inputs)
    step.inexact += what_is_missed(inputs[0].grid, node.name)
    return step


def write(step, inputs, file):
    """Adds the operator."""
    node, (x,) = step.node, inputs
    if node.kind == "pad":
        padding = node.layer.padding
        if node.has_height:
            padding = ((0, 0), padding)
        amounts = [(0, 0), *padding, (0, 0)]
    else:
        missing = node.output_shape[-1] - x.shape[-1]
        amounts = [(0, 0)] * (len(x.shape) - 1) + [(0, missing)]
    return padded(x, amounts, node.name, file)


def padded(x, amounts, name, file):
    """A tensor with zeros around it.

    Args:
        x: `FileTensor`.
        amounts: For each axis, how many zeros come before and after.
        name: String.
        file: `File`.
    """
    shape = tuple(
        size + sum(pad) for size, pad in zip(x.shape, amounts, strict=True)
    )
    y = file.tensor(name, shape, x.codes)
    padding = file.constant(f"{name}/padding", np.int32(amounts))
    if not shift_of_zero(x.grid):
        return file.operator("PAD", [x, padding], y, "PadOptions")
    value = file.constant(
        f"{name}/value",
        np.int8([_code_of_zero(x.grid)]),
        "int8",
        x.grid.file_scale,
        zero_point=x.grid.zero_point,
    )
    return file.operator("PADV2", [x, padding, value], y, "PadV2Options")


def shift_of_zero(grid):
    """How far 0.0 is from the zero point, in codes: behind a rescaling."""
    return round(-grid.offset / grid.scale)


def _code_of_zero(grid):
    """The code next to 0.0."""
    code = grid.zero_point + shift_of_zero(grid)
    return int(np.clip(code, arithmetic.INT8_MIN, arithmetic.INT8_MAX))


def what_is_missed(grid, name):
    """A list of one sentence if no code stands for 0.0, else an empty one."""
    if not shift_of_zero(grid):
        return []
    code = _code_of_zero(grid)
    missed = abs(grid.scale * (code - grid.zero_point) + grid.offset)
    if missed <= 1e-6 * grid.scale:
        return []
    return [
        f"{name} pads with the code next to 0.0, which is "
        f"{missed / grid.scale:.3f} of a step away."
    ]
