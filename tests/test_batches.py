"""Every form of data, and every function that takes one."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import keras_bcgd as kb
from keras_bcgd.utils import batches

COUNT = 10


def arrays():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((COUNT, 3)).astype("float32")
    b = rng.standard_normal((COUNT, 2)).astype("float32")
    return a, b, np.arange(COUNT), np.ones(COUNT)


def network(inputs=1, as_dict=False):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    given = a
    x = a
    if inputs == 2:
        given = {"a": a, "b": b} if as_dict else [a, b]
        x = layers.Concatenate()([a, b])
    x = layers.Dense(4, name="dense")(x)
    x = kb.QuantReLU(2, name="relu")(x)
    model = keras.Model(given, layers.Dense(COUNT, name="last")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    return model


class Dataset(keras.utils.PyDataset):
    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, i):
        return self.parts[i]


class Endless(keras.utils.PyDataset):
    """It has no end, and every batch is another one."""

    @property
    def num_batches(self):
        return None

    def __getitem__(self, i):
        return np.full((2, 3), i)


def cut(*parts, size=4):
    """Tuples of parts of arrays, or of dicts or lists of them."""
    return [
        keras.tree.map_structure(lambda a, i=i: a[i : i + size], parts)
        for i in range(0, COUNT, size)
    ]


def forms():
    """(name, data, model, x and perhaps more of the first of 3 batches)."""
    a, b, y, w = arrays()
    one, two, named = network(), network(2), network(2, as_dict=True)
    both = {"a": a, "b": b}
    yield "array", a, one, (a,)
    yield "tensor", ops.convert_to_tensor(a), one, (a,)
    yield "one in a tuple", (a,), one, (a,)
    yield "labelled", (a, y), one, (a, y)
    yield "weighted", (a, y, w), one, (a, y, w)
    yield "no label", (a, None), one, (a,)
    yield "dict", both, named, (both,)
    yield "labelled dict", (both, y), named, (both, y)
    yield "list", [a, b], two, ([a, b],)
    yield "labelled list", ([a, b], y), two, ([a, b], y)
    yield "batches", [x for (x,) in cut(a)], one, (a,)
    yield "labelled batches", cut(a, y), one, (a, y)
    yield "generator", iter(cut(a, y)), one, (a, y)
    yield "batches of lists", iter(cut([a, b], y)), two, ([a, b], y)
    yield "list of dicts", [x for (x,) in cut(both)], named, (both,)
    yield "PyDataset", Dataset(cut(a, y)), one, (a, y)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        slices = tf.data.Dataset.from_tensor_slices
        yield "tf.data", slices((a, y)).batch(4), one, (a, y)
        yield "tf.data of dicts", slices((both, y)).batch(4), named, (both, y)
        yield "tf.data of inputs", slices(a).batch(4), one, (a,)


FORMS = list(forms())


@pytest.mark.parametrize(
    "data, model, whole", [f[1:] for f in FORMS], ids=[f[0] for f in FORMS]
)
def test_every_form_of_data(data, model, whole):
    found, number = batches.read_batches(data, model, batch_size=4)
    found, expected = list(found), cut(*whole)
    assert number in (3, None) and len(found) == 3
    for batch, part in zip(found, expected, strict=True):
        keras.tree.assert_same_structure(batch, part)
        for one, other in zip(
            keras.tree.flatten(batch), keras.tree.flatten(part), strict=True
        ):
            assert isinstance(one, np.ndarray)
            np.testing.assert_array_equal(one, other)


def test_no_more_batches_than_asked_for():
    found, number = batches.read_batches(Endless(), network(), batches=3)
    assert number == 3
    assert [x[0, 0] for (x,) in found] == [0, 1, 2]
    left = iter(cut(arrays()[0]))
    list(batches.read_batches(left, network(), batches=1)[0])
    assert len(list(left)) == 2


def by_callback(model, data):
    watch = kb.WarnOnDeadLayers(data)
    x = keras.tree.map_structure(
        lambda tensor: np.zeros((2, *tensor.shape[1:])), model.input
    )
    model.fit(x, np.zeros(2), verbose=0, callbacks=[watch])


FUNCTIONS = {
    "calibrate": lambda model, data: kb.calibrate(model, data, verbose=0),
    "summary": kb.summary,
    "WarnOnDeadLayers": by_callback,
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_take_what_the_model_takes(function):
    a, b, y, _ = arrays()
    function = FUNCTIONS[function]
    function(network(), (a, y))
    function(network(2), [a, b])
    function(network(2, as_dict=True), {"a": a, "b": b})


def test_labels_are_no_second_batch():
    """Their size differs by far: they would set alpha."""
    a, *_ = arrays()
    models = network(), network()
    models[1].set_weights(models[0].get_weights())
    for model, data in zip(models, (a, (a, 1e3 * a)), strict=True):
        kb.calibrate(model, data, "max", verbose=0)
    one, other = (float(m.get_layer("relu").alpha) for m in models)
    assert one == other


def test_pictures_and_costs_take_the_same():
    a, b, y, _ = arrays()
    pytest.importorskip("matplotlib")
    kb.plot_staircase("relu", network(2), [a, b])
    table = kb.sensitivity(network(2), ([a, b], y), bits=2, verbose=0)
    assert len(table.rows) == 2


LONG = np.linspace(7, 8, 1000)


@pytest.mark.parametrize(
    "data, received",
    [
        ("images", "Received: str$"),
        (3, "Received: int$"),
        (np.float32(3), r"Received: float32 of shape \(\)"),
        ((), r"Received: tuple\(\)"),
        ((LONG,) * 4, r"Received: tuple\(ndarray of shape \(1000,\), "),
        ({"a": LONG, "b": "x"}, r"dict\('a': ndarray of shape \(1000,\), 'b'"),
        ([LONG.tolist()] * 2, r"in batch 0: list\(float, float, float, ...\)"),
        (iter([{"a": "x"}]), r"in batch 0: dict\('a': str\)"),
    ],
)
def test_errors_tell_types_and_shapes_not_the_data(data, received):
    with pytest.raises(ValueError, match=received) as raised:
        list(batches.read_batches(data, network())[0])
    assert str(raised.value).startswith("`data` must be an array, ")
    assert len(str(raised.value)) < 500 and "7.0" not in str(raised.value)


@pytest.mark.parametrize(
    "data, message",
    [
        ((LONG, LONG[:10]), "as many samples .*1000.*10"),
        ([], "at least one sample. Received: list without any"),
        (np.zeros((0, 3)), "at least one sample"),
        (iter([np.zeros((0, 3))]), r"in batch 0, of shape \(0, 3\)"),
        (np.array([[1.0, np.nan]]), "1 values NaN or infinite in batch 0"),
    ],
)
def test_data_that_says_nothing(data, message):
    with pytest.raises(ValueError, match=message):
        list(batches.read_batches(data, network())[0])


@pytest.mark.parametrize("name", ["batches", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
def test_counts_are_checked(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be an integer above"):
        batches.read_batches(LONG, network(), **{name: value})
    if name == "batches":
        with pytest.raises(ValueError, match="`batches` must be"):
            kb.WarnOnDeadLayers(LONG, batches=value)
        with pytest.raises(ValueError, match="`batches` must be"):
            kb.summary(network(), arrays()[0], batches=value)
