"""The CIFAR-10 program: recipes, schedules, starts; killed and resumed."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from absl import app
from absl import flags
from absl.testing import flagsaver
from keras import ops

import cifar10
import keras_bcgd as kb
from training import cifar10_data
from training import distillation
from training import recipes
from training import start_from_float

PROGRAM = pathlib.Path(cifar10.__file__)


@pytest.fixture(autouse=True)
def parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["cifar10.py", "--workdir=unused"])
    with flagsaver.flagsaver():
        yield


def settings(**given):
    with flagsaver.flagsaver(**given):
        return cifar10.settings()


# Settings


def test_the_papers_recipe_is_the_default():
    """PAPER: what the slides and the authors' demo train with."""
    found = settings()
    assert found["recipe"] == "paper"
    expected = {
        "net": "resnet20",
        "alpha_gradient": "three_valued",
        "alpha_start": "slides",
        "branch_bits": None,
        "projection": "lloyd",
        "per_channel": False,
        "shortcut": "A",
        "stride_padding": "symmetric",
        "norm_momentum": 0.9,
        "norm_epsilon": 1e-5,
        "blending": 1e-5,
        "alpha_learning_rate_multiplier": 0.01,
        "momentum": 0.95,
        "l2": 1e-4,
        "learning_rate": 0.01,
        "schedule": "milestones",
        "epochs": 200,
        "batch_size": 128,
        "train_images": 50000,
        "crop": True,
        "normalization": "paper",
    }
    assert {name: found[name] for name in expected} == expected


def test_the_float_stage():
    found = settings(stage="float", weight_bits=1)
    assert found["learning_rate"] == 0.1
    assert found["weight_bits"] == found["activation_bits"] == 32
    assert settings(stage="float", weight_bits=2) == found


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_recipe_sets_what_is_not_given(name):
    paper, recommended = recipes.RECIPES[name]
    assert settings()[name] == paper
    assert settings(recipe="recommended")[name] == recommended
    given = {"branch_bits": 7, "alpha_start": "max"}
    given |= {"schedule": "cosine", "normalization": "grid"}
    for recipe in recipes.RECIPE_NAMES:
        found = settings(recipe=recipe, **{name: given[name]})
        assert found[name] == given[name]


def test_where_is_no_setting():
    where = {"workdir", "resume", "data_dir", "checkpoint_seconds"}
    assert not where & settings().keys()


def test_every_setting_reaches_the_network():
    found = settings(
        weight_bits=2,
        activation_bits=3,
        branch_bits=7,
        alpha_gradient="ae",
        projection="exact",
        per_channel=True,
        shortcut="B",
        stride_padding="same",
        norm_momentum=0.8,
        norm_epsilon=1e-3,
    )
    model = cifar10.make_model(found)
    conv = model.get_layer("stage2_block1_conv1")
    assert (conv.bits, conv.projection, conv.per_channel) == (2, "exact", True)
    assert conv.padding == "same"
    relu = model.get_layer("stage2_block1_relu1")
    assert (relu.bits, relu.alpha_gradient) == (3, "ae")
    assert float(relu.alpha) == np.float32(1 / 7)
    assert model.get_layer("stage2_block1_relu2").branch_bits == 7
    norm = model.get_layer("stage2_block1_shortcut_bn")
    assert (norm.momentum, norm.epsilon) == (0.8, 1e-3)


@pytest.mark.parametrize("net", cifar10.NETS)
def test_every_network(net):
    model = cifar10.make_model(settings(net=net))
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize("net", ["vgg11", "resnet20", "mobilenet"])
@pytest.mark.parametrize("first_last_float, bits", [(False, 8), (True, 32)])
def test_bits_of_the_classifier(net, first_last_float, bits):
    model = cifar10.make_model(
        settings(
            net=net, recipe="recommended", first_last_float=first_last_float
        )
    )
    assert model.get_layer("classifier").bits == bits
    assert model.name in (net, f"{net}_cifar")


# Schedules


@pytest.mark.parametrize("milestones", [["0.4", "0.7"], ["4", "7"]])
def test_milestones(milestones):
    """.1 in epochs 0 to 3, .01 in 4 to 6, .001 in 7 to 9."""
    found = settings(milestones=milestones, epochs=10, learning_rate=0.1)
    schedule = recipes.make_schedule(found, steps_per_epoch=5)
    rates = [float(schedule(step)) for step in range(50)]
    expected = [0.1] * 20 + [0.01] * 15 + [0.001] * 15
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_cosine():
    found = settings(schedule="cosine", epochs=10, learning_rate=0.1)
    schedule = recipes.make_schedule(found, steps_per_epoch=10)
    rates = np.array([float(schedule(step)) for step in range(101)])
    np.testing.assert_allclose(rates[:10], 0.01 + 0.009 * np.arange(10), 1e-5)
    angles = np.arange(91) / 90 * np.pi
    expected = 0.05 * (1 + np.cos(angles))
    np.testing.assert_allclose(rates[10:], expected, atol=1e-7)


def test_the_optimizer_has_every_setting():
    found = settings(
        blending=0.5,
        alpha_learning_rate_multiplier=0.25,
        l2=0.125,
        momentum=0.75,
        steps_per_execution=3,
    )
    assert not found["on_device"]
    model = keras.Sequential([keras.Input((2,)), kb.QuantDense(10, bits=2)])
    cifar10.compile_model(model, found, steps_per_epoch=10)
    optimizer = model.optimizer
    assert optimizer.blending == 0.5
    assert optimizer.alpha_learning_rate_multiplier == 0.25
    assert optimizer.l2 == 0.125
    assert optimizer.inner_optimizer.momentum == 0.75
    assert optimizer.alpha_l2 == 0
    assert model.steps_per_execution == 3


def test_levers_reach_network_and_optimizer():
    found = settings(
        epochs=4,
        blending=0.25,
        blending_end=0.75,
        alpha_l2=0.125,
        alpha_gradient_scale="lsq",
    )
    model = cifar10.make_model(found)
    assert model.get_layer("relu1").alpha_gradient_scale == "lsq"
    cifar10.compile_model(model, found, steps_per_epoch=10)
    assert model.optimizer.alpha_l2 == 0.125
    config = model.optimizer.get_config()["blending"]
    schedule = keras.saving.deserialize_keras_object(config)
    rho = [float(schedule(step)) for step in (0, 20, 40)]
    np.testing.assert_allclose(rho, [0.25, 0.5, 0.75])
    assert float(model.optimizer.blending) == 0.25


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [(1, 3, [1, 2, 3]), (2, 4, [2, 4]), (2, 5, [2, 4, 5]), (9, 5, [5])],
)
def test_the_last_epoch_is_always_tested(every, epochs, expected):
    found = settings(validation_freq=every, epochs=epochs)
    assert cifar10.tested_epochs(found) == expected


@pytest.mark.parametrize("milestones", [["x"], ["0.4", "-1"], ["1e"], []])
def test_bad_milestones(milestones):
    with pytest.raises(flags.IllegalFlagValueError, match="must be numbers"):
        settings(milestones=milestones)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight_bits": 9}, "`weight_bits` must be"),
        ({"blending": 2.0}, "`blending` must be"),
        ({"milestones": ["7", "4"], "epochs": 10}, "--milestones must rise"),
        ({"milestones": ["80", "140"], "epochs": 10}, "--milestones must rise"),
        ({"milestones": ["0.1", "1"], "epochs": 10}, "--milestones must rise"),
    ],
)
def test_bad_settings_are_a_usage_error(given, message):
    with pytest.raises(app.UsageError, match=message):
        cifar10.start(settings(net="mobilenet", **given), None, 5)


# The start from a float network


def networks():
    options = {"depth": 8, "input_shape": (8, 8, 3)}
    build = kb.models.resnet_cifar
    twin = build(weight_bits=32, activation_bits=32, **options)
    rng = np.random.default_rng(0)
    for weight in twin.weights:
        if "variance" not in weight.name:
            weight.assign(weight + 0.1 * rng.standard_normal(weight.shape))
    return build(alpha_initializer="slides", **options), twin


def images():
    rng = np.random.default_rng(0)
    return rng.standard_normal((16, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("alpha_start", start_from_float.ALPHA_STARTS)
def test_weights_of_the_float_twin(alpha_start):
    model, twin = networks()
    start_from_float.start_from_float(model, twin, images(), alpha_start)
    for source in (layer for layer in twin.layers if layer.weights):
        layer = model.get_layer(source.name)
        for weight in source.weights:
            found = ops.convert_to_numpy(getattr(layer, weight.name))
            np.testing.assert_array_equal(found, ops.convert_to_numpy(weight))
    relu = model.get_layer("stage2_block1_relu2")
    x = twin.get_layer("stage2_block1_relu2").input
    x = keras.Model(twin.input, x).predict(images(), verbose=0)
    if alpha_start == "max":
        assert float(relu.alpha) == pytest.approx(np.max(x) / 15)
    elif alpha_start == "mse":
        assert 0 < float(relu.alpha) < np.max(x) / 15
    else:
        assert float(relu.alpha) == np.float32(1 / 15)


def test_another_network_is_no_twin():
    model, _ = networks()
    other = kb.models.resnet_cifar(14, weight_bits=32, activation_bits=32)
    with pytest.raises(ValueError) as raised:
        start_from_float.start_from_float(model, other, images(), "mse")
    assert "no float twin of resnet8_cifar" in str(raised.value)
    assert "stage1_block2_conv1" in str(raised.value)
    smaller = kb.models.resnet_cifar(8, weight_bits=32, activation_bits=32)
    with pytest.raises(ValueError, match="stage3_block2_conv2"):
        larger = kb.models.resnet_cifar(14)
        start_from_float.start_from_float(larger, smaller, None, "slides")


@pytest.mark.parametrize("branch_bits", [None, 8])
def test_start_from_a_network_of_more_bits(tmp_path, branch_bits):
    """Takes its float weights and learned alphas, through a saved file."""
    options = {"branch_bits": branch_bits, "input_shape": (8, 8, 3)}
    source = kb.models.resnet_cifar(8, weight_bits=4, **options)
    sgd = keras.optimizers.SGD(0.1)
    source.compile(kb.BlendedOptimizer(sgd), loss="mse")
    source.fit(images(), np.ones((16, 10)), epochs=2, verbose=0)
    source.save(tmp_path / "source.keras")
    source = keras.models.load_model(tmp_path / "source.keras")
    model = kb.models.resnet_cifar(8, weight_bits=1, **options)
    start_from_float.start_from_float(model, source, images(), "mse")
    for layer in (layer for layer in source.layers if layer.weights):
        other = model.get_layer(layer.name)
        for weight in layer.weights:
            if isinstance(weight.constraint, kb.QuantProjection):
                y = kb.shadow(source, weight)
                assert not np.array_equal(y, weight)
                np.testing.assert_array_equal(other.kernel, y)
            elif weight.name != "kernel_is_quantized":
                found = getattr(other, weight.name)
                np.testing.assert_array_equal(found, weight)
    model = kb.models.resnet_cifar(
        8, weight_bits=1, activation_bits=2, **options
    )
    start_from_float.start_from_float(model, source, images(), "mse")
    relu = source.get_layer("stage2_block1_relu2")
    x = keras.Model(source.input, relu.input).predict(images(), verbose=0)
    if branch_bits:
        x = x[0] + x[1]
    alpha = kb.best_alpha(x, 2, "mse")
    assert float(model.get_layer(relu.name).alpha) == pytest.approx(alpha)


@pytest.mark.skipif(
    not hasattr(keras, "distillation"), reason="Keras is older than 3.12"
)
def test_a_student_of_the_float_network(tmp_path):
    """Its loss by NumPy; what is saved is the student, with its shadows."""
    model, twin = networks()
    twin.save(tmp_path / "twin.keras")
    config = settings(
        init_from=str(tmp_path / "twin.keras"),
        distillation_weight=0.75,
        temperature=2,
    )
    trained = distillation.make_trained(model, config)
    cifar10.compile_model(trained, config, steps_per_epoch=1)
    x, y = images(), np.arange(16) % 10
    loss = trained.evaluate(x, y, batch_size=16, verbose=0, return_dict=True)
    ours, theirs = (
        part.predict(x, verbose=0).astype("float64") for part in (model, twin)
    )
    student = -np.log(softmax(ours)[np.arange(16), y]).mean()
    p, q = softmax(theirs / 2), softmax(ours / 2)
    divergence = 4 * np.sum(p * np.log(p / q), axis=1).mean()
    expected = 0.25 * student + 0.75 * divergence
    assert loss["loss"] == pytest.approx(expected, rel=1e-4)
    # Saved after an epoch and loaded, it goes on alike.
    trained.fit(x, y, shuffle=False, verbose=0)
    trained.save(tmp_path / "trained.keras")
    again = distillation.load(
        tmp_path / "trained.keras",
        lambda model: cifar10.compile_model(model, config, steps_per_epoch=1),
    )
    for one in (trained, again):
        one.fit(x, y, shuffle=False, verbose=0)
    for one, other in zip(trained.variables, again.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    before = [np.array(weight) for weight in trained.teacher.weights]
    trained.fit(x, y, epochs=2, verbose=0)
    for weight, value in zip(trained.teacher.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    student = distillation.student_of(trained)
    assert student is model
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    kernel = loaded.get_layer("stage2_block1_conv1").kernel
    y = np.array(kb.shadow(loaded, kernel))
    assert not np.array_equal(y, kernel)
    other = model.get_layer("stage2_block1_conv1").kernel
    np.testing.assert_array_equal(y, kb.shadow(model, other))
    np.testing.assert_array_equal(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0)
    )


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "needs a --teacher"), ({"teacher": "/none.keras"}, "no file /none")],
)
def test_no_teacher_is_a_usage_error(given, message):
    config = settings(distillation_weight=0.5, **given)
    with pytest.raises(ValueError, match=message):
        distillation.check(config)


def test_batch_norm_is_measured_again_on_training_images():
    """The first layer's mean against NumPy."""
    model = kb.models.resnet_cifar(8)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    config = settings(batch_size=8, train_images=20, crop=False)
    data = cifar10_data.random_images()
    accuracy = cifar10.measure_batch_norm(model, config, data)
    (x, y), (x_test, y_test) = data
    seen = cifar10_data.Batches(x[:20], y[:20], 8, 0, False, "paper")
    means = [
        keras.Model(model.input, model.get_layer("conv1").output)(batch)
        for batch, _ in (seen[i] for i in range(len(seen)))
    ]
    means = np.mean([np.mean(mean, axis=(0, 1, 2)) for mean in means], axis=0)
    found = model.get_layer("conv1_bn").moving_mean
    np.testing.assert_allclose(found, means, rtol=1e-4, atol=1e-5)
    x_test = cifar10_data.normalize(x_test, "paper")
    classes = model.predict(x_test, verbose=0).argmax(axis=-1)
    assert accuracy == pytest.approx(np.mean(classes == y_test.ravel()))


def test_a_network_without_alphas():
    _, twin = networks()
    other = kb.models.resnet_cifar(
        8, weight_bits=1, activation_bits=32, input_shape=(8, 8, 3)
    )
    start_from_float.start_from_float(other, twin, images(), "mse")
    kernel = ops.convert_to_numpy(other.get_layer("conv1").kernel)
    expected = ops.convert_to_numpy(twin.get_layer("conv1").kernel)
    np.testing.assert_array_equal(kernel, expected)


# The program


def command(workdir, *arguments):
    return [
        sys.executable,
        str(PROGRAM),
        f"--workdir={workdir}",
        "--smoke",
        "--net=mobilenet",
        "--batch_size=64",
        *arguments,
    ]


def environment():
    root = str(PROGRAM.parent.parent)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        # The two devices of conftest.py are not the program's.
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def run(workdir, *arguments):
    return subprocess.run(
        command(workdir, *arguments),
        capture_output=True,
        text=True,
        timeout=600,
        env=environment(),
    )


def weights(path):
    model = keras.models.load_model(path)
    return [ops.convert_to_numpy(v) for v in model.variables] + [
        ops.convert_to_numpy(v) for v in model.optimizer.variables
    ]


def test_stage_without_its_weights_is_refused(tmp_path):
    result = run(tmp_path / "run")
    assert result.returncode
    assert "--init_from" in result.stderr + result.stdout
    assert not os.listdir(tmp_path)


def test_missing_float_network_is_refused(tmp_path):
    result = run(tmp_path / "run", f"--init_from={tmp_path}/none.keras")
    assert result.returncode
    assert "--init_from: there is no file" in result.stderr + result.stdout
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_on_the_device_the_program_trains_alike(tmp_path):
    """Two epochs of four steps, three of them in a call."""
    common = ["--stage=float", "--epochs=2", "--learning_rate=0.01"]
    here = run(tmp_path / "here", *common)
    assert here.returncode == 0, here.stderr
    device = ["--on_device", "--steps_per_execution=3"]
    there = run(tmp_path / "there", *common, *device)
    assert there.returncode == 0, there.stderr
    found, expected = (
        weights(tmp_path / name / "model.keras") for name in ("there", "here")
    )
    # Rounded in another order only.
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    histories = [
        json.loads((tmp_path / name / "history.json").read_text())
        for name in ("there", "here")
    ]
    for entry, other in zip(*histories, strict=True):
        assert entry.keys() == other.keys()
        for name in ("loss", "val_loss", "learning_rate"):
            assert entry[name] == pytest.approx(other[name], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", [[], ["--on_device", "--steps_per_execution=3"]]
)
def test_killed_at_random_moments_and_resumed(tmp_path, where):
    """SIGKILL, and in the end the very weights of an undisturbed run."""
    first = ["--stage=float", "--epochs=1"]
    assert run(tmp_path / "float", *first).returncode == 0
    second = [f"--init_from={tmp_path}/float/model.keras", "--epochs=12"]
    second += where
    start = time.monotonic()
    result = run(tmp_path / "whole", *second)
    seconds = time.monotonic() - start
    assert result.returncode == 0, result.stderr

    rng = random.Random(0)
    kills, output = 0, ""
    while kills < 5:
        process = subprocess.Popen(
            command(tmp_path / "run", "--resume", *second),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        try:
            timeout = rng.uniform(0.6, 0.95) * seconds
            output += process.communicate(timeout=timeout)[0]
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            output += process.communicate()[0]
            kills += 1
    result = run(tmp_path / "run", "--resume", *second)
    assert result.returncode == 0, result.stderr
    assert kills > 0
    assert "Resumed after epoch" in output + result.stdout
    found = weights(tmp_path / "run" / "model.keras")
    for a, b in zip(
        found, weights(tmp_path / "whole/model.keras"), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    reports = [
        json.loads((tmp_path / name / "result.json").read_text())
        for name in ("whole", "run")
    ]
    for report in reports:
        del report["seconds"]
    assert reports[0] == reports[1]
