"""The folder of a training run: what makes it repeatable and resumable.

    config.json    the settings; a run goes on only with the same ones
    history.json   one entry per epoch: metrics, learning rate, seconds
    checkpoints/   the last epoch saved: everything that training goes on from
    events.*       the same for TensorBoard, with what quantization does
    model.keras    the trained network, after the last epoch
    result.json    accuracies, time, versions, machine: the run is done

Every file but the events is written beside its place and then moved there. A
program that is killed at any moment leaves the last checkpoint whole and goes
on from it. Two at once in one folder are refused.
"""

import errno
import fcntl
import json
import os
import pathlib
import platform
import shutil
import time

import keras
import tensorboardX

import keras_bcgd


class WorkdirError(Exception):
    """The folder does not fit the run: the message says why."""


class RunFolder:
    """The folder of one run: its settings, its result, one process at a time.

    Args:
        path: Path of the folder; made where it is missing.
        config: Dict, the settings of the run.
        resume: Boolean. Whether a run that was begun here goes on.
        defaults: Dict, what settings are where config.json, of an older
            version, does not have them. Defaults to `None`.

    Raises:
        WorkdirError: If a run saved something here and `resume` is false, or
            it had other settings, or another process trains here now.
    """

    def __init__(self, path, config, resume, defaults=None):
        self.path = pathlib.Path(path)
        self.config = json.loads(json.dumps(config))
        self.defaults = defaults or {}
        if self._is_begun():
            self._check_same_run(resume)
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self._lock()
        for folder in (self.path, self.checkpoints):
            for leftover in folder.glob(".tmp*"):
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()
        write_json(self._file("config.json"), self.config)

    def _is_begun(self):
        return self.result is not None or any(self.checkpoints.glob("[0-9]*"))

    def _check_same_run(self, resume):
        if not resume:
            raise WorkdirError(
                f"A run was begun in {self.path}. Go on with it by --resume, "
                "or give another --workdir."
            )
        begun = self.defaults | read_json(self._file("config.json"))
        other = [
            f"{name}: {begun.get(name)!r} then, {self.config.get(name)!r} now"
            for name in sorted({*begun, *self.config})
            if begun.get(name) != self.config.get(name)
        ]
        if other:
            raise WorkdirError(
                f"The run in {self.path} was begun with other settings: "
                + "; ".join(other)
            )

    def _lock(self):
        """Locks a file, which the system unlocks when the process ends."""
        file = os.open(self._file(".lock"), os.O_CREAT | os.O_RDWR)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise WorkdirError(
                    f"The disk of {self.path} cannot lock files, which keeps "
                    f"two processes from one folder: {error}. Take another "
                    "disk, or mount it with locks."
                ) from error
            raise WorkdirError(
                f"Another process trains in {self.path}: wait for it, or end it"
            ) from None

    @property
    def checkpoints(self):
        return self.path / "checkpoints"

    @property
    def model_path(self):
        return self._file("model.keras")

    @property
    def result(self):
        """The content of result.json, `None` while the run is not done."""
        path = self._file("result.json")
        return read_json(path) if path.exists() else None

    def finish(self, model, result):
        """Writes the trained model and the result."""
        save_model(model, self.model_path)
        write_json(self._file("result.json"), result)

    def _file(self, name):
        return self.path / name


class Workdir(RunFolder):
    """The folder of a run that `fit` trains: it goes on after any epoch.

    Args:
        path: See `RunFolder`.
        config: See `RunFolder`.
        resume: See `RunFolder`.
        defaults: See `RunFolder`.
    """

    def __init__(self, path, config, resume, defaults=None):
        super().__init__(path, config, resume, defaults)
        self.history = self._history_until(self.last_epoch)

    def _is_begun(self):
        return self._file("history.json").exists()

    @property
    def last_epoch(self):
        """The number of epochs that are done and saved."""
        epochs = [int(path.stem) for path in self.checkpoints.glob("*.keras")]
        return max(epochs, default=0)

    def load_last(self, load=keras.models.load_model):
        """The model of the last checkpoint, compiled, ready to go on."""
        return load(self._checkpoint(self.last_epoch))

    def log_epoch(self, entry):
        """Adds an epoch to the history. Not saved, it is done again."""
        self.history.append(entry)
        write_json(self._file("history.json"), self.history)

    def save(self, model):
        """Saves the state after the last epoch: training goes on from it."""
        epoch = len(self.history)
        save_model(model, self._checkpoint(epoch))
        for path in self.checkpoints.glob("*.keras"):
            if int(path.stem) < epoch:
                path.unlink()

    def finish(self, model, result):
        """Writes the trained model and the result; drops the checkpoint."""
        super().finish(model, result)
        shutil.rmtree(self.checkpoints)

    def summary_writer(self):
        """A writer for TensorBoard that forgets epochs done in vain."""
        return tensorboardX.SummaryWriter(
            str(self.path), purge_step=self.last_epoch + 1
        )

    def _checkpoint(self, epoch):
        return self.checkpoints / f"{epoch:04}.keras"

    def _history_until(self, epoch):
        path = self._file("history.json")
        return read_json(path)[:epoch] if path.exists() else []


class EpochRecorder(keras.callbacks.Callback):
    """Logs every epoch of `fit` in a `Workdir`, and saves it.

    Args:
        workdir: `Workdir`.
        writer: Its summary writer.
        checkpoint_seconds: Float. An epoch is saved if so much time has passed
            since the last one was, or since the start. Defaults to `0`: every
            epoch.
    """

    def __init__(self, workdir, writer, checkpoint_seconds=0):
        super().__init__()
        self.workdir = workdir
        self.writer = writer
        self.checkpoint_seconds = checkpoint_seconds
        self._saved = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.monotonic()
        self._rate = float(self.model.optimizer.learning_rate)

    def on_epoch_end(self, epoch, logs=None):
        entry = {
            **{name: float(value) for name, value in logs.items()},
            "learning_rate": self._rate,  # of the epoch's first step
            "seconds": time.monotonic() - self._start,
        }
        for name, value in entry.items():
            self.writer.add_scalar(f"epoch/{name}", value, epoch + 1)
        self.writer.flush()
        self.workdir.log_epoch(entry)
        if time.monotonic() - self._saved >= self.checkpoint_seconds:
            self.workdir.save(self.model)
            self._saved = time.monotonic()


def accuracies(history):
    """What a result says of a history: its length, time and test accuracy."""
    tested = {
        epoch: entry["val_accuracy"]
        for epoch, entry in enumerate(history, 1)
        if "val_accuracy" in entry
    }
    best = max(tested, key=tested.get)
    return {
        "epochs": len(history),
        "test_accuracy_last": tested[max(tested)],
        "test_accuracy_best": tested[best],
        "best_epoch": best,
        "seconds": sum(entry["seconds"] for entry in history),
    }


def read_json(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def write_json(path, content):
    """Writes a JSON file, whole or not at all."""
    text = json.dumps(content, indent=1) + "\n"
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


def save_model(model, path):
    """Saves a Keras model, whole or not at all."""
    write_whole(path, model.save)


def write_whole(path, write):
    temporary = path.with_name(f".tmp_{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def machine():
    """What ran it, in words: processor, cores or accelerator, versions."""
    backend = keras.backend.backend()
    versions = [f"Python {platform.python_version()}"]
    versions += [f"Keras {keras.__version__}"]
    if backend == "jax":
        import jax

        versions.append(f"JAX {jax.__version__}")
        device = jax.devices()[0].device_kind
    else:
        import tensorflow as tf

        versions.append(f"TensorFlow {tf.__version__}")
        devices = tf.config.list_physical_devices("GPU")
        device = (
            tf.config.experimental.get_device_details(devices[0])["device_name"]
            if devices
            else "cpu"
        )
    if device == "cpu":
        device = f"{os.cpu_count()} CPU cores ({_processor()})"
        threads = os.environ.get("TF_NUM_INTRAOP_THREADS")
        if threads and backend == "tensorflow":
            device = f"{threads} thread(s) on {device}"
    versions.append(f"keras-bcgd {keras_bcgd.__version__}")
    return f"{device}; {', '.join(versions)}"


def _processor():
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()
