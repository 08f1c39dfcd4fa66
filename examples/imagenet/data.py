"""ImageNet (ILSVRC2012) as batches of bytes, by tensorflow-datasets.

Only the part of a JPEG that a crop needs is decoded. The order of an epoch
depends on the seed and the epoch, the crop of an image on these and its place:
training that goes on from step k sees what it would have seen. Each of several
machines reads a part of its own, of the same size.

examples/imagenet_data.py prepares the data and looks at every image.
"""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from training import normalization as normalizations

CLASSES = 1000
TARS = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")
# Of the training images' bytes divided by 255, by color.
MEAN = np.array([0.485, 0.456, 0.406], "float32")
STD = np.array([0.229, 0.224, 0.225], "float32")
AREA_RANGE = (0.08, 1.0)
ASPECT_RANGE = (3 / 4, 4 / 3)
# What is tested of an image: the middle, 224 of a short side of 256.
CENTER_SHARE = 224 / 256
# Labels that are none: they count for nothing.
PADDING, CORRUPT = -1, -2
CORRUPT_POLICIES = ("report", "skip")
# Of a TFRecord: length and two checksums.
_BYTES_AROUND_RECORD = 16


class DataError(Exception):
    """The data cannot be read: the message says why and what to do."""


def normalize(images, kind):
    """A tensor of bytes to floats; see training/normalization.py."""
    return normalizations.normalize(
        tf.cast(images, tf.float32), kind, MEAN, STD
    )


def input_range(kind):
    """The smallest and the largest number that `normalize` returns."""
    return normalizations.input_range(kind, MEAN, STD)


def prepared_builder(data_dir=None, manual_dir=None, prepare=True):
    """ImageNet in tensorflow-datasets; prepared from the two tars if needed.

    Args:
        data_dir: Path of tensorflow-datasets' folder; `None`: its own.
        manual_dir: Path of the folder with the two tar files. Defaults to
            `downloads/manual` in `data_dir`.
        prepare: Boolean. Whether it may be prepared now. Defaults to `True`.

    Raises:
        DataError: If there is neither, or a file of it is missing or too
            short; the message says what to do.
    """
    builder = tfds.builder("imagenet2012", data_dir=data_dir)
    if not builder.is_prepared():
        folder = pathlib.Path(builder.data_dir).parents[1]
        folder = pathlib.Path(manual_dir or folder / "downloads" / "manual")
        missing = [name for name in TARS if not (folder / name).exists()]
        if missing:
            raise DataError(_how_to_get(builder, folder, missing))
        if not prepare:
            raise DataError(
                "Prepare ImageNet once, before several machines train: python "
                f"examples/imagenet_data.py --data_dir={data_dir} "
                f"--manual_dir={folder}"
            )
        config = tfds.download.DownloadConfig(manual_dir=str(folder))
        try:
            builder.download_and_prepare(download_config=config)
        except (OSError, tf.errors.OpError, AssertionError) as error:
            raise DataError(
                f"ImageNet could not be prepared in {builder.data_dir} from "
                f"{folder}: {error}"
            ) from error
    _check_files(builder)
    return builder


def _how_to_get(builder, folder, missing):
    return (
        f"There is no ImageNet in {builder.data_dir}, and no "
        f"{' and no '.join(missing)} in {folder} to prepare it from.\n"
        "After registration, https://image-net.org/download-images.php gives "
        "the two files, under ILSVRC2012:\n"
        "    ILSVRC2012_img_train.tar (138 GB, training images, task 1 and 2)\n"
        "    ILSVRC2012_img_val.tar   (6.3 GB, validation images)\n"
        f"Put both into {folder} (or name their folder by --manual_dir) and "
        "give the same command again. It prepares them once, in some hours, "
        "and needs another 150 GB there."
    )


def _check_files(builder):
    """That each file is there, and that together they are long enough."""
    for name, split in builder.info.splits.items():
        missing = [path for path in split.filepaths if not path.exists()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(split.filepaths)} files of the "
                f"{name} images are missing, the first is {missing[0]}. Bring "
                f"them back, or delete {builder.data_dir} and prepare again."
            )
        found = sum(path.stat().length for path in split.filepaths)
        around = _BYTES_AROUND_RECORD * split.num_examples
        if found != int(split.num_bytes) + around:
            raise DataError(
                f"The files of the {name} images in {builder.data_dir} have "
                f"{found} bytes together, not "
                f"{int(split.num_bytes) + around}: one was cut off or "
                "replaced. Bring it back, or delete the folder and prepare "
                "again."
            )


@dataclasses.dataclass(frozen=True)
class Host:
    """One of the machines that read: the `index`-th of `count`."""

    index: int = 0
    count: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageNet:
    """The batches of the training and of the validation images.

    Args:
        builder: A prepared `tfds.core.DatasetBuilder`.
        image_size: Int, height and width of the crops in pixels.
        seed: Int, of order, crops and flips.
        deterministic: Boolean. Every run gives the same batches. Defaults to
            `True`.
        corrupt_images: String. `"report"`: an image that cannot be decoded
            raises `tf.errors.InvalidArgumentError`; `"skip"`: it is gray, has
            the label `CORRUPT` and is named on the standard error, which
            costs some time for each image; with deterministic operations of
            TensorFlow, images are then decoded one after another. Defaults to
            `"report"`.
        shuffle_images: Int. The order is mixed within so many images, of
            about .1 MB each. Defaults to `16384`.
    """

    builder: tfds.core.DatasetBuilder
    image_size: int
    seed: int
    deterministic: bool = True
    corrupt_images: str = "report"
    shuffle_images: int = 16384

    def images(self, split, host=Host()):
        """How many images of a split a machine has, at most."""
        count = self.builder.info.splits[split].num_examples
        if split == "train":  # what is left over, waits for another epoch
            return count // host.count
        return -(-count // host.count)

    def train(self, epoch, batch_size, host=Host(), first_batch=0):
        """Batches of random crops, in the order of an epoch.

        Args:
            epoch: Int, the number of the epoch.
            batch_size: Int. What does not fill a batch is left out.
            host: `Host`. Defaults to the only one.
            first_batch: Int. Those before it are left out; they are read, not
                decoded. Defaults to `0`.

        Returns:
            `tf.data.Dataset` of images, bytes of shape `(batch_size,
            image_size, image_size, 3)`, and labels, int64 of shape
            `(batch_size,)`.
        """
        records = self._ordered(epoch, host)
        places = tf.data.Dataset.range(
            host.index * self.images("train", host), tf.int64.max
        )
        records = tf.data.Dataset.zip(places, records)
        records = records.skip(first_batch * batch_size)

        def one(place, record):
            seed = tf.stack([self.seed + epoch * 2**32, place])
            return self._decode(record, lambda jpeg: self._random(jpeg, seed))

        return self._batches(self._map(records, one), batch_size)

    def validation(self, batch_size, host=Host(), split="validation"):
        """Batches of the middles of images, without end.

        What follows a machine's last image has the label `PADDING`: so all
        machines and replicas take as many batches as the one with the most.
        """
        records = self._records(split, host)
        images = self._map(
            records, lambda record: self._decode(record, self._center)
        )
        padding = tf.data.Dataset.from_tensors(self._no_image(PADDING))
        return self._batches(images.concatenate(padding.repeat()), batch_size)

    def _ordered(self, epoch, host):
        """The training examples of a machine, in the order of an epoch."""
        records = self._records("train", host, seed=self.seed + epoch)
        return records.shuffle(
            min(self.shuffle_images, self.images("train", host)),
            seed=self.seed + epoch,
            reshuffle_each_iteration=False,
        )

    def _records(self, split, host, seed=None):
        """The examples of a machine's part, with JPEG bytes as images."""
        parts = tfds.even_splits(
            split, host.count, drop_remainder=split == "train"
        )
        return self.builder.as_dataset(
            split=parts[host.index],
            shuffle_files=seed is not None,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(
                shuffle_seed=seed, try_autocache=False, options=self._options()
            ),
        )

    def _options(self):
        options = tf.data.Options()
        options.deterministic = self.deterministic
        return options

    def _map(self, dataset, function):
        return dataset.map(
            function,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=self.deterministic,
        )

    def _batches(self, images, batch_size):
        batches = images.batch(batch_size, drop_remainder=True)
        return batches.prefetch(tf.data.AUTOTUNE)

    def _decode(self, record, crop):
        """The image and the label of a record."""
        if self.corrupt_images == "report":
            return crop(record["image"]), record["label"]
        image, label = self._decode_or_not(record, crop)
        is_corrupt = label == CORRUPT
        tf.cond(
            is_corrupt,
            lambda: tf.print("No JPEG, skipped:", record["file_name"]),
            tf.no_op,
        )
        return image, label

    def _decode_or_not(self, record, crop):
        """The same, with the label `CORRUPT` where decoding fails."""
        single = tf.data.Dataset.from_tensors(record)
        good = single.map(lambda r: (crop(r["image"]), r["label"]))
        bad = tf.data.Dataset.from_tensors(self._no_image(CORRUPT))
        both = good.ignore_errors().concatenate(bad)
        return both.take(1).get_single_element()

    def names_of_corrupt(self, split, epoch=None, first=0, host=Host()):
        """Yields the file names of the images that cannot be decoded.

        Args:
            split: String.
            epoch: Int. Looks at the images in the order of this epoch.
                Defaults to `None`: in that of the files.
            first: Int. Those before it are not looked at. Defaults to `0`.
            host: `Host`. Defaults to the only one.
        """
        if epoch is None:
            records = self._records(split, host)
        else:
            records = self._ordered(epoch, host)

        def look(record):
            _, label = self._decode_or_not(record, self._whole)
            return record["file_name"], label == CORRUPT

        looked_at = self._map(records.skip(first), look)
        for name, is_corrupt in looked_at.as_numpy_iterator():
            if is_corrupt:
                yield name.decode()

    def _no_image(self, label):
        shape = (self.image_size, self.image_size, 3)
        return tf.fill(shape, tf.constant(128, tf.uint8)), tf.constant(
            label, tf.int64
        )

    def _random(self, jpeg, seed):
        """A crop of random place, size and aspect, flipped or not."""
        crop_seed, flip_seed = tf.unstack(
            tf.random.experimental.stateless_split(seed, 2)
        )
        corner, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(jpeg),
            tf.zeros((1, 0, 4)),
            crop_seed,
            min_object_covered=0.0,
            aspect_ratio_range=ASPECT_RANGE,
            area_range=AREA_RANGE,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([corner[:2], size[:2]], axis=0)
        image = self._window(jpeg, window)
        return tf.image.stateless_random_flip_left_right(image, flip_seed)

    def _center(self, jpeg):
        size = tf.image.extract_jpeg_shape(jpeg)[:2]
        short = tf.cast(tf.reduce_min(size), tf.float32)
        side = tf.cast(tf.round(CENTER_SHARE * short), tf.int32)
        corner = (size - side) // 2
        return self._window(jpeg, tf.concat([corner, [side, side]], axis=0))

    def _whole(self, jpeg):
        size = tf.image.extract_jpeg_shape(jpeg)[:2]
        return self._window(jpeg, tf.concat([[0, 0], size], axis=0))

    def _window(self, jpeg, window):
        """A part of an image, scaled, as bytes."""
        image = tf.image.decode_and_crop_jpeg(jpeg, window, channels=3)
        image = tf.image.resize(image, (self.image_size, self.image_size))
        return tf.cast(image + 0.5, tf.uint8)
