"""What an ONNX file says: nodes, constants, names, shapes, metadata."""

import sys

import keras
import numpy as np
import pytest
from export_helpers import grid_inputs
from export_helpers import outputs_of
from export_helpers import randomize
from export_networks import classifier
from onnx_helpers import FORMATS
from onnx_helpers import constants_of
from onnx_helpers import nodes_of
from onnx_helpers import run_file
from onnx_helpers import to_first

import keras_bcgd as kb

onnx = pytest.importorskip("onnx")
layers = keras.layers
MAP = (6, 5, 3)


def small(bits=4, activation_bits=4, **settings):
    model = keras.Sequential(
        [
            keras.Input(MAP),
            kb.QuantConv2D(4, 3, bits=bits, name="conv", **settings),
            kb.QuantReLU(activation_bits, name="relu"),
            layers.Flatten(),
            kb.QuantDense(2, bits=8, name="dense"),
        ]
    )
    return randomize(model)


def written(model, tmp_path, format, **settings):
    path = str(tmp_path / "model.onnx")
    return path, kb.export_onnx(model, path, format, **settings)


def attributes(node):
    return {
        one.name: onnx.helper.get_attribute_value(one) for one in node.attribute
    }


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_qonnx_kernels_are_codes_times_scale(tmp_path, bits):
    model = small(bits, per_channel=True)
    path, _ = written(model, tmp_path, "qonnx")
    kernel, *_ = nodes_of(path, "Quant")
    assert kernel.domain == "qonnx.custom_op.general"
    assert attributes(kernel) == {
        "signed": 1,
        "narrow": 1,
        "rounding_mode": b"ROUND",
    }
    weights, scale, zero_point, width = (
        constants_of(path)[name] for name in kernel.input
    )
    expected = np.transpose(model.layers[0].quantized_kernel, (3, 2, 0, 1))
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert scale.shape == (4, 1, 1, 1) and scale.dtype == np.float32
    assert zero_point == 0 and width == bits and width.shape == ()
    codes = weights / scale
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-5)
    assert np.abs(codes).max() <= max(1, 2 ** (bits - 1) - 1) + 1e-5


def test_qonnx_kernels_of_1_bit_are_bipolar(tmp_path):
    path, _ = written(small(bits=1), tmp_path, "qonnx")
    (kernel,) = nodes_of(path, "BipolarQuant")
    weights, scale = (constants_of(path)[name] for name in kernel.input)
    np.testing.assert_allclose(np.abs(weights), scale)


def test_qonnx_staircase_is_a_relu_and_an_unsigned_quant(tmp_path):
    """As FINN wants it, whose thresholds are those of rounding."""
    model = small(activation_bits=3)
    path, _ = written(model, tmp_path, "qonnx")
    nodes = {node.output[0]: node for node in nodes_of(path)}
    quant = nodes["relu"]
    assert attributes(quant)["signed"] == attributes(quant)["narrow"] == 0
    _, *parameters = (constants_of(path).get(name) for name in quant.input)
    alpha = np.float32(model.layers[1].alpha)
    assert [float(one) for one in parameters] == [alpha, 0, 3]
    relu = nodes[quant.input[0]]
    add = nodes[relu.input[0]]
    assert (relu.op_type, add.op_type) == ("Relu", "Add")
    half = constants_of(path)[add.input[1]]
    assert alpha * 0.499999 < half < alpha / 2


def test_qcdq_kernels_are_integers(tmp_path):
    model = small(bits=4, per_channel=True)
    path, _ = written(model, tmp_path, "qcdq")
    kernel = next(
        node
        for node in nodes_of(path, "DequantizeLinear")
        if node.output[0] == "conv/weights"
    )
    weights, scale, zero_point = (
        constants_of(path)[name] for name in kernel.input
    )
    assert weights.dtype == zero_point.dtype == np.int8
    expected_scale, codes = model.layers[0].kernel_scale_and_codes()
    np.testing.assert_array_equal(weights, np.transpose(codes, (3, 2, 0, 1)))
    np.testing.assert_allclose(scale, expected_scale.reshape(-1), rtol=1e-6)
    assert attributes(kernel) == {"axis": 0} and not zero_point.any()


def test_qcdq_uses_stock_operators_alone(tmp_path):
    path, _ = written(small(), tmp_path, "qcdq")
    model = onnx.load(path)
    assert [one.domain for one in model.opset_import] == [""]
    onnx.checker.check_model(model, full_check=True)
    staircase = {node.output[0]: node for node in model.graph.node}
    clip = staircase[staircase["relu"].input[0]]
    low, high = (constants_of(path)[name] for name in clip.input[1:])
    assert (low, high, low.dtype) == (0, 15, np.uint8)


def test_8_bits_need_no_clip(tmp_path):
    path, _ = written(small(activation_bits=8), tmp_path, "qcdq")
    assert not nodes_of(path, "Clip")


def test_qonnx_reads_qcdq_as_the_same_quantizers(tmp_path):
    """`qonnx` has a transformation between the two forms."""
    wrapper = pytest.importorskip("qonnx.core.modelwrapper")
    qcdq_to_qonnx = pytest.importorskip("qonnx.transformation.qcdq_to_qonnx")
    path, _ = written(small(activation_bits=3), tmp_path, "qcdq")
    model = wrapper.ModelWrapper(path)
    model = model.transform(qcdq_to_qonnx.QCDQToQuant())
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Quant") == 3 and "QuantizeLinear" not in kinds
    quant = next(n for n in model.graph.node if n.output[0] == "relu")
    assert model.get_initializer(quant.input[3]) == 3


@pytest.mark.parametrize("format", FORMATS)
def test_shapes_of_all_tensors_are_those_of_the_runtime(tmp_path, format):
    path, _ = written(small(), tmp_path, format)
    model = onnx.load(path)
    named = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.output)
    }
    made = {name for node in model.graph.node for name in node.output}
    assert made == set(named)
    if format == "qcdq":
        runtime = pytest.importorskip("onnxruntime")
        for value in list(model.graph.value_info):
            model.graph.output.append(value)
        session = runtime.InferenceSession(model.SerializeToString())
        x = np.zeros((1, 3, 6, 5), np.float32)
        names = [output.name for output in session.get_outputs()]
        for name, y in zip(names, session.run(None, {"input": x}), strict=True):
            assert list(y.shape) == named[name], name


def test_kernel_of_zeros(tmp_path):
    """Its scale is 0, by which nothing can be divided."""
    for bits in (1, 4):
        model = keras.Sequential(
            [keras.Input((3,)), kb.QuantDense(2, bits=bits)]
        )
        model.layers[0].kernel.assign(np.zeros((3, 2)))
        for format in FORMATS:
            path, _ = written(model, tmp_path, format)
            (y,) = run_file(path, np.ones((1, 3)), format)
            np.testing.assert_array_equal(y, np.zeros((1, 2)))


def test_names_of_several_inputs_and_outputs(tmp_path):
    a = keras.Input((4,), name="left")
    b = keras.Input((4,), name="right")
    y = kb.QuantReLU(4, name="codes")(layers.Add(name="total")([a, b]))
    outputs = {"sum": kb.QuantDense(3, name="left_dense")(y), "codes": y}
    model = keras.Model([a, b], outputs)
    path, report = written(model, tmp_path, "qcdq", batch_size=2)
    assert report.inputs == {"left": (2, 4), "right": (2, 4)}
    assert report.outputs == {"codes": (2, 4), "sum": (2, 3)}
    x = {
        name: np.float32(grid_inputs((4,), 2, seed))
        for seed, name in enumerate(("left", "right"))
    }
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path)
    expected = model([x["left"], x["right"]])
    for name in ("sum", "codes"):
        (found,) = session.run([name], x)
        np.testing.assert_allclose(found, expected[name], atol=1e-6)


def test_an_output_that_is_an_input_or_another_output(tmp_path):
    x = keras.Input((4,))
    y = kb.QuantReLU(4)(x)
    model = keras.Model(x, [x, y, layers.Dropout(0.5)(y)])
    path, _ = written(model, tmp_path, "qcdq")
    x = np.float32(grid_inputs((4,), 1))
    outputs = run_file(path, x, "qcdq")
    for found, expected in zip(outputs, model(x), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("format", FORMATS)
def test_channels_last(tmp_path, format):
    """As Keras has maps, at the inputs and the outputs."""
    model = keras.Sequential(
        [keras.Input(MAP), kb.QuantConv2D(4, 3), kb.QuantReLU(4)]
    )
    path, report = written(
        model, tmp_path, format, data_format="channels_last", batch_size=2
    )
    assert report.inputs == {"input": (2, *MAP)}
    assert report.outputs == {"output": (2, 4, 3, 4)}
    x = np.float32(grid_inputs(MAP, 2))
    (y,) = run_file(path, x, format)
    np.testing.assert_allclose(y, outputs_of(model, x), atol=1e-6)


def test_labels(tmp_path):
    path, _ = written(small(), tmp_path, "qcdq", labels=["a cat", "a dog"])
    (entry,) = onnx.load(path).metadata_props
    assert (entry.key, entry.value) == ("labels", "a cat\na dog")


@pytest.mark.parametrize("format", FORMATS)
def test_report(tmp_path, format):
    model = classifier(bits=8)
    path, report = written(model, tmp_path, format, batch_size=None)
    with open(path, "rb") as file:
        assert report.file_bytes == len(file.read())
    rows = [(row.kind, row.bits, row.weights) for row in report.layers]
    assert rows == [
        ("QuantConv2D", 4, 216),
        ("QuantReLU", 4, None),
        ("QuantDense", 8, 2880),
    ]
    lines = str(report).splitlines()
    assert (
        lines[0] == f"{path}: {report.file_bytes:,} bytes, {format}, opset 13"
    )
    assert lines[1] == "  inputs: 'input' batch x 3 x 8 x 8"
    assert lines[2] == "  outputs: 'output' batch x 10"
    assert lines[3].split() == "layer class bits weights scale or alpha".split()
    assert len(lines) == 7 and not report.float_layers


def test_report_names_float_weights(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation="relu", name="first"),
            kb.QuantDense(2, bits=32, name="second"),
        ]
    )
    _, report = written(model, tmp_path, "qcdq")
    assert report.float_layers == ["first", "second"]
    assert str(report).endswith("Weights in float: 'first', 'second'")


def test_loaded_model_gives_the_same_file(tmp_path):
    model = small()
    path, _ = written(model, tmp_path, "qonnx")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    other = str(tmp_path / "other.onnx")
    kb.export_onnx(loaded, other)
    with open(path, "rb") as first, open(other, "rb") as second:
        assert first.read() == second.read()


def test_without_onnx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install keras-bcgd\[onnx\]"):
        kb.export_onnx(small(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_input_is_channels_first_by_default(tmp_path):
    model = small()
    path, _ = written(model, tmp_path, "qcdq", batch_size=4)
    x = np.float32(grid_inputs(MAP, 4))
    (y,) = run_file(path, to_first(x), "qcdq")
    np.testing.assert_allclose(y, outputs_of(model, x), atol=1e-5)
