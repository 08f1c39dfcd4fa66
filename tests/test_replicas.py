"""The steps of the ImageNet program on one and on two replicas."""

import keras
import numpy as np
import pytest
from training_helpers import apart
from training_helpers import quantized_layers

if keras.backend.backend() != "tensorflow":
    pytest.skip("distribution strategies are TensorFlow's", True)

import tensorflow as tf

import keras_bcgd as kb
from training import replicas

BATCH, CLASSES, STEPS = 16, 10, 20
ONE = tf.distribute.get_strategy()


def network(strategy, synchronized=False, rate=0.05):
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((6, 6, 3)),
                kb.QuantConv2D(4, 3, bits=4, use_bias=False),
                keras.layers.BatchNormalization(
                    momentum=0.9, synchronized=synchronized
                ),
                kb.QuantReLU(4),
                keras.layers.Flatten(),
                kb.QuantDense(CLASSES, bits=2),
            ]
        )
        inner = keras.optimizers.SGD(rate, momentum=0.9)
        optimizer = kb.BlendedOptimizer(inner, blending=1e-3, l2=1e-3)
        loss = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, dtype=keras.config.dtype_policy().compute_dtype
        )
        model.compile(optimizer, loss)
        model.optimizer.build(model.trainable_variables)
    return model


def prepare(images):
    return tf.cast(images, tf.float32) / 128 - 1


def batches(order=None, steps=STEPS):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (steps, BATCH, 6, 6, 3)).astype("uint8")
    y = rng.integers(0, CLASSES, (steps, BATCH))
    if order is not None:
        shuffled = np.random.default_rng(order).permutation(BATCH)
        x, y = x[:, shuffled], y[:, shuffled]
    return x, y


def train(model, strategy, x, y):
    """The sums of each step."""
    steps = replicas.Replicas(model, strategy, BATCH, prepare)
    size = BATCH // strategy.num_replicas_in_sync

    def read(context):
        part = BATCH // context.num_input_pipelines
        own = slice(context.input_pipeline_id * part, None)
        images, labels = x[:, own][:, :part], y[:, own][:, :part]
        flat = images.reshape(-1, *x.shape[2:]), labels.reshape(-1)
        return tf.data.Dataset.from_tensor_slices(flat).batch(size, True)

    given = iter(strategy.distribute_datasets_from_function(read))
    return np.array([steps.train(*next(given)).numpy() for _ in x])


def test_one_device_trains_as_fit_does(float64):
    """In float64, where orders of summation do not matter."""
    x, y = batches()
    ours, theirs = network(ONE), network(ONE)
    sums = train(ours, ONE, x, y)
    losses = []
    for images, labels in zip(x, y, strict=True):
        inputs = prepare(images).numpy()
        losses.append(theirs.train_on_batch(inputs, labels))
    for a, b in zip(ours.variables, theirs.variables, strict=True):
        a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sums[:, 0] / BATCH, losses, rtol=1e-6)
    assert np.all(sums[:, 3] == BATCH)


def test_two_replicas_train_as_one(two, floatx):
    """With one batch normalization for both."""
    model, reference = network(two, synchronized=True), network(ONE)
    sums = train(model, two, *batches())
    expected = train(reference, ONE, *batches())
    if floatx == "float64":
        assert apart(reference, model) < 1e-9
        np.testing.assert_allclose(sums, expected, rtol=1e-9)
        for a, b in zip(
            quantized_layers(reference), quantized_layers(model), strict=True
        ):
            np.testing.assert_array_equal(
                a.kernel_scale_and_codes()[1], b.kernel_scale_and_codes()[1]
            )
        return
    # Rounding is amplified by the staircases: no more than between runs on
    # one device whose batches are summed in another order.
    others = [network(ONE) for _ in range(4)]
    for order, other in enumerate(others):
        train(other, ONE, *batches(order))
    farthest = max(
        apart(a, b) for i, a in enumerate(others) for b in others[:i]
    )
    # The distances themselves are rounded.
    assert apart(reference, model) <= 1.001 * farthest


@pytest.mark.parametrize("synchronized", [False, True])
def test_replicas_hold_the_same_numbers(two, synchronized):
    """Also the averages of batch normalization, and on the grid."""
    model = network(two, synchronized)
    train(model, two, *batches())
    for variable in model.variables + model.optimizer.variables:
        first, second = (copy.numpy() for copy in variable.value.values)
        np.testing.assert_array_equal(first, second, variable.path)
    for layer in quantized_layers(model):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        scale, codes = layer.kernel_scale_and_codes()
        np.testing.assert_allclose(kernel, scale * codes, 1e-5)


def test_averages_are_those_of_the_parts(two, float64):
    """One step, rate 0: what each half of the batch gives, and their mean."""
    model, reference = network(two, rate=0.0), network(ONE, rate=0.0)
    x, y = batches(steps=1)
    train(model, two, x, y)
    convolution, norm = reference.layers[:2]
    seen = keras.ops.convert_to_numpy(convolution(prepare(x[0])))
    halves = seen.reshape(2, -1, 4)
    mean = 0.1 * np.mean(np.mean(halves, axis=1), axis=0)
    variance = 0.9 + 0.1 * np.mean(np.var(halves, axis=1), axis=0)
    norm = model.layers[1]
    for found, expected in (
        (norm.moving_mean, mean),
        (norm.moving_variance, variance),
    ):
        found = keras.ops.convert_to_numpy(found)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("replicas_are", ["one", "two"])
def test_sums_count_the_labels_that_are_some(two, replicas_are):
    strategy = {"one": ONE, "two": two}[replicas_are]
    model = network(strategy)
    x, y = batches(steps=1)
    y[0, [1, 5, 12]] = -1, -2, -1
    steps = replicas.Replicas(model, strategy, BATCH, prepare)
    size = BATCH // strategy.num_replicas_in_sync

    def read(context):
        return tf.data.Dataset.from_tensor_slices((x[0], y[0])).batch(size)

    given = iter(strategy.distribute_datasets_from_function(read))
    sums = steps.test(*next(given)).numpy()
    logits = np.array(network(ONE)(prepare(x[0])), "float64")
    known = y[0] >= 0
    logits, labels = logits[known], y[0][known]
    ranks = np.argsort(-logits, axis=1)
    own = logits[np.arange(len(labels)), labels]
    loss = np.log(np.sum(np.exp(logits), axis=1)) - own
    expected = [
        np.sum(loss),
        np.sum(ranks[:, 0] == labels),
        np.sum(ranks[:, :5] == labels[:, None]),
        13,
    ]
    np.testing.assert_allclose(sums, expected, rtol=1e-5)


def test_images_without_label_teach_nothing(float64):
    x, y = batches()
    y[:, ::3] = -2
    model, other = network(ONE), network(ONE)
    for given in (model, other):
        # Their pixels do reach the statistics of batch normalization.
        given.layers[1].trainable = False
    train(model, ONE, x, y)
    train(other, ONE, np.where(y[..., None, None, None] < 0, 255 - x, x), y)
    assert apart(model, other) == 0


def mixed_network(strategy):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return network(strategy)
    finally:
        keras.config.set_dtype_policy("float32")


def overflow(strategy, half):
    """One step in which the gradients of one half of a batch overflow.

    Returns:
        The weights before and after it, and by what the loss scale changed.
    """
    model = mixed_network(strategy)
    scale = model.optimizer.dynamic_scale
    scale.assign(2.0**40)
    before = model.get_weights()
    x, y = batches(steps=1)
    others = slice(BATCH // 2, None) if half == 0 else slice(BATCH // 2)
    y[:, others] = -1  # no loss, no gradient
    train(model, strategy, x, y)
    factor = keras.ops.convert_to_numpy(scale) / 2.0**40
    trained = model.get_weights()
    is_average = ["moving" in variable.path for variable in model.weights]
    keep = [i for i, average in enumerate(is_average) if not average]
    return [before[i] for i in keep], [trained[i] for i in keep], factor


@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("replicas_are", ["one", "two"])
def test_overflow_on_one_replica_skips_the_step_on_all(two, replicas_are, half):
    strategy = {"one": ONE, "two": two}[replicas_are]
    before, after, factor = overflow(strategy, half)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert factor == 0.5


def test_mixed_precision(two):
    """The loss is scaled for float16, and the kernels stay on the grid."""
    reference = train(network(ONE), ONE, *batches())
    model = mixed_network(two)
    wrapper = keras.mixed_precision.LossScaleOptimizer
    assert isinstance(model.optimizer, wrapper)
    sums = train(model, two, *batches())
    np.testing.assert_allclose(sums[:3, 0], reference[:3, 0], rtol=0.05)
    assert np.all(np.isfinite(sums))
    for layer in quantized_layers(model):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        scale, codes = layer.kernel_scale_and_codes()
        np.testing.assert_allclose(kernel, scale * codes, 1e-5)
