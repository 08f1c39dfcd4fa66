"""Turns the stages of a model into the operators of a TFLite file."""

import dataclasses

import numpy as np
from keras import ops

from keras_bcgd import activations
from keras_bcgd import projections
from keras_bcgd.export import arithmetic
from keras_bcgd.export.report import LayerReport

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


@dataclasses.dataclass
class Trained:
    """What training left in a stage that multiplies by weights.

    Attributes:
        codes: int64 array of shape `(inputs, channels)`.
        slope: float64 array of shape `(channels,)`.
        constant: float64 array of shape `(channels,)`.
        bits: Int, or `None` where the weights are ones.
    """

    codes: np.ndarray
    slope: np.ndarray
    constant: np.ndarray
    bits: int | None


def read_trained(stage):
    """The codes, slopes and constants of a stage, checked to be finite."""
    if not stage.is_convolution:
        return _unit_weights(stage)
    layer = stage.layer
    _check_finite(layer, kernel=layer.quantized_kernel)
    scale, codes = layer.kernel_scale_and_codes()
    bias = norm = None
    if layer.use_bias:
        (bias,) = _check_finite(layer, bias=layer.bias)
    if stage.norm is not None:
        norm = _read_norm(stage.norm)
    # With channels last; those of a depthwise kernel are (channel, multiple).
    channels = codes.shape[-1]
    if stage.kind == "depthwise":
        channels *= codes.shape[-2]
    codes = codes.astype(np.int64).reshape(-1, channels)
    slope, constant = arithmetic.fold(scale, bias, norm, channels)
    return Trained(codes, slope, constant, layer.bits)


def _unit_weights(stage):
    """The mean over a window, or of one value, as a depthwise convolution."""
    channels = stage.input_shape[-1]
    count = int(np.prod(window(stage)))
    return Trained(
        codes=np.ones((count, channels), np.int64),
        slope=np.full(channels, 1 / count),
        constant=np.zeros(channels),
        bits=None,
    )


def _read_norm(layer):
    mean, variance = _check_finite(
        layer,
        moving_mean=layer.moving_mean,
        moving_variance=layer.moving_variance,
    )
    channels = len(mean)
    gamma, beta = np.ones(channels), np.zeros(channels)
    if layer.scale:
        (gamma,) = _check_finite(layer, gamma=layer.gamma)
    if layer.center:
        (beta,) = _check_finite(layer, beta=layer.beta)
    if np.any(variance + layer.epsilon <= 0):
        raise ValueError(
            f"The moving_variance of layer '{layer.name}' must not be below 0."
            f" Received: a smallest value of {variance.min()}"
        )
    return {
        "gamma": gamma,
        "beta": beta,
        "mean": mean,
        "variance": variance,
        "epsilon": layer.epsilon,
    }


def read_alpha(layer):
    """alpha of a QuantReLU, checked."""
    (alpha,) = _check_finite(layer, alpha=layer.alpha)
    alpha = float(alpha)
    if alpha <= 0:
        raise ValueError(
            f"The alpha of layer '{layer.name}' must be above 0. "
            f"Received: alpha={alpha}"
        )
    return alpha


def _check_finite(layer, **weights):
    arrays = []
    for name, weight in weights.items():
        array = np.float64(ops.convert_to_numpy(weight))
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"The {name} of layer '{layer.name}' "
                f"({type(layer).__name__}) must be finite. Received: "
                f"{np.sum(~np.isfinite(array))} of {array.size} values NaN or "
                "infinite; was training stable?"
            )
        arrays.append(array)
    return arrays


def window(stage):
    """Height and width of what a stage sees at once."""
    if stage.kind == "relu":
        return (1, 1)
    if hasattr(stage.layer, "pool_size"):
        return tuple(stage.layer.pool_size)
    if hasattr(stage.layer, "kernel_size"):
        return tuple(stage.layer.kernel_size)
    return tuple(stage.input_shape[:2])  # global pooling


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
        height, width = window(stage)
        strides = getattr(stage.layer, "strides", (1, 1))
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
        shape = np.add(x.shape, amounts.sum(axis=1))
        y = self._tensor(stage.layer.name, map(int, shape), x.grid)
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
            alpha = read_alpha(stage.relu)
            output_grid = arithmetic.code_grid(alpha, stage.relu.bits)
        elif stage.kind == "average":
            count = len(trained.codes)
            output_grid = arithmetic.average_grid(x.grid, count)

        if output_type == "int16" and not levels and stage.kind == "dense":
            x = self._widen(x, stage.layer.name)
        weight_type = self._weight_type(trained.bits)
        limit = arithmetic.LARGEST_WEIGHT[weight_type]
        roundings = (arithmetic.ONCE, arithmetic.TWICE)
        if weight_type == "int4" and stage.kind != "dense":
            # No kernel set has int4 convolutions that round once.
            roundings = (arithmetic.TWICE,)
        largest = 1
        if trained.bits is not None:
            largest = projections.largest_code(trained.bits)
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
            height, width = window(stage)
            if kind == "CONV_2D":
                inputs = len(weights.values) // (height * width)
                values = weights.values.T.reshape(channels, -1, inputs)
                values = values.reshape(channels, height, width, inputs)
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
    strides = tuple(getattr(layer, "strides", (1, 1)))
    dilation = getattr(layer, "dilation_rate", (1, 1))
    # With a padding that never pads, "valid" is the same; it also fits the
    # pooling layers, whose "same" was checked.
    padding = getattr(layer, "padding", "valid")
    settings = {
        "padding": padding if stage.is_convolution else "valid",
        "strideH": strides[0],
        "strideW": strides[1],
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
