"""Float networks to be quantized, and how the result is compared."""

import warnings

import keras
import numpy as np
from keras import layers
from keras import ops

import keras_bcgd as kb

FLOAT = {"weight_bits": 32, "activation_bits": 32, "first_last": 32}


def numpy_of(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def shaken(model):
    """The model with weights that are other than those it begins with."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        noise = 0.1 * rng.standard_normal(weight.shape)
        weight.assign(weight + np.abs(noise))
    finalize_statistics(model)
    return model


def finalize_statistics(model):
    for layer in model.layers:
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()


def images(shape=(4, 8, 8, 3), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(-128, 128, shape) / 64).astype("float32")


def conv_bn(x, filters, name, size=3):
    x = layers.Conv2D(
        filters, size, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    return layers.BatchNormalization(name=f"{name}_bn")(x)


def plain():
    """No normalization, activations inside of the layers."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", name="first"),
            layers.DepthwiseConv2D(3, activation="relu6", name="depthwise"),
            layers.MaxPooling2D(2, name="pool"),
            layers.Flatten(name="flatten"),
            layers.Dense(6, name="hidden"),
            layers.ReLU(6.0, name="hidden_relu"),
            layers.Dropout(0.5, name="dropout"),
            layers.Dense(3, name="classifier"),
        ],
        name="plain",
    )


def residual():
    """Sums before a ReLU: the shortcut first, and two branches."""
    inputs = keras.Input((8, 8, 3))
    x = conv_bn(inputs, 4, "stem")
    x = shortcut = layers.Activation("relu", name="stem_relu")(x)
    x = conv_bn(x, 4, "a")
    x = layers.Add(name="a_add")([shortcut, x])
    x = layers.Activation("relu", name="a_relu")(x)
    other = conv_bn(x, 6, "short", 1)
    x = conv_bn(x, 6, "b")
    x = layers.Add(name="b_add")([other, x])
    x = layers.ReLU(name="b_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="residual"
    )


def bottlenecks():
    """Sums without a ReLU, as in MobileNetV2."""
    inputs = keras.Input((8, 8, 3))
    x = shortcut = conv_bn(inputs, 4, "stem")
    x = layers.ReLU(6.0, name="expand_relu")(conv_bn(x, 8, "expand", 1))
    x = conv_bn(x, 4, "project", 1)
    x = layers.Add(name="add")([shortcut, x])
    x = layers.ReLU(6.0, name="last_relu")(conv_bn(x, 8, "last", 1))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="bottlenecks"
    )


def pre_activation():
    """Normalization and ReLU before the convolutions, sums of sums."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    for name in ("a", "b"):
        y = layers.BatchNormalization(name=f"{name}_bn")(x)
        y = layers.ReLU(name=f"{name}_relu")(y)
        y = layers.Conv2D(4, 3, padding="same", name=f"{name}_conv")(y)
        x = layers.Add(name=f"{name}_add")([x, y])
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="pre_activation"
    )


def dense_block():
    """Concatenations and an average of what has signs, as in DenseNet."""
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="stem_relu")(conv_bn(inputs, 4, "stem"))
    y = layers.Conv2D(4, 3, padding="same", name="a_conv")(x)
    x = layers.Concatenate(name="a_concat")([x, y])
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.AveragePooling2D(2, name="exact_average")(x)
    x = layers.Conv2D(4, 1, name="transition")(x)
    x = layers.AveragePooling2D(2, name="average")(x)
    x = layers.Conv2D(4, 1, name="last")(x)
    x = layers.ReLU(name="last_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="dense_block"
    )


def concatenated(parts, name, after=None):
    """Two convolutions side by side, each with what `parts` puts after it."""
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="stem_relu")(conv_bn(inputs, 4, "stem"))
    branches = [parts(conv_bn(x, 4, branch), branch) for branch in "ab"]
    x = layers.Concatenate(name="concat")(branches)
    if after is not None:
        x = after(x)
    x = layers.ReLU(name="last_relu")(conv_bn(x, 4, "last"))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x), name=name)


def concatenated_before_a_relu():
    """The ReLU rounds all parts."""
    relu = layers.ReLU(name="concat_relu")
    return concatenated(lambda x, branch: x, "concat_relu", relu)


def concatenated_after_relus():
    """As in Inception: the parts have two alphas, and are to have one step."""
    return concatenated(
        lambda x, branch: layers.ReLU(name=f"{branch}_relu")(x), "relus_concat"
    )


def nested():
    """A Sequential and a functional model within a functional one."""
    inner_inputs = keras.Input((8, 8, 4))
    x = conv_bn(inner_inputs, 4, "a")
    x = layers.ReLU(name="a_relu")(layers.Add(name="a_add")([x, inner_inputs]))
    block = keras.Model(inner_inputs, x, name="block")
    stem = keras.Sequential(
        [
            layers.Conv2D(4, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="bn"),
        ],
        name="stem",
    )
    inputs = keras.Input((8, 8, 3))
    x = block(layers.ReLU(name="stem_relu")(stem(inputs)))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(
        inputs, layers.Dense(3, name="classifier")(x), name="nested"
    )


def shared():
    """A ReLU that is called three times, and a convolution called twice."""
    relu = layers.ReLU(name="relu")
    conv = layers.Conv2D(3, 3, padding="same", name="twice")
    inputs = keras.Input((8, 8, 3))
    x = relu(conv(relu(conv(inputs))))
    x = relu(layers.Conv2D(4, 3, name="once")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x))


def several():
    """Two inputs, two outputs, and a tower that both inputs go through."""
    tower_inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(tower_inputs)
    tower = keras.Model(
        tower_inputs, [x, layers.MaxPooling2D(2)(x)], name="tower"
    )
    inputs = {name: keras.Input((8, 8, 3), name=name) for name in "ab"}
    a, pooled = tower(inputs["a"])
    b, _ = tower(inputs["b"])
    x = layers.Concatenate(name="concat")([a, b])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    y = layers.GlobalMaxPooling2D(name="max_pool")(pooled)
    return keras.Model(
        inputs,
        [layers.Dense(3, name="first")(x), layers.Dense(2, name="second")(y)],
    )


def shared_by_models():
    """A convolution, a ReLU and an idle layer in three models."""
    conv = layers.Conv2D(3, 3, padding="same", activation="relu", name="shared")
    relu = layers.ReLU(name="relu")
    dropout = layers.Dropout(0.1, name="dropout")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="a")(conv(dropout(inputs)))
    first = keras.Model(inputs, relu(x), name="first")
    second = keras.Sequential(
        [keras.Input((8, 8, 3)), conv, dropout, layers.MaxPooling2D()],
        name="second",
    )
    inputs = keras.Input((8, 8, 3))
    x = second(first(dropout(inputs)))
    x = relu(layers.Conv2D(3, 1, name="b")(x))
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x))


def shared_model():
    """A model that is used directly and in another one."""
    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU(name="relu")(conv_bn(inputs, 3, "a"))
    encoder = keras.Model(inputs, x, name="encoder")
    inputs = keras.Input((8, 8, 3))
    parent = keras.Sequential(
        [inputs, encoder, layers.Conv2D(3, 1, name="b")], name="parent"
    )
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(encoder(parent(inputs)))
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x))


@keras.saving.register_keras_serializable(package="tests")
class Doubles(layers.Layer):
    def call(self, x):
        return 2 * x


def kept():
    """What is copied: operations, statistics of data, GELU."""
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(images())
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(0.5)(normalization(inputs))
    x = Doubles(name="double")(x) + 1.0
    x = layers.SeparableConv2D(
        5, 3, activation="relu", depth_multiplier=2, name="separable"
    )(x)
    x = layers.Conv2D(4, 1, activation="gelu", name="conv")(x)
    x = layers.Conv2DTranspose(4, 2, name="transposed")(x)
    x = layers.ELU(name="elu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="classifier")(x))


MODELS = [
    plain,
    residual,
    bottlenecks,
    pre_activation,
    dense_block,
    nested,
    shared,
    several,
    kept,
]


# Those whose every layer has an integer form.
EXPORTED = MODELS[:6]


def inputs_of(model):
    if len(model.inputs) == 1:
        return images()
    return {
        tensor.name: images(seed=ord(tensor.name)) for tensor in model.inputs
    }


def predicted(model):
    outputs = model(inputs_of(model), training=False)
    return [numpy_of(output) for output in keras.tree.flatten(outputs)]


def assert_equal_outputs(first, second):
    for a, b in zip(predicted(first), predicted(second), strict=True):
        np.testing.assert_array_equal(a, b)


def quantized(model, *args, **kwargs):
    """`quantize_model`, whose one warning is tested by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kb.quantize_model(model, *args, **kwargs)


def layer_at(model, path):
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


def becomes(model, **kwargs):
    """{path: what it becomes, bits} of the planned layers that change."""
    plan = kb.conversion_plan(model, **kwargs)
    return {
        row.name: (row.becomes, row.weight_bits, row.activation_bits)
        for row in plan.layers
        if row.becomes
    }


def with_layer(layer):
    return keras.Sequential([keras.Input((4,)), layer, layers.Dense(2)])
