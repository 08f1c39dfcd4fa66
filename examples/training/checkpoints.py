"""Checkpoints that survive kills, full disks and broken files.

    checkpoints/
        000000625/       the state after so many steps
            model.keras  the network and its optimizer, compiled
            state.json   what else training goes on from, and checksums
        000001250/
        000001250.01/    the same step once more: after its epoch was tested

Each is written beside its place, flushed to the disk and then moved there: it
is whole or not there. One that was damaged later is found by its checksums.
"""

import hashlib
import json
import os
import pathlib
import shutil

import keras

MODEL = "model.keras"
STATE = "state.json"


class CheckpointError(Exception):
    """No checkpoint could be written or read: the message says why."""


class Checkpoints:
    """The saved states of a run: the last ones, and the best one.

    Args:
        path: Path of their folder.
        keep: Int above 0. So many of the last are kept, and the one of the
            highest metric. Defaults to `3`.

    Attributes:
        damaged: List of strings, which of them `load_last` could not read, and
            why. The next `save` removes them.
    """

    def __init__(self, path, keep=3):
        self.path = pathlib.Path(path)
        self.keep = keep
        self._unreadable = {}  # folders: why

    @property
    def damaged(self):
        return list(self._unreadable.values())

    def folders(self):
        """The folders of all checkpoints, the oldest first."""
        return sorted(p for p in self.path.glob("[0-9]*") if p.is_dir())

    def save(self, model, step, state, metric=None):
        """Writes a checkpoint, whole or not at all, and drops older ones.

        Args:
            model: The compiled model.
            step: Int, the number of steps that are done.
            state: What `json` can write.
            metric: Float, which is best if high, or `None`. Defaults to
                `None`.

        Raises:
            CheckpointError: If it cannot be written. The others are intact.
        """
        temporary = self.path / f".tmp{step:09}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for leftover in self.path.glob(".tmp*"):
                shutil.rmtree(leftover)
            temporary.mkdir()
            model.save(temporary / MODEL)
            body = {
                "state": state,
                "metric": metric,
                "model": _digest(temporary / MODEL),
            }
            content = {"body": body, "digest": _digest_of(body)}
            (temporary / STATE).write_text(json.dumps(content), "utf-8")
            for path in (temporary / MODEL, temporary / STATE, temporary):
                _flush(path)
            temporary.rename(self._new_folder(step))
            _flush(self.path)
            self._drop_old()
        except (OSError, RuntimeError) as error:  # h5py raises both
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"The checkpoint of step {step} could not be written to "
                f"{self.path}: {error}. {_free(self.path)} The checkpoints "
                "before it are intact: make room, and give the same command "
                "again to go on from the last one."
            ) from error

    def _new_folder(self, step):
        """The next of its step: one may be damaged, or the epoch not tested."""
        name = f"{step:09}"
        same = [folder for folder in self.folders() if folder.stem == name]
        if same:
            name += f".{int(same[-1].suffix[1:] or 0) + 1:02}"
        return self.path / name

    def _drop_old(self):
        bodies = {}
        for folder in self._unreadable:
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self.folders():
            try:
                bodies[folder] = _read_body(folder)
            except CheckpointError:
                shutil.rmtree(folder)
        self._unreadable.clear()
        kept = list(bodies)[-self.keep :]
        metrics = {
            folder: body["metric"]
            for folder, body in bodies.items()
            if body["metric"] is not None
        }
        if metrics:
            kept.append(max(metrics, key=metrics.get))
        for folder in bodies:
            if folder not in kept:
                shutil.rmtree(folder)

    def load_last(self):
        """The last checkpoint that is intact.

        Returns:
            Tuple: the model, compiled as it was saved, and the state; or
            `None` if there is no checkpoint.

        Raises:
            CheckpointError: If there are some, and all are damaged.
        """
        self._unreadable.clear()
        for folder in reversed(self.folders()):
            try:
                body = _read_body(folder)
                if _digest(folder / MODEL) != body["model"]:
                    raise CheckpointError(f"{folder / MODEL} was damaged")
                return keras.models.load_model(folder / MODEL), body["state"]
            except (CheckpointError, OSError) as error:
                self._unreadable[folder] = str(error)
        if self.damaged:
            raise CheckpointError(
                "No checkpoint can be read: " + "; ".join(self.damaged)
            )
        return None


def _read_body(folder):
    try:
        content = json.loads((folder / STATE).read_text("utf-8"))
        body = content["body"]
        intact = content["digest"] == _digest_of(body)
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise CheckpointError(f"{folder / STATE} was damaged")
    return body


def _digest_of(body):
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path):
    """Waits until a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(path):
    try:
        free = shutil.disk_usage(path).free
    except OSError:
        return ""
    return f"There are {free / 1e6:.0f} MB free."
