"""Where a bias fits, against the thresholds of the runtime's kernels."""

import numpy as np
import pytest

from keras_bcgd.export import bias_intervals
from keras_bcgd.tflite.runner import load_interpreter
from keras_bcgd.tflite.writer import TFLiteWriter


def run_ones(step, bias, kernels, name="CONV_2D", stride=1):
    """The codes of 1x1 convolutions with all 256 inputs, for each D and bias.

    Or of dense layers. The sums are the inputs plus the bias, one output
    channel for each.
    """
    writer = TFLiteWriter("ones")
    channels = len(step)
    is_dense = name == "FULLY_CONNECTED"
    shape = (256, 1) if is_dense else (1, 16, 16, 1)
    x = writer.add_tensor("x", shape, "int8", 1.0, 0)
    scale = np.float32(1 / step)
    ones = np.ones((channels, *[1] * (len(shape) - 1)), np.int8)
    kernel = writer.add_constant("kernel", ones, "int8", scale, 0)
    bias = writer.add_constant("bias", bias, "int32", scale)
    size = 16 * stride
    ends = (256, channels) if is_dense else (1, size, size, channels)
    y = writer.add_tensor("y", ends, "int8", 1.0, 0)
    settings = {"padding": "same", "strideH": stride, "strideW": stride}
    if is_dense:
        inputs, options, settings = [x, kernel, bias], None, {}
    elif name == "CONV_2D":
        settings |= {"dilationHFactor": 1, "dilationWFactor": 1}
        inputs, options = [x, kernel, bias], "Conv2DOptions"
    else:
        size = writer.add_constant("size", ends, "int32")
        inputs, options = [size, kernel, x, bias], "TransposeConvOptions"
    writer.add_operator(name, inputs, [y], options, **settings)
    contents = writer.finish({"x": x}, {"y": y})
    runtime = load_interpreter(contents, kernels)
    codes = np.arange(-128, 128, dtype=np.int8).reshape(shape)
    runtime.set_tensor(runtime.get_input_details()[0]["index"], codes)
    runtime.invoke()
    y = runtime.get_tensor(runtime.get_output_details()[0]["index"])
    if is_dense:
        return y.astype(int)
    # Of a stride each input reaches one output, others are the bias.
    return y[:, ::stride, ::stride].reshape(256, channels).astype(int)


@pytest.mark.parametrize(
    "kernels, rounding",
    bias_intervals.OF_KERNELS.items(),
)
@pytest.mark.parametrize("largest", [4, 90, 3000])
@pytest.mark.parametrize(
    "name, stride",
    [
        ("CONV_2D", 1),
        ("FULLY_CONNECTED", 1),
        ("TRANSPOSE_CONV", 1),
        ("TRANSPOSE_CONV", 2),
    ],
)
def test_thresholds_of_the_runtime_are_in_their_zones(
    name, stride, largest, kernels, rounding
):
    """Outside of the zone of a threshold its code is certain."""
    if kernels == "micro":
        pytest.importorskip(
            "tflite_micro", reason="needs: pip install keras-bcgd[micro]"
        )
    if name == "FULLY_CONNECTED" and kernels == "reference":
        rounding = bias_intervals.ONCE  # in float64
    if stride > 1 and kernels == "xnnpack":
        # Where a window is smaller than the stride, with padding "same".
        rounding = bias_intervals.TWICE_UP
    rng = np.random.default_rng(0)
    step = rng.uniform(largest / 4, largest, 400)
    step = 1 / np.float64(np.float32(1 / step))
    # So that the sums pass thresholds below and above 0.
    bias = np.round(rng.uniform(-120, 120, 400) * step).astype(np.int64)
    codes = run_ones(step, bias, kernels, name, stride)
    total = np.arange(-128, 128)[:, None] + bias

    boundaries = np.arange(-127, 127) + 0.5
    ends = bias_intervals.zones(boundaries, step, (rounding,))
    earliest, latest = (end * step[:, None] for end in ends)
    certain = np.clip(codes, -127, 127)
    level = certain[..., None] > boundaries
    assert not np.any(level & (total[..., None] < earliest))
    assert not np.any(~level & (total[..., None] > latest))
    assert np.sum(level[1:] != level[:-1]) > 20
    # Nor is the zone wider than floating point and two roundings ask for.
    assert np.all(latest - earliest < 1e-3 * step[:, None])
