"""Does `verify_tflite` notice a damaged file, and does it say where?

    python -m benchmarks.mutations

Files of small networks are changed at their first, a middle and their last
operator with weights: the sign of one weight, one bias by one unit, a scale by
1 %, two channels exchanged, a zero point by one, a narrower range of the
output. For each the table says what that did to the outputs on random inputs,
whether the verification noticed it, and what it named as the first layer that
differs; "right" is the first layer of which any code changed. With --all there
is a line for each file.
"""

import argparse
import dataclasses
import os
import tempfile

import flatbuffers
import keras
import numpy as np

import keras_bcgd
from keras_bcgd.tflite.reader import read_tflite
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.schema import load_schema
from keras_bcgd.utils.files import write_atomically

layers = keras.layers

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
PLACES = ("first", "middle", "last")


def conv(x, bits=4):
    x = keras_bcgd.QuantConv2D(8, 3, bits=bits, padding="same")(x)
    return layers.BatchNormalization()(x)


def chain(outputs):
    x = inputs = keras.Input((6, 6, 3))
    for _ in range(3):
        x = keras_bcgd.QuantReLU(4)(conv(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras_bcgd.QuantDense(outputs, bits=8)(x))


def residual():
    x = inputs = keras.Input((6, 6, 3))
    x = keras_bcgd.QuantReLU(4)(conv(x))
    for _ in range(2):
        branch = keras_bcgd.QuantReLU(4)(conv(x, 1))
        x = keras_bcgd.QuantAddReLU(4)([conv(branch, 1), x])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras_bcgd.QuantDense(5, bits=8)(x))


def per_pixel():
    x = inputs = keras.Input((6, 6, 3))
    for _ in range(3):
        x = keras_bcgd.QuantReLU(4)(conv(x))
    return keras.Model(inputs, keras_bcgd.QuantConv2D(3, 1, bits=8)(x))


NETWORKS = {
    "chain": lambda: chain(5),
    "one output": lambda: chain(1),
    "residual": residual,
    "map": per_pixel,
}


@dataclasses.dataclass
class Weights:
    """The tensors of one operator, to be changed in place."""

    weights: object
    bias: object
    output: object
    model: object

    def data(self, tensor, dtype):
        """The contents of a constant, as NumPy array that can be written."""
        buffer = self.model.buffers[tensor.buffer]
        buffer.data = np.array(buffer.data, np.uint8)
        return buffer.data.view(dtype)

    @property
    def bias_type(self):
        count = int(np.prod(self.bias.shape))
        size = len(self.model.buffers[self.bias.buffer].data) // count
        return np.int32 if size == 4 else np.int64


def flip_weight(part):
    codes = part.data(part.weights, np.int8)
    place = np.argmax(np.abs(codes.astype(int)))
    codes[place] = -codes[place]


def change_bias(part):
    part.data(part.bias, part.bias_type)[0] += 1


def change_scale(part):
    scale = np.array(part.weights.quantization.scale)
    scale[0] *= 1.01
    part.weights.quantization.scale = scale


def swap_channels(part):
    codes = part.data(part.weights, np.int8).reshape(part.weights.shape)
    axis = part.weights.quantization.quantizedDimension
    codes = np.moveaxis(codes, axis, 0)
    codes[[0, 1]] = codes[[1, 0]]
    bias = part.data(part.bias, part.bias_type)
    bias[[0, 1]] = bias[[1, 0]]


def change_zero_point(part):
    points = np.array(part.output.quantization.zeroPoint)
    points += -1 if points[0] > 0 else 1
    part.output.quantization.zeroPoint = points


def narrow_output(part):
    """The range of the output becomes a tenth."""
    part.output.quantization.scale = (
        np.array(part.output.quantization.scale) / 10
    )


MUTATIONS = {
    "sign of a weight": flip_weight,
    "bias by one": change_bias,
    "scale by 1 %": change_scale,
    "two channels swapped": swap_channels,
    "zero point by one": change_zero_point,
    "range of a tenth": narrow_output,
}


def mutate(source, target, mutation, place):
    """Writes a changed copy of a file; returns whether it could be changed."""
    schema = load_schema()
    with open(source, "rb") as file:
        model = schema.ModelT.InitFromPackedBuf(file.read(), 0)
    (graph,) = model.subgraphs
    names = {
        value: name for name, value in vars(schema.BuiltinOperator).items()
    }
    found = [
        operator
        for operator in graph.operators
        if names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        in _WEIGHTED
    ]
    index = {"first": 0, "middle": len(found) // 2, "last": -1}[place]
    _, weights, bias = (graph.tensors[i] for i in found[index].inputs)
    output = graph.tensors[found[index].outputs[0]]
    if mutation == "two channels swapped" and len(bias.shape) == 1:
        if bias.shape[0] < 2:
            return False
    if mutation == "zero point by one" and output.type == (
        schema.TensorType.INT16
    ):
        return False  # it must be 0
    MUTATIONS[mutation](Weights(weights, bias, output, model))
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    write_atomically(target, bytes(builder.Output()))
    return True


@dataclasses.dataclass
class Row:
    """What became of one mutation."""

    network: str
    output_type: str
    mutation: str
    place: str
    changed: int
    values: int
    report: object
    named: str | None
    expected: str | None

    @property
    def is_noticed(self):
        """Whether the verification found values that are not the model's."""
        return self.report.different_values + self.report.clipped_values > 0


def outputs_of(path, x, kernels):
    runner = TFLiteRunner(path, kernels)
    (output,) = runner.outputs
    codes = runner.run(runner.quantize(x)).astype(np.float64)
    return output.scale * (codes - output.zero_point), output.scale


def first_changed(model, original, mutated, x):
    """The first layer whose codes are others, tensor by tensor."""
    names = {layer.name for layer in model.layers}
    runners = [
        TFLiteRunner(path, "builtin", keep_tensors=True)
        for path in (original, mutated)
    ]
    compared = [
        tensor.name
        for operator in read_tflite(original).operators
        for tensor in operator.outputs
        if tensor.name in names
    ]
    first, second = (
        runner.run_tensors(runner.quantize(x), compared) for runner in runners
    )
    for name in compared:
        if np.any(first[name] != second[name]):
            return name
    return None


def trained_like(build, x):
    """A network with statistics as data leave them."""
    keras.utils.set_random_seed(0)
    model = build()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
            layer.gamma.assign(rng.uniform(0.5, 1.5, layer.gamma.shape))
            layer.beta.assign(rng.normal(size=layer.beta.shape) * 0.5)
        elif hasattr(layer, "alpha"):
            layer.alpha.assign(rng.uniform(0.1, 0.3))
    model(keras.ops.convert_to_tensor(x), training=True)
    return model


def rows_of(network, output_type, folder, samples=64, kernels="xnnpack"):
    """Yields a `Row` for each mutation of one network.

    The first one is of the file as it was written: mutation "none".
    """
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (samples, 6, 6, 3)) / 255
    original = os.path.join(folder, "original.tflite")
    mutated = os.path.join(folder, "mutated.tflite")
    model = keras_bcgd.export_tflite(
        trained_like(NETWORKS[network], x),
        original,
        (0, 1),
        x,
        output_type=output_type,
        batch_size=samples,
    ).model
    before, step = outputs_of(original, x, kernels)

    def row(mutation, place, path):
        after, _ = outputs_of(path, x, kernels)
        # Another step rounds otherwise: only what is more than that counts.
        least = step if mutation == "range of a tenth" else 1e-3 * step
        changed = np.abs(after - before) > least
        report = keras_bcgd.verify_tflite(
            model, path, x, kernels=kernels, verbose=0, task=_task(network)
        )
        found = report.first_divergence
        return Row(
            network,
            output_type,
            mutation,
            place,
            int(np.sum(changed)),
            before.size,
            report,
            None if found is None else found.name,
            first_changed(model, original, path, x),
        )

    yield row("none", "-", original)
    for mutation in MUTATIONS:
        for place in PLACES:
            if mutation == "range of a tenth" and place != "last":
                continue
            if mutate(original, mutated, mutation, place):
                yield row(mutation, place, mutated)


def _task(network):
    """As a regression nothing may be clipped."""
    return "regression" if network == "one output" else None


def markdown(header, rows):
    """Lines of a markdown table."""
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def table(rows):
    """A line for each mutation of each file."""
    header = "network logits change at changed noticed named".split()
    cells = []
    for row in rows:
        named = row.named or "-"
        if row.named is not None and row.named == row.expected:
            named = f"{row.named}, right"
        cells.append(
            (
                row.network,
                row.output_type,
                row.mutation,
                row.place,
                f"{row.changed:,} of {row.values:,}",
                "yes" if row.is_noticed else "no",
                named,
            )
        )
    return markdown(header, cells)


def summary(rows):
    """A line for each mutation at each place, over all files."""
    groups = {}
    for row in rows:
        groups.setdefault((row.mutation, row.place), []).append(row)
    header = ["change", "at", "files", "values changed in", "noticed in"]
    header += ["a layer named in", "the right one in"]
    cells = []
    for (mutation, place), group in groups.items():
        changed = [row for row in group if row.changed]
        named = [row for row in changed if row.named is not None]
        cells.append(
            (
                mutation,
                place,
                len(group),
                len(changed),
                sum(row.is_noticed for row in changed),
                len(named),
                sum(row.named == row.expected for row in named),
            )
        )
    return markdown(header, cells)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument(
        "--kernels", default="xnnpack", choices=("xnnpack", "builtin")
    )
    parser.add_argument(
        "--all", action="store_true", help="a line for each file"
    )
    settings = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for network in NETWORKS:
            for output_type in ("int16", "int8"):
                rows += rows_of(
                    network,
                    output_type,
                    folder,
                    settings.samples,
                    settings.kernels,
                )
    print("\n".join(table(rows) if settings.all else summary(rows)))
    changed = [row for row in rows if row.changed]
    noticed = [row for row in changed if row.is_noticed]
    print(f"\n{len(noticed)} of {len(changed)} changed outputs are noticed.")


if __name__ == "__main__":
    main()
