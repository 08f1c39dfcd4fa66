"""Where a file is not exact, and why; what else there is to say of it."""

import numpy as np

from keras_bcgd.export import columns
from keras_bcgd.export import inputs
from keras_bcgd.export.operators import table


def inexact(plan, layers, data, names):
    """Where the file may compute other codes than the model, and why.

    Args:
        plan: `Plan`.
        layers: List of `LayerReport`.
        data: List of arrays of representative data, one for each input, or
            `None`.
        names: List of strings, the inputs; of a single one `None`.

    Returns:
        Dict of the lists `inexact`, on the default kernels, and
        `inexact_elsewhere`, on others only, or on TensorFlow Lite Micro.
    """
    reasons = []
    for node, grid, part, name in _of_inputs(plan, data, names):
        if part is not None:
            reasons.append(columns.reason(part, grid, name))
            reasons.append(inputs.reason(plan.graph, node, grid, part, name))
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
    elsewhere = [_at_thresholds(on_others), _on_tflm(plan)]
    return {
        "inexact": [why for why in reasons if why is not None] + plan.inexact,
        "inexact_elsewhere": [why for why in elsewhere if why is not None],
    }


def _on_tflm(plan):
    names = [
        f"'{step.node.name}'"
        for step in plan.steps
        if step.node.kind == "table" and table.is_other_on_tflm(step)
    ]
    if not names:
        return None
    return (
        "TensorFlow Lite Micro computes other codes, as it takes a sigmoid of "
        "inputs with steps below 2 and a tanh below 8: in " + ", ".join(names)
    )


def _of_inputs(plan, data, names):
    """`(node, grid, data, name)` of each input."""
    parts = [None] * len(names) if data is None else data
    return zip(plan.graph.inputs, plan.grids, parts, names, strict=True)


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


def notes(plan, data, names, output_names):
    """What a user should know of the file, as a list of sentences.

    Args:
        plan: `Plan`.
        data: As for `inexact`.
        names: As for `inexact`.
        output_names: List of strings, the outputs; of a single one `None`.
    """
    found = []
    for _, grid, part, name in _of_inputs(plan, data, names):
        of_input = f" for '{name}'" if name else ""
        if part is not None:
            outside = np.mean(~grid.covers(part))
            if outside:
                found.append(
                    f"{outside:.2%} of `representative_data`{of_input} is "
                    "outside of `input_range` and saturates."
                )
        if grid.offset:
            missed = abs(grid.offset) / grid.scale
            where = f" of '{name}'" if name else ""
            found.append(
                f"0.0 is between two input codes{where}, by {missed:.3f} of a "
                "step; convolutions make up for it, but zero padding of the "
                "input does not."
            )
    if plan.graph.logits and data is None:
        found.append(
            "The scale of the output comes from bounds that hold for every "
            "input; with `representative_data` its steps are finer."
        )
    for node, name in zip(plan.graph.outputs, output_names, strict=True):
        saturated = plan.saturated.get(plan.graph.logits_of(node))
        if saturated:
            of_output = f" '{name}'" if name else ""
            found.append(
                f"{saturated:.2%} of the logits of `representative_data` are "
                f"outside of the 8-bit output{of_output} and saturate, as they "
                "are too small to decide."
            )
    return found
