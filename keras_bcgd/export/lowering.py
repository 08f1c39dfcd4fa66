"""Turns the stages of a model into the operators of a TFLite file."""

import dataclasses

import numpy as np

from keras_bcgd import activations
from keras_bcgd import projections
from keras_bcgd.export import arithmetic
from keras_bcgd.export.report import LayerReport
from keras_bcgd.export.trained import read_alpha
from keras_bcgd.export.trained import read_trained

_OPERATORS = {
    "conv": "CONV_2D",
    "depthwise": "DEPTHWISE_CONV_2D",
    "dense": "FULLY_CONNECTED",
    "relu": "DEPTHWISE_CONV_2D",
    "average": "DEPTHWISE_CONV_2D",
}

SOFTMAX_GRID = arithmetic.Grid(1 / 256, -128)


@dataclasses.dataclass
class Tensor:
    """A computed tensor of the file: its index, shape with batch, and grid."""

    index: int
    shape: tuple
    grid: arithmetic.Grid
    dtype: str = "int8"


class Lowering:
    """Adds the stages of a chain to a `TFLiteWriter`, one after another.

    Args:
        writer: `TFLiteWriter`.
        weight_format: String: `"int8"`, `"int4"` or `"auto"`.
        batch_size: Int.
    """

    def __init__(self, writer, weight_format, batch_size):
        self.writer = writer
        self.weight_format = weight_format
        self.batch_size = batch_size
        self.rows = []
        self.notes = []

    def input(self, name, shape, grid):
        """Adds the input tensor."""
        return self._tensor(name, (self.batch_size, *shape), grid)

    def _tensor(self, name, shape, grid, dtype="int8"):
        index = self.writer.add_tensor(
            name, shape, dtype, grid.scale, grid.zero_point
        )
        return Tensor(index, tuple(shape), grid, dtype)

    def add(self, stage, x, output_grid, output_type="int8"):
        """Adds one stage.

        Args:
            stage: `Stage`.
            x: `Tensor`, its input.
            output_grid: `Grid` of the output of a convolution without a
                QuantReLU: the logits. Unused by the others.
            output_type: String, the type of the logits.

        Returns:
            `Tensor`, its output.
        """
        if stage.kind == "max_pool":
            y = self._max_pool(stage, x)
        elif stage.kind == "pad":
            y = self._pad(stage, x)
        elif stage.kind == "softmax":
            y = self._tensor(stage.layer.name, x.shape, SOFTMAX_GRID)
            self.writer.add_operator(
                "SOFTMAX", [x.index], [y.index], "SoftmaxOptions", beta=1.0
            )
        elif stage.kind == "reshape":
            y = x
        else:
            y = self._convolution(stage, x, output_grid, output_type)
        return self.reshape(y, stage.output_shape, stage.layer.name)

    def reshape(self, x, shape, name):
        """Gives a tensor another shape, where it has not got it already."""
        shape = (self.batch_size, *shape)
        if x.shape == shape:
            return x
        y = self._tensor(f"{name}/reshape", shape, x.grid, x.dtype)
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

    def _max_pool(self, stage, x):
        height, width = stage.window
        strides = stage.strides
        shape = self._spatial(stage, x.shape[-1])
        y = self._tensor(stage.layer.name, shape, x.grid)
        self.writer.add_operator(
            "MAX_POOL_2D",
            [x.index],
            [y.index],
            "Pool2DOptions",
            padding=getattr(stage.layer, "padding", "valid"),
            strideH=strides[0],
            strideW=strides[1],
            filterHeight=height,
            filterWidth=width,
        )
        return y

    def _pad(self, stage, x):
        amounts = np.int32([(0, 0), *stage.layer.padding, (0, 0)])
        shape = (self.batch_size, *stage.output_shape)
        y = self._tensor(stage.layer.name, shape, x.grid)
        padding = self.writer.add_constant(
            f"{stage.layer.name}/padding", amounts, "int32"
        )
        self.writer.add_operator(
            "PAD", [x.index, padding], [y.index], "PadOptions"
        )
        return y

    def _spatial(self, stage, channels):
        """The output shape with height and width, also of global pooling."""
        height, width = (1, 1)
        if len(stage.output_shape) == 3:
            height, width = stage.output_shape[:2]
        return (self.batch_size, height, width, channels)

    def _convolution(self, stage, x, output_grid, output_type):
        trained = read_trained(stage)
        levels = 0
        if stage.relu is not None:
            levels = activations.largest_level(stage.relu.bits)
            output_grid = arithmetic.code_grid(
                read_alpha(stage.relu), stage.relu.bits
            )
        elif stage.kind == "average":
            output_grid = self._average_grid(stage, x, len(trained.codes))
        if output_type == "int16" and not levels and stage.kind == "dense":
            x = self._widen(x, stage.layer.name)

        weight_type = self._weight_type(trained.bits)
        limit = arithmetic.LARGEST_WEIGHT[weight_type]
        largest = 1
        if trained.bits is not None:
            largest = projections.largest_code(trained.bits)
        roundings = (arithmetic.ONCE, arithmetic.TWICE)
        if weight_type == "int4" and stage.kind != "dense":
            # No kernel set has int4 convolutions that round once.
            roundings = (arithmetic.TWICE,)
        weights = arithmetic.quantize_weights(
            trained.codes,
            trained.slope,
            trained.constant,
            x.grid,
            output_grid,
            limit // largest,
            levels,
            roundings,
        )
        self._check_accumulator(stage, weights)
        self.rows.append(_row(stage, trained, weights))
        return self._emit(stage, x, output_grid, weights, weight_type)

    def _average_grid(self, stage, x, count):
        grid = arithmetic.average_grid(x.grid, count)
        if grid.scale * count > 1.001 * x.grid.scale:
            self.notes.append(
                f"{stage.layer.name} rounds: its mean of {count} codes has "
                "more than 256 values."
            )
        return grid

    def _widen(self, x, name):
        """The same codes in 16 bits, with zero point 0."""
        wide = dataclasses.replace(
            x.grid,
            zero_point=0,
            low=x.grid.low - x.grid.zero_point,
            high=x.grid.high - x.grid.zero_point,
        )
        y = self._tensor(f"{name}/int16", x.shape, wide, "int16")
        self.writer.add_operator(
            "QUANTIZE", [x.index], [y.index], "QuantizeOptions"
        )
        return y

    def _weight_type(self, bits):
        if bits is None or bits > 4 or self.weight_format == "int8":
            return "int8"
        return "int4"

    def _check_accumulator(self, stage, weights):
        largest = 256 * np.abs(weights.values.astype(np.int64)).sum(axis=0)
        largest = np.max(largest + np.abs(weights.bias))
        if largest >= 2**31:
            raise ValueError(
                f"The sums of layer '{stage.layer.name}' do not fit in 32 bits:"
                " it has too many inputs. Received: "
                f"{len(weights.values)} inputs for each output"
            )

    def _emit(self, stage, x, grid, weights, weight_type):
        """Writes the tensors and the operator of one convolution."""
        layer = stage.layer
        name, kind = layer.name, _OPERATORS[stage.kind]
        channels = len(weights.scale)
        if kind == "FULLY_CONNECTED":
            values, axis = weights.values.T, 0
            shape = (self.batch_size, channels)
        else:
            x, shape = self._with_height_and_width(stage, x, channels)
            height, width = stage.window
            if kind == "CONV_2D":
                inputs = len(weights.values) // (height * width)
                values = weights.values.T.reshape(
                    channels, height, width, inputs
                )
                axis = 0
            else:
                values = weights.values.reshape(1, height, width, channels)
                axis = 3
        kernel = self.writer.add_constant(
            f"{name}/weights", values, weight_type, weights.scale, axis
        )
        bias = self.writer.add_constant(
            f"{name}/bias",
            weights.bias,
            "int64" if x.dtype == "int16" else "int32",
            np.float32(x.grid.file_scale) * weights.scale,
        )
        y = self._tensor(name, shape, grid, x.dtype)
        table, settings = _options(stage, x.shape, channels)
        if stage.relu is not None:
            settings["fusedActivationFunction"] = "relu"
        self.writer.add_operator(
            kind, [x.index, kernel, bias], [y.index], table, **settings
        )
        return y

    def _with_height_and_width(self, stage, x, channels):
        if len(x.shape) == 4:
            return x, self._spatial(stage, channels)
        # A QuantReLU of its own on a tensor of any rank.
        count = int(np.prod(x.shape[1:-1]))
        x = self.reshape(x, (1, count, channels), f"{stage.layer.name}/input")
        return x, x.shape


def _options(stage, input_shape, channels):
    """The options table of a convolution and its fields."""
    if stage.kind == "dense":
        return "FullyConnectedOptions", {}
    layer = stage.layer
    dilation = getattr(layer, "dilation_rate", (1, 1))
    settings = {
        # The "same" of an average was checked to pad nothing.
        "padding": layer.padding if stage.is_convolution else "valid",
        "strideH": stage.strides[0],
        "strideW": stage.strides[1],
        "dilationHFactor": dilation[0],
        "dilationWFactor": dilation[1],
    }
    if stage.kind == "conv":
        return "Conv2DOptions", settings
    settings["depthMultiplier"] = channels // input_shape[-1]
    return "DepthwiseConv2DOptions", settings


def _row(stage, trained, weights):
    relu = stage.relu
    return LayerReport(
        name=stage.layer.name,
        op=_OPERATORS[stage.kind],
        weight_bits=trained.bits,
        weight_scale=(float(weights.scale.min()), float(weights.scale.max())),
        activation_bits=None if relu is None else relu.bits,
        alpha=None if relu is None else read_alpha(relu),
        multiplier=weights.mult,
        flips=weights.flips,
        constant=weights.constant,
        thresholds=weights.thresholds,
        exact=weights.exact,
        exact_by_default=weights.exact_first,
    )
