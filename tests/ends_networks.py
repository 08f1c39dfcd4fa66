"""Networks with several inputs and outputs, trained or random."""

import keras
import numpy as np
from export_helpers import grid_inputs
from export_helpers import normalize

import keras_bcgd as kb

layers = keras.layers

SAMPLES = 48
CLASSES = 4


def block(x, filters, strides=1, name=None):
    x = kb.QuantConv2D(
        filters, 3, bits=4, strides=strides, padding="same", use_bias=False
    )(x)
    return kb.QuantReLU(4, name=name)(layers.BatchNormalization()(x))


def dense_block(x, units):
    x = kb.QuantDense(units, bits=4, use_bias=False)(x)
    return kb.QuantReLU(4)(layers.BatchNormalization()(x))


def network(outputs_as=list):
    """Bytes of images and numbers in; classes, a number and a map out."""
    image = keras.Input((8, 8, 3), name="image")
    numbers = keras.Input((5,), name="a_numbers")
    codes = block(block(layers.Rescaling(1 / 255)(image), 8), 12, 2, "map")
    parts = [
        layers.GlobalAveragePooling2D()(codes),
        dense_block(kb.QuantIdentity(8, name="codes_in")(numbers), 8),
    ]
    x = dense_block(kb.QuantConcatenate()(parts), 16)
    classes = layers.Softmax(name="classes")(kb.QuantDense(CLASSES, bits=8)(x))
    size = kb.QuantDense(1, bits=8, name="a_size")(x)
    outputs = [classes, size, codes]
    if outputs_as is dict:
        outputs = {"kind": classes, "area": size, "codes": codes}
    return keras.Model([image, numbers], outputs, name="net")


def data():
    rng = np.random.default_rng(0)
    return {
        "image": np.float32(rng.integers(0, 256, (SAMPLES, 8, 8, 3))),
        "a_numbers": np.float32(rng.normal(size=(SAMPLES, 5))),
    }


def labels():
    rng = np.random.default_rng(1)
    return [
        rng.integers(0, CLASSES, SAMPLES),
        rng.normal(size=(SAMPLES, 1)),
        np.zeros((SAMPLES, 4, 4, 12)),
    ]


def trained(outputs_as=list):
    """After a few steps of fit, with data and labels by name."""
    keras.utils.set_random_seed(0)
    model = network(outputs_as)
    losses, y = ["sparse_categorical_crossentropy", "mse", "mse"], labels()
    if outputs_as is dict:
        names = ["kind", "area", "codes"]
        losses = dict(zip(names, losses, strict=True))
        y = dict(zip(names, y, strict=True))
    model.compile(
        kb.BlendedOptimizer(keras.optimizers.SGD(0.01), blending=1e-4),
        loss=losses,
    )
    kb.calibrate(model, data(), verbose=0)
    model.fit(data(), y, epochs=2, verbose=0)
    return model


def export(model, folder, **settings):
    settings = {
        "input_range": {"image": (0, 255)},
        "representative_data": data(),
        "verbose": 0,
    } | settings
    path = folder / "m.tflite"
    return path, kb.export_tflite(model, path, **settings)


def assert_equal_on_all_kernels(model, path, x, **settings):
    found = kb.verify_tflite_on_all_kernels(
        model, path, x, verbose=0, **settings
    )
    assert found.is_equal, str(found)
    return found


def functional(build, *shapes):
    keras.utils.set_random_seed(0)
    inputs = [
        keras.Input(shape, name=f"in{i}") for i, shape in enumerate(shapes)
    ]
    given = inputs if len(inputs) > 1 else inputs[0]
    return keras.Model(given, build(*inputs), name="net")


def assert_equal(model, tmp_path, task=None, **settings):
    """Of random inputs between 0 and 1; returns the report of the export."""
    x = [
        np.float32(grid_inputs(tensor.shape[1:], seed=i))
        for i, tensor in enumerate(model.inputs)
    ]
    x = x if len(x) > 1 else x[0]
    normalize(model, x)
    path = tmp_path / "m.tflite"
    report = kb.export_tflite(model, path, (0, 1), x, verbose=0, **settings)
    assert_equal_on_all_kernels(report.model, path, x, task=task)
    return report
