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
    _check_ends(model, problems)
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


def _check_ends(model, problems):
    """A file has one input, of a fixed size, and one output."""
    if len(model.inputs) != 1:
        names = ", ".join(f"'{tensor.name}'" for tensor in model.inputs)
        problems.add(
            model,
            f"it has {len(model.inputs)} inputs ({names}) and a file has one: "
            "export each part that has one input as a file of its own, or "
            "give the model one input, these concatenated",
        )
    if len(model.outputs) != 1:
        names = ", ".join(f"'{name}'" for name in model.output_names)
        problems.add(
            model,
            f"it has {len(model.outputs)} outputs ({names}) and a file has "
            "one: export a file for each, of keras.Model(model.inputs, "
            f"model.outputs[i]) with i from 0 to {len(model.outputs) - 1}",
        )
    for tensor in model.inputs:
        if None in tensor.shape[1:]:
            problems.add(
                model,
                "the size of the input must be fixed, but for the batch, as "
                "in keras.Input((224, 224, 3)); it is "
                f"{tuple(tensor.shape[1:])}",
            )
