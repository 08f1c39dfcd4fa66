"""Goes through the calls of a model and hands each to its reader."""

import collections

import keras

from keras_bcgd.export import support
from keras_bcgd.layers import Composite
from keras_bcgd.network import model_layers
from keras_bcgd.network.calls import REPEATED
from keras_bcgd.network.calls import input_keys
from keras_bcgd.network.calls import read_calls
from keras_bcgd.network.ends import input_names
from keras_bcgd.network.functional import UnreadableError
from keras_bcgd.onnx.readers import reader_of
from keras_bcgd.onnx.tensor import Tensor
from keras_bcgd.onnx.writer import Unsupported


class Conversion:
    """Writes a model, and collects what it refuses.

    Args:
        model: A built `keras.Sequential` or functional model.
        writer: `Writer`.
    """

    def __init__(self, model, writer):
        self._model = model
        self._writer = writer
        self._problems = []
        self._wholes = {}  # id of a part: the layer that it is a part of
        for _, layer in model_layers.paths(model):
            if isinstance(layer, Composite):
                parts = (part for part, _ in layer.parts)
                self._wholes.update((id(part), layer) for part in parts)

    def run(self, inputs):
        """Writes the layers.

        Args:
            inputs: List of `Tensor`.

        Returns:
            List of `Tensor`, the outputs.

        Raises:
            ValueError: If something cannot be written: names all of it.
        """
        self._check_inputs()
        calls, keys = self._read_calls()
        tensors = dict(zip(input_keys(self._model), inputs, strict=True))
        for call in calls:
            sources = [tensors[key] for key in call.sources]
            tensors[call.key] = self._write(call, sources)
        self._check()
        return [tensors[key] for key in keys]

    def add(self, layer, advice):
        """Notes a problem, and only once; for `read_calls` too."""
        layer = self._wholes.get(id(layer), layer)
        line = f"'{layer.name}' ({type(layer).__name__}): {advice}"
        if line not in self._problems:
            self._problems.append(line)

    def _check(self):
        if self._problems:
            raise ValueError(
                "The model cannot be exported to ONNX; nothing was written. "
                "Received:\n- " + "\n- ".join(self._problems)
            )

    def _check_inputs(self):
        names = input_names(self._model)
        for name, tensor in zip(names, self._model.inputs, strict=True):
            if None in tensor.shape[1:]:
                self.add(
                    self._model,
                    f"the size of the input '{name}' must be fixed, but for "
                    "the batch, as in keras.Input((224, 224, 3)); it is "
                    f"{tuple(tensor.shape[1:])}",
                )
        self._check()

    def _read_calls(self):
        try:
            calls, keys = read_calls(self._model, self)
        except UnreadableError as error:
            for layer in error.layers:
                if reader_of(layer) is None:
                    self.add(layer, support.GENERAL_ADVICE)
            self._check()
            raise
        counts = collections.Counter(
            id(call.layer) for call in calls if call.index == 0
        )
        for call in calls:
            if counts[id(call.layer)] > 1:
                self.add(call.layer, REPEATED)
        self._check()
        return calls, keys

    def _write(self, call, sources):
        """What a call computes, a `Tensor`."""
        layer = call.layer
        try:
            return _reader(layer)(self._writer, layer, call.key, *sources)
        except Unsupported as error:
            self.add(layer, error)
        # To find the other problems, too.
        return Tensor(call.key, self._output_shape(call, sources))

    def _output_shape(self, call, sources):
        if hasattr(call.layer, "output"):
            output = keras.tree.flatten(call.layer.output)[call.index]
            return tuple(output.shape[1:])
        # The part of a layer: no model has called it.
        shapes = [(None, *x.shape) for x in sources]
        shape = call.layer.compute_output_shape(
            shapes if len(shapes) > 1 else shapes[0]
        )
        return tuple(shape[1:])


def _reader(layer):
    if getattr(layer, "data_format", None) == "channels_first":
        raise Unsupported("use data_format='channels_last'")
    if getattr(layer, "quantization_mode", None) is not None:
        raise Unsupported(
            "Keras has quantized it: export the float model instead, or what "
            "`quantize_model` makes of it"
        )
    reader = reader_of(layer)
    if reader is None:
        raise Unsupported(_advice(layer))
    return reader


def _advice(layer):
    if support.has_integer_form(layer):
        return "`export_tflite` writes it, `export_onnx` does not yet"
    return support.GENERAL_ADVICE
