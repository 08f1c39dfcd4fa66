"""ONNX files of networks, and what two runtimes compute of them."""

import numpy as np
import pytest
from export_helpers import outputs_of

import keras_bcgd as kb

FORMATS = ("qonnx", "qcdq")


def to_first(x):
    return np.moveaxis(x, -1, 1) if np.ndim(x) > 2 else x


def to_last(x):
    return np.moveaxis(x, 1, -1) if np.ndim(x) > 2 else x


def run_file(path, x, format):
    """The outputs of a file with one input, a list.

    By onnxruntime; by the executor of `qonnx`, which has its operators.
    """
    x = np.float32(x)
    if format == "qcdq":
        runtime = pytest.importorskip("onnxruntime")
        return runtime.InferenceSession(path).run(None, {"input": x})
    wrapper = pytest.importorskip("qonnx.core.modelwrapper")
    executor = pytest.importorskip("qonnx.core.onnx_exec")
    model = wrapper.ModelWrapper(path)
    results = executor.execute_onnx(model, {"input": x})
    return [results[output.name] for output in model.graph.output]


def computed(model, tmp_path, x, format, **settings):
    """What the file of a model computes, channels last."""
    path = str(tmp_path / f"{format}.onnx")
    kb.export_onnx(model, path, format, batch_size=len(x), **settings)
    (y,) = run_file(path, to_first(x), format)
    return to_last(y)


def assert_same_codes(model, tmp_path, x, format):
    """The last quantizer's codes are those of Keras."""
    alpha = [layer.alpha for layer in model.layers if hasattr(layer, "alpha")]
    alpha = float(alpha[-1])
    expected = np.round(outputs_of(model, np.float32(x)) / alpha)
    assert len(np.unique(expected)) > 1
    codes = np.round(computed(model, tmp_path, x, format) / alpha)
    np.testing.assert_array_equal(codes, expected)


def nodes_of(path, kind=None):
    """The nodes of a file, or those of one operator."""
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(path).graph.node
    return [node for node in nodes if kind in (None, node.op_type)]


def constants_of(path):
    """The constants of a file, by name."""
    onnx = pytest.importorskip("onnx")
    return {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(path).graph.initializer
    }
