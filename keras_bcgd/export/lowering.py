"""Turns the nodes of a graph into the operators of a TFLite file."""

import dataclasses

import keras
import numpy as np

from keras_bcgd import projections
from keras_bcgd.export import addition
from keras_bcgd.export import arithmetic
from keras_bcgd.export import columns
from keras_bcgd.export import logits
from keras_bcgd.export import windows
from keras_bcgd.export.graph import Node
from keras_bcgd.export.report import LayerReport
from keras_bcgd.export.trained import Trained
from keras_bcgd.export.trained import read_alpha
from keras_bcgd.export.trained import read_output
from keras_bcgd.export.trained import read_rescaling
from keras_bcgd.export.trained import read_trained

_OPERATORS = {
    "conv": "CONV_2D",
    "depthwise": "DEPTHWISE_CONV_2D",
    "dense": "FULLY_CONNECTED",
    "affine": "DEPTHWISE_CONV_2D",
    "average": "DEPTHWISE_CONV_2D",
    "rescale": "DEPTHWISE_CONV_2D",
    "add": "ADD",
}
# Kinds of nodes whose logits may have 16 bits, and by how much the steps of
# what they read are finer: codes of 8 bits then fill 16.
WIDE = ("conv", "dense")
_FINER = 256
# How many weights share a byte.
_PER_BYTE = {"int8": 1, "int4": 2, "int2": 4}

# What a softmax or a sigmoid gives, by the rules of the runtime.
_SHARES = {
    "int8": arithmetic.Grid(1 / 256, -128),
    "int16": arithmetic.Grid(1 / 32768, 0, -32768, 32767),
}
_FINAL = {
    "softmax": ("SOFTMAX", "SoftmaxOptions", {"beta": 1.0}),
    "sigmoid": ("LOGISTIC", None, {}),
}


@dataclasses.dataclass
class Tensor:
    """A computed tensor of the file: its index, shape with batch, and grid."""

    index: int
    shape: tuple
    grid: arithmetic.Grid
    dtype: str = "int8"


@dataclasses.dataclass
class Job:
    """What is needed to find the integers of one operator with weights."""

    node: Node
    trained: Trained
    grid: arithmetic.Grid
    output: arithmetic.Output
    mult: int = 1
    roundings: tuple = windows.ALL


class Lowering:
    """Adds the nodes of a graph to a `TFLiteWriter`, one after another.

    Args:
        writer: `TFLiteWriter`.
        model: The Keras model.
        graph: `graph.Graph`.
        ranges: Dict from the calibrated nodes to `(low, high)`.
        logits: Array of logits of representative data, or `None`.
        weight_formats: Dict from the nodes with weights to `"int8"`,
            `"int4"` or `"int2"`.
        batch_size: Int.
        output_type: String: `"int8"`, `"uint8"` or `"int16"`.
        task: String or `None`: with `"classification"` 8-bit logits that
            never decide may saturate. Defaults to `None`.
    """

    def __init__(
        self,
        writer,
        model,
        graph,
        ranges,
        logits,
        weight_formats,
        batch_size,
        output_type,
        task=None,
    ):
        self.writer = writer
        self.model = model
        self.graph = graph
        self.ranges = ranges
        self.logits = logits
        self.weight_formats = weight_formats
        self.batch_size = batch_size
        self.output_type = output_type
        self.task = task
        self.before = None
        self.tensors = {}
        self.rows = []
        self.inexact = []  # what rounds as training did not
        self.saturated = 0.0  # the share of logits outside of the output
        self.readers = {}
        for node in graph.nodes:
            for source in node.inputs:
                self.readers.setdefault(source, []).append(node)

    def run(self, grid, input_type="int8", before=None, on_node=None):
        """Adds all nodes.

        Args:
            grid: `Grid` of the input.
            input_type: String: `"int8"` or `"uint8"`. Defaults to `"int8"`.
            before: Function that is called with each `Job` before it is done.
                `None`: nothing is. Defaults to `None`.
            on_node: Function that is called after each node. `None`: nothing
                is. Defaults to `None`.

        Returns:
            `(first, last)`: the `Tensor` of the input and of the output.
        """
        self.before = before
        first = self._first(grid, input_type)
        for node in self.graph.nodes:
            self._add_node(node)
            if on_node is not None:
                on_node()
        return first, self._last()

    def _first(self, grid, dtype):
        """Adds what the file begins with and returns that tensor."""
        shape = (self.batch_size, *self.graph.input.output_shape)
        if dtype == "uint8":
            first = self._tensor("input", shape, _unsigned(grid), dtype)
            x = self._quantize(first, grid, "input/int8")
        else:
            first = x = self._tensor("input", shape, grid)
        self.tensors[self.graph.input] = x
        return first

    def _tensor(self, name, shape, grid, dtype="int8"):
        index = self.writer.add_tensor(
            name, shape, dtype, grid.file_scale, grid.zero_point
        )
        return Tensor(index, tuple(shape), grid, dtype)

    def _add_node(self, node):
        """Adds one node, whose inputs were added before."""
        inputs = [self.tensors[source] for source in node.inputs]
        x = inputs[0]
        if node.kind == "max_pool":
            y = self._max_pool(node, x)
        elif node.kind in ("pad", "pad_channels"):
            y = self._pad(node, x)
        elif node.kind in _FINAL:
            y = self._final(node, x)
        elif node.kind == "reshape":
            y = x
        elif node.kind == "add":
            y = self._add(node, *inputs)
        elif node.kind == "concatenate":
            y = self._concatenate(node, inputs)
        elif node.kind == "rescale":
            y = self._rescale(node, x)
        else:
            y = self._weighted(node, x, self._output(node, x))
        self.tensors[node] = self._reshape(y, node.output_shape, node.name)

    def _last(self):
        """Adds what the file ends with and returns that tensor."""
        x = self.tensors[self.graph.output]
        if x.dtype == "int16" and self.output_type != "int16":
            x = self._quantize(x, self._logits_grid("int8"), "output/int8")
        if self.output_type == "uint8":
            x = self._quantize(x, _unsigned(x.grid), "output", "uint8")
        return x

    def _quantize(self, x, grid, name, dtype="int8"):
        """The same numbers on another grid."""
        y = self._tensor(name, x.shape, grid, dtype)
        self.writer.add_operator(
            "QUANTIZE", [x.index], [y.index], "QuantizeOptions"
        )
        return y

    def _output(self, node, x):
        """What the output of a node with weights is rounded to."""
        quantizer = node.quantizer
        if node is self.graph.logits:
            kind = "int16" if self._has_wide_logits(x) else "int8"
            return arithmetic.Output(self._logits_grid(kind))
        if quantizer is None:
            return arithmetic.Output(self._mean_grid(node, x))
        if node not in self.ranges:
            return read_output(quantizer)
        low, high = self.ranges[node]
        grid = arithmetic.range_grid(low, high)
        return arithmetic.Output(grid, relu=quantizer.kind == "relu")

    def _has_wide_logits(self, x):
        return self.output_type == "int16" or x.dtype == "int16"

    def _logits_grid(self, dtype):
        node = self.graph.logits
        depth = None
        if self.graph.output.kind in _FINAL:
            depth = self.graph.output.kind
        elif self.task == "classification":
            depth = "runner_up"
        x = self.tensors[node.inputs[0]]
        grid = logits.logits_grid(
            node,
            self._wide_grid(node, x) if dtype == "int16" else x.grid,
            self.logits,
            dtype,
            depth,
            self._mult(node, dtype),
        )
        if self.logits is not None:
            self.saturated = np.mean(~grid.covers(self.logits))
        return grid

    def _mult(self, node, dtype):
        """By how much the codes of the weights are multiplied."""
        limit = arithmetic.LARGEST_WEIGHT[self._weight_type(node)]
        if node.has_codes:
            return limit // projections.largest_code(node.bits)
        # Float weights have codes up to 127, ones are multiplied at will.
        if node.is_convolution:
            return limit // 127
        return 1 if dtype == "int16" else limit

    def _weight_type(self, node):
        return self.weight_formats.get(node, "int8")

    def _final(self, node, x):
        """A softmax or a sigmoid."""
        dtype = "int16" if self.output_type == "int16" else "int8"
        if x.dtype != dtype:
            x = self._quantize(x, self._logits_grid(dtype), "logits/int8")
        y = self._tensor(node.name, x.shape, _SHARES[dtype], dtype)
        name, options, settings = _FINAL[node.kind]
        self.writer.add_operator(
            name, [x.index], [y.index], options, **settings
        )
        return y

    def _reshape(self, x, shape, name):
        """Gives a tensor another shape, where it has not got it already."""
        shape = (self.batch_size, *shape)
        if x.shape == shape:
            return x
        self.writer.set_name(x.index, f"{name}/map")
        y = self._tensor(name, shape, x.grid, x.dtype)
        new_shape = self.writer.add_constant(
            f"{name}/shape", np.int32(shape), "int32"
        )
        self.writer.add_operator(
            "RESHAPE",
            [x.index, new_shape],
            [y.index],
            "ReshapeOptions",
            newShape=list(shape),
        )
        return y

    def _max_pool(self, node, x):
        height, width = node.window
        y = self._tensor(node.name, self._spatial(node, x.shape[-1]), x.grid)
        self.writer.add_operator(
            "MAX_POOL_2D",
            [x.index],
            [y.index],
            "Pool2DOptions",
            padding=getattr(node.layer, "padding", "valid"),
            strideH=node.strides[0],
            strideW=node.strides[1],
            filterHeight=height,
            filterWidth=width,
        )
        return y

    def _pad(self, node, x):
        if node.kind == "pad":
            amounts = [(0, 0), *node.layer.padding, (0, 0)]
        else:
            missing = node.output_shape[-1] - x.shape[-1]
            amounts = [(0, 0)] * (len(x.shape) - 1) + [(0, missing)]
        return self._padded(x, amounts, node.name)

    def _padded(self, x, amounts, name):
        shape = tuple(
            size + sum(pad) for size, pad in zip(x.shape, amounts, strict=True)
        )
        y = self._tensor(name, shape, x.grid)
        padding = self.writer.add_constant(
            f"{name}/padding", np.int32(amounts), "int32"
        )
        zero = round(-x.grid.offset / x.grid.scale)
        if zero == 0:
            self.writer.add_operator(
                "PAD", [x.index, padding], [y.index], "PadOptions"
            )
            return y
        # Behind a rescaling 0.0 is not the zero point.
        code = np.clip(x.grid.zero_point + zero, -128, 127)
        missed = abs(x.grid.scale * (code - x.grid.zero_point) + x.grid.offset)
        if missed > 1e-6 * x.grid.scale:
            self.inexact.append(
                f"{name} pads with the code next to 0.0, which is "
                f"{missed / x.grid.scale:.3f} of a step away."
            )
        value = self.writer.add_constant(
            f"{name}/value",
            np.int8([code]),
            "int8",
            x.grid.file_scale,
            zero_point=x.grid.zero_point,
        )
        self.writer.add_operator(
            "PADV2", [x.index, padding, value], [y.index], "PadV2Options"
        )
        return y

    def _spatial(self, node, channels):
        """The output shape with height and width, also of global pooling."""
        height, width = (1, 1)
        if len(node.output_shape) == 3:
            height, width = node.output_shape[:2]
        return (self.batch_size, height, width, channels)

    def _rescale(self, node, x):
        slopes, constants = read_rescaling(node)
        slope, constant = np.unique(slopes), np.unique(constants)
        if slope.size == constant.size == 1 and slope[0] > 0:
            # The same codes, read differently.
            grid = dataclasses.replace(
                x.grid,
                scale=x.grid.scale * slope[0],
                offset=x.grid.offset * slope[0] + constant[0],
                stored=x.grid.file_scale,
            )
            return dataclasses.replace(x, grid=grid)
        if isinstance(node.layer, keras.layers.Normalization):
            columns.check_normalization(node.layer, slopes, x.grid.scale)
        real = read_trained(node)
        ends = real.slope * x.grid.ends[:, None] + real.constant
        grid = arithmetic.range_grid(ends.min(), ends.max())
        self.inexact.append(
            f"{node.name} rescales each channel by its own numbers: its output "
            "is rounded to 8 bits, as training did not."
        )
        return self._weighted(node, x, arithmetic.Output(grid))

    def _concatenate(self, node, inputs):
        grid = inputs[0].grid
        if any(
            (x.grid.scale, x.grid.zero_point) != (grid.scale, grid.zero_point)
            for x in inputs
        ):
            ends = np.array([x.grid.ends for x in inputs])
            grid = arithmetic.range_grid(ends.min(), ends.max())
            self.inexact.append(
                f"{node.name} rounds: what it concatenates has different "
                "scales, and is brought to one."
            )
        # The runtime wants one stored scale, which that of a sum may not be.
        inputs = [
            x
            if x.grid == grid
            else self._quantize(x, grid, f"{node.name}/input{i}")
            for i, x in enumerate(inputs)
        ]
        y = self._tensor(node.name, (self.batch_size, *node.output_shape), grid)
        self.writer.add_operator(
            "CONCATENATION",
            [x.index for x in inputs],
            [y.index],
            "ConcatenationOptions",
            axis=node.layer.axis % len(y.shape),
        )
        return y

    def _add(self, node, a, b):
        row = {}
        if node is self.graph.logits:
            # From the largest sums, without data.
            output = arithmetic.Output(self._sum_grid(a, b))
        else:
            output = self._output(node, a)
        if output.levels:
            shift = self._shift_of(node.inputs[0])
            grid, right = addition.best_grid(a.grid, b.grid, shift, output)
            output = dataclasses.replace(output, grid=grid)
            count = np.broadcast(*addition.pairs(a.grid, b.grid)).size
            row = {"thresholds": count, "exact": right}
        y = self._tensor(node.name, a.shape, output.grid)
        settings = {}
        if output.relu:
            settings["fusedActivationFunction"] = "relu"
        self.writer.add_operator(
            "ADD", [a.index, b.index], [y.index], "AddOptions", **settings
        )
        self.rows.append(_row(node, **row))
        return y

    def _sum_grid(self, a, b):
        if self.logits is not None:
            low, high = self.logits.min(), self.logits.max()
        else:
            low, high = a.grid.ends + b.grid.ends
        return arithmetic.range_grid(low, high)

    def _shift_of(self, operand):
        quantizer = operand.quantizer
        if quantizer is None or not quantizer.half:
            return 0.0
        return read_alpha(quantizer.layer) / 2

    def _weighted(self, node, x, output):
        trained = read_trained(node)
        if self._is_wide(node):
            x = self._widen(node, x)
        weight_type = self._weight_type(node)
        mult = self._mult(node, x.dtype)
        job = Job(node, trained, x.grid, output, mult)
        if weight_type == "int4" and node.kind != "dense":
            # No kernel set has int4 convolutions that round once.
            job.roundings = windows.ALL[1:]
        elif len(trained.codes) % _PER_BYTE[weight_type]:
            # XNNPACK leaves rows that end inside of a byte to "builtin".
            job.roundings = (*windows.ALL[1:], windows.ONCE)
        if self.before is not None:
            self.before(job)
            job.trained = read_trained(node)
        weights = arithmetic.quantize_weights(
            job.trained, x.grid, output, job.mult, job.roundings
        )
        if x.dtype == "int8":  # in 16 bits sums have 64
            self._check_accumulator(node, weights)
        self.rows.append(_row(node, trained, weights))
        return self._emit(node, x, output, weights, weight_type)

    def _is_wide(self, node):
        """Whether a node computes in 16 bits: logits, and what they average.

        The mean of many codes has more values than 8 bits hold.
        """
        if node is self.graph.logits and node.kind in WIDE:
            x = self.tensors[node.inputs[0]]
            return self._has_wide_logits(x)
        if node.kind != "average" or node.quantizer is not None:
            return False
        x = self.tensors[node.inputs[0]]
        count = int(np.prod(node.window))
        readers = self.readers.get(node, [])
        while len(readers) == 1 and readers[0].kind == "reshape":
            readers = self.readers.get(readers[0], [])
        return (
            readers == [self.graph.logits]
            and self.graph.logits.kind == "dense"
            and not arithmetic.is_exact_mean(x.grid, count)
        )

    def _mean_grid(self, node, x):
        count = int(np.prod(node.window))
        if self._is_wide(node):
            return arithmetic.wide_mean_grid(x.grid, count)
        if not arithmetic.is_exact_mean(x.grid, count):
            self.inexact.append(
                f"{node.name} rounds: its mean of {count} codes has more than "
                "256 values."
            )
        return arithmetic.average_grid(x.grid, count)

    def _widen(self, node, x):
        """The same numbers in 16 bits, with zero point 0.

        By a CAST, as few runtimes have a QUANTIZE from 8 to 16 bits: the codes
        stay, and what their zero point was goes to the bias.
        """
        if x.dtype == "int16":
            return x
        x = self._explicitly_padded(node, x)
        grid = self._wide_grid(node, x)
        cast = dataclasses.replace(
            grid, scale=x.grid.scale, stored=x.grid.file_scale
        )
        name = node.layer.name
        y = self._tensor(f"{name}/cast", x.shape, cast, "int16")
        self.writer.add_operator(
            "CAST",
            [x.index],
            [y.index],
            "CastOptions",
            inDataType="int8",
            outDataType="int16",
        )
        if grid.file_scale == cast.file_scale:
            return y
        return self._quantize(y, grid, f"{name}/int16", "int16")

    def _wide_grid(self, node, x):
        """The grid of `_widen`.

        Before logits with a fine step, so that their bias has one as well: a
        power of 2, which kernels multiply by exactly.
        """
        if x.dtype == "int16":
            return x.grid
        factor = _FINER if node.kind in WIDE else 1
        return arithmetic.Grid(
            scale=x.grid.scale / factor,
            zero_point=0,
            low=factor * x.grid.low,
            high=factor * x.grid.high,
            offset=x.grid.offset - x.grid.scale * x.grid.zero_point,
            stored=x.grid.file_scale / factor,
        )

    def _check_accumulator(self, node, weights):
        largest = 256 * np.abs(weights.values.astype(np.int64)).sum(axis=0)
        largest = np.max(largest + np.abs(weights.bias))
        if largest >= 2**31:
            raise ValueError(
                f"The sums of layer '{node.layer.name}' do not fit in 32 bits:"
                " it has too many inputs. Received: "
                f"{len(weights.values)} inputs for each output"
            )

    def _emit(self, node, x, output, weights, weight_type):
        """Writes the tensors and the operator of one convolution."""
        name = node.layer.name if node.is_convolution else node.name
        kind = _OPERATORS[node.kind]
        channels = len(weights.scale)
        if kind == "FULLY_CONNECTED":
            values, axis = weights.values.T, 0
            shape = (self.batch_size, channels)
        else:
            x, shape = self._with_height_and_width(node, x, channels)
            x, padding = self._with_padding(node, x)
            height, width = node.window
            if kind == "CONV_2D":
                inputs = len(weights.values) // (height * width)
                values = weights.values.T.reshape(
                    channels, height, width, inputs
                )
                axis = 0
            else:
                values = weights.values.reshape(1, height, width, channels)
                axis = 3
        scale = weights.scale
        if not node.is_convolution and np.all(scale == scale[0]):
            scale = scale[:1]  # one for all channels takes less room
        kernel = self.writer.add_constant(
            f"{name}/weights", values, weight_type, scale, axis
        )
        bias = self.writer.add_constant(
            f"{name}/bias",
            weights.bias,
            "int64" if x.dtype == "int16" else "int32",
            np.float32(x.grid.file_scale) * scale,
        )
        y = self._tensor(node.name, shape, output.grid, x.dtype)
        table, settings = _options(node, x.shape, channels)
        if kind != "FULLY_CONNECTED":
            settings["padding"] = padding
        if output.relu:
            settings["fusedActivationFunction"] = "relu"
        self.writer.add_operator(
            kind, [x.index, kernel, bias], [y.index], table, **settings
        )
        return y

    def _with_height_and_width(self, node, x, channels):
        if len(x.shape) == 4:
            return x, self._spatial(node, channels)
        # A QuantReLU of its own on a tensor of any rank.
        count = int(np.prod(x.shape[1:-1]))
        x = self._reshape(x, (1, count, channels), f"{node.name}/input")
        return x, x.shape

    def _with_padding(self, node, x):
        """The padding of a convolution, explicit where 0.0 is another code."""
        if x.dtype == "int16":
            return x, "valid"  # before it was widened
        padding = _padding(node)
        if padding == "valid" or not round(x.grid.offset / x.grid.scale):
            return x, padding
        return self._explicitly_padded(node, x), "valid"

    def _explicitly_padded(self, node, x):
        """What a convolution reads, with the "same" padding around it."""
        if _padding(node) == "valid":
            return x
        amounts = [(0, 0), (0, 0), (0, 0), (0, 0)]
        dilation = getattr(node.layer, "dilation_rate", (1, 1))
        for i in range(2):
            size, stride = x.shape[1 + i], node.strides[i]
            window = (node.window[i] - 1) * dilation[i] + 1
            missing = (-(-size // stride) - 1) * stride + window - size
            before = max(missing, 0) // 2
            amounts[1 + i] = (before, max(missing, 0) - before)
        if not np.any(amounts):
            return x
        return self._padded(x, amounts, f"{node.name}/padded")


def _padding(node):
    """The padding of an operator.

    The "same" of an average was checked to pad nothing, and so does that of a
    convolution that is a dense layer; a dense layer has none.
    """
    if node.kind not in ("conv", "depthwise"):
        return "valid"
    return getattr(node.layer, "padding", "valid")


def _unsigned(grid):
    """The same numbers as codes from 0 to 255."""
    return dataclasses.replace(
        grid,
        zero_point=grid.zero_point + 128,
        low=grid.low + 128,
        high=grid.high + 128,
    )


def _options(node, input_shape, channels):
    """The options table of a convolution and its fields."""
    if node.kind == "dense":
        return "FullyConnectedOptions", {}
    dilation = getattr(node.layer, "dilation_rate", (1, 1))
    settings = {
        "strideH": node.strides[0],
        "strideW": node.strides[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
    }
    if node.kind == "conv":
        return "Conv2DOptions", settings
    settings["depthMultiplier"] = channels // input_shape[-1]
    return "DepthwiseConv2DOptions", settings


def _row(node, trained=None, weights=None, thresholds=0, exact=0):
    quantizer = node.quantizer
    has_alpha = quantizer is not None and hasattr(quantizer.layer, "alpha")
    bits = None
    if quantizer is not None:
        bits = 8
        if quantizer.kind == "staircase":
            bits = quantizer.layer.bits
    row = LayerReport(
        name=node.name if node.kind == "add" else node.layer.name,
        op=_OPERATORS[node.kind],
        activation_bits=bits,
        alpha=read_alpha(quantizer.layer) if has_alpha else None,
        trained=quantizer is None or quantizer.trained,
        thresholds=thresholds,
        exact=exact,
        exact_by_default=exact,
    )
    if weights is not None:
        row.weight_bits = trained.bits
        low, high = weights.scale.min(), weights.scale.max()
        row.weight_scale = float(low), float(high)
        row.multiplier = weights.mult
        row.flips = weights.flips
        row.constant = weights.constant
        row.thresholds = weights.thresholds
        row.exact = weights.exact
        row.exact_by_default = weights.exact_first
    return row
