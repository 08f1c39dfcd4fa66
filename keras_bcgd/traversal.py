"""The layers of a model and of the models within it."""

import keras


def leaf_layers(model, prefix=""):
    """The layers that are no models themselves.

    Args:
        model: A `keras.Model`.
        prefix: String, what the paths begin with. Defaults to `""`.

    Yields:
        `(path, layer)`: the name after those of the models it is in, as
        `"inner/conv1"`, and the layer.
    """
    for layer in model.layers:
        path = f"{prefix}{layer.name}"
        if isinstance(layer, keras.Model):
            yield from leaf_layers(layer, f"{path}/")
        else:
            yield path, layer
