"""The ImageNet pipeline: order, crops, machines, broken files."""

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("reads with TensorFlow", True)

import imagenet_files
import tensorflow as tf
from imagenet_files import TRAIN
from imagenet_files import VALIDATION
from imagenet_files import which

from imagenet import data as imagenet_data
from imagenet.data import Host

SIZE = 16


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return imagenet_files.write(tmp_path_factory.mktemp("tars"))


@pytest.fixture(scope="module")
def prepared(tars, tmp_path_factory):
    """The folder in which the tars were prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    imagenet_data.prepared_builder(folder, tars)
    return folder


@pytest.fixture
def data(prepared):
    return images_of(imagenet_data.prepared_builder(prepared))


def images_of(builder, **options):
    return imagenet_data.ImageNet(
        builder=builder, image_size=SIZE, seed=0, **options
    )


def read(batches):
    """Images and labels of all batches."""
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images), np.concatenate(labels)


# Order


def test_an_epoch_has_each_image_once(data):
    images, labels = read(data.train(0, 4))
    assert images.dtype == np.uint8
    assert images.shape == (TRAIN, SIZE, SIZE, 3)
    order = which(images)
    assert sorted(order) == list(range(TRAIN))
    np.testing.assert_array_equal(labels, np.array(order) % 4)


def test_the_order_is_the_epochs_and_the_seeds(data):
    first = which(read(data.train(0, 4))[0])
    assert which(read(data.train(0, 4))[0]) == first
    assert which(read(data.train(1, 4))[0]) != first
    other = imagenet_data.ImageNet(
        builder=data.builder, image_size=SIZE, seed=1
    )
    assert which(read(other.train(0, 4))[0]) != first


def test_what_fills_no_batch_is_left_out(data):
    assert len(read(data.train(0, 10))[0]) == 20


@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_epoch_goes_on_at_any_batch(data, count):
    """To the bit: with the same crops."""
    host = Host(count - 1, count)
    whole = list(data.train(3, 2, host))
    for first in range(len(whole)):
        rest = data.train(3, 2, host, first_batch=first)
        for (a, _), (b, _) in zip(whole[first:], rest, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_machines_share_an_epoch(data, count):
    parts = [
        which(read(data.train(2, 1, Host(i, count)))[0]) for i in range(count)
    ]
    assert [len(part) for part in parts] == [TRAIN // count] * count
    together = sum(parts, [])
    assert len({*together}) == len(together)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_every_validation_image_is_tested_once(data, count, batch_size):
    batches = -(-VALIDATION // count // batch_size)
    batches += 2  # as replicas of one machine may ask for
    parts = [
        list(data.validation(batch_size, Host(i, count)).take(batches))
        for i in range(count)
    ]
    assert [len(part) for part in parts] == [batches] * count
    images, labels = read(sum(parts, []))
    known = labels >= 0
    assert np.sum(known) == VALIDATION
    assert sorted(which(images[known])) == list(range(VALIDATION))
    assert {*labels[~known]} <= {imagenet_data.PADDING}


# Crops


def gradient(height, width):
    """A JPEG whose red tells the row, and green the column."""
    image = np.zeros((height, width, 3), "uint8")
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)[None, :]
    return tf.io.encode_jpeg(
        image, quality=100, chroma_downsampling=False
    ).numpy()


@pytest.mark.parametrize(("height", "width"), [(80, 80), (80, 200), (200, 64)])
def test_the_middle_is_tested(data, height, width):
    """7/8 of the short side, as near to the middle as pixels allow."""
    image = data._center(gradient(height, width)).numpy().astype(float)
    side = 7 / 8 * min(height, width)
    # The first of 16 pixels is half a pixel's width inside the crop.
    edge = side / SIZE / 2
    for color, length in ((0, height), (1, width)):
        values = np.mean(image[..., color], axis=1 - color)
        expected = (length - side) / 2 + edge
        assert abs(values[0] + 0.5 - expected) < 2
        assert abs(length - values[-1] - 0.5 - expected) < 2


def test_random_crops(data):
    """Areas from .08 to 1, aspects from 3/4 to 4/3, half of them flipped."""
    height, width = 200, 240
    jpeg = gradient(height, width)
    seeds = tf.data.Dataset.range(400).map(
        lambda k: data._random(jpeg, tf.stack([7, k]))
    )
    images = np.array(list(seeds.as_numpy_iterator())).astype(float)
    heights = np.ptp(np.mean(images[..., 0], axis=2), axis=1)
    wide = np.mean(images[..., 1], axis=1)
    widths, flipped = np.ptp(wide, axis=1), wide[:, 0] > wide[:, -1]
    # From the first to the last of 16 pixels is 15/16 of the crop.
    heights, widths = heights * 16 / 15, widths * 16 / 15
    areas, aspects = heights * widths / height / width, widths / heights
    assert 0.06 < areas.min() < 0.12
    assert 0.85 < areas.max() < 1.05
    assert 0.7 < aspects.min() < 0.8
    assert 1.25 < aspects.max() < 1.42
    # Five standard deviations of 400 fair coins.
    assert abs(np.mean(flipped) - 0.5) < 5 * 0.5 / 20
    assert abs(np.mean(areas) - 0.5) < 0.1


def test_normalization():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 3, 3)).astype("uint8")
    paper = imagenet_data.normalize(images, "paper").numpy()
    expected = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(paper, expected, rtol=1e-4, atol=1e-6)
    grid = imagenet_data.normalize(images, "grid").numpy()
    np.testing.assert_array_equal(grid * 64 + 128, images)
    assert imagenet_data.input_range("grid") == (-2.0, 127 / 64)


# Files


def test_without_data_the_message_says_what_to_do(tmp_path):
    with pytest.raises(imagenet_data.DataError) as error:
        imagenet_data.prepared_builder(tmp_path / "data")
    message = str(error.value)
    for name in imagenet_data.TARS:
        assert name in message
    assert str(tmp_path / "data" / "downloads" / "manual") in message
    assert "image-net.org" in message


def test_one_missing_tar_is_named(tars, tmp_path):
    name = imagenet_data.TARS[1]
    (tmp_path / name).symlink_to(tars / name)
    with pytest.raises(imagenet_data.DataError) as error:
        imagenet_data.prepared_builder(tmp_path / "data", tmp_path)
    assert f"no {imagenet_data.TARS[0]} in {tmp_path}" in str(error.value)
    assert f"no {name}" not in str(error.value)


def test_several_machines_do_not_prepare_at_once(tars, tmp_path):
    with pytest.raises(imagenet_data.DataError, match="Prepare ImageNet once"):
        imagenet_data.prepared_builder(tmp_path, tars, prepare=False)


def test_a_broken_tar(tars, tmp_path):
    for name in imagenet_data.TARS:
        content = (tars / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(imagenet_data.DataError, match="could not be prepared"):
        imagenet_data.prepared_builder(tmp_path / "data", tmp_path)


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy that may be damaged, and its file of training images."""
    import shutil

    shutil.copytree(prepared, tmp_path / "copy")
    (path,) = (tmp_path / "copy").rglob("*train.tfrecord*")
    return tmp_path / "copy", path


def test_a_missing_file(copy):
    folder, path = copy
    path.unlink()
    with pytest.raises(imagenet_data.DataError, match=path.name):
        imagenet_data.prepared_builder(folder)


def test_a_file_cut_off(copy):
    folder, path = copy
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(imagenet_data.DataError, match="one was cut off"):
        imagenet_data.prepared_builder(folder)


def with_corrupt(data, corrupt, **options):
    """The data, of which some images by their number are no JPEGs."""

    class Builder:
        info = data.builder.info

        def as_dataset(self, **kwargs):
            def damage(record):
                k = tf.strings.regex_replace(
                    record["file_name"], r".*_0*(\d+)\.JPEG", r"\1"
                )
                jpeg = record["image"]
                broken = tf.strings.substr(jpeg, 0, 150)
                is_one = tf.reduce_any(tf.equal(k, [str(c) for c in corrupt]))
                return {**record, "image": tf.where(is_one, broken, jpeg)}

            return data.builder.as_dataset(**kwargs).map(damage)

    return images_of(Builder(), **options)


def test_corrupt_images_are_left_out(data, capfd):
    skipping = with_corrupt(data, [5, 11], corrupt_images="skip")
    images, labels = read(skipping.train(0, 4))
    intact, intact_labels = read(data.train(0, 4))
    bad = np.isin(which(intact), [5, 11])
    assert np.sum(bad) == 2
    assert {*labels[bad]} == {imagenet_data.CORRUPT}
    np.testing.assert_array_equal(images[~bad], intact[~bad])
    np.testing.assert_array_equal(labels[~bad], intact_labels[~bad])
    told = capfd.readouterr().err
    assert "n01443537_5.JPEG" in told
    assert "n01491361_11.JPEG" in told
    assert "n01440764_4.JPEG" not in told


def test_a_corrupt_image_is_an_error(data):
    reporting = with_corrupt(data, [5])
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?i)jpeg"):
        read(reporting.train(0, 4))


def test_corrupt_images_are_found(data):
    broken = with_corrupt(data, [5, 11])
    names = ["n01443537_5.JPEG", "n01491361_11.JPEG"]
    assert sorted(broken.names_of_corrupt("train")) == names
    order = which(read(data.train(1, 1))[0])
    first, second = sorted([5, 11], key=order.index)
    found = list(broken.names_of_corrupt("train", epoch=1))
    assert [name.split("_")[1] for name in found] == [
        f"{first}.JPEG",
        f"{second}.JPEG",
    ]
    after = order.index(first) + 1
    (rest,) = broken.names_of_corrupt("train", epoch=1, first=after)
    assert rest == found[1]
    assert not list(data.names_of_corrupt("train"))


def test_each_machine_finds_its_own_corrupt_images(data):
    broken = with_corrupt(data, [5, 11])
    for host in (Host(0, 2), Host(1, 2)):
        order = which(read(data.train(1, 1, host))[0])
        expected = [k for k in order if k in (5, 11)]
        found = broken.names_of_corrupt("train", epoch=1, host=host)
        numbers = [int(name.split("_")[1].split(".")[0]) for name in found]
        assert numbers == expected
