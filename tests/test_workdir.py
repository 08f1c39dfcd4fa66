"""The folder of a training run: settings, history, checkpoints, restarts."""

import json
import os
import pathlib
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from keras import ops

import keras_bcgd as kb
from training import workdir as workdirs

CONFIG = {"net": "tiny", "milestones": (0.4, 0.7)}
EPOCHS = 4


class Killed(Exception):
    pass


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 6)).astype("float32")
    return x, rng.integers(0, 3, 32)


def compiled():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            kb.QuantDense(8, bits=2, name="first"),
            keras.layers.BatchNormalization(momentum=0.9),
            kb.QuantReLU(2),
            kb.QuantDense(3, bits=4, projection="warm"),
        ]
    )
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([5, 9], [1, 2, 3])
    sgd = keras.optimizers.SGD(rate, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(kb.BlendedOptimizer(sgd, l2=1e-4), loss, metrics=["accuracy"])
    return model


def run(path, callbacks=(), resume=True, epochs=EPOCHS, checkpoint_seconds=0):
    """One process of a training run: from the last checkpoint to the end."""
    workdir = workdirs.Workdir(path, CONFIG, resume)
    model = workdir.load_last() if workdir.last_epoch else compiled()
    with workdir.summary_writer() as writer:
        model.fit(
            *data(),
            batch_size=8,
            shuffle=False,
            epochs=epochs,
            initial_epoch=workdir.last_epoch,
            validation_data=data(),
            callbacks=[
                *callbacks,
                kb.QuantizationMonitor(writer),
                workdirs.EpochRecorder(workdir, writer, checkpoint_seconds),
            ],
            verbose=0,
        )
    return workdir, model


def state(model):
    """Every number of the model and its optimizer."""
    return [ops.convert_to_numpy(v) for v in model.variables] + [
        ops.convert_to_numpy(v) for v in model.optimizer.variables
    ]


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir, model = run(tmp_path_factory.mktemp("whole") / "run")
    return workdir.history, state(model)


def kill_when(monkeypatch, name, count):
    """Lets the `count`-th call of a function of `workdir` end the process."""
    calls = []
    function = getattr(workdirs, name)

    def call(*args):
        calls.append(name)
        if len(calls) == count:
            raise Killed
        return function(*args)

    monkeypatch.setattr(workdirs, name, call)


# Before which call of the functions that write the process ends.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("write_json", 1),
        ("write_json", 3),
        ("save_model", 1),
        ("save_model", 2),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    name, count, tmp_path, uninterrupted
):
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_when(monkeypatch, name, count)
        with pytest.raises(Killed):
            run(tmp_path / "run")
    workdir = workdirs.Workdir(tmp_path / "run", CONFIG, resume=True)
    # Of write_json the first call is that of config.json.
    done = max(count - 2, 0) if name == "write_json" else count - 1
    assert workdir.last_epoch == done
    workdir, model = run(tmp_path / "run")
    history, expected = uninterrupted
    assert_same(state(model), expected)
    assert len(workdir.history) == EPOCHS
    for found, entry in zip(workdir.history, history, strict=True):
        for key in entry.keys() - {"seconds"}:
            assert found[key] == entry[key]


def test_killed_within_an_epoch(tmp_path, uninterrupted):
    class Kill(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (2, 1):
                raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "run", [Kill()])
    assert workdirs.Workdir(tmp_path / "run", CONFIG, True).last_epoch == 2
    _, model = run(tmp_path / "run")
    assert_same(state(model), uninterrupted[1])


def test_epochs_that_were_not_saved_are_done_again(
    tmp_path, uninterrupted, monkeypatch
):
    """A clock by which an epoch takes a second: every second one is saved."""

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            now[0] += 1
            if epoch == EPOCHS - 1:
                raise Killed

    now = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(workdirs, "time", clock)
    with pytest.raises(Killed):
        run(tmp_path / "run", [Kill()], checkpoint_seconds=2)
    path = tmp_path / "run" / "history.json"
    assert len(json.loads(path.read_text())) == 3
    workdir = workdirs.Workdir(tmp_path / "run", CONFIG, resume=True)
    assert workdir.last_epoch == len(workdir.history) == 2
    workdir, model = run(tmp_path / "run", checkpoint_seconds=2)
    assert workdir.last_epoch == 2
    assert len(workdir.history) == EPOCHS
    assert_same(state(model), uninterrupted[1])


def test_killed_while_it_writes(tmp_path, uninterrupted, monkeypatch):
    """Half a file stands beside the last whole one, and goes."""
    run(tmp_path / "run", epochs=2)
    folder = tmp_path / "run" / "checkpoints"
    (folder / ".tmp_0003.keras").write_bytes(b"half")
    (tmp_path / "run" / ".tmp_history.json").write_text("[")
    workdir = workdirs.Workdir(tmp_path / "run", CONFIG, resume=True)
    assert workdir.last_epoch == 2
    assert [path.name for path in folder.iterdir()] == ["0002.keras"]
    assert not list((tmp_path / "run").glob(".tmp*"))
    _, model = run(tmp_path / "run")
    assert_same(state(model), uninterrupted[1])


def test_learning_rate_in_the_history(uninterrupted):
    """That of each epoch's first step: 0, 4, 8 and 12."""
    rates = [entry["learning_rate"] for entry in uninterrupted[0]]
    assert rates == [1, 1, 2, 3]


def test_events_of_the_epochs_done(tmp_path):
    """What a killed process logged of an epoch not saved is purged."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        kill_when(monkeypatch, "save_model", 3)
        with pytest.raises(Killed):
            run(tmp_path / "run")
    workdir, _ = run(tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    found = events.Scalars("epoch/val_loss")
    assert [event.step for event in found] == [1, 2, 3, 4]
    for event, entry in zip(found, workdir.history, strict=True):
        assert event.value == pytest.approx(entry["val_loss"], rel=1e-6)


def test_finish(tmp_path):
    workdir, model = run(tmp_path / "run")
    assert workdir.result is None
    workdir.finish(model, {"test_accuracy_last": 0.5})
    workdir = workdirs.Workdir(tmp_path / "run", CONFIG, resume=True)
    assert workdir.result == {"test_accuracy_last": 0.5}
    loaded = keras.models.load_model(workdir.model_path)
    assert_same(state(loaded), state(model))
    assert not list(workdir.checkpoints.iterdir())


@pytest.mark.parametrize("missing", ["model.keras", "result.json"])
def test_killed_while_it_finishes(missing, tmp_path, uninterrupted):
    workdir, model = run(tmp_path)
    write_whole = workdirs.write_whole

    def kill(path, write):
        if path.name == missing:
            raise Killed
        write_whole(path, write)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workdirs, "write_whole", kill)
        with pytest.raises(Killed):
            workdir.finish(model, {})
    workdir, model = run(tmp_path)
    assert workdir.result is None
    workdir.finish(model, {"done": True})
    loaded = keras.models.load_model(workdir.model_path)
    assert_same(state(loaded), uninterrupted[1])
    assert workdir.result == {"done": True}


def test_two_processes_in_one_folder(tmp_path):
    code = (
        "import sys, time\n"
        "from training import workdir\n"
        "held = workdir.Workdir(sys.argv[1], {}, resume=True)\n"
        "print('held', flush=True); time.sleep(60)\n"
    )
    examples = pathlib.Path(workdirs.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(examples), *sys.path]),
        },
    )
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(workdirs.WorkdirError, match="Another process trains"):
        workdirs.Workdir(tmp_path, {}, resume=True)
    process.kill()
    process.wait()
    process.stdout.close()
    workdirs.Workdir(tmp_path, {}, resume=True)


def test_a_run_is_not_begun_twice(tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(workdirs.WorkdirError, match="--resume"):
        workdirs.Workdir(tmp_path, CONFIG, resume=False)


def test_a_run_that_saved_nothing_may_begin_anew(tmp_path):
    workdirs.Workdir(tmp_path, CONFIG, resume=False)
    workdir = workdirs.Workdir(tmp_path, {"net": "other"}, resume=False)
    assert workdirs.read_json(tmp_path / "config.json") == {"net": "other"}
    assert workdir.last_epoch == 0


def test_a_run_goes_on_with_its_own_settings_only(tmp_path):
    run(tmp_path, epochs=1)
    other = {**CONFIG, "net": "other"}
    with pytest.raises(workdirs.WorkdirError) as raised:
        workdirs.Workdir(tmp_path, other, resume=True)
    assert "net: 'tiny' then, 'other' now" in str(raised.value)
    assert "milestones" not in str(raised.value)
    assert json.loads((tmp_path / "config.json").read_text())["net"] == "tiny"


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    workdirs.write_json(path, [1])

    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(workdirs.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        workdirs.write_json(path, [1, 2])
    assert workdirs.read_json(path) == [1]
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]
