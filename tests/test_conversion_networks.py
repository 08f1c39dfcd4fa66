"""quantize_model against the float model, networks built by hand, Keras' own.

"Equal" is to the last bit where both compute the same operations.
"""

import keras
import numpy as np
import pytest
from conversion_helpers import FLOAT
from conversion_helpers import MODELS
from conversion_helpers import assert_equal_outputs
from conversion_helpers import finalize_statistics
from conversion_helpers import images
from conversion_helpers import inputs_of
from conversion_helpers import numpy_of
from conversion_helpers import predicted
from conversion_helpers import quantized
from conversion_helpers import residual
from conversion_helpers import several
from conversion_helpers import shaken
from conversion_helpers import shared_by_models
from conversion_helpers import shared_model

import keras_bcgd as kb
from keras_bcgd.export.graph import read_graph

# Of which Keras saves the weights alone: it cannot load such a model.
SHARING = [shared_by_models, shared_model]


@pytest.mark.parametrize("build", MODELS + SHARING)
def test_at_32_bits_it_is_the_float_model(build):
    source = shaken(build())
    found = quantized(source, **FLOAT)
    assert_equal_outputs(source, found)
    assert found.name == source.name
    assert not kb.conversion_plan(source, **FLOAT).layers[0].becomes


@pytest.mark.parametrize("build", MODELS)
def test_saved_loaded_and_cloned(build, tmp_path):
    model = quantized(shaken(build()), 2, 2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_equal_outputs(model, loaded)
    clone = keras.models.clone_model(model)
    clone.set_weights([numpy_of(weight) for weight in model.weights])
    finalize_statistics(clone)
    assert_equal_outputs(model, clone)


@pytest.mark.parametrize("build", [residual, several])
def test_trained(build):
    """Every float weight y moves, and every kernel is on its grid."""
    model = quantized(shaken(build()), 2, 2)
    sgd = keras.optimizers.SGD(0.01)
    model.compile(kb.BlendedOptimizer(sgd), loss="mse")
    targets = [np.ones_like(y) for y in predicted(model)]
    kernels = [
        layer
        for layer in model.layers
        if isinstance(layer, (kb.QuantConv2D, kb.QuantDense))
    ]
    before = [numpy_of(layer.kernel) for layer in kernels]
    model.fit(
        inputs_of(model),
        targets if len(targets) > 1 else targets[0],
        epochs=2,
        verbose=0,
    )
    for layer, start in zip(kernels, before, strict=True):
        assert np.any(numpy_of(model.optimizer.shadow(layer.kernel)) != start)
        scale, codes = layer.kernel_scale_and_codes()
        np.testing.assert_allclose(
            numpy_of(layer.kernel), scale * codes, rtol=1e-5
        )


@pytest.mark.parametrize(
    "build, options",
    [
        (kb.models.resnet_cifar, {"depth": 8, "input_shape": (8, 8, 3)}),
        (
            kb.models.resnet_cifar,
            {"depth": 8, "input_shape": (8, 8, 3), "shortcut": "B"},
        ),
        pytest.param(
            kb.models.mobilenet_cifar,
            {"input_shape": (8, 8, 3)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_equals_the_network_built_by_hand(build, options):
    """Layer by layer the config, and the outputs."""
    source = shaken(build(weight_bits=32, activation_bits=32, **options))
    found = quantized(
        source,
        2,
        3,
        first_last=None,
        overrides={"classifier": {"weight_bits": 8}},
    )
    bits = {"branch_bits": 8, "classifier_bits": 8}
    expected = build(weight_bits=2, activation_bits=3, **bits, **options)
    configs = [
        {
            layer.name: (type(layer), layer.get_config())
            for layer in m.layers[1:]
        }
        for m in (found, expected)
    ]
    assert configs[0] == configs[1]
    for layer in source.layers:
        for weight in layer.weights:
            target = getattr(expected.get_layer(layer.name), weight.name)
            target.assign(numpy_of(weight))
    assert_equal_outputs(found, expected)


def of_applications(name, alpha=None):
    return getattr(keras.applications, name)(
        input_shape=(32, 32, 3),
        weights=None,
        classes=10,
        classifier_activation=None,
        **({"alpha": alpha} if alpha else {}),
    )


@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2"])
def test_mobilenets(name):
    """As below, but that nothing is saved or exported."""
    source = of_applications(name, 0.1)
    assert not kb.conversion_plan(source).left_in_float
    x = images((2, 32, 32, 3))
    same = quantized(source, **FLOAT)
    np.testing.assert_array_equal(numpy_of(same(x)), numpy_of(source(x)))
    assert_all_trained(quantized(source))


def assert_all_trained(model):
    graph = read_graph(model)
    assert not graph.calibrated
    assert all(n.quantizer.trained for n in graph.nodes if n.quantizer)


# A width, and the inputs that they expect: those that rescale them, bytes.
APPLICATIONS = {
    "MobileNet": (0.25, (-2, 127 / 64)),
    "MobileNetV2": (0.35, (-2, 127 / 64)),
    "MobileNetV3Large": (0.75, (0, 255)),
    "MobileNetV3Small": (0.75, (0, 255)),
    "ResNet50": (None, (-2, 127 / 64)),
    "VGG16": (None, (-2, 127 / 64)),
    "DenseNet121": (None, (-2, 127 / 64)),
    "EfficientNetB0": (None, (0, 255)),
    "EfficientNetV2B0": (None, (0, 255)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
@pytest.mark.filterwarnings(
    # Of weights that were never trained.
    "ignore:The inputs of these layers are so small:UserWarning"
)
def test_applications(name, tmp_path):
    """Converted, saved, loaded: equal outputs; the file agrees with it."""
    alpha, span = APPLICATIONS[name]
    source = of_applications(name, alpha)
    if span == (0, 255):
        # As if trained: without it their gates let hardly anything through.
        shaken(source)
    plan = kb.conversion_plan(source)
    assert not plan.left_in_float and not plan.not_exportable
    x = images_in((2, 32, 32, 3), span)
    same = quantized(source, **FLOAT)
    np.testing.assert_array_equal(numpy_of(same(x)), numpy_of(source(x)))
    model = quantized(source)
    x = images_in((32, 32, 32, 3), span)
    kb.calibrate(model, x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy_of(loaded(x)), numpy_of(model(x)))
    assert_all_trained(loaded)
    path = tmp_path / "model.tflite"
    kb.align_for_export(loaded, span, x)
    report = kb.export_tflite(loaded, path, span, x)
    assert all(row.trained for row in report.layers)
    assert "is brought to one" not in str(report)
    # Random weights amplify the few codes that differ all the same.
    assert kb.verify_tflite(loaded, path, x).agreement >= 0.9


def images_in(shape, span):
    """Images on the grid of a range of inputs."""
    low, high = span
    codes = np.random.default_rng(0).integers(0, 256, shape)
    return (low + codes * (high - low) / 255).astype("float32")
