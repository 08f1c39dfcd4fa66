"""A copy of a model, to be aligned in its place."""

import keras
import numpy as np

from keras_bcgd.network import model_layers


def copy_model(model):
    """A model of the same layers, names and weights, not compiled.

    Args:
        model: A built `keras.Sequential` or functional model.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If Keras cannot make a layer again from its config.
    """
    try:
        copy = keras.models.clone_model(model)
        # Copies, as JAX gives a buffer up with the first model that runs.
        copy.set_weights([np.array(weight) for weight in model.get_weights()])
    except Exception as error:
        raise ValueError(
            f"The model '{model.name}' cannot be copied, which the alignment "
            f"needs: {error}. Use `align_for_export` on the model itself, and "
            "export it with align=False."
        ) from error
    for layer in model_layers.leaves(copy).values():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return copy
