"""A model that is run frugally computes what Keras computes, in less memory."""

import contextlib
import gc
import weakref

import conversion_helpers
import keras
import numpy as np
import pytest
from conversion_helpers import numpy_of
from keras import layers

from keras_bcgd.network import frugal
from keras_bcgd.network import model_layers


def outputs(model, run, x):
    """What each layer computes, in the order in which they run."""
    found = []
    with contextlib.ExitStack() as stack:
        for path, layer in model_layers.leaves(model).items():
            stack.enter_context(
                model_layers.watch(
                    layer,
                    lambda args, output, path=path: found.append(
                        (path, keras.tree.map_structure(numpy_of, output))
                    ),
                )
            )
        run(x)
    return found


def dropped():
    """Dropout and noise, which must be off, within a model in a model."""
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dropout(0.5), layers.GaussianNoise(1.0)]
    )
    x = keras.Input((6,))
    y = layers.BatchNormalization()(inner(layers.Dense(6)(x)))
    return keras.Model(x, layers.Dense(2)(layers.Add()([x, y])))


def operations():
    """Numbers beside tensors, arguments by name: only Keras can run it."""
    x = keras.Input((6,))
    y = layers.Dense(6)(x) * 2.0
    return keras.Model(x, keras.ops.add(x1=y, x2=x) + layers.Dense(6)(y))


def called_twice():
    """One layer in two places, where the order of calls matters."""
    x, layer = keras.Input((6,)), layers.Dense(6, name="twice")
    return keras.Model(x, layers.Add()([layer(layers.ReLU()(layer(x))), x]))


def ends_inside():
    """An output that others read."""
    x = keras.Input((6,))
    y = layers.Dense(6)(x)
    return keras.Model(x, [layers.ReLU()(y), y, layers.Dense(2)(y)])


READABLE = [
    conversion_helpers.plain,
    conversion_helpers.residual,
    conversion_helpers.bottlenecks,
    conversion_helpers.dense_block,
    conversion_helpers.nested,
    dropped,
    ends_inside,
]
OTHERS = [operations, called_twice, conversion_helpers.shared]


@pytest.mark.parametrize("build", READABLE + OTHERS)
def test_each_layer_computes_the_same(build):
    model = conversion_helpers.shaken(build())
    shape = (3, *model.inputs[0].shape[1:])
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    expected = outputs(model, lambda x: model(x, training=False), x)
    found = outputs(model, frugal.frugal(model), x)
    assert len(found) == len(expected)
    if build in OTHERS:  # in the order of Keras
        assert [path for path, _ in found] == [path for path, _ in expected]
    else:
        expected = [one for one in sorted(expected, key=lambda one: one[0])]
        found = [one for one in sorted(found, key=lambda one: one[0])]
    for (path, here), (other, there) in zip(found, expected, strict=True):
        assert path == other
        keras.tree.map_structure(np.testing.assert_array_equal, here, there)


def test_models_are_read_where_they_can_be():
    """Else the memory would be that of Keras, and no result would tell."""
    for build in READABLE:
        assert frugal._steps_of(build()) is not None, build
    for build in OTHERS:
        assert frugal._steps_of(build()) is None, build


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Tensors of TensorFlow."
)
def test_few_tensors_are_alive_at_once():
    x = keras.Input((4,))
    y = x
    for _ in range(8):  # no block needs more than three tensors
        y = layers.Add()([y, layers.ReLU()(layers.Dense(4)(y))])
    model = keras.Model(x, y)
    seen, most = [], 0

    def count(args, output):
        nonlocal most
        seen.append(weakref.ref(output))
        gc.collect()
        most = max(most, sum(one() is not None for one in seen))

    def most_alive(run):
        nonlocal most
        seen.clear()
        most = 0
        with contextlib.ExitStack() as stack:
            for layer in model.layers[1:]:
                stack.enter_context(model_layers.watch(layer, count))
            run(np.ones((2, 4), "float32"))
        return most

    assert most_alive(lambda x: model(x, training=False)) == 24
    assert most_alive(frugal.frugal(model)) <= 4
