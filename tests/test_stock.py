"""to_stock_layers: the same codes in Keras, and files all of integers."""

import warnings

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd.stock import to_stock_layers
from keras_bcgd.stock.fake_quant import FakeQuant
from keras_bcgd.stock.fake_quant import FakeQuantKernel

tf = pytest.importorskip("tensorflow")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")

layers = keras.layers

# The pixels of images, (pixel - 128) / 64.
INPUT_RANGE = (-2.0, 127 / 64)


def images(samples=16, size=8, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (samples, size, size, channels))
    return np.float32((pixels - 128) / 64)


def trained(model, x, seed=0):
    """The model as training may leave it: no value is a special one."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            before = keras.Model(model.inputs[0], layer.input)(x).numpy()
            before = before.reshape(-1, before.shape[-1])
            size = before.shape[1]
            sign = rng.choice([-1, 1, 1], size)
            layer.gamma.assign(sign * rng.uniform(0.4, 1.2, size))
            layer.beta.assign(rng.normal(0, 0.4, size))
            layer.moving_mean.assign(before.mean(axis=0))
            layer.moving_variance.assign(before.var(axis=0))
        if getattr(layer, "use_bias", False):
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
        if isinstance(layer, (kb.QuantReLU, kb.QuantIdentity)):
            layer.alpha.assign(float(layer.alpha) * rng.uniform(0.8, 1.2))
    return model


def block(x, filters, bits, activation_bits, conv=kb.QuantConv2D, **kwargs):
    x = conv(filters, 3, bits=bits, use_bias=False, **kwargs)(x)
    x = layers.BatchNormalization()(x)
    return kb.QuantReLU(activation_bits)(x)


def chain(bits, activation_bits=4, size=8):
    """Every kind of convolution and what may stand between them."""
    inputs = keras.Input((size, size, 3))
    x = block(inputs, 8, bits, activation_bits, padding="same")
    x = kb.QuantDepthwiseConv2D(3, bits=bits, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.MaxPooling2D(2)(x)
    x = kb.QuantReLU(activation_bits)(x)
    x = layers.Dropout(0.5)(x)
    x = layers.ZeroPadding2D(1)(x)
    x = block(x, 8, bits, activation_bits, per_channel=True)
    x = layers.Flatten()(x)
    x = kb.QuantDense(16, bits=bits, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = kb.QuantReLU(activation_bits)(x)
    return keras.Model(inputs, kb.QuantDense(10, bits=bits)(x))


def codes(model, names, x, suffix=""):
    """The outputs of these layers, a list."""
    outputs = [model.get_layer(name + suffix).output for name in names]
    outputs = keras.Model(model.inputs[0], outputs)(x)
    return [np.array(output) for output in keras.tree.flatten(outputs)]


def different(model, stock, x):
    """The share of different codes, over all QuantReLUs of the model."""
    staircases = [
        layer for layer in model.layers if isinstance(layer, kb.QuantReLU)
    ]
    names = [layer.name for layer in staircases]
    pairs = zip(
        staircases,
        codes(model, names, x),
        codes(stock, names, x, "_quant"),
        strict=True,
    )
    wrong = [
        np.round(a / layer.alpha.numpy()) != np.round(b / layer.alpha.numpy())
        for layer, a, b in pairs
    ]
    return np.mean(np.concatenate([part.ravel() for part in wrong]))


def convert(stock, representative=None):
    converter = tf.lite.TFLiteConverter.from_keras_model(stock)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if representative is not None:
        converter.representative_dataset = lambda: (
            [x[None]] for x in representative
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it got no statistics
        return converter.convert()


def loaded(contents, batch=1):
    runtime = interpreter.Interpreter(model_content=contents)
    index = runtime.get_input_details()[0]["index"]
    shape = runtime.get_input_details()[0]["shape"]
    runtime.resize_tensor_input(index, [batch, *shape[1:]])
    runtime.allocate_tensors()
    return runtime


def run(contents, x):
    runtime = loaded(contents, len(x))
    runtime.set_tensor(runtime.get_input_details()[0]["index"], x)
    runtime.invoke()
    return runtime.get_tensor(runtime.get_output_details()[0]["index"])


def float_tensors(contents):
    """How many tensors are float: 2 are the input and the output."""
    details = loaded(contents).get_tensor_details()
    return sum(np.issubdtype(t["dtype"], np.floating) for t in details)


def int8_kernels(contents):
    runtime = loaded(contents)
    return [
        runtime.get_tensor(details["index"])
        for details in runtime.get_tensor_details()
        if details["dtype"] == np.int8
        and len(details["quantization_parameters"]["scales"]) > 1
    ]


@pytest.mark.parametrize("activation_bits", [1, 2, 4, 8])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_codes_of_a_chain(bits, activation_bits):
    x = images()
    model = trained(chain(bits, activation_bits), x)
    stock = to_stock_layers(model, INPUT_RANGE, x)
    # Some sums are within float32 errors of a threshold.
    assert different(model, stock, x) < 2e-3
    kinds = {type(layer) for layer in stock.layers}
    assert layers.BatchNormalization not in kinds
    assert not any(issubclass(kind, kb.layers.QuantKernel) for kind in kinds)


@pytest.mark.parametrize(
    "bits, activation_bits, branch_bits",
    [(1, 2, 8), (4, 4, 8), (4, 7, 8), (4, 4, 6), (4, 4, None)],
)
def test_codes_of_branches(bits, activation_bits, branch_bits):
    x = images()
    model = kb.models.resnet_cifar(
        8, bits, activation_bits, branch_bits, input_shape=(8, 8, 3)
    )
    model = trained(model, x)
    stock = to_stock_layers(model, INPUT_RANGE, x)
    # A float branch is rounded for the first time.
    assert different(model, stock, x) < (1e-3 if branch_bits else 0.1)


def test_codes_of_two_branches():
    inputs = keras.Input((8, 8, 3))
    x = block(inputs, 8, 2, 4, padding="same")
    y = kb.QuantConv2D(8, 3, bits=2, padding="same")(x)
    z = kb.QuantConv2D(8, 1, bits=2)(x)
    y, z = layers.BatchNormalization()(y), layers.BatchNormalization()(z)
    x = kb.QuantAddReLU(4, shortcut_is_branch=True)([y, z])
    model = trained(keras.Model(inputs, x), images())
    stock = to_stock_layers(model, INPUT_RANGE)
    # One sum in 8 is a tie, and the float32 sum of training may lie above it.
    assert different(model, stock, images()) < 0.01


def test_ties_go_down():
    """Sums of whole numbers, alpha 2: every other one is a tie."""
    inputs = keras.Input((4, 4, 2))
    conv = kb.QuantConv2D(4, 2, bits=2, use_bias=False)
    relu = kb.QuantReLU(4, alpha_initializer=keras.initializers.Constant(2.0))
    model = keras.Model(inputs, relu(conv(inputs)))
    rng = np.random.default_rng(0)
    conv.kernel.assign(rng.integers(-1, 2, conv.kernel.shape))
    x = np.float32(rng.integers(-128, 128, (16, 4, 4, 2)) // 8)
    stock = to_stock_layers(model, (-128, 127))
    assert different(model, stock, x) == 0
    expected = model(x).numpy()
    np.testing.assert_allclose(run(convert(stock), x), expected)


def test_channels_without_weights():
    x = images()
    model = trained(chain(4), x)
    norm = model.layers[2]
    gamma = norm.gamma.numpy()
    gamma[:2] = 0.0, 1e-9
    norm.gamma.assign(gamma)
    norm.beta.assign(norm.beta * np.float32([0, 1, 1, 1, 1, 1, 1, 1]))
    model.layers[1].kernel.assign(
        model.layers[1].kernel * np.float32([1, 1, 0, 1, 1, 1, 1, 1])
    )
    stock = to_stock_layers(model, INPUT_RANGE, x)
    assert different(model, stock, x) == 0
    assert np.all(np.isfinite(run(convert(stock), x)))


@pytest.mark.parametrize("bits", [1, 2])
def test_file_has_the_predictions_of_the_model(bits):
    x = images(200)
    model = trained(chain(bits), x)
    stock = to_stock_layers(model, INPUT_RANGE, x)
    contents = convert(stock)
    assert float_tensors(contents) == 2
    expected = model(x).numpy()
    actual = run(contents, x)
    # The output has 256 codes.
    step = np.ptp(expected) / 255
    np.testing.assert_allclose(actual, expected, atol=1.01 * step)
    top = np.sort(expected)[:, -2:]
    clear = top[:, 1] - top[:, 0] > 2 * step
    assert np.mean(clear) > 0.8
    np.testing.assert_array_equal(
        actual.argmax(axis=1)[clear], expected.argmax(axis=1)[clear]
    )


def test_file_holds_the_codes():
    x = images()
    stock = to_stock_layers(trained(chain(4), x), INPUT_RANGE, x)
    kernels = int8_kernels(convert(stock))
    # 7 * 18 = 126; the Dense before normalization is rounded once more.
    exact = [np.all(kernel % 18 == 0) for kernel in kernels]
    assert sum(exact) == len(exact) - 1 == 4


def everything(pool):
    """Residual branches, averages, concatenation, softmax."""
    inputs = keras.Input((8, 8, 3))
    x = block(inputs, 8, 4, 4, padding="same")
    y = kb.QuantConv2D(8, 3, bits=4, padding="same")(x)
    y = kb.QuantAddReLU(4)([layers.BatchNormalization()(y), x])
    z = layers.MaxPooling2D(1, strides=2)(y)
    z = kb.PadChannels(12)(z)
    y = layers.AveragePooling2D(2)(y)
    y = layers.Concatenate()([y, z])
    y = block(y, 8, 4, 4)
    y = kb.QuantConv2D(8, 1, bits=4)(y)
    y = kb.QuantIdentity(6)(y)
    y = pool(y)
    return keras.Model(inputs, kb.QuantDense(10, activation="softmax")(y))


@pytest.mark.parametrize(
    "pool",
    [
        layers.GlobalAveragePooling2D(),
        layers.GlobalMaxPooling2D(),
        layers.Flatten(),
    ],
)
def test_file_is_of_integers(pool):
    x = images(64)
    model = trained(everything(pool), x)
    stock = to_stock_layers(model, INPUT_RANGE, x)
    contents = convert(stock)
    assert float_tensors(contents) == 2
    expected = model(x).numpy()
    for actual in (stock(x).numpy(), run(contents, x)):
        np.testing.assert_allclose(actual, expected, atol=0.1)


def test_narrow_grids_are_clipped(tmp_path):
    x = images()
    inputs = keras.Input((8, 8, 3))
    y = kb.QuantConv2D(8, 3, bits=1)(inputs)
    step = keras.initializers.Constant(0.1)
    y = kb.QuantIdentity(4, alpha_initializer=step)(y)
    model = keras.Model(inputs, y)
    expected = model(x).numpy()
    assert expected.min() < -0.79 and expected.max() > 0.69
    stock = to_stock_layers(model, INPUT_RANGE)
    stock.save(tmp_path / "m.keras")
    stock = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(stock(x).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(run(convert(stock), x), expected, atol=1e-5)


def test_concatenated_tensors_share_a_grid():
    x = images()
    inputs = keras.Input((8, 8, 3))
    parts = [block(inputs, 4, 2, bits, padding="same") for bits in (2, 4)]
    model = trained(keras.Model(inputs, layers.Concatenate()(parts)), x)
    contents = convert(to_stock_layers(model, INPUT_RANGE))
    assert float_tensors(contents) == 2
    expected = model(x).numpy()
    atol = 0.51 * expected.max() / 255
    np.testing.assert_allclose(run(contents, x), expected, atol=atol)


def test_converter_can_choose_the_range_of_the_output():
    x = images()
    stock = to_stock_layers(trained(chain(2), x), INPUT_RANGE)
    assert not isinstance(stock.layers[-1], FakeQuant)
    assert float_tensors(convert(stock, x)) == 2
    assert float_tensors(convert(stock)) > 2


def test_stock_model_reloads(tmp_path):
    x = images()
    stock = to_stock_layers(trained(everything(layers.Flatten()), x), None, x)
    stock.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert {FakeQuant, FakeQuantKernel} < {type(part) for part in again.layers}
    np.testing.assert_array_equal(again(x).numpy(), stock(x).numpy())


def test_litert_export(tmp_path):
    x = images()
    stock = to_stock_layers(trained(chain(2), x), INPUT_RANGE, x)
    path = tmp_path / "m.tflite"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock.export(
            path,
            format="litert",
            verbose=False,
            optimizations=[tf.lite.Optimize.DEFAULT],
        )
    contents = path.read_bytes()
    assert float_tensors(contents) == 2
    np.testing.assert_array_equal(run(contents, x), run(convert(stock), x))


def test_nested_and_sequential_models():
    x = images()
    parts = [
        kb.QuantConv2D(8, 3, bits=2),
        layers.BatchNormalization(),
        kb.QuantReLU(4),
    ]
    inner = keras.Sequential([keras.Input((8, 8, 3)), *parts])
    trained(inner, x)
    inputs = keras.Input((8, 8, 3))
    outer = keras.Model(inputs, layers.Flatten()(inner(inputs)))
    expected = outer(x).numpy()
    for model in (keras.Sequential([inner, layers.Flatten()]), outer):
        stock = to_stock_layers(model, INPUT_RANGE)
        actual = stock(x).numpy()
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_float_layers_are_left_to_eight_bits():
    x = images()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            kb.QuantConv2D(8, 3, bits=32),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    stock = to_stock_layers(model, INPUT_RANGE, x)
    assert float_tensors(convert(stock)) == 2
    expected = model(x).numpy()
    actual = stock(x).numpy()
    np.testing.assert_allclose(actual, expected, atol=0.05 * np.ptp(expected))


def test_a_convolution_with_two_readers():
    """Its output needs a grid of its own: it cannot hold two constants."""
    x = images()
    inputs = keras.Input((8, 8, 3))
    y = kb.QuantConv2D(8, 3, bits=2)(inputs)
    outputs = layers.Add()([kb.QuantReLU(4)(y), kb.QuantReLU(2)(y)])
    model = keras.Model(inputs, outputs)
    expected = model(x).numpy()
    stock = to_stock_layers(model, INPUT_RANGE, x)
    actual = stock(x).numpy()
    # One step of the 2-bit staircase, where rounding crossed a threshold.
    assert np.mean(np.abs(actual - expected) > 0.1) < 0.05
    assert float_tensors(convert(stock)) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "One of `input_range` and `representative_data`"),
        ({"input_range": (1, 2)}, r"low <= 0 <= high.*Received.*\(1, 2\)"),
        ({"input_range": (0, 0)}, "low < high"),
        ({"input_range": 3}, "low, high"),
    ],
)
def test_input_range_is_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_stock_layers(chain(2), **arguments)


def test_all_that_cannot_be_converted_is_named():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2DTranspose(4, 3, name="up")(inputs)
    x = kb.QuantConv2D(4, 3, activation="tanh", name="curved")(x)
    x = layers.Lambda(lambda x: x, name="anything")(x)
    x = layers.Flatten()(x)
    x = layers.BatchNormalization(name="alone")(x)
    with pytest.raises(ValueError) as error:
        to_stock_layers(keras.Model(inputs, x), INPUT_RANGE)
    for part in (
        "'up' (Conv2DTranspose): only export_tflite makes integers of it",
        "'curved' (QuantConv2D): use activation=None",
        "'anything' (Lambda)",
        "'alone' (BatchNormalization): it must follow a convolution",
    ):
        assert part in str(error.value)


def test_a_layer_is_called_once():
    inputs = keras.Input((8, 8, 3))
    conv = kb.QuantConv2D(3, 3, padding="same", name="twice")
    model = keras.Model(inputs, conv(conv(inputs)))
    with pytest.raises(ValueError, match="'twice'.*call each layer once"):
        to_stock_layers(model, INPUT_RANGE)


def test_only_models_with_known_inputs():
    with pytest.raises(ValueError, match="`model` must be a built"):
        to_stock_layers(keras.Sequential([layers.Dense(2)]), INPUT_RANGE)


def test_softmax_over_another_axis_is_refused():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Softmax(axis=1, name="soft")]
    )
    with pytest.raises(ValueError, match="'soft' .*over the last axis"):
        to_stock_layers(model, INPUT_RANGE)
