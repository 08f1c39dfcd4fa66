"""The layers of other activations: training, files, configs, refusals."""

import functools
import json
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from training_helpers import assert_same

import keras_bcgd as kb
from keras_bcgd import BlendedOptimizer
from keras_bcgd.layers import QuantTable

layers = keras.layers
FUNCTIONS = (
    "hard_sigmoid",
    "hard_swish",
    "relu",
    "relu6",
    "sigmoid",
    "swish",
    "tanh",
)
ACTIVATIONS = {
    name: functools.partial(kb.QuantActivation, name) for name in FUNCTIONS
}
ACTIVATIONS |= {
    "leaky": kb.QuantLeakyReLU,
    "prelu": lambda **kwargs: kb.QuantPReLU("ones", **kwargs),
    "gate": kb.QuantHardSigmoid,
}
# How many alphas each has.
ALPHAS = dict.fromkeys(ACTIVATIONS, 1)
ALPHAS |= {"hard_sigmoid": 0, "gate": 0, "swish": 2, "hard_swish": 2}

ARGUMENTS = [
    (kb.QuantActivation, {"function": "swish"}),
    (kb.QuantActivation, {"function": "hard_swish", "bits": 4}),
    (kb.QuantActivation, {"function": "relu6", "bits": 1}),
    (kb.QuantActivation, {"function": "tanh"}),
    (kb.QuantHardSigmoid, {"bits": 3}),
    (kb.QuantLeakyReLU, {"negative_slope": 0.125}),
    (kb.QuantPReLU, {"alpha_initializer": keras.initializers.Constant(0.25)}),
    (kb.QuantPReLU, {"alpha_regularizer": keras.regularizers.L2(0.5)}),
    (QuantTable, {"function": "sigmoid"}),
    (kb.QuantAdd, {"bits": 5}),
    (kb.QuantMultiply, {"bits": 4, "minimum": -0.25}),
    (kb.QuantMultiply, {"alpha_initializer": "ones"}),
    (kb.QuantConcatenate, {"axis": 1, "bits": 6}),
    (kb.QuantIdentity, {"minimum": -3.0}),
]
MERGES = (kb.QuantAdd, kb.QuantMultiply, kb.QuantConcatenate)

BAD_ARGUMENTS = [
    (
        kb.QuantActivation,
        {"function": bad},
        f"`function` must be one of {', '.join(FUNCTIONS)}, silu, hard_silu. "
        f"Received: function={bad!r}",
    )
    for bad in ("gelu", None, 3, keras.activations.sigmoid, ["swish"])
]
BAD_ARGUMENTS += [
    (
        kb.QuantActivation,
        {"function": function, "bits": bad},
        f"`bits` must be an integer from {least} to 8. Received: bits={bad!r}",
    )
    for function, least in (("relu", 1), ("swish", 2), ("sigmoid", 2))
    for bad in (least - 1, 9, 32, 4.0, None, True)
]
BAD_ARGUMENTS += [
    (
        kb.QuantActivation,
        {"function": function, "bits": 4},
        f'`bits` must be 8 for function="{function}": the operator of the '
        "runtime has 8 bits. Received: bits=4",
    )
    for function in ("sigmoid", "tanh")
]
BAD_ARGUMENTS += [
    (
        kb.QuantHardSigmoid,
        {"bits": bad},
        f"`bits` must be an integer from 2 to 8. Received: bits={bad!r}",
    )
    for bad in (1, 9, "8", None)
]
BAD_ARGUMENTS += [
    (
        kb.QuantLeakyReLU,
        {"negative_slope": bad},
        "`negative_slope` must be a number from 0 to 1. "
        f"Received: negative_slope={bad!r}",
    )
    for bad in (-0.1, 1.5, float("nan"), "0.3", None, True)
]
BAD_ARGUMENTS += [
    (
        cls,
        {"minimum": bad},
        "`minimum` must be a number of at most 0, or None. "
        f"Received: minimum={bad!r}",
    )
    for cls in (kb.QuantIdentity, kb.QuantMultiply)
    for bad in (0.5, -float("inf"), float("nan"), "0", True)
]
BAD_ARGUMENTS += [
    (
        QuantTable,
        {"function": "relu"},
        "`function` must be one of sigmoid, tanh. Received: function='relu'",
    )
]


def numpy_of(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def network(policy=None):
    """All of the layers, one after another or side by side."""
    keras.utils.set_random_seed(1)
    kwargs = {"dtype": policy}
    inputs = keras.Input((6, 6, 3))
    x = kb.QuantConv2D(4, 3, bits=4, **kwargs)(inputs)
    parts = [
        make(name=f"{name}_1", **kwargs)(x)
        for name, make in ACTIVATIONS.items()
    ]
    x = kb.QuantConcatenate(name="all", **kwargs)(parts)
    x = kb.QuantConv2D(8, 1, bits=4, **kwargs)(x)
    x = y = kb.QuantActivation("hard_swish", name="y", **kwargs)(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True, **kwargs)(x)
    gate = kb.QuantIdentity(**kwargs)(gate)
    gate = kb.QuantConv2D(8, 1, bits=4, **kwargs)(gate)
    gate = kb.QuantActivation("sigmoid", name="se", **kwargs)(gate)
    x = kb.QuantMultiply(name="scale", **kwargs)([x, gate])
    x = kb.QuantAdd(name="sum", **kwargs)([x, y])
    x = layers.Flatten()(x)
    return keras.Model(inputs, kb.QuantDense(2, bits=8, **kwargs)(x))


def fit(model, optimizer=None, epochs=1):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 6, 6, 3)) * 3
    y = rng.standard_normal((16, 2))
    if optimizer is not None:
        model.compile(optimizer, "mse")
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return x


def optimizer():
    sgd = keras.optimizers.SGD(0.002, momentum=0.9)
    return BlendedOptimizer(sgd, blending=0.01, l2=0.01)


def alphas(model):
    return [w for w in model.trainable_weights if w.name == "alpha"]


# Configs and arguments


@pytest.mark.parametrize(("cls", "kwargs"), ARGUMENTS)
def test_config_round_trip(cls, kwargs):
    layer = cls(name="mine", dtype="mixed_bfloat16", **kwargs)
    config = layer.get_config()
    json.dumps(config)
    assert set(kwargs) <= set(config)
    copy = cls.from_config(config)
    assert copy.get_config() == config
    for name in set(kwargs) - {"alpha_initializer", "alpha_regularizer"}:
        assert getattr(copy, name) == kwargs[name]
    shape = (None, 4, 3)
    for each in (layer, copy):
        each.build([shape, shape] if cls in MERGES else shape)
    for a, b in zip(layer.weights, copy.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(a), numpy_of(b))


@pytest.mark.parametrize(("cls", "kwargs", "message"), BAD_ARGUMENTS)
def test_bad_arguments(cls, kwargs, message):
    with pytest.raises(ValueError) as raised:
        cls(**kwargs)
    assert str(raised.value) == message


def test_other_names():
    assert kb.QuantActivation("silu").function == "swish"
    assert kb.QuantActivation("hard_silu").function == "hard_swish"


@pytest.mark.parametrize("shape", [(None, 3), (2, 5, 3), (None, 6, None, 3)])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_symbolic_shapes(name, shape):
    assert ACTIVATIONS[name]()(keras.Input(batch_shape=shape)).shape == shape
    assert ACTIVATIONS[name]().compute_output_shape(shape) == shape


# What they compute is what their parts do


@pytest.mark.parametrize("name", ["swish", "hard_swish", "sigmoid", "tanh"])
def test_near_the_float_function(name):
    x = np.linspace(-12, 3.9, 4001, dtype="float32")
    y = numpy_of(kb.QuantActivation(name)(x))
    function = getattr(keras.activations, name.replace("swish", "silu"))
    step = {"sigmoid": 1 / 256, "tanh": 1 / 128}.get(name, 0.03)
    # Half a step of the input, of the gate, and of the output.
    error = np.abs(y - numpy_of(function(x)))
    assert error.max() < 0.03 + 1.5 * step


def test_parts_are_in_the_files_of_a_renamed_layer(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), kb.QuantActivation("swish", name="old")]
    )
    model.layers[0].codes.alpha.assign(0.25)
    model.layers[0].product.alpha.assign(0.125)
    model.layers[0].name = "new"
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    for other in (copy, loaded):
        assert other.layers[0].name == "new"
        assert [float(w) for w in other.weights] == [0.25, 0.125]


def test_two_calls_of_one_layer_share_its_weights():
    layer = kb.QuantActivation("swish")
    inputs = [keras.Input((4,)), keras.Input((4,))]
    model = keras.Model(inputs, [layer(x) for x in inputs])
    assert len(model.weights) == 2
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    first, second = model([x, x])
    np.testing.assert_array_equal(numpy_of(first), numpy_of(second))


@pytest.mark.parametrize("name", ["hard_swish", "prelu", "tanh"])
def test_a_frozen_layer_does_not_train(name):
    for frozen in (False, True):
        model = keras.Sequential(
            [keras.Input((4,)), ACTIVATIONS[name](), kb.QuantDense(2, bits=8)]
        )
        model.layers[0].trainable = not frozen
        before = [numpy_of(w) for w in model.layers[0].weights]
        model.compile(BlendedOptimizer(keras.optimizers.SGD(1.0)), "mse")
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(32, 4)) * 9, rng.normal(size=(32, 2))
        model.fit(x, y, verbose=0)
        after = [numpy_of(w) for w in model.layers[0].weights]
        same = [
            np.array_equal(a, b) for a, b in zip(before, after, strict=True)
        ]
        assert all(same) if frozen else not all(same)


def test_trainable_is_an_argument_too():
    for name, make in ACTIVATIONS.items():
        model = keras.Sequential([keras.Input((4,)), make(trainable=False)])
        assert not model.trainable_weights, name


def test_an_activity_regularizer_sees_the_output():
    layer = kb.QuantActivation(
        "sigmoid", activity_regularizer=keras.regularizers.L1(0.5)
    )
    y = numpy_of(layer(np.zeros((1, 6), "float32")))
    assert y.sum() == 3
    assert float(sum(layer.losses)) == 1.5
    copy = kb.QuantActivation.from_config(layer.get_config())
    copy(np.zeros((1, 6), "float32"))
    assert float(sum(copy.losses)) == 1.5


def test_a_regularizer_of_slopes():
    layer = kb.QuantPReLU("ones", keras.regularizers.L2(0.5))
    layer.build((None, 3))
    assert [float(loss) for loss in layer.losses] == [1.5]


class Mask(layers.Layer):
    """Returns the mask of what it is called on."""

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, x, mask=None):
        return ops.zeros(()) if mask is None else mask


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_masks_pass(name):
    x = np.float32([[[0, 0], [1, 2], [0, 3]]])
    y = ACTIVATIONS[name]()(layers.Masking()(x))
    assert numpy_of(Mask()(y)).tolist() == [[False, True, True]]


@pytest.mark.parametrize("cls", [kb.QuantAdd, kb.QuantMultiply])
def test_masks_of_two_tensors(cls):
    """As those of the stock layers: what one of them shows."""
    first = layers.Masking()(np.float32([[[0, 0], [1, 2], [0, 0]]]))
    second = layers.Masking()(np.float32([[[0, 0], [0, 0], [0, 3]]]))
    y = cls()([first, second])
    assert numpy_of(Mask()(y)).tolist() == [[False, True, True]]
    assert numpy_of(Mask()(cls()([first, np.ones((1, 3, 2))]))).ndim == 0


def test_masks_are_concatenated():
    first = layers.Masking()(np.float32([[[0, 0], [1, 2]]]))
    second = layers.Masking()(np.float32([[[0, 1], [0, 0]]]))
    y = kb.QuantConcatenate(axis=1)([first, second])
    assert numpy_of(Mask()(y)).tolist() == [[False, True, True, False]]


# Training


def test_all_train_and_resume(tmp_path):
    whole, first = network(), network()
    before = [float(alpha) for alpha in alphas(whole)]
    assert len(before) == sum(ALPHAS.values()) + 7
    fit(whole, optimizer(), epochs=4)
    fit(first, optimizer(), epochs=2)
    first.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(first, resumed)
    for layer, copy in zip(first.layers, resumed.layers, strict=True):
        assert type(copy) is type(layer)
        assert copy.get_config() == layer.get_config()
    fit(resumed, epochs=2)
    assert_same(whole, resumed)
    after = [float(alpha) for alpha in alphas(whole)]
    moved = [a != b for a, b in zip(before, after, strict=True)]
    # Those of grids beyond which there is nothing stay.
    assert np.mean(moved) > 0.7
    slopes = numpy_of(whole.get_layer("prelu_1").negative.slopes)
    assert np.any(slopes != 1)
    assert np.all(slopes <= 1)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    narrow = policy.removeprefix("mixed_")
    with warnings.catch_warnings():
        # bfloat16 cannot hold the levels of the 8-bit QuantReLUs.
        warnings.simplefilter("ignore")
        model = network(policy)
    x = fit(model, BlendedOptimizer(keras.optimizers.SGD(0.002)))
    assert {w.dtype for w in model.trainable_weights} == {"float32"}
    for weight in model.trainable_weights:
        assert np.all(np.isfinite(numpy_of(weight)))
    names = [f"{name}_1" for name in ACTIVATIONS] + ["scale", "sum", "all"]
    outputs = [model.get_layer(name).output for name in names]
    inner = keras.Model(model.inputs, outputs)
    found = inner(ops.convert_to_tensor(x, dtype="float32"))
    for name, y in zip(names, found, strict=True):
        assert keras.backend.standardize_dtype(y.dtype) == narrow
        y = numpy_of(ops.cast(y, "float32"))
        assert 2 < len(np.unique(y)) <= 256, name


def test_calibration_summary_and_sensitivity():
    model = network()
    x = np.random.default_rng(0).standard_normal((16, 6, 6, 3)) * 3
    report = kb.calibrate(model, x, verbose=0)
    assert len(report.layers) == sum(ALPHAS.values()) + 7
    names = [row.name for row in report.layers]
    assert "swish_1/swish_1_codes" in names
    assert "swish_1/swish_1_product" in names
    assert {row.kind for row in report.layers} == {
        "QuantAdd",
        "QuantConcatenate",
        "QuantIdentity",
        "QuantMultiply",
        "QuantReLU",
    }
    for row in report.layers:
        assert row.error < 0.2, row
    summary = kb.summary(model, x)
    print(summary)
    float_kernels = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, name="first"),
            kb.QuantActivation("swish"),
            layers.Dense(2, name="last"),
        ]
    )
    float_kernels.compile(loss="mse")
    data = np.ones((16, 4)), np.ones((16, 2))
    found = str(kb.sensitivity(float_kernels, data, verbose=0))
    assert "first" in found
    assert "last" in found


def test_calibration_does_not_look_beyond_the_domain():
    """A sigmoid is flat there: large inputs do not cost its steps."""
    x = np.concatenate([np.linspace(-8, 8, 1000), [500.0, -500.0]])
    x = np.float32(x[:, None])
    model = keras.Sequential([keras.Input((1,)), kb.QuantActivation("sigmoid")])
    kb.calibrate(model, x, method="max", verbose=0)
    assert float(model.layers[0].codes.alpha) == pytest.approx(8 / 127)
    model = keras.Sequential([keras.Input((1,)), kb.QuantActivation("swish")])
    kb.calibrate(model, x[:1000], method="max", verbose=0)
    codes = model.layers[0].codes
    assert float(codes.alpha) == pytest.approx(14 / 255)
    assert codes.smallest_and_largest_code[0] == -109
