"""The integers of every step of a plan, from what training left in it."""

import numpy as np

from keras_bcgd.export import arithmetic
from keras_bcgd.export.operators import table
from keras_bcgd.export.report import LayerReport
from keras_bcgd.export.steps import WeightedStep
from keras_bcgd.export.trained_values import read_trained
from keras_bcgd.network.trained import read_alpha
from keras_bcgd.tflite import lut

# Without weights; a table is one of two operators.
_OPERATORS = {"add": "ADD", "multiply": "MUL", "table": None}


def find(step):
    """Finds the weights of a step, if it has some.

    Args:
        step: `steps.Step`, changed in place.

    Raises:
        ValueError: If a weight is not finite, or the sums do not fit in 32
            bits; names the layer.
    """
    if not isinstance(step, WeightedStep):
        return
    step.weights = arithmetic.quantize_weights(
        read_trained(step.node),
        step.grid,
        step.output,
        step.mult,
        step.roundings,
    )
    if step.weight_type == "lut" and lut.compress(step.weights.values) is None:
        step.weight_type = "int8"
    if step.reads.dtype == "int8":  # in 16 bits sums have 64
        _check_accumulator(step)


def _check_accumulator(step):
    weights = step.weights
    largest = 256 * np.abs(weights.values.astype(np.int64)).sum(axis=0)
    largest = np.max(largest + np.abs(weights.bias))
    if largest >= 2**31:
        raise ValueError(
            f"The sums of layer '{step.node.layer.name}' do not fit in 32 bits:"
            " it has too many inputs. Received: "
            f"{len(weights.values)} inputs for each output"
        )


def layer_reports(steps):
    """A `LayerReport` for each step that computes new codes."""
    return [
        _layer_report(step)
        for step in steps
        if isinstance(step, WeightedStep) or step.node.kind in _OPERATORS
    ]


def _operator(step):
    if isinstance(step, WeightedStep):
        return step.operator
    if step.node.kind == "table":
        return table.NAMES[step.node.layer.function]
    return _OPERATORS[step.node.kind]


def _layer_report(step):
    node, quantizer = step.node, step.node.quantizer
    has_alpha = quantizer is not None and hasattr(quantizer.layer, "alpha")
    bits = None
    if quantizer is not None:
        bits = 8
        if quantizer.kind in ("staircase", "identity", "hard_sigmoid"):
            bits = quantizer.layer.bits
    report = LayerReport(
        name=node.name if node.kind == "add" else node.layer.name,
        op=_operator(step),
        activation_bits=bits,
        alpha=read_alpha(quantizer.layer) if has_alpha else None,
        trained=quantizer is None or quantizer.trained,
        thresholds=step.pairs,
        exact=step.right,
        exact_by_default=step.right,
    )
    if isinstance(step, WeightedStep):
        weights = step.weights
        report.weight_bits = node.bits if node.is_convolution else None
        report.weight_type = step.weight_type
        low, high = weights.scale.min(), weights.scale.max()
        report.weight_scale = float(low), float(high)
        report.multiplier = weights.mult
        report.flips = weights.flips
        report.constant = weights.constant
        report.thresholds = weights.thresholds
        report.exact = weights.exact
        report.exact_by_default = weights.exact_first
    return report
