"""What training left in a node: codes, slopes, constants and alpha."""

import dataclasses

import keras
import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.layers import NegativeSlope
from keras_bcgd.network.trained import read_alpha
from keras_bcgd.network.trained import read_weight


@dataclasses.dataclass
class LinearMap:
    """A convolution with its batch normalization, in real numbers.

    Each output is `slope * sum(codes * x) + constant`.

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


def output_map(node):
    """`(slope, constant)` of what a quantizer does before it rounds."""
    quantizer = node.quantizer
    if quantizer is not None and quantizer.kind == "hard_sigmoid":
        return 1 / 6, 0.5
    return 1.0, 0.0


def read_trained(node):
    """Reads a node that multiplies by weights.

    Args:
        node: `node.Node` of a kind in `node.WEIGHTED` or `"rescale"`.

    Returns:
        `LinearMap`.

    Raises:
        ValueError: If a weight is not finite; names its layer.
    """
    linear = _read_linear(node)
    slope, constant = output_map(node)
    linear.slope = linear.slope * slope
    linear.constant = linear.constant * slope + constant
    return linear


def _read_linear(node):
    if node.kind == "average":
        return _mean(node)
    if node.kind == "affine":
        return _affine(node)
    if node.kind == "rescale":
        slope, constant = read_rescaling(node)
        return _ones(node, 1, slope, constant)
    layer = node.layer
    scale, codes = read_kernel(node)
    bias = read_weight(layer, "bias", layer.bias) if layer.use_bias else None
    norm = None if node.norm is None else _read_norm(node.norm)
    # Channels last; those of a depthwise kernel are (channel, multiplier).
    channels = codes.shape[-1]
    if node.kind == "depthwise":
        channels *= codes.shape[-2]
    codes = codes.astype(np.int64).reshape(-1, channels)
    slope, constant = arithmetic.fold(scale, bias, norm, channels)
    codes = np.tile(codes, (node.parts, 1))
    return LinearMap(codes, slope / node.parts, constant, node.bits)


def read_kernel(node):
    """`(scale, codes)` of a kernel; once read, the node keeps them.

    The output channels come last.
    """
    if node.kernel is None:
        kernel = read_weight(node.layer, "kernel", node.layer.kernel)
        if node.has_codes:
            scale, codes = node.layer.kernel_scale_and_codes()
            node.kernel = scale, _outputs_last(codes, node.kind)
        else:
            kernel = _outputs_last(kernel, node.kind)
            node.kernel = _round_to_8_bits(kernel, node.kind)
    return node.kernel


def _outputs_last(kernel, kind):
    """That of a transposed convolution has them before the inputs."""
    return np.moveaxis(kernel, -2, -1) if kind == "transposed" else kernel


def _round_to_8_bits(kernel, kind):
    """Float weights as codes up to 127, with one scale for each channel."""
    kept = 2 if kind == "depthwise" else 1
    axes = tuple(range(kernel.ndim - kept))
    scale = np.abs(kernel).max(axis=axes, keepdims=True) / 127
    scale = np.where(scale > 0, scale, 1.0)
    return scale, np.round(kernel / scale)


def _ones(node, count, slope=None, constant=0.0):
    """`count` weights of 1 for each channel: a mean without a slope."""
    channels = node.input_shape[-1]
    return LinearMap(
        codes=np.ones((count, channels), np.int64),
        slope=np.broadcast_to(1 / count if slope is None else slope, channels),
        constant=np.broadcast_to(np.float64(constant), channels),
        bits=None,
    )


def largest_weight(node):
    """The largest weight of a mean."""
    return int(np.max(getattr(node.layer, "codes", 1)))


def _mean(node):
    """A mean; that of a `WeightedMean` has other weights than 1."""
    codes = getattr(node.layer, "codes", None)
    if codes is None:
        return _ones(node, int(np.prod(node.window)))
    mean = _ones(node, codes.size, 1 / codes.sum())
    mean.codes = mean.codes * codes.reshape(-1, 1)
    return mean


def _affine(node):
    """A batch normalization, a quantizer, or slopes of its own."""
    if isinstance(node.layer, NegativeSlope):
        slopes = read_weight(node.layer, "slope", node.layer.stretched_slope)
        return _ones(node, 1, slopes)
    if node.norm is None:
        return _ones(node, 1)
    norm = _read_norm(node.norm)
    channels = node.input_shape[-1]
    slope, constant = arithmetic.fold(np.ones(1), None, norm, channels)
    return _ones(node, 1, slope, constant)


def read_rescaling(node):
    """`(slope, constant)` of a Rescaling or Normalization."""
    layer = node.layer
    if isinstance(layer, keras.layers.Rescaling):
        slope = read_weight(layer, "scale", layer.scale)
        constant = read_weight(layer, "offset", layer.offset)
    else:
        mean = read_weight(layer, "mean", layer.mean)
        variance = read_weight(layer, "variance", layer.variance)
        # As the layer does: its smallest divisor is Keras' epsilon.
        slope = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
        constant = -mean * slope
    channels = node.input_shape[-1]
    if slope.size not in (1, channels) or constant.size not in (1, channels):
        raise ValueError(
            f"Layer '{layer.name}' must rescale everything, or each channel, "
            f"by one number. Received: {slope.size} numbers for "
            f"{channels} channels"
        )
    return slope.reshape(-1), constant.reshape(-1)


def _read_norm(layer):
    mean = read_weight(layer, "moving_mean", layer.moving_mean)
    variance = read_weight(layer, "moving_variance", layer.moving_variance)
    if np.any(variance + layer.epsilon <= 0):
        raise ValueError(
            f"The moving_variance of layer '{layer.name}' must not be below 0."
            f" Received: a smallest value of {variance.min()}"
        )
    gamma, beta = np.ones_like(mean), np.zeros_like(mean)
    if layer.scale:
        gamma = read_weight(layer, "gamma", layer.gamma)
    if layer.center:
        beta = read_weight(layer, "beta", layer.beta)
    return {
        "gamma": gamma,
        "beta": beta,
        "mean": mean,
        "variance": variance,
        "epsilon": layer.epsilon,
    }


def read_output(quantizer):
    """What a quantizer that training knows rounds an output to.

    Args:
        quantizer: `node.Quantizer` of the kind `"staircase"`, `"branch"`,
            `"identity"` or `"hard_sigmoid"`.

    Returns:
        `arithmetic.Output`.
    """
    if quantizer.kind == "hard_sigmoid":
        return arithmetic.hard_sigmoid_output(quantizer.layer.bits)
    alpha = read_alpha(quantizer.layer)
    if quantizer.kind == "staircase":
        return arithmetic.staircase_output(alpha, quantizer.layer.bits)
    if quantizer.kind == "branch":
        return arithmetic.branch_output(
            alpha, quantizer.layer.bits, quantizer.half
        )
    ends = quantizer.layer.smallest_and_largest_code
    return arithmetic.identity_output(alpha, *ends)
