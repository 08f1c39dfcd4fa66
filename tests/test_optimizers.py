"""The laws of BlendedOptimizer, through `fit` and against NumPy."""

import keras
import numpy as np
import pytest
import reference
from keras import ops
from training_helpers import assert_same

import keras_bcgd
from keras_bcgd import AlphaBound
from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantDense
from keras_bcgd import QuantProjection
from keras_bcgd import QuantReLU

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
# Staircases amplify rounding: where there is float64, compare in it.
PRECISE = "float64" if ON_TENSORFLOW else "float32"
TOLERANCE = 1e-9 if ON_TENSORFLOW else 2e-5

INNER = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.5)
    ),
    "clipnorm": lambda: keras.optimizers.SGD(0.05, clipnorm=0.1),
    "ema": lambda: keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.5),
    "ema_overwrite": lambda: keras.optimizers.SGD(
        0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3
    ),
    "accumulation": lambda: keras.optimizers.SGD(
        0.05, momentum=0.9, gradient_accumulation_steps=3
    ),
}


# Keras warns of every optimizer whose file has no state for its variables.
WITHOUT_STATE = pytest.mark.filterwarnings(
    "ignore:Skipping variable loading", "ignore:The saved optimizer"
)


def numpy_of(variable):
    return ops.convert_to_numpy(variable)


def variable_with(constraint, value):
    variable = keras.Variable(value, dtype="float32")
    variable.constraint = constraint
    return variable


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(96, 6)), rng.normal(size=(96, 3))


@pytest.fixture
def global_policy():
    """Sets the dtype policy of all layers for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture
def floatx():
    """Sets the default float type for one test."""
    before = keras.config.floatx()
    yield keras.config.set_floatx
    keras.config.set_floatx(before)


def two_layers(bits=2, activation_bits=4, dtype=None, policy=None):
    keras.utils.set_random_seed(1)
    kwargs = {"dtype": policy or dtype or "float32"}
    model = keras.Sequential(
        [
            keras.Input((6,)),
            QuantDense(8, bits=bits, **kwargs),
            QuantReLU(activation_bits, **kwargs),
            QuantDense(3, bits=bits, **kwargs),
        ]
    )
    return model


def fit(model, optimizer, data, epochs=2, compile_kwargs=None, **kwargs):
    model.compile(optimizer, "mse", **(compile_kwargs or {}))
    kwargs = {"batch_size": 8, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(*data, epochs=epochs, **kwargs)


def kernels(model):
    return [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]


# The update rule.


@pytest.mark.parametrize("blending", [0.0, 1e-2, 1.0])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_fit_equals_numpy(data, floatx, bits, blending):
    floatx(PRECISE)
    model = two_layers(bits, dtype=PRECISE)
    names = ["w1", "b1", "alpha", "w2", "b2"]
    start = {
        name: numpy_of(variable)
        for name, variable in zip(names, model.trainable_variables, strict=True)
    }
    # Keras rounds the momentum to float32 whatever the variable is.
    settings = {"learning_rate": 0.05, "momentum": 0.875, "l2": 1e-2}
    loop = reference.TwoLayerBCGD(
        start, bits, 4, blending=blending, multiplier=0.1, **settings
    )
    optimizer = BlendedOptimizer(
        keras.optimizers.SGD(0.05, momentum=0.875),
        blending=blending,
        alpha_learning_rate_multiplier=0.1,
        l2=1e-2,
    )
    # JAX computes in float32: before rounding parts the two for good.
    steps = 12 if ON_TENSORFLOW else 3
    x, target = data[0][: 8 * steps], data[1][: 8 * steps]
    fit(model, optimizer, (x, target), epochs=1)
    for first in range(0, len(x), 8):
        loop.step(x[first : first + 8], target[first : first + 8])

    for name, variable in zip(names, model.trainable_variables, strict=True):
        np.testing.assert_allclose(
            numpy_of(variable), loop.w[name], TOLERANCE, TOLERANCE, err_msg=name
        )
    for name, kernel in zip(["w1", "w2"], kernels(model), strict=True):
        np.testing.assert_allclose(
            numpy_of(optimizer.shadow(kernel)),
            loop.y[name],
            TOLERANCE,
            TOLERANCE,
        )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_full_blending_is_projected_gradient_descent(data, bits):
    def stock_model(constraint):
        keras.utils.set_random_seed(1)
        layer = keras.layers.Dense(3, kernel_constraint=constraint)
        model = keras.Sequential([keras.Input((6,)), layer])
        layer.kernel.assign(constraint(numpy_of(layer.kernel)))
        return model

    blended = stock_model(QuantProjection(bits))
    projected = stock_model(QuantProjection(bits))
    fit(blended, BlendedOptimizer(keras.optimizers.SGD(0.05), 1.0), data)
    fit(projected, keras.optimizers.SGD(0.05), data)
    for a, b in zip(blended.weights, projected.weights, strict=True):
        np.testing.assert_allclose(numpy_of(a), numpy_of(b), 1e-6, 1e-7)


@pytest.mark.parametrize("name", INNER)
def test_without_quantized_variables_it_is_the_inner_optimizer(data, name):
    def float_model():
        keras.utils.set_random_seed(1)
        layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
        return keras.Sequential([keras.Input((6,)), *layers])

    plain, wrapped = float_model(), float_model()
    fit(plain, INNER[name](), data)
    fit(wrapped, BlendedOptimizer(INNER[name]()), data)
    for a, b in zip(plain.weights, wrapped.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(a), numpy_of(b))


def _quadratic_descent(bits, method, rho, rate_times_curvature, steps, seed):
    """The moves of f(w) = <w - c, H (w - c)> / 2 under the optimizer.

    Returns f at each w, and the squared length of each move, and L.
    """
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(12, 12))
    hessian = factor @ factor.T / 12
    curvature = np.linalg.eigvalsh(hessian).max()
    center = rng.normal(size=12)
    w = variable_with(QuantProjection(bits, method), rng.normal(size=12))
    rate = float(rate_times_curvature / curvature)
    optimizer = BlendedOptimizer(keras.optimizers.SGD(rate), blending=rho)
    optimizer.build([w])
    values, moves = [], []
    for _ in range(steps):
        before = numpy_of(w).astype("float64")
        values.append((before - center) @ hessian @ (before - center) / 2)
        gradient = hessian @ (before - center)
        optimizer.apply([ops.cast(gradient, w.dtype)])
        moves.append(np.sum((numpy_of(w) - before) ** 2))
    after = numpy_of(w).astype("float64")
    values.append((after - center) @ hessian @ (after - center) / 2)
    return np.array(values), np.array(moves), curvature, rate


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_sufficient_descent_with_exact_projections(bits):
    # PAPER.md section 1: f(w+) - f(w) <= -c |w+ - w|^2,
    # c = (rho - eta L) / (2 eta), for eta < rho / L and w0 = proj(y0).
    rho = 0.5
    for seed in range(5):
        values, moves, curvature, rate = _quadratic_descent(
            bits, "exact", rho, 0.5 * rho, 40, seed
        )
        c = (rho - rate * curvature) / (2 * rate)
        slack = 1e-5 * np.abs(values[0])  # float32 weights
        assert np.all(np.diff(values) <= -c * moves + slack)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_binary_connect_lets_the_loss_rise(bits):
    rises = 0
    for seed in range(5):
        values, moves, _, _ = _quadratic_descent(
            bits, "exact", 0, 0.25, 40, seed
        )
        rises += np.sum(np.diff(values) > 1e-5 * np.abs(values[0]))
    assert rises > 0


# Two scales of learning.


@pytest.mark.parametrize("name", ["momentum", "adam", "lion"])
def test_multiplier_scales_the_whole_step_of_alpha(name):
    def path(multiplier):
        alpha = variable_with(AlphaBound(), 1.0)
        optimizer = BlendedOptimizer(
            INNER[name](), alpha_learning_rate_multiplier=multiplier
        )
        optimizer.build([alpha])
        values = [1.0]
        for gradient in [1.0, -2.0, 0.5, 3.0]:
            optimizer.apply([ops.array(gradient)])
            values.append(float(numpy_of(alpha)))
        return np.diff(values)

    # Steps of about 1e-4 at alpha = 1 in float32: some 1e-7 / 1e-4 of it.
    np.testing.assert_allclose(path(0.01), 0.01 * path(1.0), 3e-3)


def test_alpha_is_bounded_after_the_scaled_step():
    alpha = variable_with(AlphaBound(0.1), 0.5)
    optimizer = BlendedOptimizer(
        keras.optimizers.SGD(1.0), alpha_learning_rate_multiplier=0.5
    )
    optimizer.build([alpha])
    optimizer.apply([ops.array(0.6)])
    assert float(numpy_of(alpha)) == pytest.approx(0.2)
    optimizer.apply([ops.array(0.6)])
    assert float(numpy_of(alpha)) == pytest.approx(0.1)


# What else a Keras user expects.


def test_l2_is_a_gradient_on_all_but_alpha():
    weight = keras.Variable([1.0, -2.0])
    alpha = variable_with(AlphaBound(), 1.0)
    kernel = variable_with(QuantProjection(1), [0.5, -2.0])
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1), 0.0, l2=0.5)
    optimizer.build([weight, alpha, kernel])
    zeros = [ops.zeros(2), ops.zeros(()), ops.zeros(2)]
    optimizer.apply(zeros)
    np.testing.assert_allclose(numpy_of(weight), [0.95, -1.9], 1e-6)
    assert float(numpy_of(alpha)) == 1.0
    # L2 acts on y = (0.5, -2), not on w = (1.25, -1.25).
    y = numpy_of(optimizer.shadow(kernel))
    np.testing.assert_allclose(y, [0.475, -1.9], 1e-6)


def test_l2_survives_a_loss_scale():
    weight = keras.Variable([1.0])
    inner = keras.optimizers.SGD(0.1, loss_scale_factor=128.0)
    optimizer = BlendedOptimizer(inner, l2=0.5)
    optimizer.build([weight])
    optimizer.apply([ops.array([128.0])])
    np.testing.assert_allclose(numpy_of(weight), [1 - 0.1 * 1.5], 1e-6)


def test_decoupled_weight_decay_shrinks_the_shadow():
    kernel = variable_with(QuantProjection(1), [0.5, -2.0])
    inner = keras.optimizers.SGD(0.1, weight_decay=0.5)
    optimizer = BlendedOptimizer(inner, blending=0.0)
    optimizer.build([kernel])
    optimizer.apply([ops.zeros(2)])
    y = numpy_of(optimizer.shadow(kernel))
    np.testing.assert_allclose(y, [0.475, -1.9], 1e-6)
    np.testing.assert_allclose(numpy_of(kernel), [1.1875, -1.1875], 1e-6)


def test_alphas_and_named_variables_are_not_decayed():
    weight = variable_with(None, [1.0])
    kernel = variable_with(QuantProjection(1), [0.5, -2.0])
    alpha = variable_with(AlphaBound(), 1.0)
    inner = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer = BlendedOptimizer(inner, 0.0, alpha_learning_rate_multiplier=1)
    optimizer.exclude_from_weight_decay(var_list=[kernel])
    optimizer.build([weight, kernel, alpha])
    optimizer.apply([ops.zeros(1), ops.zeros(2), ops.zeros(())])
    np.testing.assert_allclose(numpy_of(weight), [0.95], 1e-6)
    np.testing.assert_array_equal(
        numpy_of(optimizer.shadow(kernel)), np.array([0.5, -2.0], "float32")
    )
    assert float(numpy_of(alpha)) == 1.0


def test_exclusions_on_the_inner_optimizer_are_refused():
    inner = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    inner.exclude_from_weight_decay(var_names=["bias"])
    optimizer = BlendedOptimizer(inner)
    with pytest.raises(ValueError, match="on the BlendedOptimizer"):
        optimizer.build([keras.Variable([1.0])])


def test_building_again_keeps_the_shadows():
    kernel = variable_with(QuantProjection(1), [0.3, -2.0, 1.0])
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1))
    optimizer.build([kernel])
    optimizer.build([kernel])
    y = numpy_of(optimizer.shadow(kernel))
    np.testing.assert_allclose(y, [0.3, -2.0, 1.0])


def test_gradients_must_match_the_variables():
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="1 gradients for 0 variables"):
        optimizer.apply([ops.zeros(1)])
    optimizer.build([keras.Variable([1.0]), keras.Variable([1.0])])
    with pytest.raises(ValueError, match="1 gradients for 2 variables"):
        optimizer.apply([ops.zeros(1)])


def test_clipping_acts_on_the_gradient_of_the_kernel():
    kernel = variable_with(QuantProjection(1), [0.5, -2.0])
    inner = keras.optimizers.SGD(0.1, clipvalue=1.0)
    optimizer = BlendedOptimizer(inner, blending=0.0)
    optimizer.build([kernel])
    optimizer.apply([ops.array([5.0, -0.5])])
    y = numpy_of(optimizer.shadow(kernel))
    np.testing.assert_allclose(y, [0.4, -1.95], 1e-6)


def test_average_is_of_the_shadow_and_projected():
    kernel = variable_with(QuantProjection(1), [0.5, -2.0, 1.0])
    alpha = variable_with(AlphaBound(), 1.0)
    inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    optimizer = BlendedOptimizer(inner, blending=0.0)
    optimizer.build([kernel, alpha])
    y, a = np.array([0.5, -2.0, 1.0]), 1.0
    mean = None
    for gradient in ([3.0, 1.0, 0.0], [4.0, -1.0, 2.0], [-1.0, 0.0, 1.0]):
        optimizer.apply([ops.array(gradient), ops.array(gradient[0])])
        y = y - 0.1 * np.array(gradient)
        a = a - 0.01 * 0.1 * gradient[0]
        new = np.append(y, a)
        mean = new if mean is None else 0.9 * mean + 0.1 * new
    w = reference.project(y, 1)
    np.testing.assert_allclose(numpy_of(kernel), w, 1e-5)
    optimizer.finalize_variable_values([kernel, alpha])
    w = reference.project(mean[:3], 1)
    np.testing.assert_allclose(numpy_of(kernel), w, 1e-5)
    np.testing.assert_allclose(numpy_of(alpha), mean[3], 1e-6)


@pytest.mark.parametrize("name", ["ema", "ema_overwrite"])
def test_wrapped_twice_it_averages_as_the_stock_optimizer(data, name):
    def float_model():
        keras.utils.set_random_seed(1)
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])

    inner = INNER[name]()
    config = inner.get_config()
    BlendedOptimizer(inner)
    assert inner.get_config() == config
    plain, wrapped = float_model(), float_model()
    fit(plain, INNER[name](), data)
    optimizer = BlendedOptimizer(inner)
    before = optimizer.get_config()
    fit(wrapped, optimizer, data)
    assert optimizer.get_config() == before
    assert before["inner_optimizer"]["config"]["use_ema"]
    # It is still the caller's: what is set on it counts.
    inner.learning_rate = 0.5
    assert float(numpy_of(optimizer.learning_rate)) == 0.5
    for a, b in zip(plain.weights, wrapped.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(a), numpy_of(b))


def test_an_inner_optimizer_serves_one_model():
    message = (
        "`inner_optimizer` must be an optimizer that has not been built.*"
        "new SGD for each model.*with 2 variables"
    )
    inner = keras.optimizers.SGD(0.1)
    first, second = BlendedOptimizer(inner), BlendedOptimizer(inner)
    first.build([keras.Variable([1.0])])
    with pytest.raises(ValueError, match=message):
        second.build([keras.Variable([1.0])])
    with pytest.raises(ValueError, match=message):
        BlendedOptimizer(inner)


def test_accumulation_blends_and_projects_once_per_update(data):
    # Three micro-batches of 8 make the mean gradient of a batch of 24.
    small, large = two_layers(1), two_layers(1)
    accumulating = keras.optimizers.SGD(0.05, gradient_accumulation_steps=3)
    options = {"blending": 0.3, "l2": 0.01}
    fit(small, BlendedOptimizer(accumulating, **options), data, epochs=1)
    plain = keras.optimizers.SGD(0.05)
    blended = BlendedOptimizer(plain, **options)
    fit(large, blended, data, epochs=1, batch_size=24)
    for a, b in zip(kernels(small), kernels(large), strict=True):
        y = numpy_of(small.optimizer.shadow(a))
        np.testing.assert_allclose(
            y, numpy_of(large.optimizer.shadow(b)), 1e-4, 1e-6
        )
        np.testing.assert_allclose(numpy_of(a), numpy_of(b), 1e-4, 1e-6)


def test_warm_projection_waits_for_the_update():
    start = np.random.default_rng(0).normal(size=40)
    kernel = variable_with(QuantProjection(4, "warm"), start)
    inner = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer = BlendedOptimizer(inner)
    optimizer.build([kernel])
    before = numpy_of(kernel)
    optimizer.apply([ops.ones(40)])
    np.testing.assert_array_equal(numpy_of(kernel), before)
    optimizer.apply([ops.ones(40)])
    assert not np.array_equal(numpy_of(kernel), before)


def test_a_skipped_step_changes_nothing():
    keras.utils.set_random_seed(0)
    model = two_layers(2)
    model.compile(
        keras.optimizers.LossScaleOptimizer(
            BlendedOptimizer(keras.optimizers.Adam(0.01), blending=0.5)
        ),
        "mse",
    )
    x = np.ones((8, 6), "float32")
    model.fit(x, np.ones((8, 3)), verbose=0)
    optimizer = model.optimizer.inner_optimizer
    state = [*model.trainable_variables, *optimizer.variables]
    before = [numpy_of(variable) for variable in state]
    model.fit(x, np.full((8, 3), np.inf), verbose=0)
    for variable, value in zip(state, before, strict=True):
        np.testing.assert_array_equal(numpy_of(variable), value, variable.path)
    model.fit(x, np.ones((8, 3)), verbose=0)
    assert not np.array_equal(numpy_of(state[0]), before[0])


def test_learning_rate_is_read_and_set_by_callbacks(data):
    seen = []
    model = two_layers()
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.5))
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.1, patience=100),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(logs["learning_rate"])
        ),
    ]
    fit(model, optimizer, data, epochs=3, callbacks=callbacks)
    np.testing.assert_allclose(seen, [0.25, 0.125, 0.0625])
    optimizer.learning_rate = 0.01
    rate = optimizer.inner_optimizer.learning_rate
    assert float(numpy_of(rate)) == pytest.approx(0.01)


def test_a_schedule_advances_with_the_steps(data):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [5, 10], [0.1, 0.01, 0.001]
    )
    optimizer = BlendedOptimizer(keras.optimizers.SGD(schedule))
    fit(two_layers(), optimizer, data, epochs=1)
    assert int(numpy_of(optimizer.iterations)) == 12
    assert float(numpy_of(optimizer.learning_rate)) == pytest.approx(0.001)


# Ways to run it.

RUNS = {
    "eager": {"run_eagerly": True},
    "graph": {"jit_compile": False},
    "jit": {"jit_compile": True},
    "steps_per_execution": {"steps_per_execution": 4},
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("bits", [1, 4])
def test_every_way_to_run_gives_the_same(data, floatx, run, bits):
    floatx(PRECISE)
    results = []
    for kwargs in ({"jit_compile": False}, RUNS[run]):
        model = two_layers(bits, dtype=PRECISE)
        optimizer = BlendedOptimizer(
            keras.optimizers.SGD(0.05, momentum=0.9), blending=0.01
        )
        fit(model, optimizer, data, epochs=1, compile_kwargs=kwargs)
        results.append(
            [optimizer.shadow(k) for k in kernels(model)] + kernels(model)
        )
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(
            numpy_of(a), numpy_of(b), TOLERANCE, TOLERANCE
        )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_shadows_and_grid(data, policy):
    model = two_layers(4, policy=policy)
    start = [numpy_of(kernel) for kernel in kernels(model)]
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.05))
    fit(model, optimizer, data)
    for kernel, first in zip(kernels(model), start, strict=True):
        shadow = numpy_of(optimizer.shadow(kernel))
        assert shadow.dtype == "float32"
        assert not np.array_equal(shadow, first)
        np.testing.assert_allclose(
            numpy_of(kernel), reference.project(shadow, 4), 1e-5, 1e-7
        )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_policy_for_all_layers_trains_and_resumes(
    data, global_policy, tmp_path, policy
):
    """Of mixed_float16, Keras wraps the optimizer."""
    global_policy(policy)

    def start():
        inner = keras.optimizers.SGD(0.05, momentum=0.9)
        return two_layers(2, policy=policy), BlendedOptimizer(inner, 0.01)

    whole, first = start(), start()
    fit(*whole, data, epochs=4)
    fit(*first, data, epochs=2)
    model = first[0]
    is_wrapped = isinstance(
        model.optimizer, keras.optimizers.LossScaleOptimizer
    )
    assert is_wrapped == (policy == "mixed_float16")
    model.save(tmp_path / "model.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(model, resumed)
    for kernel in kernels(resumed):
        y = numpy_of(keras_bcgd.shadow(resumed, kernel))
        np.testing.assert_allclose(
            numpy_of(kernel), reference.project(y, 2), 1e-5, 1e-7
        )
        assert not np.array_equal(y, numpy_of(kernel))
    resumed.fit(*data, batch_size=8, shuffle=False, verbose=0, epochs=2)
    assert_same(whole[0], resumed)


@pytest.mark.parametrize(
    "method", ["lloyd", "exact", "warm", "lloyd_converged"]
)
def test_shadows_are_never_lost_to_rounding(data, method):
    """Many compiled steps: y must not collapse to w (take-over by mistake)."""
    keras.utils.set_random_seed(1)
    layer = QuantDense(3, bits=4, projection=method, per_channel=True)
    model = keras.Sequential([keras.Input((6,)), layer])
    optimizer = BlendedOptimizer(keras.optimizers.SGD(1e-6), blending=0.0)
    start = numpy_of(layer.kernel)
    fit(model, optimizer, data, epochs=5, compile_kwargs={"jit_compile": True})
    shadow = numpy_of(optimizer.shadow(layer.kernel))
    np.testing.assert_allclose(shadow, start, atol=1e-3)
    assert np.abs(shadow - numpy_of(layer.kernel)).max() > 1e-3


# Which weights: before, between, after.


def test_shadows_start_from_the_float_weights(data):
    model = two_layers(2)
    start = [numpy_of(kernel) for kernel in kernels(model)]
    still = BlendedOptimizer(keras.optimizers.SGD(0.0), blending=0.0)
    fit(model, still, data, epochs=1)
    for kernel, y in zip(kernels(model), start, strict=True):
        np.testing.assert_array_equal(numpy_of(still.shadow(kernel)), y)
        np.testing.assert_allclose(
            numpy_of(kernel), reference.project(y, 2), 1e-5
        )


def test_the_first_forward_pass_of_training_is_quantized(data):
    x, target = data
    model = two_layers(1)
    model.compile(BlendedOptimizer(keras.optimizers.SGD(0.1)), "mse")
    w = [reference.project(numpy_of(k), 1) for k in kernels(model)]
    history = model.fit(x, target, batch_size=96, verbose=0)
    alpha = 0.166641
    hidden, _, _ = reference.quant_relu(x @ w[0], alpha, 4)
    expected = np.mean((hidden @ w[1] - target) ** 2)
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-4)


@WITHOUT_STATE
def test_loaded_float_weights_become_the_shadow(data, tmp_path):
    path = tmp_path / "float.weights.h5"
    other = two_layers(2)
    for kernel in kernels(other):
        kernel.assign(numpy_of(kernel) * 1.7 + 0.01)
    other.save_weights(path)
    expected = other.predict(data[0], verbose=0)
    start = [numpy_of(kernel) for kernel in kernels(other)]

    model = two_layers(2)
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.0), blending=0.0)
    fit(model, optimizer, data, epochs=1)
    model.load_weights(path)
    np.testing.assert_array_equal(model.predict(data[0], verbose=0), expected)
    model.fit(*data, verbose=0)
    for kernel, y in zip(kernels(model), start, strict=True):
        np.testing.assert_array_equal(numpy_of(optimizer.shadow(kernel)), y)
        np.testing.assert_allclose(
            numpy_of(kernel), reference.project(y, 2), 1e-5
        )
    assert all(numpy_of(model.layers[i].kernel_is_quantized) for i in (0, 2))


def test_assigned_float_kernel_becomes_the_shadow(data):
    model = two_layers(4)
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.0), blending=1.0)
    fit(model, optimizer, data, epochs=1)
    y = np.linspace(-1, 2, 48).reshape(6, 8).astype("float32")
    model.layers[0].kernel.assign(y)
    model.fit(*data, batch_size=96, verbose=0)
    # rho = 1: the blend of the new y with the new w = proj(y) is w.
    np.testing.assert_allclose(
        numpy_of(optimizer.shadow(model.layers[0].kernel)),
        reference.project(y, 4),
        1e-5,
    )


@WITHOUT_STATE
def test_saving_before_any_step_keeps_the_float_weights(data, tmp_path):
    path = tmp_path / "model.keras"
    model = two_layers(2)
    model.compile(BlendedOptimizer(keras.optimizers.SGD(0.0)), "mse")
    start = [numpy_of(kernel) for kernel in kernels(model)]
    expected = model.predict(data[0], verbose=0)
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(loaded.predict(data[0], verbose=0), expected)
    for kernel, y in zip(kernels(loaded), start, strict=True):
        np.testing.assert_array_equal(numpy_of(kernel), y)
    loaded.fit(*data, verbose=0)
    for kernel, y in zip(kernels(loaded), start, strict=True):
        shadow = numpy_of(loaded.optimizer.shadow(kernel))
        np.testing.assert_allclose(shadow, y, 1e-4, 1e-6)


@pytest.mark.parametrize("name", ["momentum", "adam", "schedule"])
def test_resumed_training_equals_uninterrupted(data, tmp_path, name):
    path = tmp_path / "model.keras"
    whole = two_layers(2)
    fit(whole, BlendedOptimizer(INNER[name](), blending=0.01, l2=0.01), data, 4)

    first = two_layers(2)
    options = {"blending": 0.01, "l2": 0.01}
    fit(first, BlendedOptimizer(INNER[name](), **options), data, 2)
    first.save(path)
    resumed = keras.saving.load_model(path)
    assert_same(first, resumed)
    resumed.fit(*data, batch_size=8, shuffle=False, verbose=0, epochs=2)
    assert_same(whole, resumed)


@pytest.mark.parametrize("name", ["ema", "ema_overwrite"])
def test_averages_resume(data, tmp_path, name):
    """Against `fit` called twice: each call ends with the averages."""
    path = tmp_path / "model.keras"
    model = two_layers(2)
    inner = INNER[name]()
    BlendedOptimizer(inner)
    fit(model, BlendedOptimizer(inner, blending=0.01, l2=0.01), data, 2)
    model.save(path)
    resumed = keras.saving.load_model(path)
    assert_same(model, resumed)
    averages = [v for v in resumed.optimizer.variables if "average" in v.path]
    assert len(averages) == 5
    for each in (model, resumed):
        each.fit(*data, batch_size=8, shuffle=False, verbose=0, epochs=2)
    assert_same(model, resumed)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_the_saved_file_holds_quantized_kernels(data, tmp_path, bits):
    model = two_layers(bits)
    fit(model, BlendedOptimizer(keras.optimizers.Adam(0.01)), data, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    most = 2 if bits == 1 else 2 * reference.largest_code(bits) + 1
    for kernel in kernels(loaded):
        assert len(np.unique(numpy_of(kernel))) <= most


def test_the_saved_file_holds_one_grid_per_channel(data, tmp_path):
    layer = QuantDense(3, bits=1, per_channel=True)
    model = keras.Sequential([keras.Input((6,)), layer])
    fit(model, BlendedOptimizer(keras.optimizers.Adam(0.01)), data, epochs=1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    kernel = numpy_of(loaded.layers[0].kernel)
    for column in kernel.T:
        assert len(np.unique(column)) == 2
    assert len(np.unique(kernel)) == 6


def test_state_is_one_shadow_and_one_scale_per_kernel(data):
    model, plain = two_layers(2), two_layers(2)
    fit(model, BlendedOptimizer(keras.optimizers.Adam(0.01)), data, epochs=1)
    fit(plain, keras.optimizers.Adam(0.01), data, epochs=1)

    def size(optimizer):
        return sum(np.prod(v.shape) for v in optimizer.variables)

    weights = sum(np.prod(kernel.shape) for kernel in kernels(model))
    scales, alphas, own_counter_and_rate = 2, 1, 2
    extra = size(model.optimizer) - size(plain.optimizer)
    assert extra == weights + scales + alphas + own_counter_and_rate


def test_gradients_in_another_order_and_missing_ones():
    a = keras.Variable([1.0])
    b = variable_with(QuantProjection(1), [1.0, 2.0])
    optimizer = BlendedOptimizer(keras.optimizers.SGD(1.0), blending=0.0)
    c = variable_with(QuantProjection(1), [1.0, 3.0])
    optimizer.build([a, b, c])
    optimizer.blending = 1.0
    optimizer.apply([ops.array([1.0, 1.0])], [b])
    np.testing.assert_allclose(numpy_of(optimizer.shadow(c)), [1.0, 3.0])
    optimizer.blending = 0.0
    optimizer.shadow(b).assign([0.0, 1.0])
    np.testing.assert_allclose(numpy_of(a), [1.0])
    np.testing.assert_allclose(numpy_of(optimizer.shadow(b)), [0.0, 1.0])
    optimizer.apply([ops.array([1.0, 1.0]), ops.array([0.5])], [b, a])
    np.testing.assert_allclose(numpy_of(a), [0.5])


# Configs and errors.


def test_config_round_trip():
    inner = keras.optimizers.SGD(0.3, momentum=0.9, use_ema=True)
    optimizer = BlendedOptimizer(
        inner, 0.1, 0.2, l2=0.3, alpha_l2=0.4, name="mine"
    )
    assert optimizer.get_config()["alpha_l2"] == 0.4
    config = keras.saving.serialize_keras_object(optimizer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == optimizer.get_config()
    assert config["config"]["inner_optimizer"]["config"]["use_ema"]


def test_files_name_the_optimizer_as_ever():
    """Those saved while it was one module name that, and must load."""
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.3))
    config = keras.saving.serialize_keras_object(optimizer)
    assert config["registered_name"] == "keras_bcgd>BlendedOptimizer"
    config["module"] = "keras_bcgd.optimizers"
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is keras_bcgd.optimizers.BlendedOptimizer
    assert copy.get_config() == optimizer.get_config()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"inner_optimizer": "sgd"}, "must be a keras.optimizers.Optimizer"),
        ({"inner_optimizer": None}, "must be a keras.optimizers.Optimizer"),
        ({"blending": -0.1}, r"in \[0, 1\].*Received: blending=-0.1"),
        ({"blending": 1.5}, "Received: blending=1.5"),
        ({"blending": "0.1"}, "Received: blending='0.1'"),
        ({"blending": True}, "Received: blending=True"),
        ({"blending": None}, "a number in .0, 1., a keras.*Schedule or a call"),
        ({"l2": -1.0}, "`l2` must be a number, finite and >= 0"),
        ({"alpha_l2": -1.0}, "`alpha_l2` must be a number, finite and >= 0"),
        ({"alpha_learning_rate_multiplier": -1}, "finite and >= 0"),
        ({"clipnorm": 1.0}, "Set `clipnorm` on the `inner_optimizer`"),
        ({"momentum": 0.9}, "There is no such argument"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {"inner_optimizer": keras.optimizers.SGD(0.1), **arguments}
    with pytest.raises(ValueError, match=message):
        BlendedOptimizer(**arguments)


def test_wrappers_are_refused_inside():
    inner = BlendedOptimizer(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="around BlendedOptimizer"):
        BlendedOptimizer(inner)


@pytest.mark.parametrize("optimizer", [None, "sgd", "loss_scale"])
def test_shadow_without_a_blended_optimizer_is_refused(optimizer):
    model = two_layers()
    if optimizer == "loss_scale":
        sgd = keras.optimizers.SGD(0.1)
        optimizer = keras.optimizers.LossScaleOptimizer(sgd)
    if optimizer is not None:
        model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="compiled with a BlendedOptimizer"):
        keras_bcgd.shadow(model, kernels(model)[0])


def test_shadow_of_what_is_no_model_is_refused():
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="`model` must be a keras.Model"):
        keras_bcgd.shadow(optimizer, keras.Variable(1.0))


def test_shadow_of_an_unknown_variable_is_refused():
    optimizer = BlendedOptimizer(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="QuantProjection constraint"):
        optimizer.shadow(keras.Variable([1.0]))
