"""Tensors of (time, features) as maps of height 1.

The format has convolutions and poolings of maps alone. Where a graph has one
on a tensor of (time, features), all its tensors of that rank get a height of
1: a reshape behind the input adds it, another takes it from the output.
"""

import dataclasses

from keras_bcgd.export.node import ON_MAPS
from keras_bcgd.export.node import as_map
from keras_bcgd.network import traits


def add(graph):
    """Gives the tensors of a graph a height, if an operator needs one.

    Args:
        graph: `node.Graph`; changed in place.
    """
    if not any(
        node.kind in ON_MAPS and len(node.input_shape) == 2
        for node in graph.nodes
    ):
        return
    ends = [(output, output.output_shape) for output in graph.outputs]
    for node in graph.nodes:
        if node.kind in traits.FINAL.values():
            continue
        node.has_height = len(node.output_shape) == 2
        node.output_shape = as_map(node.output_shape)
        node.input_shape = as_map(node.input_shape)
    for first in graph.inputs:
        if len(first.output_shape) == 2:
            shape = as_map(first.output_shape)
            tall = _reshape(first, shape, f"{first.name}/map")
            for node in graph.nodes:
                node.inputs = [tall if x is first else x for x in node.inputs]
            graph.nodes.insert(0, tall)
    graph.outputs = [
        _without_height(graph, last, shape) if len(shape) == 2 else last
        for last, shape in ends
    ]


def _without_height(graph, last, shape):
    """The node that is an output in the place of one with a height."""
    if last.kind not in traits.FINAL.values():
        graph.nodes.append(_reshape(last, shape, last.name))
        return graph.nodes[-1]
    (source,) = last.inputs
    flat = _reshape(source, shape, source.name)
    graph.nodes.insert(graph.nodes.index(last), flat)
    last.inputs = [flat]
    return last


def _reshape(node, shape, name):
    return dataclasses.replace(
        node,
        kind="reshape",
        inputs=[node],
        input_shape=node.output_shape,
        output_shape=shape,
        name=name,
        norm=None,
        quantizer=None,
        parts=1,
        has_height=False,
    )
