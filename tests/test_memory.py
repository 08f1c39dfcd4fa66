"""The RAM of a file against a simulation of it and against TFLM's arena."""

import numpy as np
import pytest

from keras_bcgd.tflite import memory
from keras_bcgd.tflite import micro
from keras_bcgd.tflite import reader
from keras_bcgd.tflite import serialization
from keras_bcgd.tflite.inspection import inspect_tflite
from keras_bcgd.tflite.writer import TFLiteWriter


def random_graph(seed, operators=12):
    """A file of dense layers, sums and concatenations in random order.

    With two inputs, the second of which may be read late or never, and two
    outputs.
    """
    rng = np.random.default_rng(seed)
    writer = TFLiteWriter("random")
    widths = {}  # of the tensors so far, which are rows

    def row(width):
        name = f"t{len(widths)}"
        index = writer.add_tensor(name, (1, width), "int8", 0.5)
        widths[index] = width
        return index

    inputs = [row(int(rng.integers(1, 500))) for _ in range(2)]
    for _ in range(operators):
        kind = rng.choice(["FULLY_CONNECTED", "ADD", "CONCATENATION"])
        x, other = (int(i) for i in rng.choice(list(widths), 2))
        if kind == "FULLY_CONNECTED":
            y = row(int(rng.integers(1, 500)))
            values = np.ones((widths[y], widths[x]))
            w = writer.add_constant(f"w{y}", values, "int8", [0.5])
            writer.add_operator(kind, [x, w, -1], [y], "FullyConnectedOptions")
        elif kind == "ADD":
            y = row(widths[x])
            writer.add_operator(kind, [x, x], [y], "AddOptions")
        else:
            y = row(widths[x] + widths[other])
            options = {"axis": 1}
            writer.add_operator(
                kind, [x, other], [y], "ConcatenationOptions", **options
            )
    last = list(widths)[-1]
    outputs = {"last": last, "other": int(rng.choice(list(widths)[2:-1]))}
    return writer.finish(dict(zip("ab", inputs, strict=True)), outputs)


def simulated(data):
    """The bytes in memory at each operator, tensor by tensor.

    Runs the graph: what is computed is put into a dict, and what nobody will
    read any more is taken out.
    """
    graph = reader.parse(data).model.subgraphs[0]
    outputs = {int(i) for i in graph.outputs}
    there = {int(i) for i in graph.inputs}
    sizes = []
    for step, operator in enumerate(graph.operators):
        there |= {int(i) for i in operator.outputs}
        sizes.append(sum(np.prod(graph.tensors[i].shape) for i in there))
        needed = {int(i) for o in graph.operators[step + 1 :] for i in o.inputs}
        there &= needed | outputs
    return sizes


@pytest.mark.parametrize("seed", range(20))
def test_bytes_alive_are_those_of_a_simulation(seed):
    data = random_graph(seed)
    assert memory.live_bytes(reader.parse(data)) == simulated(data)


def arena_of_tflm(data):
    """What TFLM says that its tensors take."""
    pytest.importorskip("tflite_micro")
    interpreter = micro.MicroInterpreter(data)
    for details in interpreter.get_input_details():
        zeros = np.zeros(details["shape"], details["dtype"])
        interpreter.set_tensor(details["index"], zeros)
    interpreter.invoke()
    tensors, _ = interpreter.allocations()
    return tensors


@pytest.mark.parametrize("seed", range(20))
def test_arena_is_that_of_tflm(seed):
    """These kernels ask for nothing besides."""
    data = random_graph(seed)
    file = reader.parse(data)
    arena = arena_of_tflm(data)
    assert memory.planned_bytes(file) == arena
    assert max(memory.live_bytes(file)) <= arena


def chain(*dtypes, shapes, names):
    """A file of operators that read one tensor each."""
    writer = TFLiteWriter("chain")
    tensors = [
        writer.add_tensor(f"t{i}", shape, dtype, 0.5)
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    ]
    for i, name in enumerate(names):
        inputs = [tensors[i]]
        if name == "RESHAPE":
            shape = np.int32(shapes[i + 1])
            inputs.append(writer.add_constant(f"shape{i}", shape, "int32"))
        writer.add_operator(name, inputs, [tensors[i + 1]])
    return writer.finish({"x": tensors[0]}, {"y": tensors[-1]})


def test_reshape_copies_in_tflm():
    data = chain(
        *["int8"] * 4,
        shapes=[(1, 512), (1, 512), (1, 8, 64), (1, 8, 64)],
        names=["QUANTIZE", "RESHAPE", "QUANTIZE"],
    )
    file = reader.parse(data)
    assert memory.live_bytes(file) == [1024, 1024, 1024]
    assert memory.planned_bytes(file) == arena_of_tflm(data) == 1024


def test_wide_numbers_take_their_bytes():
    data = chain(
        "int8",
        "int16",
        "int16",
        shapes=[(1, 100)] * 3,
        names=["CAST", "QUANTIZE"],
    )
    file = reader.parse(data)
    assert memory.live_bytes(file) == [300, 400]
    # At multiples of 16: twice 200 are 416.
    assert memory.planned_bytes(file) == 416


def expanded_weights(dtype):
    rng = np.random.default_rng(0)
    writer = TFLiteWriter("weights")
    x = writer.add_tensor("x", (1, 64), "int8", 0.5)
    matrix = rng.choice([-1, 1], (32, 64)).astype(np.int8)
    w = writer.add_constant("w", matrix, dtype, [0.5])
    y = writer.add_tensor("y", (1, 32), "int8", 0.5)
    writer.add_operator(
        "FULLY_CONNECTED", [x, w, -1], [y], "FullyConnectedOptions"
    )
    return writer.finish({"x": x}, {"y": y})


def test_weights_from_tables_are_in_memory(tmp_path):
    """What TFLM_DECODE expands is there until the operator has read it."""
    data = expanded_weights("lut")
    file = reader.parse(data)
    assert memory.live_bytes(file) == [64 + 2048, 64 + 2048 + 32]
    assert memory.planned_bytes(file) == arena_of_tflm(data)
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    report = inspect_tflite(path)
    (row,) = report.operators
    assert row.ram_bytes == report.peak_ram_bytes == 64 + 2048 + 32
    assert memory.live_bytes(reader.parse(expanded_weights("int8"))) == [96]


def test_inspection_tells_ram(tmp_path):
    path = tmp_path / "m.tflite"
    data = random_graph(0)
    path.write_bytes(data)
    report = inspect_tflite(path)
    assert [row.ram_bytes for row in report.operators] == simulated(data)
    assert report.peak_ram_bytes == max(simulated(data))
    lines = [line.split() for line in str(report).splitlines()]
    assert [f"{report.peak_ram_bytes:,}", "bytes"] in [x[-2:] for x in lines]
    assert [f"{report.planned_ram_bytes:,}", "bytes"] in [x[-2:] for x in lines]
    assert report.planned_ram_bytes == memory.planned_bytes(reader.parse(data))


def test_subgraphs_that_others_call(tmp_path):
    """They run within an operator of the main one, which has no plan then."""
    model = reader.parse(random_graph(0)).model
    model.subgraphs.append(model.subgraphs[0])
    path = tmp_path / "m.tflite"
    path.write_bytes(serialization.serialize(model))
    report = inspect_tflite(path)
    expected = simulated(random_graph(0))
    found = [row.ram_bytes for row in report.operators]
    assert found == [*expected, *[None] * len(expected)]
    assert report.peak_ram_bytes == max(expected)
    assert report.planned_ram_bytes is None
    assert "as TFLM plans" not in str(report)
