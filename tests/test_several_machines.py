"""Two worker processes under MultiWorkerMirroredStrategy, and one device."""

import json
import pathlib
import subprocess

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("distribution strategies are TensorFlow's", True)

import imagenet_files
import test_replicas
import training_helpers
import worker_program
import workers

from imagenet import data as imagenet_data

PROGRAM = pathlib.Path(__file__).with_name("worker_program.py")


# Of each worker, as a machine has several GPUs.
several_devices = pytest.mark.parametrize("devices", [1, 2])


def run_on_two(folder, *args, devices=1):
    """What a function of worker_program.py returns in each of two workers."""
    path = folder / "worker{index}.npz"
    processes = workers.start(
        [str(PROGRAM), str(path), str(devices), *args],
        stderr=subprocess.PIPE,
    )
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    return [dict(np.load(folder / f"worker{i}.npz")) for i in range(2)]


def assert_same(first, second):
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], name)


def assert_on_grid(worker):
    count = sum(name.startswith("kernel") for name in worker)
    assert count == 2
    for i in range(count):
        expected = worker[f"scale{i}"] * worker[f"codes{i}"]
        np.testing.assert_allclose(worker[f"kernel{i}"], expected, 1e-5)


def apart(model, worker):
    return max(
        np.max(np.abs(y - worker[f"shadow{i}"])) / np.max(np.abs(y))
        for i, y in enumerate(training_helpers.shadows(model))
    )


@pytest.mark.slow
@several_devices
def test_two_workers_train_as_one_device(tmp_path, floatx, devices):
    """With batch normalization over both, after 20 steps."""
    first, second = run_on_two(
        tmp_path, "train", floatx, "True", devices=devices
    )
    assert_same(first, second)
    assert_on_grid(first)
    assert_on_grid(second)
    reference = test_replicas.network(test_replicas.ONE)
    batches = test_replicas.batches()
    sums = test_replicas.train(reference, test_replicas.ONE, *batches)
    if floatx == "float64":
        assert apart(reference, first) < 1e-9
        np.testing.assert_allclose(first["sums"], sums, rtol=1e-9)
        layers = training_helpers.quantized_layers(reference)
        for i, layer in enumerate(layers):
            codes = layer.kernel_scale_and_codes()[1]
            np.testing.assert_array_equal(first[f"codes{i}"], codes)
        return
    others = [test_replicas.network(test_replicas.ONE) for _ in range(4)]
    for order, other in enumerate(others):
        batches = test_replicas.batches(order)
        test_replicas.train(other, test_replicas.ONE, *batches)
    farthest = max(
        training_helpers.apart(a, b)
        for i, a in enumerate(others)
        for b in others[:i]
    )
    # The distances themselves are rounded.
    assert apart(reference, first) <= 1.001 * farthest


@pytest.mark.slow
@several_devices
def test_workers_hold_the_same_averages(tmp_path, devices):
    """Though each normalizes its own part of the batches."""
    first, second = run_on_two(
        tmp_path, "train", "float32", "False", devices=devices
    )
    assert_same(first, second)
    assert_on_grid(first)
    assert_on_grid(second)


@pytest.mark.slow
def test_overflow_on_one_worker_skips_the_step_on_both(tmp_path):
    """On the second; without their agreement both wait for ever."""
    first, second = run_on_two(tmp_path, "overflow", "1")
    assert_same(first, second)
    assert first["factor"] == 0.5
    for name in first:
        if name.startswith("before"):
            after = first[name.replace("before", "after")]
            np.testing.assert_array_equal(first[name], after)


@pytest.mark.slow
@several_devices
def test_processes_learn_of_one_another(tmp_path, devices):
    first, second = run_on_two(tmp_path, "totals", devices=devices)
    assert_same(first, second)
    assert first["total"].tolist() == [[3, 11]]
    assert first["of_chief"].tolist() == [5, np.pi]
    assert first["same"] and not first["other"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    imagenet_files.write(folder / "downloads" / "manual")
    imagenet_data.prepared_builder(folder)
    return str(folder)


def validation_images(workdir):
    """How many a stage says that it was tested on."""
    result = json.loads((workdir / "result.json").read_text())
    return result["validation_images"]


def test_two_devices_test_every_image(two, tmp_path, data_dir):
    """Though those of the last batch are too few for both."""
    worker_program.stage(two, data_dir, str(tmp_path))
    assert validation_images(tmp_path) == imagenet_files.VALIDATION


@pytest.mark.slow
@several_devices
def test_all_train_the_network_of_the_chief(tmp_path, data_dir, devices):
    """Though each started from weights of its own. And all images count."""
    workdir = tmp_path / "run"
    first, second = run_on_two(
        tmp_path, "stage", data_dir, str(workdir), devices=devices
    )
    assert len(first) > 10
    assert_same(first, second)
    assert validation_images(workdir) == imagenet_files.VALIDATION


@pytest.mark.slow
@pytest.mark.parametrize(
    "there",
    [[], ["config.json", "result.json"], ["config.json", "checkpoints/006"]],
)
def test_a_workdir_that_is_not_shared(tmp_path, data_dir, there):
    """The second machine's has what is there: nothing is trained."""
    for name in there:
        (tmp_path / "1" / name).mkdir(parents=True)
    found = run_on_two(tmp_path, "stage", data_dir, str(tmp_path / "{index}"))
    for process in found:
        assert "disk that all of them share" in str(process["error"])
    assert not list(tmp_path.rglob("*.keras"))
