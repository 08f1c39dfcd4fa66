"""verify_tflite on damaged files: what changes values is noticed, and where."""

import pytest

from benchmarks import mutations

# All of them are slow; this one runs always.
FAST = [("residual", "int16")]
SLOW = [
    pytest.param(network, output_type, marks=pytest.mark.slow)
    for network in mutations.NETWORKS
    for output_type in ("int16", "int8")
    if (network, output_type) not in FAST
]


@pytest.mark.parametrize("network, output_type", FAST + SLOW)
def test_what_changes_a_value_is_noticed_and_named(
    network, output_type, tmp_path
):
    first, *rows = mutations.rows_of(network, output_type, tmp_path)
    assert first.mutation == "none" and first.changed == 0
    assert not first.is_noticed and first.named is None
    changed = [row for row in rows if row.changed]
    assert {row.place for row in changed} == {"first", "middle", "last"}
    for row in changed:
        # One unit of 100 in a step of the last layer: codes that flip by it
        # were halfway between two codes, and are the nearest ones after it.
        is_within_rounding = (row.mutation, row.place) == (
            "bias by one",
            "last",
        )
        assert row.is_noticed or is_within_rounding, row
        if row.named is not None and not is_within_rounding:
            assert row.named == row.expected, row
    by_layer = [row for row in changed if row.mutation == "sign of a weight"]
    assert all(row.named == row.expected for row in by_layer)
    assert len({row.named for row in by_layer}) == 3
