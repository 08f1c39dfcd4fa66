"""Synthetic "words", and their spectrograms: sound without a microphone.

A word is two or three syllables of the kinds below, which differ in how their
pitch goes; ten words differ in what follows on what. Of each utterance pitch,
timbre, tempo, loudness, beginning and background noise are random. Nobody
speaks here: a network that tells them apart is not shown to understand speech.

    rise, fall   a pitch and its overtones that go up, or down
    flat         one that stays
    hiss         noise of one band
"""

import keras
import numpy as np

WORDS = (
    ("rise", "fall"),
    ("fall", "rise"),
    ("rise", "rise"),
    ("fall", "fall"),
    ("flat", "rise"),
    ("flat", "fall"),
    ("hiss", "flat"),
    ("flat", "hiss"),
    ("hiss", "rise", "hiss"),
    ("hiss", "fall", "hiss"),
)
RATE = 8000
SAMPLES = RATE  # a second
FRAME, HOP, BANDS = 256, 160, 20
FRAMES = (SAMPLES - FRAME) // HOP + 1
# Natural logarithms of a band's energy: the ends of 256 codes.
LOWEST, HIGHEST = -6.0, 6.0


def names():
    """What the classes are called."""
    return ["-".join(word) for word in WORDS]


def _syllable(kind, count, pitch, rng):
    """So many samples of a kind."""
    if kind == "hiss":
        spectrum = np.fft.rfft(rng.standard_normal(count))
        frequencies = np.fft.rfftfreq(count, 1 / RATE)
        middle = rng.uniform(1500, 3200)
        sound = np.fft.irfft(
            spectrum * (np.abs(frequencies - middle) < 600), count
        )
    else:
        bend = rng.uniform(0.25, 0.7) * {"rise": 1, "fall": -1, "flat": 0}[kind]
        course = pitch * 2 ** (bend * (np.linspace(0, 1, count) - 0.5))
        phase = 2 * np.pi * np.cumsum(course) / RATE
        overtones = np.arange(1, 7)
        parts = rng.uniform(0.2, 1, 6) / overtones
        parts *= overtones * pitch < 0.4 * RATE
        sound = parts @ np.sin(overtones[:, np.newaxis] * phase)
    ramp = min(160, count // 4)
    sound[:ramp] *= np.linspace(0, 1, ramp)
    sound[-ramp:] *= np.linspace(1, 0, ramp)
    return sound / np.sqrt(np.mean(sound**2))


def utterance(word, rng):
    """One utterance: a second of sound, `SAMPLES` floats.

    Args:
        word: Tuple of strings, the kinds of its syllables.
        rng: NumPy generator.
    """
    pitch = np.exp(rng.uniform(np.log(180), np.log(500)))
    total = rng.uniform(0.4, 0.8) * SAMPLES
    shares = rng.uniform(0.7, 1.3, len(word))
    counts = np.int32(total * shares / shares.sum())
    syllables = [
        _syllable(kind, count, pitch * 2 ** rng.uniform(-0.15, 0.15), rng)
        for kind, count in zip(word, counts, strict=True)
    ]
    said = np.concatenate(syllables)
    start = rng.integers(SAMPLES - len(said) + 1)
    # The signal is -8 to 8 dB above the noise.
    wave = rng.standard_normal(SAMPLES) * 10 ** (-rng.uniform(-8, 8) / 20)
    wave[start : start + len(said)] += said
    return wave * 10 ** (rng.uniform(-12, 0) / 20) / 4


def _filters():
    """Triangles over the bins of a frame, of equal width in mel."""
    to_mel = lambda hertz: 1127 * np.log1p(hertz / 700)  # noqa: E731
    bins = to_mel(np.fft.rfftfreq(FRAME, 1 / RATE))
    edges = np.linspace(to_mel(80), to_mel(RATE / 2), BANDS + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    bins = bins[:, np.newaxis]
    up, down = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.clip(np.minimum(up, down), 0, None)


def spectrograms(waves):
    """Logarithms of energies in bands of mel, as 8-bit codes.

    Args:
        waves: Array of shape `(count, SAMPLES)`.

    Returns:
        Array of int8, `(count, FRAMES, BANDS, 1)`.
    """
    frames = np.lib.stride_tricks.sliding_window_view(waves, FRAME, axis=1)
    spectra = np.fft.rfft(frames[:, ::HOP] * np.hanning(FRAME))
    energies = np.abs(spectra) ** 2 @ _filters()
    place = (np.log(energies + 1e-9) - LOWEST) / (HIGHEST - LOWEST)
    codes = np.clip(np.round(255 * place) - 128, -128, 127)
    return codes.astype("int8")[..., np.newaxis]


def load(count, part, seed=0, chunk=200):
    """Spectrograms of utterances and the numbers of their words.

    Utterance i depends on the seed, the part and i only.

    Args:
        count: Int.
        part: Int: 0 to train, 1 to test.
        seed: Int.
        chunk: Int, how many are computed at once.
    """
    bar = keras.utils.Progbar(count, unit_name="utterance")
    labels = np.arange(count) % len(WORDS)
    found = []
    for start in range(0, count, chunk):
        rows = range(start, min(start + chunk, count))
        waves = [
            utterance(WORDS[labels[i]], np.random.default_rng([seed, part, i]))
            for i in rows
        ]
        found.append(spectrograms(np.stack(waves)))
        bar.update(rows[-1] + 1)
    return np.concatenate(found), labels
