"""The layers of a model and of the models within it, and their calls."""

import contextlib

import keras

from keras_bcgd.traversal import leaf_layers


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


def leaves(model):
    """The layers that are no models, each once, by their paths.

    Args:
        model: `keras.Model`.

    Returns:
        Dict from paths to layers. A layer that several models share has the
        path at which it is met first.

    Example:

    >>> inner = keras.Sequential([keras.layers.ReLU(name="relu")], name="in")
    >>> list(leaves(keras.Sequential([inner])))
    ['in/relu']
    """
    found, seen = {}, set()
    for path, layer in leaf_layers(model):
        if id(layer) not in seen:
            seen.add(id(layer))
            found[path] = layer
    return found


def leaves_of_class(model, cls):
    """The layers of a class, those of models within the model too."""
    return [layer for layer in leaves(model).values() if isinstance(layer, cls)]


@contextlib.contextmanager
def watch(layer, on_call):
    """Tells of every call of a layer while the context is open.

    Args:
        layer: `keras.layers.Layer`.
        on_call: Function of `(args, output)`, the positional arguments of
            `layer.call` and what it returned.
    """
    attributes = vars(layer)
    before = {key: attributes[key] for key in ["call"] if key in attributes}
    call = layer.call

    def watched_call(*args, **kwargs):
        output = call(*args, **kwargs)
        on_call(args, output)
        return output

    # Not by `setattr`, with which Keras tracks what a layer holds.
    attributes["call"] = watched_call
    try:
        yield
    finally:
        del attributes["call"]
        attributes.update(before)
