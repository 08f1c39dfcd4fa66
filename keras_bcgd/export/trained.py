"""What training left in a stage: codes, slopes, constants and alpha."""

import dataclasses

import keras
import numpy as np

from keras_bcgd.export import arithmetic


@dataclasses.dataclass
class Trained:
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


def read_trained(stage):
    """Reads a stage that multiplies by weights.

    Args:
        stage: `Stage`.

    Returns:
        `Trained`.

    Raises:
        ValueError: If a weight is not finite; names its layer.
    """
    if not stage.is_convolution:
        return _mean(stage)
    layer = stage.layer
    _finite(layer, "kernel", layer.quantized_kernel)
    scale, codes = layer.kernel_scale_and_codes()
    bias = _finite(layer, "bias", layer.bias) if layer.use_bias else None
    norm = None if stage.norm is None else _read_norm(stage.norm)
    # Channels last; those of a depthwise kernel are (channel, multiplier).
    channels = codes.shape[-1]
    if stage.kind == "depthwise":
        channels *= codes.shape[-2]
    codes = codes.astype(np.int64).reshape(-1, channels)
    slope, constant = arithmetic.fold(scale, bias, norm, channels)
    return Trained(codes, slope, constant, layer.bits)


def _mean(stage):
    """The mean over a window: of one value under a QuantReLU of its own."""
    channels = stage.input_shape[-1]
    count = int(np.prod(stage.window))
    return Trained(
        codes=np.ones((count, channels), np.int64),
        slope=np.full(channels, 1 / count),
        constant=np.zeros(channels),
        bits=None,
    )


def _read_norm(layer):
    mean = _finite(layer, "moving_mean", layer.moving_mean)
    variance = _finite(layer, "moving_variance", layer.moving_variance)
    if np.any(variance + layer.epsilon <= 0):
        raise ValueError(
            f"The moving_variance of layer '{layer.name}' must not be below 0."
            f" Received: a smallest value of {variance.min()}"
        )
    gamma, beta = np.ones_like(mean), np.zeros_like(mean)
    if layer.scale:
        gamma = _finite(layer, "gamma", layer.gamma)
    if layer.center:
        beta = _finite(layer, "beta", layer.beta)
    return {
        "gamma": gamma,
        "beta": beta,
        "mean": mean,
        "variance": variance,
        "epsilon": layer.epsilon,
    }


def read_alpha(layer):
    """alpha of a QuantReLU, finite and above 0."""
    alpha = float(_finite(layer, "alpha", layer.alpha))
    if alpha <= 0:
        raise ValueError(
            f"The alpha of layer '{layer.name}' must be above 0. "
            f"Received: alpha={alpha}"
        )
    return alpha


def _finite(layer, name, weight):
    values = np.float64(keras.ops.convert_to_numpy(weight))
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"The {name} of layer '{layer.name}' ({type(layer).__name__}) must "
            f"be finite. Received: {np.sum(~np.isfinite(values))} of "
            f"{values.size} values NaN or infinite; was training stable?"
        )
    return values
