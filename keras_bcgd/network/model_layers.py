"""The layers of a model and of the models within it, and their calls."""

import contextlib
import functools
import inspect

import keras
from keras import ops

from keras_bcgd.layers import Composite


def paths(model, prefix=""):
    """The layers of a model and of those inside it, these models included.

    Yields:
        `(path, layer)`; the path of a layer in a model `block` is
        "block/conv".
    """
    for layer in model.layers:
        yield prefix + layer.name, layer
        if isinstance(layer, keras.Model):
            yield from paths(layer, f"{prefix}{layer.name}/")
        elif isinstance(layer, Composite):
            for part, _ in layer.parts:
                yield f"{prefix}{layer.name}/{part.name}", part


def leaves(model):
    """The layers without layers inside them, each once, by their paths.

    Args:
        model: `keras.Model`.

    Returns:
        Dict from paths to layers. A layer that several models share has the
        path at which it is met first. A path that is taken, as can be in a
        subclassed model, gets a number: "dense", "dense_2".

    Example:

    >>> inner = keras.Sequential([keras.layers.ReLU(name="relu")], name="in")
    >>> list(leaves(keras.Sequential([inner])))
    ['in/relu']
    """
    found, seen = {}, set()
    for path, layer in paths(model):
        if isinstance(layer, (keras.Model, Composite)) or id(layer) in seen:
            continue
        seen.add(id(layer))
        free, number = path, 1
        while free in found:
            number += 1
            free = f"{path}_{number}"
        found[free] = layer
    return found


def leaves_of_class(model, cls):
    """Those `leaves` that are of a class, or of one of several."""
    found = leaves(model).items()
    return {path: layer for path, layer in found if isinstance(layer, cls)}


def alpha_of(layer):
    """The alpha of a layer as a float."""
    # Under a tf.distribute strategy `float(layer.alpha)` is refused.
    return float(ops.convert_to_numpy(layer.alpha))


def has_collapsed(layer):
    """Whether the alpha of a layer is at its lower bound.

    Not so where both bounds are one, as for a ReLU with a small `max_value`.
    """
    bound = layer.alpha_constraint
    is_fixed = bound.max_value is not None and (
        bound.max_value <= bound.min_value
    )
    return not is_fixed and alpha_of(layer) <= bound.min_value * (1 + 1e-6)


@contextlib.contextmanager
def watch(layer, on_call=None, before=None):
    """Tells of every call of a layer while the context is open.

    Args:
        layer: `keras.layers.Layer`.
        on_call: Function of `(args, output)`, the positional arguments of
            `layer.call` (the first one, if all are given by keyword) and what
            it returned. Defaults to `None`.
        before: Function of `args`, before the call. Defaults to `None`.
    """
    # A layer that Keras itself quantized (`layer.quantize`) runs the second.
    is_keras_int = getattr(layer, "quantization_mode", None) is not None
    name = "quantized_call" if is_keras_int else "call"
    attributes = vars(layer)
    kept = {name: attributes[name]} if name in attributes else {}
    call = getattr(layer, name)
    signature = inspect.signature(layer.call)

    @functools.wraps(call)
    def watched_call(*args, **kwargs):
        given = args or signature.bind(**kwargs).args[:1]
        if before is not None:
            before(given)
        output = call(*args, **kwargs)
        if on_call is not None:
            on_call(given, output)
        return output

    # Not by `setattr`, with which Keras tracks what a layer holds.
    attributes[name] = watched_call
    try:
        yield
    finally:
        del attributes[name]
        attributes.update(kept)
