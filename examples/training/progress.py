"""The progress bar of an epoch, with images per second."""

import sys
import time

import keras

from training import replicas

# Seconds between two updates, on a terminal and in a file.
_UPDATE = {True: 0.5, False: 60.0}


class EpochBar:
    """The progress bar of an epoch.

    Args:
        title: String.
        first: Int, the steps that are done before.
        steps: Int, the steps of the epoch.
        batch_size: Int, images in a step.
        is_chief: Boolean. The others print nothing.
    """

    def __init__(self, title, first, steps, batch_size, is_chief):
        self.is_chief = is_chief
        self.batch_size = batch_size
        self.first = first
        self.interval = _UPDATE[sys.stdout.isatty()]
        self.step, self.time = first, time.monotonic()
        if is_chief:
            print(title + (f", after step {first} of {steps}" if first else ""))
        names = ["loss", "top1", "images/s"]
        # It reckons with the time of the steps that it has seen.
        self.bar = keras.utils.Progbar(
            steps - first, verbose=int(is_chief), stateful_metrics=names
        )

    def is_due(self):
        return self.is_chief and time.monotonic() - self.time > self.interval

    def show(self, step, sums):
        now = time.monotonic()
        if not self.is_chief or step == self.step:
            return
        speed = (step - self.step) * self.batch_size / (now - self.time)
        self.step, self.time = step, now
        found = averages(sums)
        values = [(name, found[name]) for name in ("loss", "top1")]
        self.bar.update(step - self.first, [*values, ("images/s", speed)])

    def end(self):
        if self.is_chief:
            print()


def averages(sums, prefix=""):
    """The means over images of `SUMS`, by name."""
    *sums, images = sums
    found = {
        name: float(value) / images
        for name, value in zip(replicas.SUMS[:-1], sums, strict=True)
    }
    found["images"] = round(images)
    return {prefix + name: value for name, value in found.items()}
