"""The scale of the outputs that no QuantReLU quantizes."""

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import trained

# What lies so far below the largest logit adds e**-8 to a softmax.
_SOFTMAX_DEPTH = 8.0


def logits_grid(node, grid, samples, output_type, feeds_softmax):
    """The grid of the logits, from data or from bounds that always hold.

    In int8 it spans the logits that decide: from the smallest runner-up of a
    sample to the largest logit; smaller ones saturate.

    Args:
        node: `graph.Node` that computes them.
        grid: `Grid` of its input.
        samples: Array of logits of representative data, or `None`.
        output_type: String: `"int8"`, or `"int16"`.
        feeds_softmax: Boolean. Whether a softmax follows, to which smaller
            logits matter as well.

    Returns:
        `Grid`.
    """
    step = 0.0
    logits = samples
    if node.kind != "add":
        real = trained.read_trained(node)
        step = np.abs(real.slope).max() * grid.scale
        if samples is None:
            logits, highs = arithmetic.output_range(
                real.codes, real.slope, real.constant, grid
            )
    high = logits.max() if samples is not None else highs.max()

    if output_type == "int16":
        largest = max(abs(logits.min()), abs(high), 1e-6)
        return arithmetic.Grid(1.05 * largest / 32767, 0, -32768, 32767)
    if feeds_softmax:
        largest = logits.max(axis=-1, keepdims=True)
        low = np.maximum(logits, largest - _SOFTMAX_DEPTH).min()
    elif logits.shape[-1] > 1:
        low = np.sort(logits, axis=-1)[..., -2].min()
    else:
        low = logits.min()
    margin = 0.02 * (high - low)
    return arithmetic.range_grid(low - margin, high + margin, step)
