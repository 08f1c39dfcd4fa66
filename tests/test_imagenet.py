"""The ImageNet program: from files to a .tflite, killed, on two machines."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("the program is TensorFlow's", True)

import imagenet_files
import workers

import keras_bcgd  # noqa: F401, the classes that are loaded
from imagenet import data as imagenet_data

PROGRAM = (
    pathlib.Path(__file__).parent.parent / "examples" / "imagenet_resnet18.py"
)
SETTINGS = {
    "image_size": 32,
    "batch_size": 8,
    "epochs": 3,
    "calibration_images": 4,
    "recipe": "recommended",
    "learning_rate": 0.001,
    "float_learning_rate": 0.001,
}
STEPS = 3  # in an epoch


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Prepared by the program itself, from two small tars."""
    folder = tmp_path_factory.mktemp("data")
    imagenet_files.write(folder / "downloads" / "manual")
    return folder


def command(workdir, data_dir, **settings):
    flags = SETTINGS | {"workdir": workdir, "data_dir": data_dir} | settings
    return [str(PROGRAM)] + [f"--{k}={v}" for k, v in flags.items()]


def start(*args, **settings):
    return subprocess.Popen(
        [sys.executable, *command(*args, **settings)],
        env=workers.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*args, **settings):
    """Runs the program to its end: exit status, output, errors."""
    process = start(*args, **settings)
    out, err = process.communicate()
    return process.returncode, out, err


def numbers(path):
    """Every number of a trained model and its optimizer."""
    model = keras.models.load_model(path)
    variables = model.variables + model.optimizer.variables
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def assert_same_run(workdir, other):
    for stage in ("float", "quantized"):
        for a, b in zip(
            numbers(workdir / stage / "model.keras"),
            numbers(other / stage / "model.keras"),
            strict=True,
        ):
            np.testing.assert_array_equal(a, b)
        own, expected = (
            json.loads((path / stage / "result.json").read_text())
            for path in (workdir, other)
        )
        assert own | {"seconds": 0} == expected | {"seconds": 0}


def test_without_data_there_is_one_message(tmp_path):
    status, _, err = run(tmp_path / "run", tmp_path / "data")
    assert status == 1
    assert "ILSVRC2012_img_train.tar" in err
    assert str(tmp_path / "data" / "downloads" / "manual") in err
    assert "Traceback" not in err


def test_bad_flags_are_usage_errors(tmp_path, data_dir):
    for given, message in (
        ({"image_size": 8}, "image_size"),
        ({"init_from": "none.keras"}, "--init_from: there is no file"),
        ({"batch_size": 100}, "more than there are training images"),
        ({"weight_bits": 16}, "The quantized stage: `weight_bits` must be"),
        ({"init_from": __file__}, "is no float network to start from"),
    ):
        status, _, err = run(tmp_path / "run", data_dir, **given)
        assert status == 1
        assert message in err
        assert "Traceback" not in err
    assert not list((tmp_path / "run").rglob("*.keras"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
    """A run that nothing interrupted, and what it printed."""
    workdir = tmp_path_factory.mktemp("whole")
    status, out, err = run(workdir, data_dir, verify_images=10)
    assert status == 0, err
    return workdir, out


@pytest.mark.slow
def test_from_files_to_a_verified_tflite(whole, data_dir):
    workdir, out = whole
    summary = json.loads((workdir / "deployed" / "summary.json").read_text())
    assert summary["verified_images"] == 10
    assert summary["equal_predictions"] + summary["ties"] == 10
    assert summary["differences_inside"] == 0
    text = (workdir / "deployed" / "summary.txt").read_text()
    assert text in out
    assert "This is no ImageNet accuracy" in text
    assert "67.36" in text
    for stage in ("float", "quantized"):
        rows = (workdir / stage / "log.csv").read_text().splitlines()
        assert len(rows) == 1 + SETTINGS["epochs"]
        assert list((workdir / stage).glob("events.*"))
    assert re.search(r"images/s, 0 h 0 min left", out)
    # The same command once more finds that all is done.
    status, out, err = run(workdir, data_dir, export=False)
    assert (status, "Epoch" in out) == (0, False), err


def checkpoints_in(workdir):
    """Those of both stages, and (".tmp...") those that are being written."""
    found = set()
    for stage in ("float", "quantized"):
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(workdir / stage / "checkpoints")
            found |= {(stage, name) for name in names}
    return found


def being_written(workdir):
    return {at for at in checkpoints_in(workdir) if at[1].startswith(".tmp")}


def wait_for_a_checkpoint(process, workdir, before):
    """Waits until there is one that was not there before."""
    while not checkpoints_in(workdir) - being_written(workdir) - before:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, data_dir):
    """Ten times by SIGKILL, with a checkpoint at every step."""
    settings = {"epochs": 8, "export": False}
    whole, workdir = tmp_path / "whole", tmp_path / "killed"
    status, _, err = run(whole, data_dir, **settings)
    assert status == 0, err
    rng = random.Random(0)
    while_writing = 0
    for kill in range(10):
        before = checkpoints_in(workdir)
        process = start(workdir, data_dir, checkpoint_minutes=0, **settings)
        wait_for_a_checkpoint(process, workdir, before)
        while kill % 3 == 0 and not being_written(workdir):
            assert process.poll() is None, process.communicate()
        time.sleep(rng.uniform(0, 0.1 if kill % 3 == 0 else 2))
        process.kill()
        process.communicate()
        while_writing += bool(being_written(workdir))
        assert not (workdir / "quantized" / "result.json").exists()
    print(f"10 kills, {while_writing} while a checkpoint was written")
    assert while_writing >= 2
    status, _, err = run(workdir, data_dir, **settings)
    assert status == 0, err
    assert_same_run(workdir, whole)


@pytest.mark.slow
def test_two_replicas_test_each_image_once(tmp_path, data_dir):
    """10 validation images, in batches of 4 for each of two replicas."""
    status, out, err = run(
        tmp_path,
        data_dir,
        strategy="mirrored",
        cpu_devices=2,
        epochs=1,
        export=False,
    )
    assert status == 0, err
    assert out.count("of 10 images") == 2
    result = json.loads((tmp_path / "quantized" / "result.json").read_text())
    assert result["replicas"] == "2 replicas"


@pytest.mark.slow
def test_a_corrupt_image(tmp_path, tmp_path_factory):
    """Named; then left out, in the same run, as the message advises."""
    data_dir = tmp_path / "data"
    manual = data_dir / "downloads" / "manual"
    imagenet_files.write(manual, corrupt=[5])
    status, _, err = run(tmp_path / "run", data_dir, epochs=1, export=False)
    assert status == 1
    assert "n01443537_5.JPEG cannot be decoded" in err
    assert "Traceback" not in err
    status, _, err = run(
        tmp_path / "run",
        data_dir,
        epochs=1,
        export=False,
        corrupt_images="skip",
    )
    assert status == 0, err
    assert "n01443537_5.JPEG" in err


@pytest.mark.slow
def test_asked_to_stop(tmp_path, whole, data_dir):
    process = start(tmp_path, data_dir, export=False)
    while "Epoch 1" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "The same command goes on from there" in out
    assert "Traceback" not in err
    status, out, err = run(tmp_path, data_dir, export=False)
    assert status == 0, err
    assert "Goes on after step" in out
    assert_same_run(tmp_path, whole[0])


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_job_and_a_restart_goes_on(
    tmp_path, data_dir
):
    imagenet_data.prepared_builder(data_dir)
    settings = {"checkpoint_minutes": 0, "export": False, "epochs": 8}
    flags = command(tmp_path, data_dir, **settings)

    def start_both():
        return workers.start(
            flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    for victim in (0, 1):
        before = checkpoints_in(tmp_path)
        both = start_both()
        wait_for_a_checkpoint(both[0], tmp_path, before)
        both[victim].kill()
        killed = time.monotonic()
        _, err = both[1 - victim].communicate(timeout=60)
        print(f"ended {time.monotonic() - killed:.1f} s after the kill")
        both[victim].communicate()
        assert both[1 - victim].returncode == 1
        assert "Another machine does not answer any more" in err
        assert "Traceback" not in err
    both = start_both()
    outs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert "Goes on after step" in outs[0][0]
    assert (tmp_path / "quantized" / "model.keras").exists()
