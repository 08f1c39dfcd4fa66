"""A training run that can end at any step and go on there.

It saves a checkpoint after every epoch, every so many minutes, and when the
system asks it to end (SIGTERM, or Ctrl-C). What goes on from there is what
would have gone on.
"""

import dataclasses
import math
import signal
import time

import keras
import numpy as np
import tensorflow as tf

from training import progress
from training import replicas as replica_steps
from training import strategies

# Processes ask one another after each so many steps, and after the last of an
# epoch, whether to save or stop.
STEPS_BETWEEN_QUESTIONS = 10


class Stopped(Exception):
    """The system asked to stop: the state is saved."""


class Diverged(Exception):
    """The loss is no number any more."""


@dataclasses.dataclass
class State:
    """Where a run is, beside the model: what a checkpoint holds.

    Args:
        epoch: Int, the epoch that goes on.
        step: Int, the steps of it that are done.
        learning_rate: Float, that of its first step.
        sums: List of floats, the `SUMS` of these steps.
        seconds: Float, how long they took.
        history: List of dicts, what came out of the epochs before.
    """

    epoch: int = 0
    step: int = 0
    learning_rate: float | None = None
    sums: list = dataclasses.field(
        default_factory=lambda: [0.0] * len(replica_steps.SUMS)
    )
    seconds: float = 0.0
    history: list = dataclasses.field(default_factory=list)


class StopRequests:
    """Notes SIGTERM and Ctrl-C while it is entered; the second one ends."""

    def __enter__(self):
        self.received = None
        self._before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def _note(self, number, frame):
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *error):
        self._restore()


class Run:
    """The epochs of a run, from where its state says to the last.

    Args:
        steps: `Replicas`.
        state: `State`.
        checkpoints: `Checkpoints`.
        train_batches: Function of an epoch and the first of its steps, to an
            iterator of distributed batches.
        test_batches: Function to an iterator of distributed batches.
        epochs: Int.
        steps_per_epoch: Int.
        test_steps: Int.
        minutes: Float, between two checkpoints within an epoch.
        is_chief: Boolean. Only one process writes and prints.
        workers: Int, the number of processes.
        callbacks: List of `keras.callbacks.Callback`s. The chief calls their
            `on_train_begin` and `on_epoch_end`. Defaults to none.
    """

    def __init__(
        self,
        steps,
        state,
        checkpoints,
        *,
        train_batches,
        test_batches,
        epochs,
        steps_per_epoch,
        test_steps,
        minutes,
        is_chief=True,
        workers=1,
        callbacks=(),
    ):
        self.steps = steps
        self.model = steps.model
        self.state = state
        self.checkpoints = checkpoints
        self.train_batches = train_batches
        self.test_batches = test_batches
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.test_steps = test_steps
        self.minutes = minutes
        self.is_chief = is_chief
        self.workers = workers
        self.callbacks = list(callbacks) if is_chief else []
        for callback in self.callbacks:
            callback.set_model(self.model)

    def train(self):
        """Trains to the end.

        Raises:
            Stopped: If the system asked to stop; the state is saved.
            Diverged: If the loss is no number any more.
            CheckpointError: If a checkpoint cannot be written.
        """
        for callback in self.callbacks:
            callback.on_train_begin()
        self._saved = time.monotonic()
        with StopRequests() as requests:
            while self.state.epoch < self.epochs:
                self._train_epoch(requests)
                self._end_epoch()

    def wait_for_all(self):
        """Returns when every process has called it."""
        strategies.total(self.steps.strategy, 0)

    def _total_steps(self):
        return self.state.epoch * self.steps_per_epoch + self.state.step

    def _train_epoch(self, requests):
        state = self.state
        if state.step == 0:
            state.learning_rate = float(
                keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            )
        display = self._display()
        batches = self.train_batches(state.epoch, state.step)
        sums = tf.constant(state.sums, tf.float64)
        begin = time.monotonic() - state.seconds
        while state.step < self.steps_per_epoch:
            sums = sums + self.steps.train(*next(batches))
            state.step += 1
            state.seconds = time.monotonic() - begin
            if display.is_due():
                display.show(state.step, self._numbers(sums))
            stop, save = self._agree(requests)
            if stop or (save and state.step < self.steps_per_epoch):
                state.sums = self._numbers(sums)
                self._save()
            if stop:
                display.end()
                raise Stopped(
                    f"Saved after step {state.step} of epoch {state.epoch + 1}"
                )
        display.show(state.step, self._numbers(sums))
        state.sums = self._numbers(sums)

    def _numbers(self, sums):
        numbers = sums.numpy().tolist()
        if not math.isfinite(numbers[0]):
            raise Diverged(
                f"The loss is {numbers[0]} in epoch {self.state.epoch + 1}: "
                "try a lower learning rate, in another --workdir, where "
                "--init_from may name the float network of this one."
            )
        return numbers

    def _agree(self, requests):
        """Whether to stop, and to save, the same in all processes."""
        is_time = time.monotonic() - self._saved > 60 * self.minutes
        if self.workers == 1:
            return requests.received is not None, is_time
        is_last = self.state.step == self.steps_per_epoch
        if self.state.step % STEPS_BETWEEN_QUESTIONS and not is_last:
            return False, False
        wishes = [requests.received is not None, is_time and self.is_chief]
        return strategies.total(self.steps.strategy, wishes) > 0

    def _end_epoch(self):
        state = self.state
        begin = time.monotonic()
        tested = progress.averages(self.test(), "val_")
        entry = {
            "epoch": state.epoch + 1,
            "learning_rate": state.learning_rate,
            **progress.averages(state.sums),
            **tested,
            "seconds": state.seconds,
            "val_seconds": time.monotonic() - begin,
        }
        self.state = State(
            epoch=state.epoch + 1, history=[*state.history, entry]
        )
        # First: what the callbacks write may fail on a full disk, too.
        self._save(entry["val_top1"])
        for callback in self.callbacks:
            callback.on_epoch_end(state.epoch, entry)
        self._report(entry)

    def test(self):
        """The `SUMS` over the test images."""
        batches = self.test_batches()
        sums = np.zeros(len(replica_steps.SUMS))
        for _ in range(self.test_steps):
            sums += self.steps.test(*next(batches)).numpy()
        return sums

    def _save(self, metric=None):
        if self.is_chief:
            state = dataclasses.asdict(self.state)
            step = self._total_steps()
            self.checkpoints.save(self.model, step, state, metric)
        self._saved = time.monotonic()

    def _display(self):
        return progress.EpochBar(
            f"Epoch {self.state.epoch + 1}/{self.epochs}",
            self.state.step,
            self.steps_per_epoch,
            self.steps.batch_size,
            self.is_chief,
        )

    def _report(self, entry):
        if not self.is_chief:
            return
        left = self.epochs - self.state.epoch
        seconds = entry["seconds"] + entry["val_seconds"]
        hours, minutes = divmod(round(left * seconds / 60), 60)
        print(
            f"Epoch {entry['epoch']}/{self.epochs}: loss {entry['loss']:.3f}, "
            f"top-1 {entry['top1']:.2%}; validation: loss "
            f"{entry['val_loss']:.3f}, top-1 {entry['val_top1']:.2%}, top-5 "
            f"{entry['val_top5']:.2%} of {entry['val_images']} images; "
            f"{entry['images'] / entry['seconds']:.0f} images/s, "
            f"{hours} h {minutes} min left",
            flush=True,
        )
