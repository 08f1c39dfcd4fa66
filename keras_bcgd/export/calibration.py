"""What only data can tell: ranges of tensors that no layer quantizes."""

import numpy as np

from keras_bcgd.network import traits
from keras_bcgd.network.calls import run_calls


def measure(graph, data):
    """Runs the float model on representative data.

    Args:
        graph: `node.Graph`.
        data: Array of inputs of the model, or `None`.

    Returns:
        `(ranges, logits)`: a dict from the calibrated nodes to `(smallest,
        largest)`, and the array of logits or `None`.
    """
    if data is None:
        return {}, None
    keys = {node.key for node in graph.calibrated}
    if graph.logits is not None:
        keys.add(graph.logits.key)
    ranges = {node: (np.inf, -np.inf) for node in graph.calibrated}
    logits = []
    for values in run_calls(graph.calls, keys, data):
        for node in ranges:
            x, (low, high) = values[node.key], ranges[node]
            ranges[node] = min(low, x.min()), max(high, x.max())
        if graph.logits is not None:
            logits.append(values[graph.logits.key])
    for node, (_, high) in ranges.items():
        if node.quantizer.kind == "relu":
            top = traits.largest_of_relu(node.quantizer.layer)
            ranges[node] = 0.0, high if top is None else min(high, top)
    return ranges, np.concatenate(logits) if logits else None
