"""CIFAR-10 as NumPy arrays, and batches of it with the paper's augmentation.

tensorflow-datasets reads it. Where there is no TensorFlow, on a machine with
JAX alone, it comes from one .npz file, which examples/cifar10_data.py makes
elsewhere.
"""

import os
import pathlib
import zipfile

import keras
import numpy as np
from absl import app

from training import normalization as normalizations

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
# Of the training images' bytes divided by 255, by color.
MEAN = np.array([0.4914, 0.4822, 0.4465], "float32")
STD = np.array([0.2023, 0.1994, 0.2010], "float32")
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
CROP_PADDING = 4


def load(data_dir):
    """`(x_train, y_train), (x_test, y_test)`, images as bytes.

    Args:
        data_dir: Path: the folder of tensorflow-datasets, where CIFAR-10 is
            or is to be downloaded to, or an .npz file; `None`:
            tensorflow-datasets' own folder.

    Raises:
        absl.app.UsageError: If the data cannot be read; it says what to do.
    """
    if not str(data_dir).endswith(".npz"):
        return _load_tfds(data_dir)
    try:
        with np.load(data_dir) as file:
            x_train, y_train, x_test, y_test = (file[key] for key in NPZ_KEYS)
    except _UNREADABLE as error:
        raise app.UsageError(
            f"--data_dir={data_dir} is no file that examples/cifar10_data.py "
            f"wrote: {error}"
        ) from None
    return (x_train, y_train), (x_test, y_test)


def _load_tfds(data_dir):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise app.UsageError(
            "CIFAR-10 is read by tensorflow-datasets, which needs TensorFlow "
            f"({error}). Without it give --data_dir=FILE.npz; "
            "examples/cifar10_data.py --help says how to make that file."
        ) from None
    try:
        parts = tfds.load(
            "cifar10",
            data_dir=data_dir,
            split=["train", "test"],
            batch_size=-1,
            as_supervised=True,
        )
    except OSError as error:
        raise app.UsageError(
            f"tensorflow-datasets has no CIFAR-10 in {data_dir or 'its folder'}"
            f" and could not download it: {error}"
        ) from None
    return tuple(tfds.as_numpy(part) for part in parts)


def random_images(count=256):
    """Arrays in the form of `load`'s, of noise: to try a program."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 32, 32, 3)).astype("uint8")
    return ((images, np.arange(count) % 10),) * 2


def normalize(images, kind="paper"):
    """Bytes to floats of about unit size; see training/normalization.py."""
    images = images.astype("float32")
    return normalizations.normalize(images, kind, MEAN, STD)


def input_range(kind="paper"):
    """The smallest and the largest number that `normalize` returns."""
    return normalizations.input_range(kind, MEAN, STD)


class Draws(keras.utils.PyDataset):
    """What the batches of an epoch are made of: images, crops and flips.

    Item i is that of batch i, a dict: `"chosen"`, the numbers of its images;
    `"corners"`, row and column where each crop of the padded image begins;
    `"flips"`, which of the crops are mirrored. It depends on the seed, the
    epoch and i only: training that goes on from a checkpoint sees what it
    would have seen. For that `fit` needs `shuffle=False` (it would shuffle the
    batches once more, by a generator that no checkpoint holds) and the
    callback `callback()`.

    Args:
        count: Int, the number of images.
        batch_size: Int. What does not fill a batch waits for another epoch.
        seed: Int.
        crop: Boolean. Crops at random from the image with 4 black pixels
            around it. Defaults to `True`.
    """

    def __init__(self, count, batch_size, seed, crop=True):
        super().__init__()
        self.count = count
        self.batch_size = batch_size
        self.seed = seed
        self.crop = crop
        self.begin_epoch(0)

    def __len__(self):
        return self.count // self.batch_size

    def begin_epoch(self, epoch):
        self.epoch = epoch
        rng = np.random.default_rng([self.seed, epoch])
        self.order = rng.permutation(self.count).astype("int32")

    def callback(self):
        """The callback of `fit` that tells which epoch begins."""
        # Keras calls a dataset's own `on_epoch_end` before the first epoch
        # too: counting those calls would be off by one.
        return keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: self.begin_epoch(epoch)
        )

    def __getitem__(self, index):
        rng = np.random.default_rng([self.seed, self.epoch, index])
        start = index * self.batch_size
        chosen = self.order[start : start + self.batch_size]
        corners = np.full((len(chosen), 2), CROP_PADDING, "int32")
        if self.crop:
            corners[:] = rng.integers(0, 2 * CROP_PADDING + 1, corners.shape)
        flips = rng.random(len(chosen)) < 0.5
        return {"chosen": chosen, "corners": corners, "flips": flips}


class Batches(Draws):
    """Shuffled batches of images, flipped and cropped at random.

    Args:
        images: Array of bytes.
        labels: Array of ints.
        batch_size: See `Draws`.
        seed: See `Draws`.
        crop: See `Draws`.
        normalization: String, see `normalize`. Defaults to `"paper"`.
    """

    def __init__(
        self,
        images,
        labels,
        batch_size,
        seed,
        crop=True,
        normalization="paper",
    ):
        super().__init__(len(images), batch_size, seed, crop)
        self.images, self.labels = images, labels
        self.normalization = normalization

    def __getitem__(self, index):
        draws = super().__getitem__(index)
        images = self.images[draws["chosen"]]
        if self.crop:
            images = crops(images, draws["corners"])
        flips = draws["flips"]
        images[flips] = images[flips, :, ::-1]
        images = normalize(images, self.normalization)
        return images, self.labels[draws["chosen"]]


def crops(images, corners, padding=CROP_PADDING):
    """Crops, of the images' size, of the images with black pixels around."""
    _, height, width, _ = images.shape
    around = (padding, padding)
    padded = np.pad(images, [(0, 0), around, around, (0, 0)])
    found = np.empty_like(images)
    for crop, image, (row, column) in zip(found, padded, corners, strict=True):
        crop[:] = image[row : row + height, column : column + width]
    return found


def write_npz(data_dir, path):
    """Writes what `load` reads as one .npz file, whole or not at all."""
    arrays = [array for part in load(data_dir) for array in part]
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.tmp.npz")
    try:
        np.savez(temporary, **dict(zip(NPZ_KEYS, arrays, strict=True)))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
