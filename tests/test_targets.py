"""Files for one kind of device: TensorFlow Lite Micro, Arm's Ethos-U."""

import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from export_helpers import INPUT_RANGE
from export_helpers import grid_inputs
from export_helpers import network
from export_helpers import normalize
from export_helpers import outputs_of

import keras_bcgd as kb
from keras_bcgd.export import means
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner

layers = keras.layers

IMAGES = grid_inputs((16, 16, 3), samples=24)


def convolution(filters=8, bits=4, **settings):
    settings.setdefault("padding", "same")
    return kb.QuantConv2D(filters, 3, bits=bits, **settings)


def classifier(*parts, pool=None):
    pool = layers.GlobalAveragePooling2D() if pool is None else pool
    model = network(
        IMAGES.shape[1:],
        convolution(),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
        *parts,
        pool,
        layers.Flatten(),
        kb.QuantDense(10, bits=8),
    )
    return normalize(model, IMAGES)


def merged(merge):
    x = inputs = keras.Input((16, 16, 3))
    branches = [kb.QuantReLU(4)(convolution()(x)) for _ in range(2)]
    x = kb.QuantReLU(4)(convolution()(merge(branches)))
    x = kb.QuantDense(10, bits=8)(layers.GlobalAveragePooling2D()(x))
    return normalize(keras.Model(inputs, x), IMAGES)


def export(model, path, **settings):
    settings.setdefault("target", "ethos-u")
    settings.setdefault(
        "representative_data", grid_inputs(model.input_shape[1:])
    )
    return kb.export_tflite(model, path, INPUT_RANGE, **settings)


def real_outputs(path, x, kernels):
    runner = TFLiteRunner(path, kernels)
    (output,) = runner.outputs
    codes = runner.run(runner.quantize(x)).astype(np.float64)
    return (codes - output.zero_point) * output.scale


# Averages by parts, of a whole map and of windows, and in 16 bits: of so many
# channels, a dense layer with parts would be too large.
POOLS = {
    "parts": classifier,
    "whole": lambda: classifier(layers.MaxPooling2D(4)),
    "window": lambda: classifier(pool=layers.AveragePooling2D(4)),
    "wide": lambda: classifier(convolution(64), kb.QuantReLU(4)),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("output_type", ["int8", "int16"])
def test_an_ethos_u_file_computes_what_the_model_does(
    pool, output_type, tmp_path
):
    path = str(tmp_path / "model.tflite")
    report = export(POOLS[pool](), path, output_type=output_type)
    expected = outputs_of(report.model, IMAGES)
    step = report.output_scale
    for kernels in KERNELS:
        found = real_outputs(path, IMAGES, kernels)
        # Beyond the range of its type an output saturates. The bias is a
        # whole number of sums, a tenth of a step at most.
        error = found - np.clip(expected, found.min(), found.max())
        assert np.abs(error).max() <= 0.55 * step, kernels


def test_an_ethos_u_file_has_no_cast_and_small_strides(tmp_path):
    model = classifier()
    operators, strides = {}, {}
    for target in (None, "ethos-u"):
        path = str(tmp_path / f"{target}.tflite")
        export(model, path, target=target)
        file = reader.read_tflite(path)
        operators[target] = [one.name for one in file.operators]
        for operator in file.model.subgraphs[0].operators:
            options = operator.builtinOptions
            if hasattr(options, "strideH"):
                strides.setdefault(target, []).append(
                    (options.strideH, options.strideW)
                )
    assert operators[None].count("CAST") == 1
    expected = [
        "QUANTIZE" if name == "CAST" else name for name in operators[None]
    ]
    # A CAST and a QUANTIZE to finer steps are one QUANTIZE.
    place = expected.index("QUANTIZE")
    assert expected[place + 1] == "QUANTIZE"
    del expected[place]
    assert operators["ethos-u"] == expected
    assert strides[None] == strides["ethos-u"]
    assert np.max(strides[None]) <= 3


def test_a_stride_along_one_place_is_left_out_only_without_padding(tmp_path):
    """A padded window at the border has another place with another stride."""
    model = network(
        (2, 2, 3),
        convolution(strides=2),
        kb.QuantReLU(4),
        layers.Flatten(),
        kb.QuantDense(3, bits=4),
    )
    path = str(tmp_path / "model.tflite")
    report = export(model, path, target=None)
    x = grid_inputs((2, 2, 3), samples=64)
    found = real_outputs(path, x, "xnnpack")
    error = np.abs(found - outputs_of(report.model, x))
    assert error.max() <= 0.51 * report.output_scale


@pytest.mark.parametrize("height", range(1, 13))
def test_windows_of_a_mean(height):
    """The largest exact one, of those with strides up to 3 if there is one."""
    for width in (1, 2, 5, 8, 12):
        for levels in (1, 3, 7, 15, 40, 255):
            node = means_node(height, width)
            exact = [
                (h, w)
                for h in range(1, height + 1)
                for w in range(1, width + 1)
                if not (height % h or width % w or h * w * levels > 255)
            ]
            if height * width * levels <= 255:
                assert means._window(node, levels) is None
                continue
            found = means._window(node, levels)
            assert found in exact
            small = [
                (h, w)
                for h, w in exact
                if (h == height or h <= 3) and (w == width or w <= 3)
            ]
            allowed = small or exact
            assert found in allowed
            assert np.prod(found) == max(np.prod(one) for one in allowed)


def means_node(height, width):
    class Node:
        window = (height, width)
        input_shape = (height, width, 4)

    return Node


def test_a_micro_file_leaves_out_what_tflm_does_not_read(tmp_path):
    model = classifier(
        kb.QuantDepthwiseConv2D(3, bits=4, use_bias=True), kb.QuantReLU(4)
    )
    scales, size = {}, {}
    for target in (None, "micro"):
        path = str(tmp_path / f"{target}.tflite")
        size[target] = export(model, path, target=target).file_bytes
        scales[target] = {
            operator.name: len(operator.inputs[2].scales) > 0
            for operator in reader.read_tflite(path).operators
            if len(operator.inputs) > 2
        }
    assert all(scales[None].values())
    assert scales["micro"] == {
        "CONV_2D": False,
        "DEPTHWISE_CONV_2D": False,
        "FULLY_CONNECTED": True,
    }
    assert size["micro"] < size[None]


def test_int4_for_micro_is_for_convolutions_alone(tmp_path):
    model = network(
        (8, 8, 3),
        convolution(),
        kb.QuantReLU(4),
        kb.QuantDepthwiseConv2D(3, bits=4),
        kb.QuantReLU(4),
        layers.Flatten(),
        kb.QuantDense(5, bits=4),
    )
    path = str(tmp_path / "model.tflite")
    report = export(model, path, target="micro", weight_format="int4")
    assert [row.weight_type for row in report.layers] == [
        "int4",
        "int4",
        "int8",
    ]
    report = export(model, path, target=None, weight_format="int4")
    assert [row.weight_type for row in report.layers] == ["int4"] * 3


@pytest.mark.parametrize(
    ("target", "expected"),
    [(None, "int4"), ("micro", "lut"), ("ethos-u", "int8")],
)
def test_auto_is_the_smallest_of_the_target(target, expected, tmp_path):
    model = classifier(convolution(32), kb.QuantReLU(4))
    path = str(tmp_path / "model.tflite")
    report = export(model, path, target=target, weight_format="auto")
    assert report.layers[1].weight_type == expected
    report = export(
        model, path, target=target, weight_format="auto", minimize="latency"
    )
    assert report.layers[1].weight_type == "int8"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "edgetpu"}, "`target` must be one of None, micro, ethos-u"),
        ({"weight_format": "int4"}, 'with `target="ethos-u"`'),
        ({"weight_format": "lut"}, "Received: weight_format='lut'"),
        (
            {"target": "micro", "weight_format": "int2"},
            'must be one of "int8", "int4", "lut", "auto" with',
        ),
    ],
)
def test_bad_targets(settings, message, tmp_path):
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=re.escape(message)):
        export(classifier(), path, **settings)
    assert not path.exists()


NETWORKS = {
    **POOLS,
    "swish": lambda: classifier(convolution(), kb.QuantActivation("swish")),
    "tanh": lambda: classifier(convolution(), kb.QuantActivation("tanh")),
    "leaky": lambda: classifier(convolution(), kb.QuantLeakyReLU()),
    "depthwise": lambda: classifier(
        kb.QuantDepthwiseConv2D(3, bits=4), kb.QuantReLU(4)
    ),
    "grouped": lambda: classifier(convolution(groups=2), kb.QuantReLU(4)),
    "transposed": lambda: classifier(
        kb.QuantConv2DTranspose(8, 3, 2, padding="same", bits=4),
        kb.QuantReLU(4),
    ),
    "upsampled": lambda: classifier(
        layers.UpSampling2D(2), convolution(), kb.QuantReLU(4)
    ),
    "permuted": lambda: classifier(
        layers.Permute((2, 1, 3)), convolution(), kb.QuantReLU(4)
    ),
    "cropped": lambda: classifier(
        layers.Cropping2D(1), convolution(), kb.QuantReLU(4)
    ),
    "pooled": lambda: classifier(layers.MaxPooling2D(2)),
    "sum": lambda: merged(kb.QuantAdd(bits=8)),
    "product": lambda: merged(kb.QuantMultiply(bits=8)),
    "concatenation": lambda: merged(kb.QuantConcatenate(bits=8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", set(NETWORKS) - {"window"})
def test_vela_leaves_nothing_to_the_cpu(name, tmp_path):
    vela = shutil.which("vela", path=os.path.dirname(sys.executable))
    if vela is None:
        pytest.skip("needs Vela: pip install keras-bcgd[vela]")
    path = str(tmp_path / "model.tflite")
    export(NETWORKS[name](), path)
    done = subprocess.run(
        [
            vela,
            path,
            "--accelerator-config=ethos-u55-128",
            f"--output-dir={tmp_path}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "CPU operators = 0 " in done.stdout, done.stdout
