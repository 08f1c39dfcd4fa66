"""Where a TFLite file first leaves the Keras model it came from.

The tensors of a file that hold what a Keras layer computes carry its name.
"""

import collections
import contextlib
import dataclasses
import functools

import keras
import numpy as np

from keras_bcgd.network import model_layers
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.verification import feeding

# XNNPACK does not show the tensors inside.
KERNELS_WITH_TENSORS = ("builtin", "reference", "micro")

# Samples that are looked at together, which bounds the memory.
_CHUNK = 16

# In steps. What is so near to the middle between two codes may be either: some
# kernels round twice, which moves the middle by hundredths of a step.
HALFWAY = 0.05


@dataclasses.dataclass
class Divergence:
    """The first tensor of a file that differs from the Keras layer.

    Attributes:
        name: String, the layer.
        different: Int, codes that are not the nearest to what it computes.
        codes: Int, codes compared.
        largest_difference: Int, from the nearest code, in steps.
        samples: Int, samples compared.

    Example:

    ```python
    found = keras_bcgd.first_divergence(model, "digits.tflite", x_test)
    if found is not None:
        print(found.name, found.different / found.codes)
    ```
    """

    name: str
    different: int
    codes: int
    largest_difference: int
    samples: int

    def __str__(self):
        return (
            f"'{self.name}', {self.different:,} of {self.codes:,} codes, by "
            f"{self.largest_difference} at most ({self.samples} samples)"
        )


def first_divergence(model, path, x, kernels="builtin"):
    """The first tensor, in the order in which they run, that differs.

    Tensors that have the name of no layer, or another shape than its output,
    are left out, and so are layers that run more than once. A code differs if
    it is not the nearest to what the Keras layer computes, within the range of
    the tensor.

    Args:
        model: The Keras model that was exported. Models inside it are looked
            into.
        path: String or path-like, the TFLite file.
        x: Array of inputs, as for `model.predict`. All are compared.
        kernels: String: `"builtin"`, `"reference"` or `"micro"`; the default
            kernels of the runtime do not show their tensors. Defaults to
            `"builtin"`.

    Returns:
        A `Divergence`, or `None` if every tensor compared is equal.

    Raises:
        ValueError: If an argument is not one of the above.
        ImportError: If `ai-edge-litert`, or for `"micro"` `tflite-micro`, is
            not installed.

    Example:

    ```python
    print(
        keras_bcgd.first_divergence(model, "digits.tflite", x_test[:64])
    )
    ```
    """
    if kernels not in KERNELS_WITH_TENSORS:
        raise ValueError(
            f"`kernels` must be one of {', '.join(KERNELS_WITH_TENSORS)}: the "
            f"others do not show their tensors. Received: kernels={kernels!r}"
        )
    layers = _layers_by_name(model)
    tensors = {
        tensor.name: tensor
        for operator in reader.read_tflite(path).operators
        for tensor in operator.outputs
        if tensor.name in layers and _is_grid(tensor)
    }
    if not tensors:
        return None
    watched = {name: layers[name] for name in tensors}
    outputs_of = WatchedModel(model, watched)
    runner = TFLiteRunner(path, kernels, keep_tensors=True)
    counts = {}
    arrays = feeding.by_input(x, model, runner.inputs)
    samples = feeding.number_of_samples(arrays)
    for start in range(0, samples, _CHUNK):
        part = {
            name: array[start : start + _CHUNK]
            for name, array in arrays.items()
        }
        expected = outputs_of.predict(feeding.for_model(part, model), verbose=0)
        found = runner.run_tensors(runner.quantize(part), tensors)
        for name, tensor in tensors.items():
            # No array, if the layer ran twice or has several outputs.
            codes = _without_height(found[name], expected.get(name))
            if getattr(expected.get(name), "shape", ()) == codes.shape:
                new = _compare(codes, expected[name], tensor)
                counts[name] = _added(counts.get(name, (0, 0, 0)), new)
    for name in tensors:
        different, codes, largest = counts.get(name, (0, 0, 0))
        if different:
            return Divergence(name, different, codes, largest, samples)
    return None


def _without_height(codes, real):
    """Codes of (time, features), which a file holds as maps of height 1."""
    is_map = getattr(real, "ndim", 0) == 3 and codes.ndim == 4
    return codes[:, 0] if is_map and codes.shape[1] == 1 else codes


def _is_grid(tensor):
    return len(tensor.scales) == 1 and tensor.dtype in (
        "int8",
        "int16",
        "uint8",
    )


def _compare(codes, real, tensor):
    """How many codes differ, of how many, and the largest difference."""
    limits = np.iinfo(codes.dtype)
    steps = real.astype(np.float64) / tensor.scales[0] + tensor.zero_points[0]
    steps = np.clip(steps, limits.min, limits.max)
    different = np.abs(codes - steps) > 0.5 + HALFWAY
    difference = np.abs(codes - np.round(steps))[different]
    return len(difference), codes.size, int(difference.max(initial=0))


def _added(first, second):
    return (
        first[0] + second[0],
        first[1] + second[1],
        max(first[2], second[2]),
    )


def _layers_by_name(model):
    """The layers of a model and of those inside it.

    A layer in a model `block` is "block/conv", and "conv" too. What is the
    name of two layers names none.
    """
    paths = list(model_layers.paths(model))
    counts = collections.Counter(layer.name for _, layer in paths)
    layers = dict(paths) | {layer.name: layer for _, layer in paths}
    return {name: layer for name, layer in layers.items() if counts[name] < 2}


class WatchedModel(keras.Model):
    """Runs a model and returns the outputs of some of its layers.

    Those of models inside it have no symbolic tensor that depends on its
    input, so that they are caught as the layers run.
    """

    def __init__(self, model, layers):
        super().__init__(autocast=False)
        self.model = model
        self.watched = layers

    def call(self, x):
        outputs = {name: [] for name in self.watched}
        with contextlib.ExitStack() as stack:
            for name, layer in self.watched.items():
                keep = functools.partial(_keep_output, outputs[name])
                stack.enter_context(model_layers.watch(layer, keep))
            self.model(x, training=False)
        # A layer that ran twice has no output of its own.
        return {name: o[0] for name, o in outputs.items() if len(o) == 1}


def _keep_output(outputs, args, output):
    outputs.append(output)
