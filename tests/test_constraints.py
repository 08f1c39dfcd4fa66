"""The constraints on stock layers, and projected gradient descent in NumPy."""

import keras
import numpy as np
import pytest
import reference
from keras import ops

from keras_bcgd import AlphaBound
from keras_bcgd import QuantProjection
from keras_bcgd import project

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
# JAX computes in float32 unless told otherwise.
FLOAT = "float64" if ON_TENSORFLOW else "float32"

# A power of two: the same number in every precision.
RATE = 0.125
BATCH = 8

# Arguments of QuantProjection.
PROJECTIONS = [
    {"bits": 1},
    {"bits": 2, "method": "twn"},
    {"bits": 3, "method": "exact", "axis": -1},
    {"bits": 4, "method": "lloyd_converged", "axis": 0},
    {"bits": 8, "method": "warm", "axis": (2, 3)},
]

# Stock layer, name of its constraint, input shape, kept axes.
STOCK_LAYERS = [
    (keras.layers.Dense, "kernel_constraint", (6,), None),
    (keras.layers.Dense, "kernel_constraint", (6,), 1),
    (keras.layers.Conv2D, "kernel_constraint", (4, 4, 2), 3),
    (keras.layers.DepthwiseConv2D, "depthwise_constraint", (4, 4, 2), (2, 3)),
]
LAYER_ARGUMENTS = {
    keras.layers.Dense: {"units": 5},
    keras.layers.Conv2D: {"filters": 5, "kernel_size": 3},
    keras.layers.DepthwiseConv2D: {"kernel_size": 3, "depth_multiplier": 2},
}


@pytest.fixture
def floatx():
    """Data and losses in the precision of the layers."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(FLOAT)
    keras.config.set_dtype_policy(FLOAT)
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((40, 6)), rng.standard_normal((40, 5))


def dense_model(constraint):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, kernel_constraint=constraint),
        ]
    )
    model.compile(keras.optimizers.SGD(RATE), loss="mse")
    return model


def fit(model):
    x, target = data()
    model.fit(x, target, BATCH, epochs=2, shuffle=False, verbose=0)


def fit_in_numpy(w, b, bits, axis):
    """w <- proj_Q(w - rate * gradient at w), and the same for b unprojected."""
    x, target = data()
    for _ in range(2):
        for i in range(0, len(x), BATCH):
            error = x[i : i + BATCH] @ w + b - target[i : i + BATCH]
            upstream = 2 * error / error.size
            y = w - RATE * x[i : i + BATCH].T @ upstream
            b = b - RATE * np.sum(upstream, axis=0)
            if axis is None:
                w = reference.project(y, bits)
            else:
                w = np.stack([reference.project(c, bits) for c in y.T], axis=1)
    return w, b


# Projected gradient descent


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_sgd_is_projected_gradient_descent(bits, axis, floatx):
    model = dense_model(QuantProjection(bits, axis=axis))
    layer = model.layers[0]
    start = [np.array(v, "float64") for v in (layer.kernel, layer.bias)]
    fit(model)
    # Ten steps in float32 against float64, as long as no code flips.
    rounding = 1e-12 if ON_TENSORFLOW else 1e-5
    for variable, expected in zip(
        (layer.kernel, layer.bias),
        fit_in_numpy(*start, bits, axis),
        strict=True,
    ):
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable), expected, rtol=0, atol=rounding
        )


@pytest.mark.parametrize("bits", range(1, 9))
def test_kernel_has_few_values_after_fit(bits):
    model = dense_model(QuantProjection(bits))
    kernel = model.layers[0].kernel
    assert len(np.unique(kernel)) == 30
    fit(model)
    count = 2 if bits == 1 else 2 * reference.largest_code(bits) + 1
    assert len(np.unique(kernel)) <= count


@pytest.mark.parametrize("layer_class, name, shape, axis", STOCK_LAYERS)
def test_constraint_reaches_the_variable(layer_class, name, shape, axis):
    constraint = QuantProjection(2, axis=axis)
    arguments = {name: constraint, **LAYER_ARGUMENTS[layer_class]}
    layer = layer_class(**arguments)
    layer.build((None, *shape))
    assert layer.kernel.constraint is constraint


@pytest.mark.parametrize("layer_class, name, shape, axis", STOCK_LAYERS)
def test_each_scale_has_three_values_after_fit(layer_class, name, shape, axis):
    constraint = QuantProjection(2, axis=axis)
    arguments = {name: constraint, **LAYER_ARGUMENTS[layer_class]}
    layer = layer_class(**arguments)
    model = keras.Sequential(
        [
            keras.Input(shape),
            layer,
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(RATE), loss="mse")
    x = np.random.default_rng(0).standard_normal((16, *shape))
    model.fit(x, np.ones((16, 1)), batch_size=8, verbose=0)
    kernel = ops.convert_to_numpy(layer.kernel)
    axes = () if axis is None else np.atleast_1d(axis)
    groups = [np.prod([kernel.shape[i] for i in axes], dtype=int), -1]
    rows = np.moveaxis(kernel, axes, range(len(axes))).reshape(groups)
    for row in rows:
        scale = np.max(np.abs(row))
        assert scale > 0
        assert set(row) <= {-scale, 0.0, scale}
    # Each group has a scale of its own.
    assert len(set(np.max(np.abs(rows), axis=1))) == len(rows)


@pytest.mark.parametrize("kwargs", PROJECTIONS)
def test_call_is_the_product_of_scale_and_codes(kwargs):
    w = np.random.default_rng(0).standard_normal((3, 3, 4, 5)).astype(FLOAT)
    constraint = QuantProjection(**kwargs)
    scale, codes = project(w, **kwargs)
    for argument in (ops.convert_to_tensor(w), keras.Variable(w)):
        np.testing.assert_array_equal(constraint(argument), scale * codes)
    for each, expected in zip(
        constraint.project(w), (scale, codes), strict=True
    ):
        np.testing.assert_array_equal(each, expected)


@pytest.mark.parametrize("method", ["lloyd", "lloyd_converged", "warm"])
def test_only_warm_starts_from_a_scale(method):
    y = np.random.default_rng(0).standard_normal(50).astype(FLOAT)
    start = ops.convert_to_tensor(0.9, dtype=FLOAT)
    with_start, _ = QuantProjection(4, method).project(y, start)
    without, _ = QuantProjection(4, method).project(y)
    assert (float(with_start) != float(without)) == (method == "warm")


# Saving


@pytest.mark.parametrize("kwargs", PROJECTIONS)
def test_config_round_trip(kwargs):
    constraint = QuantProjection(**kwargs)
    config = keras.constraints.serialize(constraint)
    copy = keras.constraints.deserialize(config)
    assert type(copy) is QuantProjection
    assert copy.get_config() == constraint.get_config()
    assert copy.get_config() == {"method": "lloyd", "axis": None, **kwargs}


def test_axis_list_of_a_json_file_becomes_a_tuple():
    assert QuantProjection(2, axis=[2, 3]).axis == (2, 3)


def test_numpy_bits_are_stored_as_an_int():
    assert type(QuantProjection(np.int64(4)).get_config()["bits"]) is int


@pytest.mark.parametrize("axis", [None, 1, (0,)])
def test_save_and_load(axis, tmp_path):
    model = dense_model(QuantProjection(4, "exact", axis))
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    layer = loaded.layers[0]
    np.testing.assert_array_equal(layer.kernel, model.layers[0].kernel)
    assert layer.kernel.constraint.get_config() == {
        "bits": 4,
        "method": "exact",
        "axis": axis,
    }
    # Both go on as if nothing had happened.
    fit(model)
    fit(loaded)
    np.testing.assert_array_equal(layer.kernel, model.layers[0].kernel)


# AlphaBound


@pytest.mark.parametrize(
    ("min_value", "w", "expected"),
    [
        (1e-3, [0.5, 1e-3, 1e-4, 0.0, -3.0], [0.5, 1e-3, 1e-3, 1e-3, 1e-3]),
        (0.25, [0.5, 0.2], [0.5, 0.25]),
        (2, [1.0, 3.0], [2.0, 3.0]),
    ],
)
def test_alpha_bound(min_value, w, expected):
    w = np.array(w, FLOAT)
    for argument in (ops.convert_to_tensor(w), keras.Variable(w, dtype=FLOAT)):
        bounded = ops.convert_to_numpy(AlphaBound(min_value)(argument))
        assert bounded.dtype == FLOAT
        np.testing.assert_array_equal(bounded, np.array(expected, FLOAT))


def test_alpha_bound_does_not_hide_a_nan():
    w = ops.convert_to_tensor(np.array([np.nan, -1.0], "float32"))
    np.testing.assert_array_equal(AlphaBound()(w), np.float32([np.nan, 1e-3]))


@pytest.mark.parametrize("min_value", [1e-3, 0.5, 2, np.float32(0.25)])
def test_alpha_bound_config_round_trip(min_value):
    config = keras.constraints.serialize(AlphaBound(min_value))
    copy = keras.constraints.deserialize(config)
    assert type(copy) is AlphaBound
    assert copy.get_config() == {"min_value": min_value, "max_value": None}
    assert type(copy.min_value) is float


def test_alpha_bound_on_both_sides():
    w = ops.convert_to_tensor(np.array([-1.0, 0.3, 9.0, np.nan], "float32"))
    bound = AlphaBound(0.25, max_value=0.5)
    expected = np.float32([0.25, 0.3, 0.5, np.nan])
    np.testing.assert_array_equal(bound(w), expected)
    config = keras.constraints.serialize(bound)
    copy = keras.constraints.deserialize(config)
    assert copy.get_config() == {"min_value": 0.25, "max_value": 0.5}


@pytest.mark.parametrize("bad", [0.2, np.nan, "1", -1])
def test_bad_upper_bound_of_alpha(bad):
    with pytest.raises(ValueError) as raised:
        AlphaBound(0.25, bad)
    assert str(raised.value) == (
        "`max_value` must be a number of at least `min_value`, or None. "
        f"Received: max_value={bad!r}, min_value=0.25"
    )


def test_alpha_bound_default_is_the_one_of_the_recipe():
    assert AlphaBound().min_value == 1e-3


# Arguments


@pytest.mark.parametrize("bits", [0, 9, 32, 2.5, "4", True, None])
def test_bad_bits(bits):
    with pytest.raises(ValueError) as raised:
        QuantProjection(bits)
    assert str(raised.value) == (
        f"`bits` must be an integer from 1 to 8. Received: bits={bits!r}"
    )


@pytest.mark.parametrize("method", ["Exact", None])
def test_unknown_method(method):
    with pytest.raises(ValueError) as raised:
        QuantProjection(4, method)
    assert str(raised.value) == (
        "The projection method must be one of lloyd, lloyd_converged, exact, "
        f"warm, twn. Received: {method!r}"
    )


def test_twn_is_for_2_bits():
    with pytest.raises(ValueError, match='"twn" is for 2 bits only. Rec'):
        QuantProjection(4, "twn")


@pytest.mark.parametrize("axis", ["0", 1.0, True, (0, "1"), (False, 1)])
def test_bad_axis(axis):
    with pytest.raises(ValueError) as raised:
        QuantProjection(2, axis=axis)
    assert str(raised.value) == (
        "`axis` must be an int, a tuple of ints or None. "
        f"Received: axis={axis!r}"
    )


def test_axis_that_the_kernel_does_not_have():
    model = dense_model(QuantProjection(2, axis=2))
    with pytest.raises(ValueError, match="from -2 to 1 for a tensor of rank 2"):
        fit(model)


@pytest.mark.parametrize("bad", [0, 0.0, -1e-3, np.nan, "1", None])
def test_bad_alpha_bound(bad):
    with pytest.raises(ValueError) as raised:
        AlphaBound(bad)
    assert str(raised.value) == (
        f"`min_value` must be a number above 0. Received: min_value={bad!r}"
    )
