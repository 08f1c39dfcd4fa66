"""The search for biases and slopes against one that tries all, in loops."""

import math
import types

import numpy as np
import pytest

from keras_bcgd.export import bias_intervals
from keras_bcgd.export import channel_search
from keras_bcgd.export.arithmetic import Grid
from keras_bcgd.export.arithmetic import identity_output
from keras_bcgd.export.arithmetic import staircase_output
from keras_bcgd.export.channel_search import Channels

FLOAT_ERROR = 3e-3
SMALL = [i * 2.5e-5 for i in range(-20, 21)]


def zone(boundary, step, rounding):
    """Where kernels may put a threshold, in D; apart from the code."""
    shift = math.floor(math.log2(step)) if step > 1 else -1
    early = 2.0 ** -(shift + 1) if shift > 0 else 0.0
    place = boundary
    if rounding == bias_intervals.TWICE_UP:
        place -= early
    if rounding == bias_intervals.TWICE_AWAY:
        place -= math.copysign(early, boundary)
    return place


def is_free(boundaries, step, bias, mult, roundings):
    """Whether `mult * n + bias` is in no zone, for any whole n."""
    for boundary in boundaries:
        places = [zone(boundary, step, rounding) for rounding in roundings]
        error = 2.0**-22 * abs(boundary)
        low = (min(places) - error) * step - FLOAT_ERROR * mult
        high = (max(places) + error) * step + FLOAT_ERROR * mult
        if math.floor((high - bias) / mult) >= math.ceil((low - bias) / mult):
            return False
    return True


def ratios(step, mult, largest):
    found = set()
    for q in range(1, 25):
        for p in range(max(0, int(step * q / mult) - 2), 10**9):
            change = mult * p / q / step - 1
            if change > largest:
                break
            # The three whole numbers that are next.
            if abs(p - round(step * q / mult)) <= 1 and change >= -largest:
                found.add(change)
    return sorted(found)


def nearest_free(channel, boundaries, mult, roundings):
    """`(bias, change)` as the docstrings of the code have it, or `None`."""
    step, bias, far = channel
    coarse = step < 4 * mult
    sets = [[0.0], SMALL, ratios(step, mult, 0.02)]
    if coarse:
        sets.append(ratios(step, mult, 0.06))
    reach = min(9, mult // 2)
    for changes in sets:
        found = [
            (abs(b - bias) / step + abs(change) * far, b, change)
            for change in changes
            for b in range(round(bias) - reach, round(bias) + reach + 1)
            if is_free(boundaries, step * (1 + change), b, mult, roundings)
        ]
        if found:
            return min(found)[1:]
    return None


OUTPUTS = {
    "staircase_1": staircase_output(1.0, 1),
    "staircase_4": staircase_output(1.0, 4),
    "identity_8": identity_output(1.0),
}


def planned_of(output, mult, roundings=bias_intervals.ALL):
    return types.SimpleNamespace(
        mult=mult, roundings=roundings, output=output, grid=Grid(1.0, 0)
    )


def random_channels(count, mult, seed=0):
    rng = np.random.default_rng(seed)
    step = mult * np.exp(rng.uniform(0.0, 3.0, count))
    # Between two whole numbers: what is next to one counts as aligned.
    bias = np.floor(rng.uniform(-3, 3, count) * step)
    bias = bias + rng.uniform(0.2, 0.8, count)
    center, spread = rng.uniform(-4, 4, count) * step, 5 * step
    return step, bias, center, spread


@pytest.mark.parametrize("mult", [18, 42, 127])
@pytest.mark.parametrize("name", OUTPUTS)
def test_the_nearest_place_without_risk(name, mult):
    output = OUTPUTS[name]
    count = 6 if name == "identity_8" else 30
    step, bias, center, spread = random_channels(count, mult)
    channels = Channels(planned_of(output, mult), step, bias, center, spread)
    moved, places = channels.search(np.arange(count), True)
    assert list(moved) == list(range(count))
    free = 0
    for c in range(count):
        far = (abs(center[c]) + 3 * spread[c]) / step[c]
        expected = nearest_free(
            (step[c], bias[c], far),
            output.boundaries,
            mult,
            bias_intervals.ALL,
        )
        assert (places.risk[c] == 0) == (expected is not None)
        if expected is not None:
            free += 1
            np.testing.assert_allclose(
                [places.bias[c], places.change[c]],
                expected,
                rtol=1e-9,
                atol=1e-12,
            )
    assert free >= count / 3


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("mult", [1, 4, 18])
def test_a_channel_alone_and_among_others(name, mult, monkeypatch):
    """Also if all is done in small blocks, each with some of them."""
    count = 25
    given = random_channels(count, mult, seed=1)
    planned = planned_of(OUTPUTS[name], mult)
    monkeypatch.setattr(channel_search, "_BLOCK", 5000)
    found = [
        Channels(planned, *given).search(np.arange(count), can_change)
        for can_change in (True, False)
    ]
    monkeypatch.undo()
    for (moved, places), can_change in zip(found, (True, False), strict=True):
        for c in range(count):
            channel = Channels(planned, *(part[c : c + 1] for part in given))
            alone, place = channel.search(np.arange(1), can_change)
            assert len(alone) == (c in moved)
            if len(alone):
                assert place == places.take(moved == c)


@pytest.mark.parametrize("mult", [1, 2, 18])
def test_where_there_is_risk_it_is_the_share_of_outputs(mult):
    """That of each threshold at which a sum is, added up one by one."""
    output = OUTPUTS["identity_8"]
    step, bias, center, spread = random_channels(8, mult, seed=2)
    channels = Channels(planned_of(output, mult), step, bias, center, spread)
    for c in range(len(step)):
        risks = channels.least_risks(c, np.zeros(1))
        reach = min(9, mult // 2)
        expected = []
        for b in range(round(bias[c]) - reach, round(bias[c]) + reach + 1):
            total = 0.0
            for boundary in output.boundaries:
                if not is_free(
                    [boundary], step[c], b, mult, bias_intervals.ALL
                ):
                    z = (boundary * step[c] - center[c]) / spread[c]
                    share = mult / spread[c] / math.sqrt(2 * math.pi)
                    total += max(share * math.exp(-(z**2) / 2), 1e-6)
            expected.append(total)
        # Sums of 255 numbers in float64.
        np.testing.assert_allclose(risks, min(expected), rtol=1e-12)
