"""first_divergence: the layer it names, in files made wrong on purpose."""

import keras
import numpy as np
import pytest
from tflite_files import add_identity

import keras_bcgd as kb
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.writer import TFLiteWriter
from keras_bcgd.utils.files import write_atomically
from keras_bcgd.verification.divergence import Divergence
from keras_bcgd.verification.divergence import first_divergence

layers = keras.layers

SCALE, ZERO_POINT = 0.5, 10


def identity_chain(path, names, dtype="int8"):
    """A file of max poolings of one value, whose outputs have these names."""
    writer = TFLiteWriter("identities")
    shape = (2, 2, 2, 3)
    x = first = writer.add_tensor("input", shape, dtype, SCALE, ZERO_POINT)
    for name in names:
        y = writer.add_tensor(name, shape, dtype, SCALE, ZERO_POINT)
        add_identity(writer, x, y)
        x = y
    contents = writer.finish({"input": first}, {"output": x})
    write_atomically(path, contents)
    return path


def identity(name):
    return layers.Identity(name=name)


def shift(name, steps):
    return layers.Rescaling(1.0, SCALE * steps, name=name)


def chain(*parts):
    return keras.Sequential([keras.Input((2, 2, 3)), *parts])


def inputs(dtype="int8", samples=16, seed=0):
    """Every sample on the grid; some at its upper end."""
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    codes = rng.integers(limits.max - 9, limits.max + 1, (samples, 2, 2, 3))
    return codes, np.float32(SCALE * (codes - ZERO_POINT))


@pytest.mark.parametrize("kernels", ["builtin", "reference"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_names_the_first_layer_and_counts(dtype, kernels, tmp_path):
    path = identity_chain(tmp_path / "m.tflite", ["a", "b", "c"], dtype)
    codes, x = inputs(dtype, samples=21)
    model = chain(identity("a"), shift("b", 3), identity("c"))
    # What is shifted saturates at the end of the range.
    top = np.iinfo(dtype).max
    difference = np.minimum(codes + 3, top) - codes
    assert first_divergence(model, path, x, kernels) == Divergence(
        name="b",
        different=int(np.sum(difference > 0)),
        codes=codes.size,
        largest_difference=3,
        samples=21,
    )


def test_equal_tensors_are_no_divergence(tmp_path):
    path = identity_chain(tmp_path / "m.tflite", ["a", "b"])
    model = chain(identity("a"), identity("b"))
    assert first_divergence(model, path, inputs()[1]) is None


def test_order_is_that_of_the_file(tmp_path):
    path = identity_chain(tmp_path / "m.tflite", ["b", "a"])
    model = chain(shift("a", 1), shift("b", 1))
    assert first_divergence(model, path, inputs()[1]).name == "b"


@pytest.mark.parametrize("steps, differs", [(0.52, False), (0.6, True)])
def test_halfway_between_codes_is_either(steps, differs, tmp_path):
    path = identity_chain(tmp_path / "m.tflite", ["a"])
    x = np.zeros((1, 2, 2, 3), np.float32)
    found = first_divergence(chain(shift("a", steps)), path, x)
    assert (found is not None) == differs


def nested(inner):
    return chain(
        identity("a"), keras.Sequential([identity("b"), inner], name="block")
    )


def functional(inner):
    x = keras.Input((2, 2, 3))
    block_input = keras.Input((2, 2, 3))
    block = keras.Model(block_input, inner(block_input), name="block")
    return keras.Model(x, block(identity("a")(x)))


@pytest.mark.parametrize("build", [nested, functional])
@pytest.mark.parametrize("name", ["c", "block/c"])
def test_models_inside_are_looked_into(name, build, tmp_path):
    path = identity_chain(tmp_path / "m.tflite", ["a", name])
    found = first_divergence(build(shift("c", -1)), path, inputs()[1])
    assert (found.name, found.largest_difference) == (name, 1)


def twice(layer):
    x = keras.Input((2, 2, 3))
    return keras.Model(x, layer(layer(x)))


def same_name_twice(layer):
    block = keras.Sequential([keras.Input((2, 2, 3)), shift("b", 1)])
    return chain(block, layer)


@pytest.mark.parametrize(
    "model",
    [
        chain(shift("no tensor", 1)),
        chain(shift("b", 1), layers.Flatten(name="a")),
        twice(shift("a", 1)),
        same_name_twice(shift("b", 1)),
    ],
    ids=["other name", "other shape", "runs twice", "two of that name"],
)
def test_what_cannot_be_compared_is_left_out(model, tmp_path):
    names = ["b"] if model.layers[-1].name == "b" else ["a"]
    path = identity_chain(tmp_path / "m.tflite", names)
    assert first_divergence(model, path, inputs()[1]) is None


def test_model_is_left_as_it_was(tmp_path):
    path = identity_chain(tmp_path / "m.tflite", ["a"])
    model = chain(shift("a", 1))
    before = [dict(vars(layer)) for layer in model.layers]
    first_divergence(model, path, inputs()[1])
    for layer, attributes in zip(model.layers, before, strict=True):
        assert set(vars(layer)) == set(attributes)


def test_damaged_layer_of_an_exported_model(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            kb.QuantDense(8, bits=4),
            kb.QuantReLU(4, name="first"),
            kb.QuantDense(8, bits=4, name="weights_of_second"),
            kb.QuantReLU(4, name="second"),
            kb.QuantDense(4, bits=4, name="last"),
        ]
    )
    x = np.random.default_rng(0).integers(0, 256, (40, 8)) / 255
    path = tmp_path / "m.tflite"
    model = kb.export_tflite(model, path, (0, 1), x).model
    found = first_divergence(model, path, x)
    assert found is None

    file = reader.read_tflite(path)
    weights = file.operators[1].inputs[1].data.tobytes()
    assert file.data.count(weights) == 1
    path.write_bytes(file.data.replace(weights, weights[::-1]))
    found = first_divergence(model, path, x)
    assert found.name == "second" and found.codes == 40 * 8


def test_kernels_that_show_no_tensors_are_refused(tmp_path):
    path = identity_chain(tmp_path / "m.tflite", ["a"])
    with pytest.raises(ValueError, match="builtin, reference.*'xnnpack'"):
        first_divergence(chain(identity("a")), path, inputs()[1], "xnnpack")
