"""How far a code may be from the model's value, derived from the file."""

import types

import numpy as np
import pytest

from keras_bcgd.tflite import reader
from keras_bcgd.tflite.writer import TFLiteWriter
from keras_bcgd.verification.tolerance import tolerance


def tensor(name, scale, dtype="int8", data=None):
    scales = np.atleast_1d(np.float32(scale))
    return types.SimpleNamespace(
        name=name, scales=scales, dtype=dtype, data=data, shape=(1, 5)
    )


def file_of(*operators):
    """`(name, inputs, output)` each."""
    return types.SimpleNamespace(
        operators=[
            types.SimpleNamespace(name=name, inputs=inputs, outputs=[output])
            for name, inputs, output in operators
        ]
    )


def dense(step, dtype="int8"):
    """A dense layer with `step` units of the accumulator in a step."""
    output = tensor("y", 1.0, dtype)
    inputs = [
        tensor("x", 1.0, dtype),
        tensor("w", [1 / step, 0.5 / step], data=np.zeros(1)),
    ]
    return file_of(("FULLY_CONNECTED", inputs, output)), output


@pytest.mark.parametrize("step", [3.0, 100.0, 1000.0])
def test_of_kernels_that_round_once(step):
    file, output = dense(step)
    allowed = tolerance(file, output, "xnnpack", 0.0)
    assert allowed == pytest.approx(1e-3 + 0.5 / step)


@pytest.mark.parametrize(
    "step, early", [(3.0, 1 / 4), (100.0, 1 / 128), (0.9, 0.0)]
)
def test_of_kernels_that_round_twice(step, early):
    """To 2**-s of a step first, where 2**s units are in a step, or more."""
    file, output = dense(step)
    for kernels in ("builtin", "reference", "micro"):
        allowed = tolerance(file, output, kernels, 0.0)
        # The second channel has twice the units, and is less early.
        assert allowed == pytest.approx(1e-3 + 0.5 / step + early)


def test_ratios_of_15_bits_are_exact_in_16_bits():
    exact, output = dense(1024.0, "int16")
    assert tolerance(exact, output, "xnnpack", 0.0) == pytest.approx(
        1e-3 + 0.5 / 1024
    )
    rounded, output = dense(1000.0, "int16")
    allowed = tolerance(rounded, output, "xnnpack", 32767.0)
    # 1 / 1000 in 15 bits: 33554 / 2**25 by hand, or by NumPy.
    fraction, _ = np.frexp(1 / 1000)
    error = abs(np.round(fraction * 2**15) / 2**15 / fraction - 1)
    assert allowed > 32767 * 0.9 * error
    assert allowed < 1.0


def test_noise_of_floating_point_grows_with_the_outputs():
    file, output = dense(1024.0, "int16")
    small, large = (
        tolerance(file, output, "xnnpack", size) for size in (0.0, 30000.0)
    )
    assert large - small == pytest.approx(0.03)


def test_through_what_passes_codes_on():
    file, output = dense(100.0)
    shaped = tensor("z", 1.0)
    file.operators.append(
        types.SimpleNamespace(name="RESHAPE", inputs=[output], outputs=[shaped])
    )
    assert tolerance(file, shaped, "builtin", 0.0) == tolerance(
        file, output, "builtin", 0.0
    )


def test_of_what_is_not_known():
    output = tensor("y", 1.0)
    file = file_of(("SVDF", [tensor("x", 1.0)], output))
    assert tolerance(file, output, "xnnpack", 0.0) == 0.05


@pytest.mark.parametrize("kernels", ["xnnpack", "reference", "micro"])
def test_of_weights_in_tables(kernels):
    """That of the same weights as int8: it follows from the scales."""
    found = []
    for dtype in ("int8", "lut"):
        writer = TFLiteWriter("dense")
        x = writer.add_tensor("x", (1, 64), "int8", 0.5)
        matrix = np.resize(np.int8([-127, 127]), (32, 64))
        w = writer.add_constant("w", matrix, dtype, [0.01])
        y = writer.add_tensor("y", (1, 32), "int8", 0.25)
        writer.add_operator("FULLY_CONNECTED", [x, w, -1], [y])
        file = reader.parse(writer.finish({"x": x}, {"y": y}))
        assert len(file.operators) == (1 if dtype == "int8" else 2)
        found.append(tolerance(file, file.outputs[0], kernels, 100.0))
    assert found[0] == found[1] != 0.05 + 100e-6
