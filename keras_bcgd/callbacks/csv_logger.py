"""QuantizationCSVLogger: what QuantizationMonitor sees, as a CSV file."""

import csv
import os
import pathlib

from keras_bcgd.callbacks.monitor import QuantizationMonitor
from keras_bcgd.callbacks.monitor import layers_with_alpha
from keras_bcgd.callbacks.monitor import quantized_layers


class QuantizationCSVLogger(QuantizationMonitor):
    """Writes what quantization does to a model to a CSV file.

    One row for each epoch: its number, from 1, and the scalars of
    `QuantizationMonitor` under their tags: `alpha/relu1`, `distance/conv1`,
    `changed_codes/conv1`. After each epoch the file is written anew beside its
    place and moved there, so that a program that is killed leaves whole lines.

    Args:
        filename: String or path-like.
        append: Boolean. `True`: the rows that the file has are kept, those of
            epochs that are trained again excepted, as after a program was
            killed. `False`: they are lost. Defaults to `False`.

    Raises:
        ValueError: At the start of training, if there is no such folder, or
            the rows to keep are of other layers.

    Example:

    ```python
    logger = keras_bcgd.QuantizationCSVLogger("codes.csv")
    model.fit(x_train, y_train, epochs=2, callbacks=[logger], verbose=0)
    figure = keras_bcgd.plot_alphas("codes.csv")
    ```
    """

    def __init__(self, filename, append=False):
        super().__init__()
        self.filename = pathlib.Path(filename)
        self.append = append
        self._rows = []

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._rows = []
        if not self.filename.parent.is_dir():
            raise ValueError(
                "`filename` must be in a folder that exists. "
                f"Received: filename={str(self.filename)!r}"
            )
        if self.append and self.filename.exists():
            with open(self.filename, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._rows = list(reader)
            self._check_columns(reader.fieldnames or [])

    def _check_columns(self, found):
        expected = {"epoch"}
        expected |= {f"alpha/{path}" for path in layers_with_alpha(self.model)}
        for path in quantized_layers(self.model):
            expected |= {f"{kind}/{path}" for kind in _OF_KERNELS}
        if set(found) != expected:
            raise ValueError(
                "`filename` holds rows of other layers than the model has: "
                "give another one, or append=False. Received: "
                f"filename={str(self.filename)!r}, whose columns differ in "
                f"{', '.join(sorted(expected ^ set(found)))}"
            )

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        row = {"epoch": epoch + 1} | self.latest
        self._rows = [r for r in self._rows if int(r["epoch"]) <= epoch]
        self._rows.append(row)
        temporary = self.filename.with_name(f".{self.filename.name}.tmp")
        try:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
                writer.writerows(self._rows)
            os.replace(temporary, self.filename)
        finally:
            temporary.unlink(missing_ok=True)


_OF_KERNELS = ("distance", "changed_codes")
