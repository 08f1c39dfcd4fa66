"""Layers with several inputs."""

from keras_bcgd import branches
from keras_bcgd.network.trained import read_alpha
from keras_bcgd.onnx import staircase
from keras_bcgd.onnx.formats import Grid
from keras_bcgd.onnx.writer import Unsupported
from keras_bcgd.onnx.writer import output_shape


def add(writer, layer, name, *tensors):
    """An Add of any number of tensors of one shape."""
    return _add(writer, name, tensors)


def _add(writer, name, tensors):
    shapes = [x.shape for x in tensors]
    if any(shape != shapes[0] for shape in shapes):
        raise Unsupported(f"add tensors of one shape; theirs are {shapes}")
    total, *others = writer.in_one_order(*tensors)
    for x in others:
        total = writer.file.same("Add", [total, x], name)
    return total


def quant_add(writer, layer, name, *tensors):
    """A QuantAdd."""
    total = _add(writer, f"{name}/sum", tensors)
    return writer.on_signed_grid(total, layer, name)


def add_relu(writer, layer, name, branch, shortcut):
    """A QuantAddReLU: the branch on its grid, the sum, the staircase."""
    sums = None
    if layer.branch_bits is not None:
        grid = _branch_grid(layer)
        offset = branches.branch_offset(
            read_alpha(layer), layer.bits, layer.branch_bits
        )
        branch = _shift(writer, branch, f"{name}/branch/up", offset)
        branch = writer.round(branch, grid, f"{name}/branch", layer, False)
        branch = _shift(writer, branch, f"{name}/branch/down", -offset)
        if layer.shortcut_is_branch:
            shortcut = writer.round(
                shortcut, grid, f"{name}/shortcut", layer, False
            )
            if not offset:
                alpha = read_alpha(layer)
                ends = grid.low, grid.high
                sums = staircase.two_branches(grid.step, alpha, ends)
    total = _add(writer, f"{name}/sum", [branch, shortcut])
    return writer.staircase(total, layer, name, sums)


def _branch_grid(layer):
    """The grid of a branch."""
    bits = layer.branch_bits
    step = branches.branch_step(read_alpha(layer), layer.bits, bits)
    return Grid(step, *branches.smallest_and_largest_code(bits))


def _shift(writer, x, name, offset):
    """Adds a number, unless it is 0."""
    if not offset:
        return x
    constant = writer.file.constant(f"{name}/offset", offset)
    return writer.file.same("Add", [x, constant], name)


def multiply(writer, layer, name, *tensors):
    """A QuantMultiply, whose sizes may also be 1."""
    shape = output_shape(layer, *tensors)
    inputs = writer.in_one_order(*tensors)
    orders = [x.order for x in inputs]
    product = writer.file.node(
        "Mul", inputs, f"{name}/product", shape, order=orders[0]
    )
    return writer.on_signed_grid(product, layer, name)


def concatenate(writer, layer, name, *tensors):
    """A Concatenate."""
    rank = len(tensors[0].shape) + 1
    axis = layer.axis % rank
    if axis == 0:
        raise Unsupported("it must not concatenate the batch: use another axis")
    shape = output_shape(layer, *tensors)
    tensors = [writer.file.in_keras_order(x) for x in tensors]
    in_file = 1 if axis == rank - 1 else axis + 1
    return writer.file.node("Concat", tensors, name, shape, axis=in_file)


def quant_concatenate(writer, layer, name, *tensors):
    """A QuantConcatenate."""
    joined = concatenate(writer, layer, f"{name}/joined", *tensors)
    return writer.on_signed_grid(joined, layer, name)
