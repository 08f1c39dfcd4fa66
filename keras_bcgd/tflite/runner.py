"""Runs TFLite files: on the three sets of kernels of LiteRT, or on TFLM."""

import dataclasses
import os
import pathlib
import warnings

import keras
import numpy as np

from keras_bcgd.tflite import lut
from keras_bcgd.tflite import micro
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.schema import load_schema

# The three sets of kernels of the runtime, by the name of its op resolver.
KERNELS = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
# TensorFlow Lite Micro, a runtime of its own, is named like a fourth set.
MICRO = "micro"


@dataclasses.dataclass
class Input:
    """An input of a file.

    Attributes:
        name: String, its name in the signature, or that of the tensor.
        shape: Tuple of ints, with the batch.
        dtype: NumPy type of its codes.
        scale: Float.
        zero_point: Int.
        index: Int, of the tensor in the runtime.
    """

    name: str
    shape: tuple
    dtype: type
    scale: float
    zero_point: int
    index: int

    def quantize(self, x):
        """The codes nearest to real numbers."""
        limits = np.iinfo(self.dtype)
        steps = np.asarray(x, np.float64) / self.scale + self.zero_point
        # A little less than 1/2: a grid halfway between two codes goes down as
        # a whole, where rounding errors would scatter it.
        codes = np.ceil(steps - 0.5 - 1e-4)
        codes = np.clip(codes, limits.min, limits.max)
        return codes.astype(self.dtype)


@dataclasses.dataclass
class Output(Input):
    """An output of a file.

    Attributes:
        tensor: `reader.Tensor`; the others are those of `Input`.
    """

    tensor: reader.Tensor


class TFLiteRunner:
    """Runs a TFLite file with integer inputs and outputs.

    What goes in is an array, or with several inputs a dict of arrays by their
    names: a runtime may have them in any order.

    Args:
        path: String or path-like, the file.
        kernels: String: `"xnnpack"`, `"builtin"` or `"reference"` of LiteRT,
            or `"micro"`: TensorFlow Lite Micro.
        keep_tensors: Boolean. Whether the tensors inside can be read by
            `tensor` after a run, where the kernels fill them. Defaults to
            `False`.
    """

    def __init__(self, path, kernels="xnnpack", keep_tensors=False):
        self.path = str(path)
        self.interpreter = load_interpreter(self.path, kernels, keep_tensors)
        details_of_inputs = self.interpreter.get_input_details()
        details_of_outputs = self.interpreter.get_output_details()
        for details in (*details_of_inputs, *details_of_outputs):
            if not np.issubdtype(details["dtype"], np.integer):
                raise ValueError(
                    "The file at `path` must have an integer input and output, "
                    "as `export_tflite` writes. Received: "
                    f"'{details['name']}' of {details['dtype'].__name__}"
                )
        file = reader.read_tflite(path)
        names_of_inputs, names = _names_in_the_signature(file.model)
        tensors = {t.name: t for t in file.tensors}
        self.inputs = [
            Input(*_end(details, names_of_inputs))
            for details in details_of_inputs
        ]
        self.outputs = [
            Output(*_end(details, names), tensors[details["name"]])
            for details in details_of_outputs
        ]
        self.batch_size = self.inputs[0].shape[0]
        self.output_scale = self.outputs[0].scale
        self.output_zero_point = self.outputs[0].zero_point

    def quantize(self, x):
        """The input codes nearest to real inputs.

        Args:
            x: Array, or a dict of arrays by the names of the inputs.

        Returns:
            The same of integers.
        """
        if not isinstance(x, dict):
            (only,) = self.inputs
            return only.quantize(x)
        return {one.name: one.quantize(x[one.name]) for one in self.inputs}

    def tensor(self, name):
        """The codes of a tensor inside, after a run with `keep_tensors`."""
        for details in self.interpreter.get_tensor_details():
            if details["name"] == name:
                return self.interpreter.get_tensor(details["index"])
        raise ValueError(f"The file has no tensor of this name: {name!r}")

    def run(self, codes, verbose=0):
        """The output codes for input codes; the last batch is filled up.

        Args:
            codes: Integer array, or a dict of them by the names of the inputs,
                any number of samples.
            verbose: Int. `1` shows a progress bar. Defaults to `0`.
        """
        samples = len(next(iter(self._by_input(codes).values())))
        progress = keras.utils.Progbar(samples, verbose=verbose)
        (output,) = self.run_outputs(codes, progress.add)
        return output

    def run_outputs(self, codes, on_batch=None):
        """The codes of every output; see `run`.

        Args:
            codes: As for `run`.
            on_batch: Function of the number of samples just done, or `None`.

        Returns:
            List of integer arrays, in the order of `outputs`.
        """
        parts = [[] for _ in self.outputs]
        for done in self._batches(codes):
            for part, output in zip(parts, self.outputs, strict=True):
                tensor = self.interpreter.get_tensor(output.index)
                part.append(tensor[:done])
            if on_batch is not None:
                on_batch(done)
        return [np.concatenate(part) for part in parts]

    def run_tensors(self, codes, names):
        """The codes of tensors inside; the file needs `keep_tensors`.

        Args:
            codes: As for `run`.
            names: Strings, tensors with one row for each sample.

        Returns:
            Dict from names to integer arrays.
        """
        indices = {
            details["name"]: details["index"]
            for details in self.interpreter.get_tensor_details()
        }
        parts = {name: [] for name in names}
        for done in self._batches(codes):
            for name, part in parts.items():
                tensor = self.interpreter.get_tensor(indices[name])
                part.append(tensor[:done])
        return {name: np.concatenate(part) for name, part in parts.items()}

    def _batches(self, codes):
        """Runs batch after batch and yields the number of samples in each."""
        codes = self._by_input(codes)
        samples = len(next(iter(codes.values())))
        for start in range(0, samples, self.batch_size):
            for one in self.inputs:
                part = codes[one.name][start : start + self.batch_size]
                missing = self.batch_size - len(part)
                full = np.concatenate([part, np.repeat(part[-1:], missing, 0)])
                self.interpreter.set_tensor(one.index, full)
            self.interpreter.invoke()
            yield len(part)

    def _by_input(self, codes):
        """Dict from the names of the inputs to arrays."""
        if isinstance(codes, dict):
            return codes
        (only,) = self.inputs
        return {only.name: codes}


def input_names(file):
    """What a runner calls the inputs of a `reader.TFLiteFile`: a list."""
    graph = file.model.subgraphs[0]
    names, _ = _names_in_the_signature(file.model)
    return [
        names.get(index, (graph.tensors[index].name or b"").decode())
        for index in map(int, graph.inputs)
    ]


def _names_in_the_signature(model):
    """Two dicts from indices to names: of the inputs and the outputs."""
    signatures = model.signatureDefs or []
    if len(signatures) != 1:
        return {}, {}
    (signature,) = signatures
    return tuple(
        {one.tensorIndex: one.name.decode() for one in ends or []}
        for ends in (signature.inputs, signature.outputs)
    )


def _end(details, names):
    """The attributes of an `Input`, from what the runtime says of it."""
    return (
        names.get(details["index"], details["name"]),
        tuple(map(int, details["shape"])),
        details["dtype"],
        *details["quantization"],
        details["index"],
    )


def load_interpreter(source, kernels, keep_tensors=False, threads=1):
    """An interpreter of the runtime, ready to run.

    Args:
        source: String or path-like, a file, or bytes, its contents.
        kernels: String: `"xnnpack"`, `"builtin"`, `"reference"` or `"micro"`.
        keep_tensors: Boolean. Defaults to `False`.
        threads: Int; TensorFlow Lite Micro has one. Defaults to `1`.

    Raises:
        ValueError: If the runtime cannot load the file, or an argument is not
            one of the above.
        ImportError: If `ai-edge-litert`, or for `"micro"` `tflite-micro`, is
            not installed.
    """
    if kernels not in (*KERNELS, MICRO):
        raise ValueError(
            f"`kernels` must be one of {', '.join((*KERNELS, MICRO))}. "
            f"Received: kernels={kernels!r}"
        )
    load_schema()  # raises where the runtime is not installed
    is_path = not isinstance(source, bytes)
    try:
        if kernels == MICRO:
            data = pathlib.Path(source).read_bytes() if is_path else source
            return micro.MicroInterpreter(data, keep_tensors)
        from ai_edge_litert import interpreter

        with warnings.catch_warnings():
            # To keep the tensors costs memory: so it warns, but we ask.
            warnings.simplefilter("ignore")
            result = interpreter.Interpreter(
                model_path=os.fspath(source) if is_path else None,
                model_content=None if is_path else source,
                num_threads=threads,
                experimental_op_resolver_type=getattr(
                    interpreter.OpResolverType, KERNELS[kernels]
                ),
                experimental_preserve_all_tensors=keep_tensors,
            )
        result.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        received = f"path={str(source)!r}" if is_path else "its contents"
        raise ValueError(
            "`path` must be a TFLite file that the runtime can load: "
            f"{_reason(error)}. Received: {received}"
        ) from error
    return result


def _reason(error):
    """Why a runtime does not load a file."""
    if lut.OPERATOR not in str(error):
        return str(error)
    return (
        "its weights are compressed for TensorFlow Lite Micro, which LiteRT "
        'cannot run: give `verify_tflite` `kernels="micro"`, or export with '
        "another `weight_format`"
    )
