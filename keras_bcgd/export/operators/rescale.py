"""A Rescaling or Normalization at the input.

Of one factor for all channels: the same codes, read differently. Else a
DEPTHWISE_CONV_2D of size 1.
"""

import dataclasses

import keras
import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export import columns
from keras_bcgd.export.operators import convolution
from keras_bcgd.export.steps import Step
from keras_bcgd.export.steps import WeightedStep
from keras_bcgd.export.trained_values import read_rescaling
from keras_bcgd.export.trained_values import read_trained


def make_step(node, inputs, plan):
    """The step of a rescaling."""
    (x,) = inputs
    slopes, constants = read_rescaling(node)
    slope, constant = np.unique(slopes), np.unique(constants)
    if slope.size == constant.size == 1 and slope[0] > 0:
        grid = dataclasses.replace(
            x.grid,
            scale=x.grid.scale * slope[0],
            offset=x.grid.offset * slope[0] + constant[0],
            stored=x.grid.file_scale,
        )
        return Step(node, inputs, x, arithmetic.Output(grid))
    if isinstance(node.layer, keras.layers.Normalization):
        columns.check_normalization(node.layer, slopes, x.grid.scale)
    real = read_trained(node)
    ends = real.slope * x.grid.ends[:, None] + real.constant
    output = arithmetic.Output(arithmetic.range_grid(ends.min(), ends.max()))
    inexact = [
        f"{node.name} rescales each channel by its own numbers: its output "
        "is rounded to 8 bits, as training did not."
    ]
    return convolution.weighted_step(node, inputs, output, plan, inexact)


def write(step, inputs, file):
    """Adds the convolution, if there is one."""
    if isinstance(step, WeightedStep):
        return convolution.write(step, inputs, file)
    return dataclasses.replace(inputs[0], codes=step.hands_over)
