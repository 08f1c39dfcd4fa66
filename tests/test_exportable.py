"""What the exporter refuses: known before training, with advice that helps."""

import os
import tempfile
import warnings

import keras
import numpy as np
import pytest
from export_helpers import INPUT_RANGE
from export_helpers import assert_all_codes
from export_helpers import exported
from export_helpers import grid_inputs
from export_helpers import normalize
from export_helpers import numpy_of
from export_helpers import outputs_of
from export_helpers import run

import keras_bcgd as kb
from keras_bcgd.export import calibration
from keras_bcgd.export.graph import find_problems
from keras_bcgd.export.graph import read_graph
from keras_bcgd.tflite.runner import KERNELS

layers = keras.layers

SHAPE = (8, 8, 4)


def chain(*parts, shape=SHAPE):
    parts = keras.tree.flatten(parts)
    return keras.Sequential([keras.Input(shape), *parts], name="net")


def dense_end():
    return [layers.Flatten(), kb.QuantDense(2)]


def functional(build, *shapes):
    inputs = [keras.Input(shape) for shape in shapes or [SHAPE]]
    start = inputs if len(inputs) > 1 else inputs[0]
    return keras.Model(start, build(*inputs), name="net")


def codes(x, filters=4, bits=4):
    x = kb.QuantConv2D(filters, 3, bits=bits, padding="same")(x)
    return kb.QuantReLU(bits)(x)


def quietly_quantized(model, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kb.quantize_model(model, **arguments)


def export(model, path):
    x = grid_inputs(model.input_shape[1:])
    kb.export_tflite(model, path, INPUT_RANGE, x)


def is_refused(model, tmp_path):
    """Whether `export_tflite` refuses a model; its sentence, too."""
    try:
        export(model, tmp_path / "model.tflite")
    except ValueError as error:
        assert "cannot be exported to TFLite" in str(error)
        assert not os.listdir(tmp_path)
        return True
    return False


# A sigmoid or a softmax at the end.

ENDS = {
    "sigmoid in Dense": [
        layers.Flatten(),
        kb.QuantDense(1, activation="sigmoid"),
    ],
    "sigmoid in stock Dense": [
        layers.Flatten(),
        layers.Dense(1, activation="sigmoid"),
    ],
    "sigmoid in Conv2D": [kb.QuantConv2D(1, 1, activation="sigmoid")],
    "sigmoid alone": [kb.QuantConv2D(1, 1), layers.Activation("sigmoid")],
    "softmax in Dense": [
        layers.Flatten(),
        kb.QuantDense(3, activation="softmax"),
    ],
    "softmax alone": [layers.Flatten(), kb.QuantDense(3), layers.Softmax()],
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_may_be_a_sigmoid_or_a_softmax(name):
    model = chain(*ENDS[name], layers.Dropout(0.5))
    graph = read_graph(model)
    (output,), (logits,) = graph.outputs, graph.logits
    assert output.kind == name.split()[0]
    assert output.inputs == [logits]
    assert logits.kind in ("conv", "dense")
    kb.check_exportable(model)


def test_logits_are_measured_before_the_sigmoid():
    model = chain(layers.Flatten(), kb.QuantDense(1, activation="sigmoid"))
    x = grid_inputs(SHAPE)
    _, logits = calibration.measure(read_graph(model), [x])
    (logits,) = logits.values()
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(expected, outputs_of(model, x), atol=1e-6)


# Every refusal: the model, the advice, and the model after it was followed.


def three_summands(x):
    return layers.Add(name="it")([x, x, x])


def two_additions(x):
    return layers.Add()([layers.Add()([x, x]), x])


def with_lora():
    model = chain(layers.Flatten(), layers.Dense(2, name="it"))
    model.layers[-1].enable_lora(2)
    return model


def dense(**arguments):
    return layers.Dense(4, name="it", **arguments)


def _cubic(name):
    return layers.UpSampling2D(interpolation="bicubic", name=name)


def merged(model):
    """The same without LoRA, by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.weights.h5")
        model.save_weights(path)
        plain = chain(layers.Flatten(), layers.Dense(2, name="it"))
        plain.load_weights(path)
    return plain


def repeated(layer):
    return functional(lambda x: kb.QuantReLU()(layer(layer(x))))


def quantized_by_keras():
    model = chain(layers.Flatten(), dense())
    model.layers[-1].quantize("int8")
    return model


LINEAR = "leave the output linear"
ADVICE = {
    "tanh inside": (
        lambda: chain(
            kb.QuantConv2D(4, 3, activation="tanh", name="it"), dense_end()
        ),
        "use activation=None and a QuantReLU after it",
        lambda: chain(kb.QuantConv2D(4, 3), kb.QuantReLU(), dense_end()),
    ),
    "tanh at the output": (
        lambda: chain(kb.QuantConv2D(4, 3, activation="tanh", name="it")),
        f"{LINEAR} (activation=None) and compute it in the app",
        lambda: chain(kb.QuantConv2D(4, 3)),
    ),
    "tanh before a reshape at the output": (
        lambda: chain(
            kb.QuantConv2D(4, 3, activation="tanh", name="it"), layers.Flatten()
        ),
        f"{LINEAR} (activation=None) and compute it in the app",
        lambda: chain(kb.QuantConv2D(4, 3), layers.Flatten()),
    ),
    "swish layer inside": (
        lambda: chain(
            kb.QuantConv2D(4, 3),
            layers.Activation("swish", name="it"),
            dense_end(),
        ),
        "use a QuantActivation in its place",
        lambda: chain(
            kb.QuantConv2D(4, 3), kb.QuantActivation("swish"), dense_end()
        ),
    ),
    "gelu layer at the output": (
        lambda: chain(
            kb.QuantConv2D(4, 3), layers.Activation("gelu", name="it")
        ),
        f"{LINEAR} (without this layer) and compute it in the app",
        lambda: chain(kb.QuantConv2D(4, 3)),
    ),
    "sigmoid inside": (
        lambda: chain(
            kb.QuantConv2D(4, 3, activation="sigmoid", name="it"), dense_end()
        ),
        "a sigmoid must be the last of the model: use a QuantActivation",
        lambda: chain(kb.QuantConv2D(4, 3), kb.QuantReLU(), dense_end()),
    ),
    "softmax inside": (
        lambda: chain(
            kb.QuantConv2D(4, 3), layers.Softmax(name="it"), dense_end()
        ),
        "a softmax must be the last of the model: leave it out, or move it",
        lambda: chain(kb.QuantConv2D(4, 3), dense_end(), layers.Softmax()),
    ),
    "softmax of another axis": (
        lambda: chain(
            dense_end(), layers.Reshape((1, 2)), layers.Softmax(1, name="it")
        ),
        "a softmax must be over the last axis",
        lambda: chain(dense_end(), layers.Softmax()),
    ),
    "LeakyReLU inside": (
        lambda: chain(
            kb.QuantConv2D(4, 3), layers.LeakyReLU(name="it"), dense_end()
        ),
        "use a QuantLeakyReLU in its place",
        lambda: chain(kb.QuantConv2D(4, 3), kb.QuantLeakyReLU(), dense_end()),
    ),
    "PReLU inside": (
        lambda: chain(
            kb.QuantConv2D(4, 3), layers.PReLU(name="it"), dense_end()
        ),
        "use a QuantPReLU in its place",
        lambda: chain(kb.QuantConv2D(4, 3), kb.QuantPReLU(), dense_end()),
    ),
    "ReLU with a slope": (
        lambda: chain(layers.ReLU(negative_slope=0.1, name="it"), dense_end()),
        "use negative_slope=0 and threshold=0",
        lambda: chain(layers.ReLU(), dense_end()),
    ),
    "separable": (
        lambda: chain(layers.SeparableConv2D(4, 3, name="it"), kb.QuantReLU()),
        "use a QuantSeparableConv2D",
        lambda: chain(kb.QuantSeparableConv2D(4, 3), kb.QuantReLU()),
    ),
    "depthwise over time": (
        lambda: chain(
            layers.DepthwiseConv1D(3, name="it"), kb.QuantReLU(), shape=(8, 4)
        ),
        "use a Conv1D of as many groups as channels",
        lambda: chain(
            kb.QuantConv1D(4, 3, groups=4), kb.QuantReLU(), shape=(8, 4)
        ),
    ),
    "separable over time": (
        lambda: chain(
            layers.SeparableConv1D(6, 3, name="it"),
            kb.QuantReLU(),
            shape=(8, 4),
        ),
        "use a Conv1D of as many groups as channels, then one of size 1",
        lambda: chain(
            [kb.QuantConv1D(4, 3, groups=4), kb.QuantReLU()],
            [kb.QuantConv1D(6, 1), kb.QuantReLU()],
            shape=(8, 4),
        ),
    ),
    "larger over time": (
        lambda: chain(
            kb.QuantReLU(), layers.UpSampling1D(2, name="it"), shape=(8, 4)
        ),
        "use an UpSampling2D of size (n, 1), between a Reshape to (length, 1,",
        lambda: chain(
            kb.QuantReLU(),
            layers.Reshape((8, 1, 4)),
            layers.UpSampling2D((2, 1)),
            layers.Reshape((16, 4)),
            shape=(8, 4),
        ),
    ),
    "output padding": (
        lambda: chain(
            kb.QuantConv2DTranspose(
                4, 3, strides=2, output_padding=1, name="it"
            ),
            kb.QuantReLU(),
        ),
        "use output_padding=None",
        lambda: chain(kb.QuantConv2DTranspose(4, 3, strides=2), kb.QuantReLU()),
    ),
    "dilated and transposed": (
        lambda: chain(
            kb.QuantConv2DTranspose(4, 3, dilation_rate=2, name="it"),
            kb.QuantReLU(),
        ),
        "use dilation_rate=1",
        lambda: chain(kb.QuantConv2DTranspose(4, 3), kb.QuantReLU()),
    ),
    "LoRA": (
        with_lora,
        "`save_weights` merges them, so load them into the same model without",
        lambda: merged(with_lora()),
    ),
    "three summands": (
        lambda: functional(lambda x: kb.QuantReLU()(three_summands(codes(x)))),
        "add two tensors at a time, with several Add",
        lambda: functional(lambda x: kb.QuantReLU()(two_additions(codes(x)))),
    ),
    "shapes that differ": (
        lambda: functional(
            lambda x: layers.Add(name="it")(
                [codes(x), layers.GlobalMaxPooling2D(keepdims=True)(codes(x))]
            )
        ),
        "add tensors of one shape; theirs are (8, 8, 4) and (1, 1, 4)",
        lambda: functional(lambda x: layers.Add()([codes(x), codes(x)])),
    ),
    "an operation": (
        lambda: functional(
            lambda x: kb.QuantReLU()(codes(x) + codes(x)), SHAPE
        ),
        "an operation that is not a layer: use layers.Add()",
        lambda: functional(
            lambda x: kb.QuantReLU()(layers.Add()([codes(x), codes(x)]))
        ),
    ),
    "normalization of another axis": (
        lambda: chain(
            kb.QuantConv2D(4, 3),
            layers.BatchNormalization(axis=1, name="it"),
            kb.QuantReLU(),
        ),
        "it must normalize the last axis: use axis=-1",
        lambda: chain(
            kb.QuantConv2D(4, 3),
            layers.BatchNormalization(axis=-1),
            kb.QuantReLU(),
        ),
    ),
    "LayerNormalization": (
        lambda: chain(
            kb.QuantConv2D(4, 3),
            layers.LayerNormalization(name="it"),
            kb.QuantReLU(),
        ),
        "use a BatchNormalization in its place",
        lambda: chain(
            kb.QuantConv2D(4, 3), layers.BatchNormalization(), kb.QuantReLU()
        ),
    ),
    "Rescaling inside": (
        lambda: chain(
            kb.QuantReLU(), layers.Rescaling(2.0, name="it"), dense_end()
        ),
        "put it directly after the input, or use a BatchNormalization",
        lambda: chain(kb.QuantReLU(), layers.BatchNormalization(), dense_end()),
    ),
    "Normalization of each pixel": (
        lambda: chain(
            layers.Normalization(axis=(1, 2, 3), name="it"), dense_end()
        ),
        "use axis=-1; it has 256 numbers for 4 channels",
        lambda: chain(layers.Normalization(axis=-1), dense_end()),
    ),
    "Normalization, inverted": (
        lambda: chain(
            layers.Normalization(invert=True, name="it"), dense_end()
        ),
        "use invert=False",
        lambda: chain(layers.Normalization(invert=False), dense_end()),
    ),
    "concatenated batch": (
        lambda: functional(
            lambda x: layers.Concatenate(axis=-4, name="it")([codes(x)] * 2)
        ),
        "it must not concatenate the batch: use another axis",
        lambda: functional(
            lambda x: layers.Concatenate(axis=1)([codes(x)] * 2)
        ),
    ),
    "channels first": (
        lambda: chain(
            kb.QuantReLU(),
            layers.ZeroPadding2D(data_format="channels_first", name="it"),
        ),
        "use data_format='channels_last'",
        lambda: chain(
            kb.QuantReLU(), layers.ZeroPadding2D(data_format="channels_last")
        ),
    ),
    "Dense of a video": (
        lambda: chain(kb.QuantDense(4, name="it"), shape=(2, 6, 6, 4)),
        "put a Reshape before it, to (height, width, channels)",
        lambda: chain(
            layers.Reshape((12, 6, 4)), kb.QuantDense(4), shape=(2, 6, 6, 4)
        ),
    ),
    "fewer bits": (
        lambda: chain(kb.QuantConv2D(4, 3), kb.QuantIdentity(4, name="it")),
        "use bits=8 (in `quantize_model`, branch_bits=8)",
        lambda: chain(kb.QuantConv2D(4, 3), kb.QuantIdentity(8)),
    ),
    "a layer in two places": (
        lambda: repeated(kb.QuantConv2D(4, 1, name="it")),
        "it is called several times: make one for each call",
        lambda: chain(kb.QuantConv2D(4, 1), kb.QuantConv2D(4, 1)),
    ),
    "a model in two places": (
        lambda: repeated(chain(kb.QuantConv2D(4, 1), kb.QuantReLU())),
        "it is called several times: make one for each call",
        lambda: chain(
            kb.QuantConv2D(4, 1), kb.QuantReLU(), kb.QuantConv2D(4, 1)
        ),
    ),
    "bicubic": (
        lambda: chain(
            kb.QuantReLU(),
            layers.UpSampling2D(interpolation="bicubic", name="it"),
        ),
        "only 'bilinear' by an integer factor has an integer form here: use "
        "that or interpolation='nearest'",
        lambda: chain(
            kb.QuantReLU(), layers.UpSampling2D(interpolation="bilinear")
        ),
    ),
    "bilinear to another size": (
        lambda: chain(kb.QuantReLU(), layers.Resizing(12, 16, name="it")),
        "use that or interpolation='nearest'",
        lambda: chain(
            kb.QuantReLU(), layers.Resizing(12, 16, interpolation="nearest")
        ),
    ),
    "bilinear and smaller": (
        lambda: chain(kb.QuantReLU(), layers.Resizing(4, 4, name="it")),
        "only 'bilinear' by an integer factor",
        lambda: chain(kb.QuantReLU(), layers.Resizing(16, 24)),
    ),
    "aspect ratio": (
        lambda: chain(
            kb.QuantReLU(),
            layers.Resizing(
                4,
                4,
                "nearest",
                crop_to_aspect_ratio=True,
                antialias=True,
                name="it",
            ),
        ),
        "use antialias=False and crop_to_aspect_ratio=False",
        lambda: chain(kb.QuantReLU(), layers.Resizing(4, 4, "nearest")),
    ),
    "padded to an aspect ratio": (
        lambda: chain(
            kb.QuantReLU(),
            layers.Resizing(
                16, 16, "bilinear", pad_to_aspect_ratio=True, name="it"
            ),
        ),
        "use pad_to_aspect_ratio=False",
        lambda: chain(kb.QuantReLU(), layers.Resizing(16, 16, "bilinear")),
    ),
    "upsampling twice": (
        lambda: repeated(
            layers.UpSampling2D(interpolation="bilinear", name="it")
        ),
        "it is called several times: make one for each call",
        lambda: chain(
            layers.UpSampling2D(interpolation="bilinear"),
            layers.UpSampling2D(interpolation="bilinear"),
        ),
    ),
    "attention": (
        lambda: functional(
            lambda x: layers.MultiHeadAttention(1, 4, name="it")(x, x)
        ),
        "attention multiplies tensors with each other and has a softmax",
        lambda: chain(kb.QuantReLU()),
    ),
    "recurrent": (
        lambda: chain(layers.Reshape((8, 32)), layers.LSTM(4, name="it")),
        "use convolutions along the sequence",
        lambda: chain(kb.QuantConv2D(4, (1, 3))),
    ),
    "RMSNormalization": (
        lambda: chain(kb.QuantReLU(), layers.RMSNormalization(name="it")),
        "use a BatchNormalization in its place",
        lambda: chain(kb.QuantReLU(), layers.BatchNormalization()),
    ),
    "CenterCrop": (
        lambda: chain(kb.QuantReLU(), layers.CenterCrop(4, 4, name="it")),
        "it has no integer form here: remove it, or do it before or after the",
        lambda: chain(kb.QuantReLU(), layers.Cropping2D(2)),
    ),
    "Lambda": (
        lambda: chain(kb.QuantReLU(), layers.Lambda(abs, name="it")),
        "what it computes cannot be read from it: remove it",
        lambda: chain(kb.QuantReLU()),
    ),
    "quantized by Keras": (
        quantized_by_keras,
        "Keras has quantized it: export the float model instead",
        lambda: chain(layers.Flatten(), dense()),
    ),
}


@pytest.mark.parametrize("name", ADVICE)
def test_advice_leads_to_a_file(name, tmp_path):
    refused, advice, followed = ADVICE[name]
    with pytest.raises(ValueError) as raised:
        kb.export_tflite(refused(), tmp_path / "model.tflite", INPUT_RANGE)
    lines = str(raised.value).splitlines()[1:]
    assert len(lines) == 1, lines
    assert advice in lines[0]
    assert not is_refused(followed(), tmp_path)


def test_all_problems_are_in_one_error():
    keras.utils.clear_session()  # "sqrt" is not "sqrt_1" after other tests

    def build(x):
        x = _cubic("larger")(codes(x))
        x = three_summands(x)
        x = layers.Softmax(name="inside")(keras.ops.sqrt(x))
        return kb.QuantDense(4, activation="tanh", name="curved")(x)

    lines = find_problems(functional(build))
    names = [line.split("'")[1] for line in lines]
    assert sorted(names) == [
        "curved",
        "inside",
        "it",
        "larger",
        "sqrt",
    ]


# Models within the model.


def test_a_model_of_two_inputs_within_the_model(float64, tmp_path):
    inner = functional(
        lambda a, b: kb.QuantAddReLU(4)([kb.QuantConv2D(4, 1)(a), b]),
        SHAPE,
        SHAPE,
    )
    model = functional(lambda x: inner([codes(x), codes(x)]))
    x = grid_inputs(SHAPE)
    path = str(tmp_path / "model.tflite")
    report = kb.export_tflite(model, path, INPUT_RANGE, x, batch_size=len(x))
    assert kb.verify_tflite(report.model, path, x).inside_differences == 0
    branch, shortcut = read_graph(model).nodes[-1].inputs
    assert branch.inputs[0] is not shortcut


class Doubled(keras.Model):
    """A functional model that computes something else."""

    def __init__(self, **kwargs):
        start = keras.Input((4,))
        super().__init__(start, layers.Dense(3)(start), **kwargs)

    def call(self, x):
        return 2 * super().call(x)


def test_a_model_with_a_call_of_its_own_is_not_opened():
    outer = functional(lambda x: Doubled(name="own")(x), (4,))
    (line,) = find_problems(outer)
    assert line.startswith("'own' (Doubled): it has no integer form")
    with pytest.raises(ValueError, match="without a `call` of their own"):
        kb.check_exportable(Doubled())


def test_a_class_of_its_own_may_be_read():
    class Backbone(keras.Model):
        def __init__(self, units):
            start = keras.Input((4,))
            super().__init__(start, kb.QuantDense(units)(start))

    assert not find_problems(Backbone(3))


# Dense of a map.


def test_dense_of_a_map_has_the_same_codes(float64, tmp_path):
    model = chain(
        kb.QuantDense(6, bits=2),
        kb.QuantReLU(4),
        layers.Dropout(0.5),
        kb.QuantDense(5, bits=4, use_bias=False),
        layers.BatchNormalization(),
        kb.QuantReLU(2),
    )
    assert_all_codes(normalize(model, grid_inputs(SHAPE, seed=1)), tmp_path)


@pytest.mark.parametrize("kernels", KERNELS)
def test_stock_dense_of_a_map(kernels, float64, tmp_path):
    model = chain(layers.Dense(5))
    x = grid_inputs(SHAPE)
    path, report = exported(model, tmp_path, representative_data=x)
    low, high = np.array([-128, 127]) - report.output_zero_point
    step = report.output_scale
    expected = np.clip(outputs_of(model, x), low * step, high * step)
    # Half a step, and as much by weights that are rounded to 8 bits.
    assert np.max(np.abs(run(path, x, kernels) - expected)) < step


# Before training.


def test_a_float_model_is_checked_as_it_will_be_quantized(tmp_path):
    relu = layers.ReLU()
    model = functional(
        lambda x: relu(
            layers.SeparableConv2D(4, 3)(relu(layers.Conv2D(4, 1)(x)))
        )
    )
    assert is_refused(model, tmp_path)
    kb.check_exportable(model)
    assert not kb.conversion_plan(model).not_exportable
    assert not is_refused(quietly_quantized(model), tmp_path)


def test_what_is_refused_is_known_before_training():
    model = chain(layers.Conv2D(4, 3), _cubic("larger"), dense())
    problem = "'larger' (UpSampling2D): only 'bilinear' by an integer factor"
    with pytest.raises(ValueError) as raised:
        kb.check_exportable(model)
    assert str(raised.value).startswith(
        "What `quantize_model` makes of the model 'net' cannot be exported to "
        f"TFLite. Received:\n- {problem}"
    )
    plan = kb.conversion_plan(model)
    assert plan.not_exportable[0].startswith(problem)
    assert f"export_tflite would refuse:\n- {problem}" in str(plan)
    with pytest.raises(ValueError, match="^The model 'net' cannot be exported"):
        kb.check_exportable(quietly_quantized(model))


def test_one_warning_has_all():
    model = chain(
        layers.Conv2D(4, 3, activation="gelu", name="curved"),
        _cubic("larger"),
        layers.Dense(2),
    )
    with pytest.warns(UserWarning) as caught:
        kb.quantize_model(model)
    (warning,) = (w for w in caught if w.category is UserWarning)
    lines = str(warning.message).splitlines()
    assert lines[0] == "In the model 'net' these cannot be quantized:"
    assert lines[1].endswith(
        "gelu has no quantized form, its output stays float: 'curved'"
    )
    assert lines[2] == "and export_tflite would refuse:"
    assert [line.split("'")[1] for line in lines[3:]] == ["curved", "larger"]


def test_arguments_of_quantize_model_count():
    model = functional(
        lambda x: layers.Dense(2)(layers.Concatenate()([layers.Dense(4)(x), x]))
    )
    kb.check_exportable(model)
    plan = kb.conversion_plan(model, branch_bits=4)
    assert all("branch_bits=8" in line for line in plan.not_exportable)
    assert plan.not_exportable


def test_models_that_nothing_is_known_of_are_refused():
    with pytest.raises(
        ValueError, match="`model` must be .* Received: model=3"
    ):
        kb.check_exportable(3)
    with pytest.raises(ValueError, match="no known input shape"):
        kb.check_exportable(keras.Sequential([layers.Dense(2)]))


def test_the_check_changes_nothing():
    model = chain(layers.Conv2D(4, 3), layers.ReLU(), layers.Dense(2))
    before = [numpy_of(weight) for weight in model.weights]
    kb.check_exportable(model)
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy_of(weight), old)
    assert type(model.layers[0]) is layers.Conv2D


# Every layer of Keras that a network for images may have.

_EXAMPLES = {
    "AlphaDropout": lambda: layers.AlphaDropout(0.5),
    "AveragePooling2D": lambda: layers.AveragePooling2D(2),
    "Activation": lambda: layers.Activation("relu"),
    "Activation of tanh": lambda: layers.Activation("tanh"),
    "Activation of sigmoid": lambda: layers.Activation("sigmoid"),
    "AdaptiveAveragePooling2D": lambda: layers.AdaptiveAveragePooling2D(2),
    "AdaptiveMaxPooling2D": lambda: layers.AdaptiveMaxPooling2D(2),
    "BatchNormalization of axis 1": lambda: layers.BatchNormalization(axis=1),
    "CenterCrop": lambda: layers.CenterCrop(4, 4),
    "Conv2D": lambda: layers.Conv2D(4, 3),
    "Conv2D of groups": lambda: layers.Conv2D(4, 3, groups=2),
    "Conv2D with relu6": lambda: layers.Conv2D(4, 3, activation="relu6"),
    "Conv2D with ReLU": lambda: layers.Conv2D(4, 3, activation=layers.ReLU()),
    "Conv2D with swish": lambda: layers.Conv2D(4, 3, activation="swish"),
    "Conv2D with sigmoid": lambda: layers.Conv2D(4, 3, activation="sigmoid"),
    "Conv2DTranspose": lambda: layers.Conv2DTranspose(4, 3),
    "Conv2DTranspose of strides": lambda: layers.Conv2DTranspose(
        4, 2, strides=2, padding="same", activation="relu"
    ),
    "Conv2DTranspose, dilated": lambda: layers.Conv2DTranspose(
        4, 3, dilation_rate=2
    ),
    "Dense": lambda: layers.Dense(4),
    "Dense with softmax": lambda: layers.Dense(4, activation="softmax"),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3),
    "EinsumDense": lambda: layers.EinsumDense("bhwc,cd->bhwd", (8, 8, 4)),
    "GlobalAveragePooling2D": layers.GlobalAveragePooling2D,
    "GlobalAveragePooling2D, kept": lambda: layers.GlobalAveragePooling2D(
        keepdims=True
    ),
    "GroupNormalization": lambda: layers.GroupNormalization(2),
    "MultiHeadAttention": lambda: layers.MultiHeadAttention(1, 4),
    "Permute": lambda: layers.Permute((2, 1, 3)),
    "ReLU of 6": lambda: layers.ReLU(6.0),
    "ReLU of a threshold": lambda: layers.ReLU(threshold=0.5),
    "Reshape": lambda: layers.Reshape((16, 4, 4)),
    "Rescaling": lambda: layers.Rescaling(0.5),
    "Resizing": lambda: layers.Resizing(4, 4),
    "Resizing of the nearest": lambda: layers.Resizing(5, 11, "nearest"),
    "Resizing to twice the size": lambda: layers.Resizing(16, 16),
    "SeparableConv2D": lambda: layers.SeparableConv2D(4, 3),
    "SpectralNormalization": lambda: layers.SpectralNormalization(
        layers.Conv2D(4, 3)
    ),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(4)),
    "UpSampling2D, bilinear": lambda: layers.UpSampling2D(
        (2, 3), interpolation="bilinear"
    ),
    "UpSampling2D, bicubic": lambda: layers.UpSampling2D(
        interpolation="bicubic"
    ),
    "AveragePooling2D, same": lambda: layers.AveragePooling2D(
        3, padding="same"
    ),
    "RandomBrightness": lambda: layers.RandomBrightness(0.1),
    "RandomContrast": lambda: layers.RandomContrast(0.1),
    "RandomCrop": lambda: layers.RandomCrop(4, 4),
    "RandomRotation": lambda: layers.RandomRotation(0.1),
    "RandomTranslation": lambda: layers.RandomTranslation(0.1, 0.1),
    "RandomZoom": lambda: layers.RandomZoom(0.1),
    "Dropout": lambda: layers.Dropout(0.5),
    "GaussianDropout": lambda: layers.GaussianDropout(0.5),
    "GaussianNoise": lambda: layers.GaussianNoise(0.5),
    "SpatialDropout2D": lambda: layers.SpatialDropout2D(0.5),
}
_WITHOUT_ARGUMENTS = (
    "AutoContrast BatchNormalization Cropping2D "
    "ELU Flatten GlobalMaxPooling2D Identity LayerNormalization LeakyReLU "
    "MaxPooling2D Normalization PReLU RMSNormalization ReLU Softmax "
    "UnitNormalization UpSampling2D ZeroPadding2D"
).split()
_MERGES = (
    "Add Average Concatenate Dot Maximum Minimum Multiply Subtract".split()
)


def _attended(layer, x):
    return (
        layer(x, x)
        if isinstance(layer, layers.MultiHeadAttention)
        else layer(x)
    )


def _ended(x):
    if len(x.shape) == 4:
        return layers.Conv2D(2, 1)(x)
    return layers.Dense(2)(layers.Flatten()(x))


def _merged(name, x):
    arguments = {"axes": -1} if name == "Dot" else {}
    operands = [layers.Conv2D(4, 1)(x), layers.Conv2D(4, 1)(x)]
    return getattr(layers, name)(**arguments)(operands)


SINGLE = {
    **_EXAMPLES,
    **{
        name: (lambda name=name: getattr(layers, name)())
        for name in _WITHOUT_ARGUMENTS
    },
}
PLACES = {
    "first": lambda layer, x: _ended(_attended(layer, x)),
    "inside": lambda layer, x: _ended(
        layers.ReLU()(_attended(layer, layers.Conv2D(4, 1)(x)))
    ),
    "last": lambda layer, x: _attended(layer, layers.Conv2D(4, 1)(x)),
}


def assert_known_before(model, tmp_path):
    plan = kb.conversion_plan(model)
    new = quietly_quantized(model)
    # The same, word for word: the plan reads what `quantize_model` makes.
    assert plan.not_exportable == find_problems(new)
    in_float = {"weight_bits": 32, "activation_bits": 32}
    found = kb.conversion_plan(model, **in_float).not_exportable
    assert found == find_problems(quietly_quantized(model, **in_float))
    refused = is_refused(new, tmp_path)
    assert refused == bool(plan.not_exportable)
    for checked in (model, new):
        if refused:
            with pytest.raises(ValueError, match="cannot be exported"):
                kb.check_exportable(checked)
        else:
            kb.check_exportable(checked)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", SINGLE)
def test_layers_of_keras(name, place, tmp_path):
    if not hasattr(layers, name.split()[0].rstrip(",")):
        pytest.skip("not in this release of Keras")
    layer = SINGLE[name]()
    model = functional(lambda x: PLACES[place](layer, x))
    assert_known_before(model, tmp_path)


@pytest.mark.parametrize("name", _MERGES)
def test_merges_of_keras(name, tmp_path):
    model = functional(lambda x: _ended(_merged(name, x)))
    assert_known_before(model, tmp_path)
