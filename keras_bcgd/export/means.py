"""Global averages before the classifier, exact in 8 bits.

The mean of 64 codes of 4 bits has 961 values, more than int8 holds. Where it
feeds the last dense layer, the sums over parts of the map, small enough for
int8, are handed over instead, and the dense layer adds them: each of its
weights once for each part.
"""

import dataclasses

import numpy as np

from keras_bcgd.activations import largest_level
from keras_bcgd.export.node import commutes

# A dense layer may grow by so many weights.
_LARGEST_GROWTH = 8192
# What an Ethos-U55 takes.
_LARGEST_STRIDE = 3


def split_means(graph):
    """Splits the averages of a graph where that makes them exact.

    Args:
        graph: `node.Graph`; changed in place.
    """
    for node in list(graph.nodes):
        if node.kind == "average" and node.quantizer is None:
            _split(graph, node)


def _split(graph, average):
    reshapes, dense = _readers(graph.readers(), average)
    if not dense or any(
        node.kind != "dense" or node not in graph.logits for node in dense
    ):
        return
    if any(node in graph.outputs for node in (average, *reshapes)):
        return
    window = _window(average, _levels(average.inputs[0]))
    height, width, channels = average.input_shape
    if window is None or np.prod(average.output_shape[:-1]) != 1:
        return
    parts = (height // window[0]) * (width // window[1])
    outputs = sum(node.output_shape[-1] for node in dense)
    if (parts - 1) * channels * outputs > _LARGEST_GROWTH:
        return
    average.window = average.strides = window
    shape = (height // window[0], width // window[1], channels)
    average.output_shape = shape
    average.name = f"{average.name}/parts"
    flat = dataclasses.replace(
        average,
        kind="reshape",
        inputs=[average],
        input_shape=shape,
        output_shape=(parts * channels,),
        name=f"{average.name}/flat",
    )
    for reshape in reshapes:
        graph.nodes.remove(reshape)
    first = min(graph.nodes.index(node) for node in dense)
    graph.nodes.insert(first, flat)
    for node in dense:
        node.inputs = [flat]
        node.parts = parts


def _readers(readers, node):
    """`(reshapes, others)`: what reads a node, through reshapes."""
    reshapes, others = [], []
    for reader in readers[node]:
        if reader.kind == "reshape":
            reshapes.append(reader)
            inner, behind = _readers(readers, reader)
            reshapes += inner
            others += behind
        else:
            others.append(reader)
    return reshapes, others


def _levels(node):
    """The largest code of what a node computes, or `None`: it has signs."""
    while commutes(node):
        node = node.inputs[0]
    if node.quantizer is None or node.quantizer.kind != "staircase":
        return None
    return largest_level(node.quantizer.layer.bits)


def _window(node, levels):
    """The largest window that divides the map and has exact sums in 8 bits.

    `None` if there is none, or the whole map is exact.
    """
    height, width = node.window
    if levels is None or tuple(node.input_shape[:2]) != (height, width):
        return None
    if height * width * levels <= 255:
        return None
    windows = [
        (h, w)
        for h in range(1, height + 1)
        for w in range(1, width + 1)
        if height % h == 0 and width % w == 0 and h * w * levels <= 255
    ]
    return max(
        windows,
        key=lambda window: (
            _has_small_strides(window, node),
            window[0] * window[1],
        ),
    )


def _has_small_strides(window, node):
    """Whether an Ethos-U takes them; along one place there is no stride."""
    return all(
        part <= _LARGEST_STRIDE or part == whole
        for part, whole in zip(window, node.window, strict=True)
    )
