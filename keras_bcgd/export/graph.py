"""Reads a Keras model as a graph of nodes, one per integer operator.

Each node is a layer with what can be fused into it: the batch normalization
after it and what quantizes its output.
"""

import keras

from keras_bcgd.export import support
from keras_bcgd.export.builder import Builder
from keras_bcgd.network import traits
from keras_bcgd.network.calls import open_parts
from keras_bcgd.network.calls import read_calls
from keras_bcgd.network.ends import input_names
from keras_bcgd.network.ends import output_names
from keras_bcgd.network.functional import UnreadableError


def read_graph(model):
    """The graph of a model.

    Args:
        model: A built `keras.Sequential` or functional model.

    Returns:
        `Graph`.

    Raises:
        ValueError: If the model is not built, or has something that cannot be
            exported. The message names all of it.
    """
    graph, problems = _read(model)
    problems.check()
    return graph


def find_problems(model, change=None):
    """What `read_graph` refuses.

    Args:
        model: A built `keras.Sequential` or functional model.
        change: Function from the list of `calls.Call` of the model to that
            of another, which is then read in its place, or `None`. Defaults
            to `None`.

    Returns:
        List of strings, one for each problem: the name of the layer, its
        class, and what to do.

    Raises:
        ValueError: If the model is not built.
    """
    _, problems = _read(model, change)
    return problems.lines


def _read(model, change=None):
    """`(Graph, Problems)`: with problems the graph is of no use."""
    _check_model(model)
    problems = support.Problems()
    _check_inputs(model, problems)
    try:
        calls, keys = read_calls(model, problems)
    except UnreadableError as error:
        for layer in error.layers:
            support.check_layer(layer, 1, False, problems)
        problems.check()
        raise
    if change is not None:
        calls = open_parts(change(calls))
    graph = Builder(calls, keys, problems).build(model)
    if not graph.nodes:
        problems.add(
            model,
            "it has nothing to compute: it needs a layer with weights, a "
            "QuantReLU or a pooling",
        )
    _check_outputs(model, graph, problems)
    return graph, problems


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a keras.Sequential or a functional keras.Model. "
            f"Received: model={model!r}"
        )
    if not model.built or not traits.is_model(model):
        raise ValueError(
            f"The model '{model.name}' has no known input shape: begin it with "
            "a keras.Input, or call it once. Only Sequential and functional "
            "models without a `call` of their own can be exported. Received: "
            f"{type(model).__name__} with built={model.built}"
        )


def _check_inputs(model, problems):
    """The inputs of a file have a fixed size."""
    for name, tensor in zip(input_names(model), model.inputs, strict=True):
        if None in tensor.shape[1:]:
            which = f" '{name}'" if len(model.inputs) > 1 else ""
            problems.add(
                model,
                f"the size of the input{which} must be fixed, but for the "
                "batch, as in keras.Input((224, 224, 3)); it is "
                f"{tuple(tensor.shape[1:])}",
            )


def _check_outputs(model, graph, problems):
    """Each output is a tensor of its own, which the file computes."""
    seen = {}
    for name, node in zip(output_names(model), graph.outputs, strict=True):
        if node in seen:
            problems.add(
                model,
                f"its outputs '{seen[node]}' and '{name}' are the same tensor: "
                "leave one of them out",
            )
        elif node.kind in ("input", "rescale") and len(graph.outputs) > 1:
            problems.add(
                model,
                f"its output '{name}' is an input as it was given: leave it "
                "out, the app has it",
            )
        seen.setdefault(node, name)
