"""Where a file is not exact, and why; what else there is to say of it."""

import numpy as np

from keras_bcgd.export import columns
from keras_bcgd.export import inputs


def inexact(plan, layers, data):
    """Where the file may compute other codes than the model, and why.

    Returns:
        Dict of the lists `inexact`, on the default kernels, and
        `inexact_elsewhere`, on others only.
    """
    reasons = []
    if data is not None:
        reasons.append(columns.reason(data, plan.grid))
        reasons.append(inputs.reason(plan.graph, plan.grid, data))
    on_default = [
        row for row in layers if row.exact_by_default < row.thresholds
    ]
    on_others = [
        row
        for row in layers
        if row.exact < row.thresholds == row.exact_by_default
    ]
    reasons.append(_at_thresholds(on_default))
    untrained = [f"'{row.name}'" for row in layers if not row.trained]
    if untrained:
        reasons.append(
            "rounded to 8 bits in the file, not in training: the outputs of "
            + ", ".join(untrained)
        )
    elsewhere = _at_thresholds(on_others)
    return {
        "inexact": [why for why in reasons if why is not None] + plan.inexact,
        "inexact_elsewhere": [] if elsewhere is None else [elsewhere],
    }


def _at_thresholds(rows):
    if not rows:
        return None
    where = ", ".join(
        f"{row.thresholds - row.exact:,} of {row.thresholds:,} in '{row.name}'"
        for row in rows
    )
    advice = ""
    if any(row.weight_bits == 8 for row in rows):
        # Twice the codes leave room between sums.
        advice = "; 8-bit weights leave no room, those of 7 bits do"
    return f"sums at a threshold may give the next code, at {where}{advice}"


def notes(plan, data):
    """What a user should know of the file, as a list of sentences."""
    found = []
    if data is not None:
        outside = np.mean(~plan.grid.covers(data))
        if outside:
            found.append(
                f"{outside:.2%} of `representative_data` is outside of "
                "`input_range` and saturates."
            )
    if plan.grid.offset:
        missed = abs(plan.grid.offset) / plan.grid.scale
        found.append(
            f"0.0 is between two input codes, by {missed:.3f} of a step; "
            "convolutions make up for it, but zero padding of the input does "
            "not."
        )
    if plan.graph.logits is None:
        return found
    if data is None:
        found.append(
            "The scale of the output comes from bounds that hold for every "
            "input; with `representative_data` its steps are finer."
        )
    elif plan.saturated:
        found.append(
            f"{plan.saturated:.2%} of the logits of `representative_data` are "
            "outside of the 8-bit output and saturate, as they are too small "
            "to decide."
        )
    return found
