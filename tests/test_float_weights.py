"""Files of float networks, loaded into their quantized twins."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_bcgd as kb
from keras_bcgd import load_float_weights

STOCK = {
    "QuantConv2D": keras.layers.Conv2D,
    "QuantDepthwiseConv2D": keras.layers.DepthwiseConv2D,
    "QuantDense": keras.layers.Dense,
}


def numpy_of(variable):
    return ops.convert_to_numpy(variable)


def small(is_float, bits=2):
    """A network with every kind of layer, some of them stock in both."""
    if is_float:
        classes = keras.layers.Conv2D, keras.layers.DepthwiseConv2D
        dense, relu, kwargs = keras.layers.Dense, keras.layers.ReLU, {}
    else:
        classes = kb.QuantConv2D, kb.QuantDepthwiseConv2D
        dense, relu, kwargs = kb.QuantDense, kb.QuantReLU, {"bits": bits}
    conv, depthwise = classes
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            # All of a shape: the order matters.
            keras.layers.Conv2D(4, 3, padding="same", name="a"),
            conv(4, 3, padding="same", name="b", **kwargs),
            keras.layers.BatchNormalization(),
            relu(),
            keras.layers.Conv2D(4, 3, padding="same", name="c"),
            depthwise(3, use_bias=False, **kwargs),
            relu(),
            keras.layers.Flatten(),
            dense(3, name="d", **kwargs),
        ]
    )


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape) for w in model.weights])
    return model


def save(model, path):
    is_model = path.suffix == ".keras"
    (model.save if is_model else model.save_weights)(path)
    return path


def assert_has_weights_of(model, float_model):
    """By the names of layers, where they are given."""
    for layer in float_model.layers:
        names = [w.name for w in layer.weights]
        for name, value in zip(names, layer.get_weights(), strict=True):
            variable = getattr(model.get_layer(layer.name), name)
            np.testing.assert_array_equal(numpy_of(variable), value)


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("steps", [False, True])
def test_the_projection_of_a_file(tmp_path, suffix, steps):
    """Also where stock layers are between the quantized ones."""
    float_model = randomize(small(True))
    float_model.compile("adam", "mse")
    path = save(float_model, tmp_path / f"float{suffix}")
    x = np.random.default_rng(1).normal(size=(8, 6, 6, 4)).astype("float32")
    model = small(False)
    if steps:
        sgd = keras.optimizers.SGD(0.01)
        model.compile(kb.BlendedOptimizer(sgd), "mse")
        model.fit(x, np.ones((8, 3)), verbose=0)
    alphas = [0.25, 0.75]
    model.layers[3].alpha.assign(alphas[0])
    model.layers[6].alpha.assign(alphas[1])
    load_float_weights(model, path)
    for layer, source in zip(model.layers, float_model.layers, strict=True):
        for variable, value in zip(
            layer.weights, source.get_weights(), strict=False
        ):
            np.testing.assert_array_equal(numpy_of(variable), value)
    assert [float(model.layers[i].alpha) for i in (3, 6)] == alphas
    by_hand = small(False)
    for layer, source in zip(by_hand.layers, model.layers, strict=True):
        if isinstance(layer, kb.layers.QuantKernel):
            source_weights = source.get_weights()
            scale, codes = source.kernel_scale_and_codes()
            layer.set_weights([scale * codes, *source_weights[1:-1]])
        else:
            layer.set_weights(source.get_weights())
    np.testing.assert_allclose(
        model.predict(x, verbose=0), by_hand.predict(x, verbose=0), 1e-4, 1e-4
    )


def stock_copy(model):
    """The same network of stock layers alone."""

    def stock(layer):
        config = layer.get_config()
        cls = STOCK.get(type(layer).__name__, type(layer))
        if cls is not type(layer):
            for name in ("bits", "projection", "per_channel"):
                del config[name]
        return cls.from_config(config)

    return keras.models.clone_model(model, clone_function=stock)


@pytest.mark.parametrize("name", ["vgg11", "resnet_cifar", "mobilenet_cifar"])
def test_the_networks_of_the_package(tmp_path, name):
    make = getattr(kb.models, name)
    float_model = make(weight_bits=32, activation_bits=32)
    float_model = randomize(stock_copy(float_model))
    path = save(float_model, tmp_path / "float.weights.h5")
    model = make(weight_bits=2, activation_bits=4)
    load_float_weights(model, path)
    assert_has_weights_of(model, float_model)


def branches(is_float):
    """Chains of several lengths: their order depends on all layers."""
    conv = keras.layers.Conv2D if is_float else kb.QuantConv2D
    x = inputs = keras.Input((6, 6, 4))
    a = conv(4, 1, name="a1")(x)
    if not is_float:
        a = kb.QuantIdentity(name="a1_codes")(inputs=a)
    b = conv(4, 1, name="b2")(conv(4, 1, name="b1")(x))
    x = keras.layers.Concatenate()([a, b])
    y = conv(4, 1, name="y1")(inputs)
    z = conv(4, 1, name="z1")(inputs)
    if is_float:
        y = keras.layers.ReLU()(keras.layers.Add()([y, z]))
    else:
        y = kb.QuantAddReLU()([y, z])
    c = inputs
    for i in range(1, 5):
        c = conv(4, 1, name=f"c{i}")(c)
    y = keras.layers.Add()([y, c])
    return keras.Model(inputs, keras.layers.Concatenate()([x, y]))


def test_the_order_of_layers_is_that_of_the_float_network(tmp_path):
    float_model = randomize(branches(True))
    path = save(float_model, tmp_path / "float.weights.h5")
    model = branches(False)
    load_float_weights(model, path)
    assert_has_weights_of(model, float_model)


def enlarging(is_float):
    """The layers that are in no network of the package."""
    stock = keras.layers
    if is_float:
        classes = stock.SeparableConv2D, stock.Conv2DTranspose, stock.Conv1D
    else:
        classes = kb.QuantSeparableConv2D, kb.QuantConv2DTranspose
        classes = *classes, kb.QuantConv1D
    separable, transposed, series = classes
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            separable(4, 3, name="a"),
            transposed(5, 3, strides=2, name="b"),
            stock.Reshape((81, 5)),
            series(3, 2, padding="causal", name="c"),
        ]
    )


def test_separable_transposed_and_series(tmp_path):
    float_model = randomize(enlarging(True))
    path = save(float_model, tmp_path / "float.weights.h5")
    model = enlarging(False)
    load_float_weights(model, path)
    assert_has_weights_of(model, float_model)


def nested(is_float):
    dense = keras.layers.Dense if is_float else kb.QuantDense
    relu = keras.layers.ReLU if is_float else kb.QuantReLU
    shared = keras.Sequential(
        [keras.Input((4,)), dense(4), relu(), dense(4)], name="shared"
    )
    inputs = keras.Input((4,))
    inner = keras.Model(inputs, dense(4)(shared(inputs)), name="inner")
    inputs = keras.Input((4,))
    normalized = keras.layers.Normalization()(inputs)
    steps = keras.layers.TimeDistributed(dense(4))(
        keras.layers.Reshape((1, 4))(inner(shared(normalized)))
    )
    return keras.Model(inputs, steps)


def gated(is_float):
    """Other activations, products and slopes; their order in a file counts."""
    if is_float:
        conv, dense = keras.layers.Conv2D, keras.layers.Dense
        swish = keras.layers.Activation("swish", name="swish")
        gate = keras.layers.Activation("hard_sigmoid", name="gate")
        add, multiply = keras.layers.Add, keras.layers.Multiply
        concatenate, leaky = keras.layers.Concatenate, keras.layers.LeakyReLU
        prelu = keras.layers.PReLU(shared_axes=[1, 2], name="prelu")
        last = keras.layers.PReLU(name="last")
    else:
        conv, dense = kb.QuantConv2D, kb.QuantDense
        swish = kb.QuantActivation("swish", name="swish")
        gate = kb.QuantHardSigmoid(name="gate")
        add, multiply = kb.QuantAdd, kb.QuantMultiply
        concatenate, leaky = kb.QuantConcatenate, kb.QuantLeakyReLU
        prelu = kb.QuantPReLU(name="prelu")
        last = kb.QuantPReLU(name="last")
    inputs = keras.Input((6, 6, 4))
    x = swish(conv(4, 1, name="a")(inputs))
    y = gate(conv(4, 1, name="b")(x))
    x = multiply()([x, y])
    x = add()([x, leaky()(conv(4, 1, name="c")(x))])
    x = concatenate()([x, prelu(conv(4, 1, name="d")(x))])
    x = last(dense(4, name="e")(keras.layers.Flatten()(x)))
    return keras.Model(inputs, dense(3, name="f")(x))


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_other_activations_and_their_slopes(tmp_path, suffix):
    float_model = randomize(gated(True))
    path = save(float_model, tmp_path / f"float{suffix}")
    model = gated(False)
    model.get_layer("swish").product.alpha.assign(0.25)
    load_float_weights(model, path)
    assert float(model.get_layer("swish").product.alpha) == 0.25
    for layer in float_model.layers:
        if isinstance(layer, keras.layers.PReLU):
            slopes = model.get_layer(layer.name).negative.slopes
            expected = numpy_of(layer.alpha).reshape(-1)
            np.testing.assert_array_equal(numpy_of(slopes), expected)
            continue
        for variable in layer.weights:
            found = getattr(model.get_layer(layer.name), variable.name)
            np.testing.assert_array_equal(numpy_of(found), numpy_of(variable))


def test_a_prelu_with_more_slopes_is_refused(tmp_path):
    inputs = keras.Input((6, 6, 4))
    float_model = keras.Model(inputs, keras.layers.PReLU()(inputs))
    path = save(float_model, tmp_path / "float.weights.h5")
    model = keras.Model(inputs, kb.QuantPReLU()(inputs))
    with warnings.catch_warnings(), pytest.raises(ValueError) as raised:
        warnings.simplefilter("ignore")  # of what Keras tries besides
        load_float_weights(model, path)
    assert "`filepath` must be a file of the weights" in str(raised.value)


def test_models_within_models_and_wrappers(tmp_path):
    float_model, model = randomize(nested(True)), nested(False)
    x = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")
    float_model.layers[1].adapt(3 * x)
    path = save(float_model, tmp_path / "float.weights.h5")
    load_float_weights(model, path)
    flag = "kernel_is_quantized"
    found = [
        numpy_of(w) for w in model.weights if w.name not in (flag, "alpha")
    ]
    expected = float_model.get_weights()
    assert len(found) == len(expected) > 8
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(value, other)
    # `Normalization` computes with what it derives from its weights.
    outputs = [numpy_of(m.layers[1](x)) for m in (model, float_model)]
    np.testing.assert_array_equal(*outputs)


def test_training_starts_from_the_file(tmp_path):
    float_model = randomize(small(True))
    path = save(float_model, tmp_path / "float.weights.h5")
    model = small(False)
    still = kb.BlendedOptimizer(keras.optimizers.SGD(0.0), blending=0.0)
    model.compile(still, "mse")
    x, y = np.ones((8, 6, 6, 4)), np.ones((8, 3))
    model.fit(x, y, verbose=0)
    load_float_weights(model, path)
    model.fit(x, y, verbose=0)
    kernel = model.get_layer("b").kernel
    np.testing.assert_array_equal(
        numpy_of(still.shadow(kernel)), float_model.get_layer("b").kernel
    )
    assert len(np.unique(kernel)) == 3


def test_a_file_of_quantized_layers_is_refused(tmp_path):
    path = save(small(False), tmp_path / "quantized.weights.h5")
    with pytest.raises(ValueError, match="that of a quantized network is for"):
        load_float_weights(small(False), path)


def test_a_model_that_cannot_be_read_is_refused(tmp_path):
    model = keras.Sequential([kb.QuantDense(3)])
    with pytest.raises(ValueError, match="`model` must be a built"):
        load_float_weights(model, tmp_path / "float.weights.h5")
