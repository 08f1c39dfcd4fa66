"""Convolutions and FULLY_CONNECTED: what multiplies by weights.

Besides layers with a kernel, by weights of one: an average, a batch
normalization or a quantizer of its own.
"""

import dataclasses

import numpy as np

from keras_bcgd import projections
from keras_bcgd.export import arithmetic
from keras_bcgd.export import bias_intervals
from keras_bcgd.export import targets
from keras_bcgd.export import trained_values
from keras_bcgd.export import weight_types
from keras_bcgd.export.operators import max_pool
from keras_bcgd.export.operators import pad
from keras_bcgd.export.operators import transposed
from keras_bcgd.export.operators import widening
from keras_bcgd.export.steps import WeightedStep
from keras_bcgd.export.steps import window_size
from keras_bcgd.layers import NegativeSlope

_NAMES = {
    "affine": "DEPTHWISE_CONV_2D",
    "average": "DEPTHWISE_CONV_2D",
    "conv": "CONV_2D",
    "dense": "FULLY_CONNECTED",
    "depthwise": "DEPTHWISE_CONV_2D",
    "grouped": "CONV_2D",
    "rescale": "DEPTHWISE_CONV_2D",
    "transposed": "TRANSPOSE_CONV",
}
# How many weights share a byte.
_PER_BYTE = {"int8": 1, "int4": 2, "int2": 4, "lut": 1}


def make_step(node, inputs, plan):
    """The step of a node with weights."""
    (x,) = inputs
    inexact = []
    if node in plan.graph.logits:
        dtype = "int16" if plan.has_wide_logits(node) else "int8"
        (first, *_) = plan.graph.logits[node]
        output = arithmetic.Output(plan.logits_grid(first, dtype))
    elif node.quantizer is None:
        output = arithmetic.Output(_mean_grid(node, x.grid, plan, inexact))
    else:
        output = plan.output_of(node)
    return weighted_step(node, inputs, output, plan, inexact)


def _mean_grid(node, grid, plan, inexact):
    count = window_size(node)
    if plan.is_wide(node):
        return arithmetic.wide_mean_grid(grid, count)
    if not arithmetic.is_exact_mean(grid, count):
        inexact.append(
            f"{node.name} rounds: its mean of {count} codes has more than "
            "256 values."
        )
    return arithmetic.average_grid(grid, count)


def weighted_step(node, inputs, output, plan, inexact):
    """The `WeightedStep` of a node whose output is known.

    Args:
        node: `Node`.
        inputs: List of one `Codes`.
        output: `arithmetic.Output`.
        plan: `Plan`.
        inexact: List of strings, what is known to round already.
    """
    (x,) = inputs
    reads = x
    if plan.is_wide(node):
        reads = widening.wide_codes(node, x, plan.target)
    if isinstance(node.layer, NegativeSlope):
        # Above 0 the maximum takes the codes themselves.
        below = dataclasses.replace(x.grid, high=x.grid.zero_point)
        reads = dataclasses.replace(x, grid=below)
    step = WeightedStep(node, inputs, reads, output, inexact)
    step.weight_type = plan.weight_type(node)
    step.mult = multiplier(node, step.weight_type, reads.dtype)
    step.operator = _operator(node, step.weight_type, plan.target)
    if step.weight_type == "int4" and step.operator != "FULLY_CONNECTED":
        # No kernel set has int4 convolutions that round once.
        step.roundings = bias_intervals.ALL[1:]
    elif _inputs_of_output(node) % _PER_BYTE[step.weight_type]:
        # XNNPACK leaves rows that end inside of a byte to "builtin".
        step.roundings = (*bias_intervals.ALL[1:], bias_intervals.ONCE)
    if node.kind == "transposed":
        transposed.plan(step)
    else:
        _plan_padding(step, x)
    return step


def _operator(node, weight_type, target):
    """The name of the operator of a node."""
    is_packed = weight_type in ("int4", "int2")
    if is_packed and weight_types.is_dense(node, target):
        return "FULLY_CONNECTED"
    return _NAMES[node.kind]


def multiplier(node, weight_type, dtype):
    """By how much the codes of the weights are multiplied."""
    limit = arithmetic.LARGEST_WEIGHT[weight_type]
    if node.has_codes:
        return limit // projections.largest_code(node.bits)
    # Float weights have codes up to 127, ones are multiplied at will.
    if node.is_convolution:
        return limit // 127
    if node.kind == "average" and dtype == "int8":
        return limit // trained_values.largest_weight(node)
    return 1 if dtype == "int16" else limit


def _inputs_of_output(node):
    """How many weights one output adds up."""
    if node.kind == "dense":
        return int(np.prod(node.inputs[0].output_shape))
    count = window_size(node)
    return count * node.input_shape[-1] if node.kind == "conv" else count


def _plan_padding(step, x):
    """The padding, by an operator of its own where 0.0 is another code.

    Only that of a convolution pads: the "same" of an average was checked to
    pad nothing, and so does that of a convolution that is a dense layer.
    """
    node = step.node
    pads = node.kind in ("conv", "grouped", "depthwise")
    if node.padding == "valid" or not pads:
        return
    step.padding = node.padding
    is_int8 = step.reads.dtype == "int8"
    if node.padding == "same" and is_int8 and not pad.shift_of_zero(x.grid):
        return
    step.padding = "valid"
    if x.dtype == "int16":
        return
    if node.padding == "causal":
        amounts = [(0, 0), (node.dilation[1] * (node.window[1] - 1), 0)]
    else:
        amounts = [*map(_amounts, *_sizes(node))]
    amounts = [(0, 0), *amounts, (0, 0)]
    if np.any(amounts):
        step.amounts = amounts
        step.inexact += pad.what_is_missed(x.grid, f"{node.name}/padded")


def _sizes(node):
    return node.input_shape[:2], node.window, node.strides, node.dilation


def _amounts(size, window, stride, dilation):
    """How many zeros "same" puts before and after one axis."""
    window = (window - 1) * dilation + 1
    missing = max((-(-size // stride) - 1) * stride + window - size, 0)
    return missing // 2, missing - missing // 2


def write(step, inputs, file):
    """Adds the tensors and the operators of one step."""
    node, weights, (x,) = step.node, step.weights, inputs
    name = node.layer.name if node.is_convolution else node.name
    kind = step.operator
    channels = len(weights.scale)
    if kind == "FULLY_CONNECTED" and node.strides != (1, 1):
        name_before = f"{node.name}/subsampled"
        x = max_pool.subsampled(x, node.strides, name_before, file)
    if step.reads.dtype != x.dtype:
        x = _padded(x, step, file)
        x = widening.widen(x, step.reads, node, file)
    if node.kind == "dense":
        shape = (file.batch_size, channels)
    else:
        x, shape = _with_height_and_width(node, x, channels, file)
        if x.dtype == "int8":
            x = _padded(x, step, file)
    values, axis = _kernel(node, kind, weights.values, channels)
    scale = weights.scale
    if not node.is_convolution and np.all(scale == scale[0]):
        scale = scale[:1]  # one for all channels takes less room
    kernel = file.constant(
        f"{name}/weights", values, step.weight_type, scale, axis
    )
    bias = file.constant(
        f"{name}/bias",
        weights.bias,
        "int64" if x.dtype == "int16" else "int32",
        _bias_scale(kind, x, scale, file),
    )
    y = file.tensor(node.name, shape, step.hands_over)
    if kind == "TRANSPOSE_CONV":
        return transposed.write(step, x, kernel, bias, y, file)
    table, settings = _options(step, kind, x.shape, shape)
    if step.output.relu:
        settings["fusedActivationFunction"] = "relu"
    return file.operator(kind, [x, kernel, bias], y, table, **settings)


def _bias_scale(kind, x, scale, file):
    """The scale of the bias, which follows from others.

    LiteRT asks for it; TFLM for that of a FULLY_CONNECTED alone.
    """
    if file.target == targets.MICRO and kind != "FULLY_CONNECTED":
        return None
    return np.float32(x.grid.file_scale) * scale


def _padded(x, step, file):
    if step.amounts is None:
        return x
    return pad.padded(x, step.amounts, f"{step.node.name}/padded", file)


def _with_height_and_width(node, x, channels, file):
    """What it reads, and the shape of its output, both as maps."""
    if len(x.shape) == 4:
        return x, max_pool.shape_of_map(node, x, file, channels)
    # A QuantReLU of its own on a tensor of any rank.
    count = int(np.prod(x.shape[1:-1]))
    x = file.reshape(x, (1, count, channels), f"{node.name}/input")
    return x, x.shape


def _kernel(node, kind, values, channels):
    """The weights in the order of the format, and the axis of channels."""
    if kind == "FULLY_CONNECTED":
        return values.T, 0
    height, width = node.window
    if kind in ("CONV_2D", "TRANSPOSE_CONV"):
        return values.T.reshape(channels, height, width, -1), 0
    return values.reshape(1, height, width, channels), 3


def _options(step, kind, input_shape, output_shape):
    """The options table and its fields."""
    node = step.node
    if kind == "FULLY_CONNECTED":
        keeps = {"keepNumDims": True} if len(output_shape) > 2 else {}
        return "FullyConnectedOptions", keeps
    settings = {
        "strideH": _stride(step, 0, output_shape),
        "strideW": _stride(step, 1, output_shape),
        "dilationHFactor": node.dilation[0],
        "dilationWFactor": node.dilation[1],
        "padding": step.padding,
    }
    if kind == "CONV_2D":
        return "Conv2DOptions", settings
    settings["depthMultiplier"] = output_shape[-1] // input_shape[-1]
    return "DepthwiseConv2DOptions", settings


def _stride(step, axis, output_shape):
    """The stride along an axis: 1 where there is one place.

    There it says nothing, but an Ethos-U takes strides up to 3, and a mean may
    see the whole map at once.
    """
    if step.padding == "valid" and output_shape[1 + axis] == 1:
        return 1
    return step.node.strides[axis]
