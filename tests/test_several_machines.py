"""Two worker processes under MultiWorkerMirroredStrategy, and one device."""

import pathlib
import subprocess

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("distribution strategies are TensorFlow's", True)

import test_replicas
import workers

PROGRAM = pathlib.Path(__file__).with_name("worker_program.py")


def train_on_two(folder, floatx, synchronized):
    """What each of the two workers holds at the end."""
    processes = workers.start(
        [
            str(PROGRAM),
            floatx,
            str(synchronized),
            str(folder / "worker{index}.npz"),
        ],
        stderr=subprocess.PIPE,
    )
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    return [dict(np.load(folder / f"worker{i}.npz")) for i in range(2)]


def apart(model, worker):
    return max(
        np.max(np.abs(y - worker[f"shadow{i}"])) / np.max(np.abs(y))
        for i, y in enumerate(test_replicas.shadows(model))
    )


@pytest.mark.slow
def test_two_workers_train_as_one_device(tmp_path, floatx):
    """With batch normalization over both, after 20 steps."""
    first, second = train_on_two(tmp_path, floatx, synchronized=True)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], name)
    reference = test_replicas.network(test_replicas.ONE)
    batches = test_replicas.batches()
    sums = test_replicas.train(reference, test_replicas.ONE, *batches)
    if floatx == "float64":
        assert apart(reference, first) < 1e-9
        np.testing.assert_allclose(first["sums"], sums, rtol=1e-9)
        layers = test_replicas.quantized_layers(reference)
        for i, layer in enumerate(layers):
            codes = layer.kernel_scale_and_codes()[1]
            np.testing.assert_array_equal(first[f"codes{i}"], codes)
        return
    others = [test_replicas.network(test_replicas.ONE) for _ in range(4)]
    for order, other in enumerate(others):
        batches = test_replicas.batches(order)
        test_replicas.train(other, test_replicas.ONE, *batches)
    farthest = max(
        test_replicas.apart(a, b)
        for i, a in enumerate(others)
        for b in others[:i]
    )
    assert apart(reference, first) <= farthest


@pytest.mark.slow
def test_workers_hold_the_same_averages(tmp_path):
    """Though each normalizes its own part of the batches."""
    first, second = train_on_two(tmp_path, "float32", synchronized=False)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], name)
