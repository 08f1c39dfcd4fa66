"""The data of a command, by the inputs and outputs of its model."""

from keras_bcgd.network import ends
from keras_bcgd.utils import user_files


def load(path, model):
    """`(x, y)`: of several inputs or outputs, dicts by their names."""
    names = [(), ()]
    if len(getattr(model, "inputs", None) or ()) > 1:
        names[0] = ends.input_names(model)
    if len(getattr(model, "outputs", None) or ()) > 1:
        names[1] = ends.output_names(model)
    return user_files.load_data(path, *names)
