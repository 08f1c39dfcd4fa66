"""A progress bar for work that takes longer than some seconds."""

import time

import keras

# In seconds; what is over sooner shows no bar.
_DELAY = 3.0


class Progress:
    """Counts what is done, and shows a bar once it takes long.

    Args:
        total: Int, how much there is to do; `None`: that is not known.
        verbose: 0: no bar; 1: a bar from the start; `"auto"`: one after some
            seconds. Defaults to `"auto"`.
        unit_name: String, what is counted. Defaults to `"step"`.

    Example:

    >>> from keras_bcgd.utils.progress_bar import Progress
    >>> bar = Progress(2, verbose=0)
    >>> bar.add(1)
    >>> bar.done
    1
    """

    def __init__(self, total, verbose="auto", unit_name="step"):
        self.verbose = verbose
        self.done = 0
        self._start = time.monotonic()
        self._bar = keras.utils.Progbar(total, verbose=1, unit_name=unit_name)

    def add(self, count):
        """Counts so many more."""
        self.done += count
        if self._is_time():
            self._bar.update(self.done)

    def _is_time(self):
        if self.verbose == "auto":
            return time.monotonic() - self._start > _DELAY
        return bool(self.verbose)
