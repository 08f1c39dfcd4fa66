"""The CIFAR-10 pipeline of the examples: crops, flips, order, files."""

import keras
import numpy as np
import pytest
from absl import app

from training import cifar10_data
from training import device_batches
from training import normalization

COUNT = 40


def images():
    """Images of which every pixel tells image, row and column."""
    rng = np.random.default_rng(1)
    return rng.integers(1, 256, (COUNT, 32, 32, 3)).astype("uint8")


def batches(**kwargs):
    options = {"batch_size": 8, "seed": 3, "normalization": "grid", **kwargs}
    return cifar10_data.Batches(images(), np.arange(COUNT), **options)


def as_bytes(batch):
    return np.round(batch * 64 + 128).astype("uint8")


def test_every_image_is_a_crop_or_its_mirror_image():
    """Each of the 81 crops of the padded image and their mirror images."""
    corners, flips = set(), set()
    around = [(0, 0), (4, 4), (4, 4), (0, 0)]
    padded = np.pad(images(), around)
    data = batches()
    for index in range(len(data)):
        batch, labels = data[index]
        for found, label in zip(as_bytes(batch), labels, strict=True):
            matches = [
                (row, column, flip)
                for row in range(9)
                for column in range(9)
                for flip in (1, -1)
                if np.array_equal(
                    found,
                    padded[label, row : row + 32, column : column + 32][
                        :, ::flip
                    ],
                )
            ]
            assert len(matches) == 1
            corners.add(matches[0][:2])
            flips.add(matches[0][2])
    # 40 of 81 corners, at random.
    assert len(corners) > 20 and flips == {1, -1}


def test_without_crops():
    data = batches(crop=False)
    batch, labels = data[0]
    for found, label in zip(as_bytes(batch), labels, strict=True):
        image = images()[label]
        assert any(np.array_equal(found, i) for i in (image, image[:, ::-1]))


def test_every_image_once_in_an_epoch_in_a_new_order():
    data = batches()
    orders = []
    for epoch in (0, 1):
        data.begin_epoch(epoch)
        labels = [data[index][1] for index in range(len(data))]
        orders.append(np.concatenate(labels))
    for order in orders:
        assert sorted(order) == list(range(COUNT))
    assert not np.array_equal(*orders)


def test_a_batch_depends_on_seed_epoch_and_index_alone():
    def batch(seed, epoch, index, before=()):
        data = batches(seed=seed)
        for earlier in before:
            data.begin_epoch(earlier)
            data[0]
        data.begin_epoch(epoch)
        return data[index]

    # In any order, as a pool of workers asks.
    for index in (3, 0, 4):
        later = batch(3, 2, index, before=(0, 1))
        for a, b in zip(batch(3, 2, index), later, strict=True):
            np.testing.assert_array_equal(a, b)
    for other in ((4, 2, 0), (3, 1, 0), (3, 2, 1)):
        assert not np.array_equal(batch(3, 2, 0)[0], batch(*other)[0])


@pytest.mark.parametrize("initial_epoch", [0, 4])
def test_fit_sees_the_batches_of_its_epochs_in_order(initial_epoch):
    seen = []

    class Seen(cifar10_data.Batches):
        def __getitem__(self, index):
            seen.append((self.epoch, index))
            return super().__getitem__(index)

    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = Seen(images(), np.arange(COUNT), 8, seed=0)
    model.fit(
        data,
        initial_epoch=initial_epoch,
        epochs=initial_epoch + 3,
        shuffle=False,
        callbacks=[data.callback()],
        verbose=0,
    )
    epochs = range(initial_epoch, initial_epoch + 3)
    expected = [(epoch, index) for epoch in epochs for index in range(5)]
    # Before them Keras looks at some batches to know their shapes.
    assert seen[-15:] == expected
    assert {epoch for epoch, _ in seen[:-15]} == {0}


@pytest.mark.parametrize("crop", [True, False])
def test_a_batch_of_draws_by_hand(crop):
    """The numbers that a seed stands for: older runs go on with them."""
    data = batches(crop=crop)
    data.begin_epoch(2)
    rng = np.random.default_rng([3, 2, 4])
    chosen = np.random.default_rng([3, 2]).permutation(COUNT)[32:40]
    padded = np.pad(images(), [(0, 0), (4, 4), (4, 4), (0, 0)])
    corners = rng.integers(0, 9, (8, 2)) if crop else [(4, 4)] * 8
    flips = rng.random(8) < 0.5
    batch, labels = data[4]
    np.testing.assert_array_equal(labels, chosen)
    for found, image, (row, column), flip in zip(
        as_bytes(batch), padded[chosen], corners, flips, strict=True
    ):
        expected = image[row : row + 32, column : column + 32]
        expected = expected[:, ::-1] if flip else expected
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("kind", normalization.NORMALIZATIONS)
def test_the_device_makes_the_same_batches(kind, crop, compiled):
    """To the last bit, by any way to run it; all of the 81 corners."""
    expected = batches(normalization=kind, crop=crop)
    draws = cifar10_data.Draws(COUNT, batch_size=8, seed=3, crop=crop)
    make_batch = compiled(device_batches.batch_maker(kind))
    arrays = keras.tree.map_structure(
        keras.ops.convert_to_tensor, (images(), np.arange(COUNT))
    )

    def on_device(drawn):
        drawn = keras.tree.map_structure(keras.ops.convert_to_tensor, drawn)
        made = make_batch(arrays, drawn)
        return keras.tree.map_structure(keras.ops.convert_to_numpy, made)

    for epoch in (0, 1):
        expected.begin_epoch(epoch)
        draws.begin_epoch(epoch)
        for index in range(len(expected)):
            found = on_device(draws[index])
            for a, b in zip(found, expected[index], strict=True):
                np.testing.assert_array_equal(a, b)
    assert found[0].dtype == np.float32
    every_corner = np.stack(np.divmod(np.arange(81), 9), axis=1)
    drawn = {
        "chosen": np.arange(81, dtype="int32") % COUNT,
        "corners": every_corner.astype("int32"),
        "flips": np.arange(81) % 2 == 1,
    }
    x = cifar10_data.crops(images()[drawn["chosen"]], every_corner)
    x[drawn["flips"]] = x[drawn["flips"], :, ::-1]
    x = cifar10_data.normalize(x, kind)
    np.testing.assert_array_equal(on_device(drawn)[0], x)


def test_rest_of_an_epoch_is_left_out():
    assert len(batches(batch_size=16)) == 2


@pytest.mark.parametrize("kind", normalization.NORMALIZATIONS)
def test_normalization(kind):
    """Against float64, and its range."""
    x = np.arange(256).astype("uint8").repeat(3).reshape(1, 16, 16, 3)
    found = cifar10_data.normalize(x, kind)
    assert found.dtype == np.float32
    if kind == "grid":
        expected = (x.astype("float64") - 128) / 64
        np.testing.assert_array_equal(found, expected)
    else:
        mean, std = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
        expected = (x.astype("float64") / 255 - mean) / std
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert cifar10_data.input_range(kind) == (found.min(), found.max())


def test_npz_file(tmp_path, monkeypatch):
    parts = (images(), np.arange(COUNT)), (images()[:5], np.arange(5))
    monkeypatch.setattr(cifar10_data, "_load_tfds", lambda data_dir: parts)
    path = tmp_path / "cifar10.npz"
    cifar10_data.write_npz("any", path)
    assert [file.name for file in tmp_path.iterdir()] == ["cifar10.npz"]
    for found, expected in zip(cifar10_data.load(path), parts, strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_file_that_cannot_be_read(content, tmp_path):
    path = tmp_path / "cifar10.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(app.UsageError, match="is no file that"):
        cifar10_data.load(path)


def test_nothing_half_written(tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        (tmp_path / ".cifar10.npz.tmp.npz").write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(cifar10_data, "load", lambda data_dir: [[1, 2], [3, 4]])
    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        cifar10_data.write_npz("any", tmp_path / "cifar10.npz")
    assert not list(tmp_path.iterdir())
