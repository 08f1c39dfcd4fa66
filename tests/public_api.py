"""What users may import: the names that the documentation has to have."""

import keras_bcgd
from keras_bcgd import theory

MODULES = (keras_bcgd, keras_bcgd.models, theory)


def public_callables():
    """{dotted name: object} of the functions and classes for users."""
    return {
        f"{module.__name__}.{name}": value
        for module in MODULES
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and value.__module__.startswith(module.__name__)
    }
