"""QuantAddReLU, QuantIdentity and PadChannels against NumPy and integers."""

import json

import keras
import numpy as np
import pytest
import reference
from keras import ops
from training_helpers import assert_same

from keras_bcgd import AlphaBound
from keras_bcgd import BlendedOptimizer
from keras_bcgd import PadChannels
from keras_bcgd import QuantAddReLU
from keras_bcgd import QuantConv2D
from keras_bcgd import QuantDense
from keras_bcgd import QuantIdentity
from keras_bcgd import QuantReLU

# Its multiples by small numbers and powers of two are exact in float32.
ALPHA = 0.75
# Bits of the staircase and of the branch, and whether the shortcut is another
# branch. Half a step is 32, 4 and 1 codes of the branch; then less than one.
SUMS = [
    (1, 8, False),
    (4, 8, False),
    (4, 8, True),
    (2, 4, True),
    (7, 8, False),
    (7, 8, True),
    (8, 8, False),
]

# Arguments that differ from the defaults.
ARGUMENTS = [
    (QuantAddReLU, {}),
    (QuantAddReLU, {"bits": 2, "branch_bits": 4, "shortcut_is_branch": True}),
    (QuantAddReLU, {"branch_bits": None, "alpha_gradient": "ae"}),
    (QuantAddReLU, {"alpha_initializer": keras.initializers.Constant(0.5)}),
    (QuantAddReLU, {"alpha_constraint": AlphaBound(0.01)}),
    (QuantIdentity, {}),
    (QuantIdentity, {"bits": 2, "alpha_initializer": "ones"}),
    (QuantIdentity, {"alpha_constraint": AlphaBound(0.5)}),
    (PadChannels, {"channels": 7}),
]

BAD_ARGUMENTS = [
    (
        QuantAddReLU,
        {"branch_bits": bad},
        "`branch_bits` must be an integer from 4 to 8, or None. "
        f"Received: branch_bits={bad!r}",
    )
    for bad in (3, 9, 32, 8.0, "8", True)
]
BAD_ARGUMENTS += [
    (
        QuantAddReLU,
        {"bits": bad},
        f"`bits` must be an integer from 1 to 8. Received: bits={bad!r}",
    )
    for bad in (0, 32, None)
]
BAD_ARGUMENTS += [
    (
        QuantIdentity,
        {"bits": bad},
        f"`bits` must be an integer from 2 to 8. Received: bits={bad!r}",
    )
    for bad in (1, 9, 32, 8.0, "8", True, None)
]
BAD_ARGUMENTS += [
    (
        PadChannels,
        {"channels": bad},
        f"`channels` must be an integer above 0. Received: channels={bad!r}",
    )
    for bad in (0, -1, 2.0, "2", True, None)
]
BAD_ARGUMENTS += [
    (
        QuantAddReLU,
        {"shortcut_is_branch": bad},
        "`shortcut_is_branch` must be True or False. "
        f"Received: shortcut_is_branch={bad!r}",
    )
    for bad in (None, 1, "yes")
]
BAD_ARGUMENTS += [
    (
        cls,
        {"alpha_constraint": "non_neg"},
        "`alpha_constraint` must be a keras_bcgd.AlphaBound or a subclass of "
        "it: that is how BlendedOptimizer recognises an alpha. "
        "Received: alpha_constraint=non_neg",
    )
    for cls in (QuantAddReLU, QuantIdentity)
]


def numpy_of(tensor):
    return ops.convert_to_numpy(tensor)


def on_grid(x, step, bits, offset=0):
    """The codes of the nearest values code * step - offset, in float64."""
    ends = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return np.clip(np.round((x + offset) / step), *ends)


def branch_and_shortcut(shape=(500,), bits=4, seed=0):
    """A branch beyond its grid on both sides, and the shortcut.

    The shortcut is the output of a QuantReLU with twice the alpha, so that the
    sum shows the ends of the branch.
    """
    rng = np.random.default_rng(seed)
    scale = 2.0**bits * ALPHA
    branch = rng.uniform(-1.2 * scale, 1.2 * scale, shape)
    shortcut = 2 * ALPHA * rng.integers(0, 2**bits, shape)
    return branch.astype("float32"), shortcut.astype("float32")


def add_relu(bits, branch_bits=8, alpha=ALPHA, **kwargs):
    initializer = keras.initializers.Constant(alpha)
    return QuantAddReLU(
        bits, branch_bits, alpha_initializer=initializer, **kwargs
    )


def network(policy=None):
    """A residual block with all three layers, on 6x6 images."""
    keras.utils.set_random_seed(1)
    kwargs = {"dtype": policy}
    conv = {"padding": "same", "use_bias": False, "bits": 4, **kwargs}
    inputs = keras.Input((6, 6, 3))
    x = shortcut = QuantReLU(4, **kwargs)(inputs)
    shortcut = PadChannels(5, **kwargs)(shortcut)
    x = QuantConv2D(5, 3, **conv)(x)
    x = QuantAddReLU(4, name="add", **kwargs)([x, shortcut])
    other = QuantConv2D(5, 1, **conv)(x)
    x = QuantConv2D(5, 3, **conv)(x)
    x = QuantAddReLU(4, shortcut_is_branch=True, **kwargs)([x, other])
    # Some of its inputs are beyond its largest value.
    alpha = keras.initializers.Constant(0.015)
    x = QuantIdentity(8, alpha, name="identity", **kwargs)(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, QuantDense(2, bits=8, **kwargs)(x))


def fit(model, optimizer=None, epochs=1):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 6, 6, 3))
    y = rng.standard_normal((16, 2))
    if optimizer is not None:
        model.compile(optimizer, "mse")
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return x


# QuantAddReLU


@pytest.mark.parametrize(("bits", "branch_bits", "shortcut_is_branch"), SUMS)
def test_sum_equals_numpy(compiled, bits, branch_bits, shortcut_is_branch):
    branch, shortcut = branch_and_shortcut(bits=bits)
    if shortcut_is_branch:
        shortcut, _ = branch_and_shortcut(bits=bits, seed=1)
    layer = add_relu(bits, branch_bits, shortcut_is_branch=shortcut_is_branch)
    output = compiled(layer)([branch, shortcut])
    step = ALPHA * 2.0 ** (bits + 1 - branch_bits)
    offset = ALPHA / 2 if bits > branch_bits - 2 else 0
    branch = step * on_grid(branch, step, branch_bits, offset) - offset
    if shortcut_is_branch:
        shortcut = step * on_grid(shortcut, step, branch_bits)
    expected, _, _ = reference.quant_relu(branch + shortcut, ALPHA, bits)
    np.testing.assert_array_equal(numpy_of(output), expected)


@pytest.mark.parametrize("bits", range(1, 7))
def test_sum_is_that_of_integers(bits):
    branch, shortcut = branch_and_shortcut(bits=bits)
    output = add_relu(bits)([branch, shortcut])
    # 2 n codes of the branch are one of the staircase.
    n = 2 ** (6 - bits)
    codes = on_grid(branch, ALPHA / (2 * n), 8).astype(int)
    total = codes + 2 * n * np.round(shortcut / ALPHA).astype(int)
    expected = np.clip(-(-total // (2 * n)), 0, 2**bits - 1)
    np.testing.assert_array_equal(numpy_of(output) / ALPHA, expected)
    assert {0, 2**bits - 1} <= set(expected)


def test_a_float_branch_is_added_as_it_is():
    branch, shortcut = branch_and_shortcut()
    for shortcut_is_branch in (False, True):
        layer = add_relu(4, None, shortcut_is_branch=shortcut_is_branch)
        relu = QuantReLU(4, alpha_initializer=layer.alpha_initializer)
        np.testing.assert_array_equal(
            numpy_of(layer([branch, shortcut])),
            numpy_of(relu(branch + shortcut)),
        )


def test_the_rounding_of_the_branch_shows():
    branch, shortcut = branch_and_shortcut()
    rounded, not_rounded = (
        numpy_of(add_relu(4, branch_bits)([branch, shortcut]))
        for branch_bits in (8, None)
    )
    # The branch rounds upwards from a half of the last eighth of each step.
    assert 0 < np.mean(rounded != not_rounded) < 0.1


@pytest.mark.parametrize("shapes", [((None, 3), (5, 3)), ((5, 3), (None, 3))])
def test_unknown_sizes_agree_with_known_ones(shapes):
    layer = QuantAddReLU()
    layer.build(shapes)
    assert layer.alpha.shape == ()
    assert layer.compute_output_shape(shapes) == shapes[0]


@pytest.mark.parametrize(
    "shapes",
    [
        [(5, 3), (5, 4)],
        [(5, 3), (5, 1)],
        [(5, 3), (5, 3, 3)],
        [(5, 3)] * 3,
        [(5, 3)],
        (5, 3),
        (2, 5, 3),
        (None, 3),
    ],
)
def test_other_than_two_tensors_of_one_shape_are_refused(shapes):
    with pytest.raises(ValueError) as raised:
        QuantAddReLU(name="add").build(shapes)
    assert str(raised.value) == (
        "Layer 'add' must be called with a list of two tensors of one shape, "
        f"the branch and the shortcut. Received: shapes {shapes}"
    )


def test_a_single_tensor_is_refused():
    with pytest.raises(ValueError, match="a list of two tensors"):
        QuantAddReLU()(np.ones((5, 3), "float32"))


# QuantIdentity


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_identity_equals_numpy(compiled, bits):
    x, _ = branch_and_shortcut((20_000,), bits)
    layer = QuantIdentity(bits, keras.initializers.Constant(ALPHA))
    output = numpy_of(compiled(layer)(ops.convert_to_tensor(x)))
    np.testing.assert_array_equal(output, ALPHA * on_grid(x, ALPHA, bits))
    assert len(np.unique(output)) == 2**bits


@pytest.mark.parametrize("bits", range(2, 9))
def test_first_alpha_of_an_identity_reaches_four_deviations(bits):
    layer = QuantIdentity(bits)
    ends = numpy_of(layer(np.array([-1e9, 1e9], "float32")))
    assert ends[0] == -4
    assert ends[1] == 4 - float(layer.alpha)


def test_alpha_of_an_identity_is_bounded():
    layer = QuantIdentity(alpha_initializer="zeros")
    layer.build((None, 3))
    assert float(layer.alpha) == np.float32(1e-6)


def test_unknown_alpha_initializer_of_an_identity():
    with pytest.raises(ValueError, match="Could not interpret initializer"):
        QuantIdentity(alpha_initializer=0.5)


# PadChannels


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (2, 5, 4, 3)])
def test_channels_of_zeros_are_appended(compiled, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    output = numpy_of(compiled(PadChannels(8))(ops.convert_to_tensor(x)))
    assert output.shape == (*shape[:-1], 8)
    np.testing.assert_array_equal(output[..., :3], x)
    np.testing.assert_array_equal(output[..., 3:], 0)


def test_as_many_channels_as_there_are():
    x = np.ones((2, 4, 4, 3), "float32")
    np.testing.assert_array_equal(numpy_of(PadChannels(3)(x)), x)


@pytest.mark.parametrize("shape", [(None, 4, 4, 8), (None, None)])
def test_channels_that_cannot_be_padded(shape):
    with pytest.raises(ValueError) as raised:
        PadChannels(7, name="pad").build(shape)
    assert str(raised.value) == (
        "Layer 'pad': `channels` must be at least those of the input, whose "
        f"last axis must be known. Received: channels=7, input_shape={shape}"
    )


# All of them


@pytest.mark.parametrize(("cls", "kwargs"), ARGUMENTS)
def test_config_round_trip(cls, kwargs):
    layer = cls(name="mine", dtype="mixed_bfloat16", **kwargs)
    config = layer.get_config()
    json.dumps(config)
    assert set(kwargs) <= set(config)
    copy = cls.from_config(config)
    assert copy.get_config() == config
    for name in set(kwargs) - {"alpha_initializer", "alpha_constraint"}:
        assert getattr(copy, name) == kwargs[name]
    shape = (None, 3)
    for each in (layer, copy):
        each.build([shape, shape] if cls is QuantAddReLU else shape)
    assert [float(w) for w in copy.weights] == [float(w) for w in layer.weights]


def test_numpy_bits_are_stored_as_ints():
    config = QuantAddReLU(np.int64(4), np.int64(8)).get_config()
    config |= {"identity": QuantIdentity(np.int64(8)).get_config()["bits"]}
    for name in ("bits", "branch_bits", "identity"):
        assert type(config[name]) is int


@pytest.mark.parametrize(("cls", "kwargs", "message"), BAD_ARGUMENTS)
def test_bad_arguments(cls, kwargs, message):
    with pytest.raises(ValueError) as raised:
        cls(**kwargs)
    assert str(raised.value) == message


def test_symbolic_shapes():
    x = keras.Input((6, 6, 3))
    assert QuantAddReLU()([x, x]).shape == (None, 6, 6, 3)
    assert QuantIdentity()(x).shape == (None, 6, 6, 3)
    assert PadChannels(5)(x).shape == (None, 6, 6, 5)
    shape = (None, 6, 6, 3)
    assert QuantAddReLU().compute_output_shape([shape, shape]) == shape
    assert QuantIdentity().compute_output_shape(shape) == shape
    assert PadChannels(5).compute_output_shape(shape) == (None, 6, 6, 5)


@pytest.mark.parametrize("bits", [4, 7])
def test_one_step_of_a_sum(bits):
    """Through the staircase and the grid of the branch, both on alpha."""
    branch, shortcut = branch_and_shortcut((64, 5), bits)
    target = np.zeros_like(branch)
    inputs = [keras.Input((5,)), keras.Input((5,))]
    # A layer before them, to see the derivative by the branch.
    factor = keras.layers.Dense(
        5, use_bias=False, kernel_initializer="identity"
    )
    layer = add_relu(bits)
    outputs = layer([factor(inputs[0]), inputs[1]])
    model = keras.Model(inputs, outputs)
    rate = 1e-3
    model.compile(BlendedOptimizer(keras.optimizers.SGD(rate)), "mse")
    model.fit([branch, shortcut], target, batch_size=64, verbose=0)

    step = ALPHA * 2.0 ** (bits - 7)
    offset = ALPHA / 2 if bits == 7 else 0
    codes = np.round((branch + offset) / step)
    inside = (codes >= -128) & (codes <= 127)
    on_the_grid = step * np.clip(codes, -128, 127) - offset
    sigma, by_x, by_alpha = reference.quant_relu(
        on_the_grid + shortcut, ALPHA, bits
    )
    upstream = 2 * (sigma - target) / target.size
    # Outside, the branch is its end, a multiple of alpha.
    by_alpha = by_alpha + by_x * ~inside * on_the_grid / ALPHA
    assert np.sum(by_x * ~inside) > 0
    # The step of alpha has the factor .01 of the optimizer.
    moved = -0.01 * rate * np.sum(upstream * by_alpha)
    assert abs(moved) > 1e-5
    # A float32 near .75 is rounded by 3e-8.
    np.testing.assert_allclose(float(layer.alpha) - ALPHA, moved, atol=1e-7)
    by_kernel = branch.T @ (upstream * by_x * inside)
    np.testing.assert_allclose(
        numpy_of(factor.kernel), np.eye(5) - rate * by_kernel, 1e-4, 1e-5
    )


def test_one_step_of_an_identity():
    x, _ = branch_and_shortcut((64, 5))
    target = np.ones_like(x)
    factor = keras.layers.Dense(
        5, use_bias=False, kernel_initializer="identity"
    )
    layer = QuantIdentity(4, keras.initializers.Constant(ALPHA))
    model = keras.Sequential([keras.Input((5,)), factor, layer])
    rate = 0.01
    model.compile(BlendedOptimizer(keras.optimizers.SGD(rate)), "mse")
    model.fit(x, target, batch_size=64, verbose=0)

    codes = np.round(x / ALPHA)
    clipped = np.clip(codes, -8, 7)
    upstream = 2 * (ALPHA * clipped - target) / target.size
    inside = codes == clipped
    moved = -0.01 * rate * np.sum(upstream * ~inside * clipped)
    assert abs(moved) > 1e-5
    np.testing.assert_allclose(float(layer.alpha) - ALPHA, moved, atol=1e-7)
    by_kernel = x.T @ (upstream * inside)
    np.testing.assert_allclose(
        numpy_of(factor.kernel), np.eye(5) - rate * by_kernel, 1e-4, 1e-5
    )


def test_save_and_load(tmp_path):
    model = network()
    # Not the first values.
    model.get_layer("add").alpha.assign(0.3125)
    model.get_layer("identity").alpha.assign(0.0625)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert float(loaded.get_layer("add").alpha) == 0.3125
    assert float(loaded.get_layer("identity").alpha) == 0.0625
    for layer, copy in zip(model.layers, loaded.layers, strict=True):
        assert type(copy) is type(layer)
        assert copy.get_config() == layer.get_config()
    x = np.random.default_rng(0).standard_normal((4, 6, 6, 3))
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def test_resumed_training_equals_uninterrupted(tmp_path):
    def optimizer():
        sgd = keras.optimizers.SGD(0.002, momentum=0.9)
        return BlendedOptimizer(sgd, blending=0.01, l2=0.01)

    whole, first = network(), network()
    before = [float(alpha) for alpha in alphas(whole)]
    fit(whole, optimizer(), epochs=4)
    fit(first, optimizer(), epochs=2)
    first.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(first, resumed)
    fit(resumed, epochs=2)
    assert_same(whole, resumed)
    # It did train: each alpha moved.
    after = [float(alpha) for alpha in alphas(whole)]
    assert len(after) == 4
    assert all(a != b for a, b in zip(before, after, strict=True))


def alphas(model):
    return [w for w in model.trainable_weights if w.name == "alpha"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    narrow = policy.removeprefix("mixed_")
    model = network(policy)
    before = [float(alpha) for alpha in alphas(model)]
    x = fit(model, BlendedOptimizer(keras.optimizers.SGD(0.002, momentum=0.9)))
    assert {alpha.dtype for alpha in alphas(model)} == {"float32"}
    after = [float(alpha) for alpha in alphas(model)]
    assert all(a != b for a, b in zip(before, after, strict=True))
    for name, codes in [("add", np.arange(16)), ("identity", range(-128, 128))]:
        layer = model.get_layer(name)
        inner = keras.Model(model.inputs, layer.output)
        output = inner(ops.convert_to_tensor(x, dtype="float32"))
        assert keras.backend.standardize_dtype(output.dtype) == narrow
        # The products are taken in float32 and rounded once.
        levels = np.float32(codes) * numpy_of(layer.alpha)
        levels = numpy_of(ops.cast(ops.cast(levels, narrow), "float32"))
        output = numpy_of(ops.cast(output, "float32"))
        assert np.all(np.isin(output, levels))
        assert len(np.unique(output)) > 5


@pytest.mark.parametrize("bits", [1, 2, 4, 6])
@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.7654321, 1.2345678])
def test_sums_of_two_branches_stay_on_their_thresholds(bits, alpha):
    """All pairs of codes, against whole numbers: one in 2 n ends on one."""
    layer = QuantAddReLU(bits, shortcut_is_branch=True)
    layer.build([(None, 256), (None, 256)])
    layer.alpha.assign(alpha)
    alpha = float(numpy_of(layer.alpha))
    per_level = 2 ** (7 - bits)  # steps of the branch in one of alpha
    codes = np.arange(-128, 128)
    x = np.float32(codes * (alpha / per_level))
    a, b = np.meshgrid(x, x)
    total = codes + codes[:, None]
    expected = np.clip(-(-total // per_level), 0, 2**bits - 1)
    found = np.round(numpy_of(layer([a, b])) / alpha)
    np.testing.assert_array_equal(found, expected)
