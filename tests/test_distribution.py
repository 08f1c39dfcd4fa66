"""Two replicas under MirroredStrategy against one device."""

import keras
import numpy as np
import pytest
from training_helpers import apart
from training_helpers import quantized_layers

import keras_bcgd as kb
from keras_bcgd import BlendedOptimizer
from keras_bcgd import QuantConv2D
from keras_bcgd import QuantDense
from keras_bcgd import QuantizationMonitor
from keras_bcgd import QuantReLU

if keras.backend.backend() != "tensorflow":
    pytest.skip("distribution strategies are TensorFlow's", True)

import tensorflow as tf

STEPS = 20
BATCH = 16


def network(bits, projection="lloyd", first_rate=0.05):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            QuantConv2D(4, 3, bits=bits, projection=projection),
            QuantReLU(4),
            keras.layers.Flatten(),
            QuantDense(3, bits=bits, per_channel=True),
        ]
    )
    inner = keras.optimizers.SGD(first_rate, momentum=0.9)
    optimizer = BlendedOptimizer(inner, blending=1e-3, l2=1e-3)
    model.compile(optimizer, "mse")
    return model


def train(model, seed_of_order=None, steps=STEPS):
    """Trains on fixed global batches, permuted internally by a seed."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps, BATCH, 6, 6, 2))
    y = rng.normal(size=(steps, BATCH, 3))
    if seed_of_order is not None:
        order = np.random.default_rng(seed_of_order).permutation(BATCH)
        x, y = x[:, order], y[:, order]
    model.fit(
        x.reshape((-1, 6, 6, 2)),
        y.reshape((-1, 3)),
        batch_size=BATCH,
        shuffle=False,
        verbose=0,
    )
    return model


def codes(model):
    return [
        layer.kernel_scale_and_codes()[1] for layer in quantized_layers(model)
    ]


def assert_replicas_agree(model):
    for variable in model.trainable_variables + model.optimizer.variables:
        copies = [copy.numpy() for copy in variable.value.values]
        np.testing.assert_array_equal(copies[0], copies[1], variable.path)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_two_replicas_equal_one_device(two, floatx, bits):
    one = train(network(bits))
    with two.scope():
        two = network(bits)
    train(two)
    assert_replicas_agree(two)
    if floatx == "float64":
        assert apart(one, two) < 1e-9
        for a, b in zip(codes(one), codes(two), strict=True):
            np.testing.assert_array_equal(a, b)
    else:
        # Rounding is amplified by the staircases: no more than between
        # one-device runs whose batches are summed in another order.
        permuted = [train(network(bits), seed) for seed in range(4)]
        largest = max(
            apart(a, b) for i, a in enumerate(permuted) for b in permuted[:i]
        )
        assert apart(one, two) <= largest
    for layer in quantized_layers(two):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        scale, q = layer.kernel_scale_and_codes()
        np.testing.assert_allclose(kernel, scale * q, 1e-5)


OTHERS = {
    "1d": lambda: [
        keras.layers.Reshape((18, 4)),
        kb.QuantConv1D(4, 3, bits=4, padding="causal"),
    ],
    "transposed": lambda: [
        kb.QuantConv2DTranspose(4, 3, bits=4, strides=2, per_channel=True)
    ],
    "separable": lambda: [kb.QuantSeparableConv2D(4, 3, bits=4)],
    "groups": lambda: [QuantConv2D(4, 3, bits=4, groups=2)],
    "swish": lambda: [kb.QuantActivation("swish")],
    "prelu": lambda: [kb.QuantPReLU("ones")],
}


def other_network(kind):
    keras.utils.set_random_seed(3)
    parts = [keras.Input((6, 6, 2)), *OTHERS[kind](), QuantReLU(4)]
    ends = [keras.layers.Flatten(), QuantDense(3, bits=4)]
    model = keras.Sequential([*parts, *ends])
    inner = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(BlendedOptimizer(inner, blending=1e-3), "mse")
    return model


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", OTHERS)
def test_other_convolutions_on_two_replicas(two, kind):
    one = train(other_network(kind))
    with two.scope():
        two = other_network(kind)
    train(two)
    assert_replicas_agree(two)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(a),
            keras.ops.convert_to_numpy(b),
            1e-9,
            1e-12,
        )


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_one_float32_step_agrees(two, bits):
    one = train(network(bits), steps=1)
    with two.scope():
        two = network(bits)
    train(two, steps=1)
    assert apart(one, two) < 1e-6


def test_warm_scales_are_the_same_on_both_replicas(two):
    with two.scope():
        model = network(4, "warm")
    train(model)
    assert_replicas_agree(model)


def test_a_loop_of_ones_own_builds_inside_the_replicas(two):
    """strategy.run over a traced step in which the optimizer is built."""
    with two.scope():
        model = network(4)
        still = keras.optimizers.SGD(0.0)
        optimizer = BlendedOptimizer(still, blending=0.0)
    first = quantized_layers(model)[0]
    start = keras.ops.convert_to_numpy(first.kernel)

    @tf.function
    def step(x, y):
        def replica_step(x, y):
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((model(x, training=True) - y) ** 2)
            variables = model.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        return two.run(replica_step, args=(x, y))

    x, y = tf.ones((4, 6, 6, 2)), tf.ones((4, 3))
    step(x, y)
    step(x, y)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(optimizer.shadow(first.kernel)), start
    )
    for variable in model.trainable_variables:
        copies = [copy.numpy() for copy in variable.value.values]
        np.testing.assert_array_equal(copies[0], copies[1])


def test_the_monitor_reads_mirrored_weights(two):
    monitor = QuantizationMonitor()
    with two.scope():
        model = network(4)
    model.fit(
        np.ones((4, 6, 6, 2)), np.ones((4, 3)), callbacks=[monitor], verbose=0
    )
    alpha = keras.ops.convert_to_numpy(model.layers[1].alpha)
    assert monitor.latest[f"alpha/{model.layers[1].name}"] == alpha


def test_all_that_reads_alphas_takes_mirrored_ones(two):
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype("float32")
    one = network(4)
    with two.scope():
        two = network(4)
    reports = [kb.calibrate(model, x, verbose=0) for model in (one, two)]
    alphas = [report.layers[0].alpha for report in reports]
    assert alphas[0] == pytest.approx(alphas[1], rel=1e-5)
    (relu,) = [layer for layer in two.layers if hasattr(layer, "alpha")]
    copies = [float(copy.numpy()) for copy in relu.alpha.value.values]
    assert copies == [alphas[1]] * 2
    rows = [kb.summary(model, x).rows for model in (one, two)]
    for row, other in zip(*rows, strict=True):
        assert row["codes"] == other["codes"]
        assert row["saturated"] == pytest.approx(other["saturated"], abs=0.01)
    two.fit(
        np.ones((4, 6, 6, 2)),
        np.ones((4, 3)),
        callbacks=[kb.WarnOnDeadLayers(x)],
        verbose=0,
    )


def test_pictures_take_mirrored_weights(two):
    pytest.importorskip("matplotlib")
    with two.scope():
        model = network(4)
    x = np.ones((4, 6, 6, 2))
    kb.plot_weight_codes(model)
    kb.plot_staircase(model.layers[1].name, model, x)


def test_sensitivity_of_mirrored_weights(two):
    with two.scope():
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(3, name="dense")]
        )
        model.compile("sgd", "mse")
    data = np.ones((4, 4)), np.ones((4, 3))
    before = keras.ops.convert_to_numpy(model.layers[0].kernel)
    table = kb.sensitivity(model, data, bits=2, verbose=0)
    assert [row["layer"] for row in table.rows] == ["dense"]
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(model.layers[0].kernel), before
    )
