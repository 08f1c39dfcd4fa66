"""Checkpoints: kept, damaged, on a full disk, killed while written."""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_bcgd as kb
from training import checkpoints as checkpoint_files
from training.checkpoints import Checkpoints

PARTS = (checkpoint_files.MODEL, checkpoint_files.STATE)


def compiled():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((6,)), kb.QuantDense(4, bits=2), kb.QuantReLU(2)]
    )
    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(kb.BlendedOptimizer(sgd), "mse")
    return model


@pytest.fixture(scope="module")
def model():
    model = compiled()
    step(model)
    return model


def step(model):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, 6)), rng.normal(size=(8, 4))
    model.fit(x, y, verbose=0)


def numbers(model):
    variables = model.variables + model.optimizer.variables
    return [ops.convert_to_numpy(variable) for variable in variables]


def saved(path, model, steps=3, keep=3):
    checkpoints = Checkpoints(path, keep)
    for number in range(1, steps + 1):
        checkpoints.save(model, number, {"step": number})
    return checkpoints


def steps_in(checkpoints):
    return [int(folder.stem) for folder in checkpoints.folders()]


def test_nothing_is_there(tmp_path):
    assert Checkpoints(tmp_path / "none").load_last() is None


def test_training_goes_on_as_if_never_stopped(tmp_path):
    model = compiled()
    step(model)
    state = {"epoch": 1, "sums": [0.1, 1e-300], "history": [{"a": 1 / 3}]}
    Checkpoints(tmp_path).save(model, 1, state)
    loaded, found = Checkpoints(tmp_path).load_last()
    assert found == state
    step(model)
    step(loaded)
    for a, b in zip(numbers(model), numbers(loaded), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("keep", "metrics", "expected"),
    [
        (1, [None, None, None], [3]),
        (2, [0.1, 0.5, 0.3, 0.2], [2, 3, 4]),
        (2, [0.1, 0.2, 0.3, 0.4], [3, 4]),
        (1, [0.5, None, 0.3, None], [1, 4]),
        (3, [0.5, 0.5], [1, 2]),
    ],
)
def test_the_last_and_the_best_are_kept(
    tmp_path, model, keep, metrics, expected
):
    checkpoints = Checkpoints(tmp_path, keep)
    for number, metric in enumerate(metrics, 1):
        checkpoints.save(model, number, {}, metric)
    assert steps_in(checkpoints) == expected


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_the_one_before_a_damaged_one_is_used(tmp_path, model, part, damage):
    checkpoints = saved(tmp_path, model)
    path = checkpoints.folders()[-1] / part
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2 * (damage == "cut")])
    _, state = checkpoints.load_last()
    assert state == {"step": 2}
    (message,) = checkpoints.damaged
    assert str(path.parent) in message


@pytest.mark.parametrize("part", PARTS)
def test_any_flipped_bit_is_found(tmp_path, model, part):
    checkpoints = saved(tmp_path, model, steps=2)
    path = checkpoints.folders()[-1] / part
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 8):
        broken = bytearray(content)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        _, state = checkpoints.load_last()
        assert state == {"step": 1}, f"bit in byte {place} went unseen"
    path.write_bytes(content)
    assert checkpoints.load_last()[1] == {"step": 2}


def test_all_are_damaged(tmp_path, model):
    checkpoints = saved(tmp_path, model, steps=2)
    for folder in checkpoints.folders():
        (folder / checkpoint_files.MODEL).write_bytes(b"")
    with pytest.raises(checkpoint_files.CheckpointError) as error:
        checkpoints.load_last()
    for folder in checkpoints.folders():
        assert str(folder) in str(error.value)


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_one_is_written_again(tmp_path, model, part):
    checkpoints = saved(tmp_path, model)
    (checkpoints.folders()[-1] / part).write_text("{")
    assert checkpoints.load_last()[1] == {"step": 2}
    checkpoints.save(model, 3, {"step": "again"})
    assert steps_in(checkpoints) == [1, 2, 3]
    assert checkpoints.load_last()[1] == {"step": "again"}
    checkpoints.save(model, 3, {"step": "and again"})
    assert steps_in(checkpoints) == [2, 3, 3]
    assert checkpoints.load_last()[1] == {"step": "and again"}
    assert not checkpoints.damaged


OPERATIONS = [
    (pathlib.Path, "mkdir"),
    (pathlib.Path, "write_text"),
    (pathlib.Path, "rename"),
    (os, "fsync"),
    (shutil, "rmtree"),
]


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("owner", "name"), OPERATIONS, ids=[name for _, name in OPERATIONS]
)
@pytest.mark.parametrize("step", [2, 3])
def test_a_kill_at_any_moment_leaves_a_whole_one(
    tmp_path, model, monkeypatch, owner, name, step
):
    """Before each call of what touches the disk, the first, the second...

    Of step 2 there is a checkpoint already.
    """
    calls = 0
    while True:
        folder = tmp_path / str(calls)
        checkpoints = saved(folder, model, steps=2, keep=1)
        left, real = calls, getattr(owner, name)

        def call(*args, real=real, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, call)
            try:
                checkpoints.save(model, step, {"step": 3})
                break
            except Killed:
                pass
        _, state = Checkpoints(folder).load_last()
        assert state["step"] in (2, 3)
        Checkpoints(folder, 1).save(model, 4, {"step": 4})
        assert steps_in(checkpoints) == [4]
        assert not list(folder.glob(".tmp*"))
        calls += 1
    assert calls, f"{name} was never called"


def test_a_full_disk(tmp_path, model):
    """As small a limit of file sizes stands for it."""
    saved(tmp_path, model, steps=2)
    model.save(tmp_path / "model.keras")
    program = f"""
import resource, sys
import keras
from training import checkpoints
import keras_bcgd
model = keras.models.load_model({str(tmp_path / "model.keras")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
try:
    checkpoints.Checkpoints({str(tmp_path)!r}).save(model, 3, {{}})
except checkpoints.CheckpointError as error:
    print(error)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] < 0
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert "step 3 could not be written" in found.stdout, found.stderr
    assert "MB free" in found.stdout
    checkpoints = Checkpoints(tmp_path)
    assert steps_in(checkpoints) == [1, 2]
    assert checkpoints.load_last()[1] == {"step": 2}
    assert not list(tmp_path.glob(".tmp*"))


def test_what_cannot_be_json_is_no_checkpoint(tmp_path, model):
    checkpoints = saved(tmp_path, model, steps=1)
    with pytest.raises(TypeError):
        checkpoints.save(model, 2, {"step": object()})
    assert steps_in(checkpoints) == [1]


def test_the_state_is_readable(tmp_path, model):
    checkpoints = saved(tmp_path, model, steps=1)
    (folder,) = checkpoints.folders()
    content = json.loads((folder / checkpoint_files.STATE).read_text())
    assert content["body"]["state"] == {"step": 1}
