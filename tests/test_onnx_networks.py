"""Chains and residual networks: the codes of Keras in two runtimes."""

import keras
import numpy as np
import pytest
from export_helpers import grid_inputs
from export_helpers import network
from export_helpers import normalize
from export_helpers import outputs_of
from export_helpers import random_resnet
from export_helpers import reference
from export_networks import classifier
from export_networks import two_convolutions
from onnx_helpers import FORMATS
from onnx_helpers import assert_same_codes
from onnx_helpers import computed
from onnx_helpers import run_file
from onnx_helpers import to_first

import keras_bcgd as kb

layers = keras.layers


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("weight_bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("activation_bits", [1, 2, 4, 8])
def test_chain(tmp_path, weight_bits, activation_bits, format):
    model = two_convolutions(weight_bits, activation_bits)
    assert_same_codes(model, tmp_path, grid_inputs((8, 8, 3)), format)


@pytest.mark.parametrize("format", FORMATS)
def test_chain_computes_its_definition(tmp_path, format):
    """The logits of the network in NumPy, in float64."""
    model = classifier(bits=4)
    x = grid_inputs((8, 8, 3))
    np.testing.assert_allclose(
        computed(model, tmp_path, x, format), reference(model, x), atol=1e-5
    )


@pytest.mark.parametrize("format", FORMATS)
def test_mobile_chain(tmp_path, format):
    model = network(
        (8, 8, 3),
        kb.QuantConv2D(8, 3, bits=4, strides=2, padding="same"),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
        kb.QuantDepthwiseConv2D(3, bits=4, padding="same"),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
        kb.QuantConv2D(12, 1, bits=1),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
        layers.GlobalAveragePooling2D(),
        kb.QuantDense(10, bits=8),
    )
    x = grid_inputs((8, 8, 3))
    np.testing.assert_allclose(
        computed(model, tmp_path, x, format), reference(model, x), atol=1e-5
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "weight_bits, activation_bits", [(1, 4), (4, 2), (4, 4)]
)
def test_residual_network(tmp_path, weight_bits, activation_bits, format):
    """Aligned, so that no order of summation gives other codes."""
    model = random_resnet(weight_bits, activation_bits)
    kb.align_for_export(model, input_range=(0, 1))
    assert_same_codes(model, tmp_path, grid_inputs((16, 16, 3)), format)


@pytest.mark.parametrize("format", FORMATS)
def test_residual_network_with_convolutions_on_shortcuts(tmp_path, format):
    keras.utils.set_random_seed(0)
    model = kb.models.resnet_cifar(
        8, 4, 4, branch_bits=8, input_shape=(16, 16, 3), shortcut="B"
    )
    x = grid_inputs((16, 16, 3))
    normalize(model, x)
    kb.align_for_export(model, input_range=(0, 1))
    expected = outputs_of(model, x)
    logits = computed(model, tmp_path, x, format)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_batch_of_any_size(tmp_path):
    model = classifier()
    x = grid_inputs((8, 8, 3), samples=5)
    path = str(tmp_path / "free.onnx")
    kb.export_onnx(model, path, "qcdq", batch_size=None)
    for count in (1, 5):
        (y,) = run_file(path, to_first(x[:count]), "qcdq")
        np.testing.assert_allclose(y, reference(model, x[:count]), atol=1e-5)
