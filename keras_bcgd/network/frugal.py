"""Runs a model and lets go of each tensor once nothing reads it any more.

Keras keeps all of them until the last layer has run: of a ResNet-50 gigabytes
for a few images. The layers are the same, in another order where nothing
depends on it; a model for which that is not certain is run by Keras.
"""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from keras_bcgd.network import model_layers
from keras_bcgd.network import traits
from keras_bcgd.network.functional import UnreadableError
from keras_bcgd.network.functional import read_functional

_START = "/input"  # the name of no layer


def frugal(model):
    """A function that runs a model in inference mode, one call after another.

    Args:
        model: A built `keras.Model`.

    Returns:
        A function of what the model is called on. It returns nothing.
    """
    steps = _steps_of(model)
    (start, *_) = getattr(model, "inputs", None) or [None]
    run = _Run(steps or [])

    def run_steps(x):
        arrays = keras.tree.flatten(x)
        if (
            steps is None
            or len(arrays) != 1
            # Keras adds an axis, or takes one off.
            or np.ndim(arrays[0]) != len(start.shape)
        ):
            model(x, training=False)
        else:
            run(ops.convert_to_tensor(arrays[0], start.dtype), training=False)

    return run_steps


@dataclasses.dataclass
class _Step:
    """A call of a layer, or of an operation that is none.

    Attributes:
        run: The Keras operation.
        sources: List of the keys of what it reads.
        key: That of what it computes.
        unused: List of the keys of what nothing reads after it.
    """

    run: object
    sources: list
    key: object
    unused: list = dataclasses.field(default_factory=list)


class _Run(keras.Model):
    """Runs steps; a model, so that layers learn what `training` is."""

    def __init__(self, steps):
        super().__init__(autocast=False)
        self.get_steps = lambda: steps  # a list would be tracked

    def call(self, x, training=None):
        values = {_START: x}
        for step in self.get_steps():
            given = [values[source] for source in step.sources]
            output = step.run(given if len(given) > 1 else given[0])
            values[step.key] = keras.tree.flatten(output)[0]
            del given, output
            for key in step.unused:
                del values[key]
        return x


def _steps_of(model):
    """The steps of a model, or `None`: Keras has to run it."""
    if not traits.is_model(model) or len(model.inputs) != 1:
        return None
    inside = [layer for _, layer in model_layers.paths(model)]
    if len({id(layer) for layer in inside}) < len(inside):
        return None  # models share one, and call it in an order
    steps = []
    try:
        _read(model, _START, "", steps)
    except UnreadableError:
        return None
    last = {}  # the last step that reads a tensor, or computes it
    for i, step in enumerate(steps):
        last.update(dict.fromkeys([*step.sources, step.key], i))
    for key, i in last.items():
        steps[i].unused.append(key)
    return steps


def _read(model, source, prefix, steps):
    """Appends the steps of a model; returns the key of its output."""
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            source = _read_operation(layer, [source], prefix, steps)
        return source
    graph = read_functional(model)
    ((start, *_),) = graph.starts
    keys = {start: source}
    pending = [entry for entry in graph.operations if entry.uses]
    while pending:
        waiting = []
        for entry in pending:
            if not _is_simple(entry):
                raise UnreadableError(model, f"{entry.name} is not simple")
            (reads,) = entry.uses
            names = [tensor.origin[0] for tensor in reads]
            if all(name in keys for name in names):
                sources = [keys[name] for name in names]
                keys[entry.name] = _read_operation(
                    entry.operation, sources, prefix, steps
                )
            else:
                waiting.append(entry)
        pending = waiting
    return keys[graph.ends[0][0]]


def _is_simple(entry):
    """Whether an operation is called once, on first outputs alone."""
    return entry.are_plain == [True] and not any(
        tensor.origin[2] for tensor in entry.uses[0]
    )


def _read_operation(operation, sources, prefix, steps):
    key = f"{prefix}{operation.name}"
    if traits.is_model(operation) and (
        len(operation.inputs) == len(operation.outputs) == 1
    ):
        # As Keras does with what a model is called on.
        cast = functools.partial(
            ops.convert_to_tensor, dtype=operation.inputs[0].dtype
        )
        steps.append(_Step(cast, sources, f"{key}/"))
        return _read(operation, f"{key}/", f"{key}/", steps)
    steps.append(_Step(operation, sources, key))
    return key
