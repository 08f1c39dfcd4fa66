"""Moves a trained model onto the grid of its integer file.

Where a tensor has 256 codes (a residual branch, a QuantIdentity) the integer
bias of the file, and with 8-bit weights its coarse accumulator, cannot put
every threshold where training left it (`bias_intervals`). A code that is off
by one does no harm by itself, but a deep network with few bits amplifies it
from layer to layer. Here the model is moved instead: gamma and beta of each
batch normalization change, by parts of a thousand, until in the integers of
the file no sum lies where kernels or floating point could disagree. Then model
and file compute the same codes.
"""

import dataclasses

import keras
import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export.channel_search import Channels
from keras_bcgd.export.places import Places
from keras_bcgd.export.trained_values import output_map
from keras_bcgd.export.trained_values import read_trained

# So many channels decide on the scale of a kernel that they share.
_MOST_CHANNELS = 256
# With more levels no other slope of the file alone fits them all.
_MOST_LEVELS_SEARCHED = 63


@dataclasses.dataclass
class Alignment:
    """How far one layer was moved.

    Attributes:
        name: String, the layer with the weights, or that with the alpha.
        slope_change: Float, the largest relative change of a gamma.
        shift: Float, the largest change of an output, in steps of its grid,
            beside that of the slope.
        default_risk: Float, the expected share of outputs for which the
            default kernels could still give the next code, if sums are
            normally distributed.
        risk: Float, the same for some kernel.
        channels: Int, how many channels were moved.
        alpha_change: Float, the relative change of an alpha
            (`alpha_alignment`).
    """

    name: str
    slope_change: float = 0.0
    shift: float = 0.0
    default_risk: float = 0.0
    risk: float = 0.0
    channels: int = 0
    alpha_change: float = 0.0


def align(planned):
    """Moves the layers of one operator.

    Args:
        planned: `steps.WeightedStep`.

    Returns:
        `Alignment`, or `None`: there is nothing to move.
    """
    node = planned.node
    gamma, beta = _variables(node)
    if beta is None or not planned.output.levels:
        return None
    shared_change = 0.0
    if gamma is None and node.norm is None and node.has_codes:
        shared_change = _align_kernel(planned)
    scale = planned.output.grid.scale
    gap = planned.output.boundaries[0] - planned.output.thresholds[0]
    trained = read_trained(node)
    unit, constant = _units(planned, trained)
    alive = (unit > scale / 2.0**22) & np.any(trained.codes, axis=0)
    # Of the outputs, as the file rounds them, in units of the accumulator.
    center, spread = _distribution(node)
    slope, shift = output_map(node)  # of a hard sigmoid
    center, spread = slope * center + shift, slope * spread
    center = center + planned.output.shift + gap * scale
    weights = arithmetic.quantize_weights(
        trained,
        planned.grid,
        planned.output,
        planned.mult,
        planned.roundings,
        search=planned.output.levels <= _MOST_LEVELS_SEARCHED,
    )
    start = (constant + gap * scale) / np.where(alive, unit, 1.0)
    index = np.flatnonzero(alive)
    channels = Channels(
        planned,
        step=scale / unit[index],
        bias=start[index],
        center=center[index] / unit[index],
        spread=spread[index] / unit[index],
    )
    at_risk = ~weights.is_exact[index] | channels.float_decides(gap)
    moved, places = channels.search(np.flatnonzero(at_risk), gamma is not None)
    moved = index[moved]
    if not len(moved) and not shared_change:
        return None
    found = Places.empty(len(unit))
    found.put(moved, places)
    if gamma is not None:
        gamma.assign(keras.ops.convert_to_numpy(gamma) / (1 + found.change))
    is_moved = np.isin(np.arange(len(unit)), moved)
    unit, now = _units(planned, read_trained(node))
    shift = np.where(is_moved, found.bias * unit - gap * scale - now, 0.0)
    beta.assign(keras.ops.convert_to_numpy(beta) + shift / slope)
    moves = np.abs(found.bias - start) * unit * is_moved
    return Alignment(
        name=node.layer.name,
        slope_change=float(max(abs(shared_change), np.abs(found.change).max())),
        shift=float(np.max(moves) / scale),
        default_risk=float(found.default_risk.mean()),
        risk=float(found.risk.mean()),
        channels=len(moved),
    )


def _align_kernel(planned):
    """Moves the scale of a kernel without batch normalization behind it.

    All its channels have one slope: with the right ratio of scales each finds
    a bias.

    Returns:
        Float, the relative change of the scale.
    """
    node = planned.node
    trained = read_trained(node)
    unit, constant = _units(planned, trained)
    alive = (unit > 0) & np.any(trained.codes, axis=0)
    if not np.any(alive) or np.ptp(unit[alive]) > 1e-6 * unit[alive].max():
        return 0.0  # one scale for each channel
    step = planned.output.grid.scale / unit[alive][0]
    bias = np.unique(constant[alive] / unit[alive])[:_MOST_CHANNELS]
    channels = Channels(
        planned,
        step=np.full(len(bias), step),
        bias=bias,
        center=np.zeros(len(bias)),
        spread=np.full(len(bias), np.inf),
    )
    changes = np.append(0.0, channels.ratios(0))
    changes = changes[np.argsort(np.abs(changes), kind="stable")]
    risks = sum(channels.least_risks(c, changes) for c in range(len(bias)))
    change = float(changes[np.argmin(risks)])
    if change:
        node.layer.kernel.assign(
            keras.ops.convert_to_numpy(node.layer.quantized_kernel)
            / (1 + change)
        )
        node.layer.kernel_is_quantized.assign(node.layer.kernel_projection.mark)
        node.kernel = None  # to be read again
    return change


def _variables(node):
    """gamma and beta, or what there is in their place; `None`: nothing."""
    if not node.is_convolution:
        return None, None
    if node.norm is not None:
        norm = node.norm
        return norm.gamma if norm.scale else None, norm.beta
    return None, node.layer.bias if node.layer.use_bias else None


def _units(planned, trained):
    """What one unit of the accumulator is, and the constant to be reached."""
    constant = arithmetic.shifted_constant(
        trained, planned.grid, planned.output
    )
    return np.abs(trained.slope) * planned.grid.scale / planned.mult, constant


def _distribution(node):
    """Mean and deviation of each channel, as batch normalization leaves it."""
    gamma, beta = _variables(node)
    beta = np.float64(keras.ops.convert_to_numpy(beta))
    if node.norm is None:
        return beta, np.full(beta.shape, np.inf)
    if gamma is None:
        return beta, np.ones(beta.shape)
    return beta, np.abs(np.float64(keras.ops.convert_to_numpy(gamma)))
