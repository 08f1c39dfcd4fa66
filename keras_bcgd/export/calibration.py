"""What only data can tell: ranges of tensors that no layer quantizes."""

import numpy as np

from keras_bcgd.network import traits
from keras_bcgd.network.calls import run_calls


def measure(graph, data):
    """Runs the float model on representative data.

    Args:
        graph: `node.Graph`.
        data: List of arrays, one for each input of the model, or `None`.

    Returns:
        `(ranges, logits)`: dicts from the calibrated nodes to `(smallest,
        largest)`, and from those of the logits to arrays.
    """
    if data is None:
        return {}, {}
    keys = {node.key for node in (*graph.calibrated, *graph.logits)}
    ranges = {node: (np.inf, -np.inf) for node in graph.calibrated}
    logits = {node: [] for node in graph.logits}
    given = {
        node.key: part for node, part in zip(graph.inputs, data, strict=True)
    }
    for values in run_calls(graph.calls, keys, given):
        for node in ranges:
            x, (low, high) = values[node.key], ranges[node]
            ranges[node] = min(low, x.min()), max(high, x.max())
        for node, parts in logits.items():
            parts.append(values[node.key])
    for node, (_, high) in ranges.items():
        if node.quantizer.kind == "relu":
            top = traits.largest_of_relu(node.quantizer.layer)
            ranges[node] = 0.0, high if top is None else min(high, top)
    return ranges, {
        node: np.concatenate(parts) for node, parts in logits.items()
    }
