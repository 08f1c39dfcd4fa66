"""Runs TFLite files, on each of the three sets of kernels of the runtime."""

import dataclasses
import os
import warnings

import keras
import numpy as np

from keras_bcgd.tflite import reader
from keras_bcgd.tflite.schema import load_schema

# The three sets of kernels of the runtime, by the name of its op resolver.
KERNELS = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}


@dataclasses.dataclass
class Output:
    """An output of a file.

    Attributes:
        name: String, its name in the signature, or that of the tensor.
        shape: Tuple of ints, with the batch.
        dtype: NumPy type of its codes.
        scale: Float.
        zero_point: Int.
        index: Int, of the tensor in the runtime.
        tensor: `reader.Tensor`.
    """

    name: str
    shape: tuple
    dtype: type
    scale: float
    zero_point: int
    index: int
    tensor: reader.Tensor


class TFLiteRunner:
    """Runs a TFLite file with an integer input and integer outputs.

    Args:
        path: String or path-like, the file.
        kernels: String: `"xnnpack"`, `"builtin"` or `"reference"`.
        keep_tensors: Boolean. Whether the tensors inside can be read by
            `tensor` after a run, where the kernels fill them. Defaults to
            `False`.
    """

    def __init__(self, path, kernels="xnnpack", keep_tensors=False):
        self.path = str(path)
        self.interpreter = load_interpreter(self.path, kernels, keep_tensors)
        (self._input,) = self.interpreter.get_input_details()
        details_of_outputs = self.interpreter.get_output_details()
        for details in (self._input, *details_of_outputs):
            if not np.issubdtype(details["dtype"], np.integer):
                raise ValueError(
                    "The file at `path` must have an integer input and output, "
                    "as `export_tflite` writes. Received: "
                    f"'{details['name']}' of {details['dtype'].__name__}"
                )
        self.input_shape = tuple(map(int, self._input["shape"]))
        names = self._names_in_the_signature()
        tensors = {t.name: t for t in reader.read_tflite(path).tensors}
        self.outputs = [
            Output(
                names.get(details["index"], details["name"]),
                tuple(map(int, details["shape"])),
                details["dtype"],
                *details["quantization"],
                details["index"],
                tensors[details["name"]],
            )
            for details in details_of_outputs
        ]
        self.output_scale = self.outputs[0].scale
        self.output_zero_point = self.outputs[0].zero_point

    def _names_in_the_signature(self):
        """Dict from the indices of outputs to their names."""
        signatures = self.interpreter.get_signature_list()
        if len(signatures) != 1:
            return {}
        (key,) = signatures
        runner = self.interpreter.get_signature_runner(key)
        return {
            details["index"]: name
            for name, details in runner.get_output_details().items()
        }

    def quantize(self, x):
        """The input codes nearest to real inputs."""
        scale, zero_point = self._input["quantization"]
        limits = np.iinfo(self._input["dtype"])
        steps = np.asarray(x, np.float64) / scale + zero_point
        # A little less than 1/2: a grid halfway between two codes goes down
        # as a whole, where rounding errors would scatter it.
        codes = np.ceil(steps - 0.5 - 1e-4)
        codes = np.clip(codes, limits.min, limits.max)
        return codes.astype(self._input["dtype"])

    def tensor(self, name):
        """The codes of a tensor inside, after a run with `keep_tensors`."""
        for details in self.interpreter.get_tensor_details():
            if details["name"] == name:
                return self.interpreter.get_tensor(details["index"])
        raise ValueError(f"The file has no tensor of this name: {name!r}")

    def run(self, codes, verbose=0):
        """The output codes for input codes; the last batch is filled up.

        Args:
            codes: Integer array, any number of samples.
            verbose: Int. `1` shows a progress bar. Defaults to `0`.
        """
        progress = keras.utils.Progbar(len(codes), verbose=verbose)
        (output,) = self.run_outputs(codes, progress.add)
        return output

    def run_outputs(self, codes, on_batch=None):
        """The codes of every output; see `run`.

        Args:
            codes: Integer array, any number of samples.
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
            codes: Integer array, any number of samples.
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
        batch = self.input_shape[0]
        for start in range(0, len(codes), batch):
            part = codes[start : start + batch]
            missing = batch - len(part)
            full = np.concatenate([part, np.repeat(part[-1:], missing, 0)])
            self.interpreter.set_tensor(self._input["index"], full)
            self.interpreter.invoke()
            yield len(part)


def load_interpreter(source, kernels, keep_tensors=False, threads=1):
    """An interpreter of the runtime, ready to run.

    Args:
        source: String or path-like, a file, or bytes, its contents.
        kernels: String: `"xnnpack"`, `"builtin"` or `"reference"`.
        keep_tensors: Boolean. Defaults to `False`.
        threads: Int. Defaults to `1`.

    Raises:
        ValueError: If the runtime cannot load the file, or an argument is not
            one of the above.
        ImportError: If `ai-edge-litert` is not installed.
    """
    if kernels not in KERNELS:
        raise ValueError(
            f"`kernels` must be one of {', '.join(KERNELS)}. "
            f"Received: kernels={kernels!r}"
        )
    load_schema()  # raises where the runtime is not installed
    from ai_edge_litert import interpreter

    is_path = not isinstance(source, bytes)
    try:
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
            f"{error}. Received: {received}"
        ) from error
    return result
