"""The data of examples/keyword_spotting.py: synthetic words, and a watch."""

import sys

import numpy as np
import pytest
from absl import app

from training import watch
from training import words


def test_words_depend_on_seed_part_and_place_only():
    codes, labels = words.load(12, 0, chunk=5)
    assert codes.shape == (12, words.FRAMES, words.BANDS, 1)
    assert codes.dtype == np.int8
    assert labels.tolist() == [*range(10), 0, 1]
    fewer, _ = words.load(3, 0, chunk=2)
    np.testing.assert_array_equal(fewer, codes[:3])
    for other in (words.load(3, 1)[0], words.load(3, 0, seed=1)[0]):
        assert np.mean(other == codes[:3]) < 0.5


def test_every_word_can_be_told_from_the_others():
    assert len(set(words.names())) == len(words.WORDS) == 10


def test_a_tone_lies_in_the_band_of_its_pitch():
    """Bands are of equal width in mel, from 80 Hz to half the rate."""
    times = np.arange(words.SAMPLES) / words.RATE
    mel = lambda hertz: 1127 * np.log1p(hertz / 700)  # noqa: E731
    for pitch in (500, 1000, 2000, 3000):
        (codes,) = words.spectrograms(
            0.1 * np.sin(2 * np.pi * pitch * times)[None]
        )
        width = (mel(4000) - mel(80)) / (words.BANDS + 1)
        band = (mel(pitch) - mel(80)) / width - 1
        assert abs(codes[:, :, 0].argmax(1) - band).max() <= 0.51


def test_a_louder_sound_has_larger_codes():
    """10 times as loud: 2 ln 10 more, of 12 for 255 codes."""
    wave = words.utterance(words.WORDS[0], np.random.default_rng(0))
    quiet, loud = words.spectrograms(np.stack([0.1 * wave, wave])).astype(int)
    inside = (quiet > -128) & (loud < 127)
    assert inside.mean() > 0.5
    assert abs((loud - quiet)[inside] - 2 * np.log(10) / 12 * 255).max() <= 1


@pytest.fixture
def seglearn(tmp_path, monkeypatch):
    """A package with recordings: 5 people, 2 exercises."""
    folder = tmp_path / "seglearn" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("import what_is_not_there")
    rng = np.random.default_rng(0)
    people = np.array([1, 2, 8, 9, 10])
    data = {
        "X": [rng.standard_normal((200 + i, 6)) for i in range(5)],
        "y": np.array([0.0, 1, 0, 1, 0]),
        "subject": people,
    }
    np.save(folder / "watch_dataset.npy", data, allow_pickle=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "seglearn", raising=False)
    return data


def test_windows_of_a_watch(seglearn):
    (x, y), (x_test, y_test) = watch.load(length=128, step=32)
    # 200 to 204 samples: windows begin at 0, 32 and 64.
    assert x.shape == (6, 128, 6) and x_test.shape == (9, 128, 6)
    assert x.dtype == np.int8
    assert y.tolist() == [0] * 3 + [1] * 3
    assert y_test.tolist() == [0] * 3 + [1] * 3 + [0] * 3
    both = np.concatenate(seglearn["X"][:2])
    limits = np.quantile(np.abs(both), 0.999, axis=0)
    held = seglearn["X"][2][32:160] / limits * 127
    np.testing.assert_array_equal(
        x_test[1], np.clip(np.round(held), -128, 127).astype("int8")
    )


def test_what_to_install_for_the_watch(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(app.UsageError, match="pip install seglearn"):
        watch.load()
