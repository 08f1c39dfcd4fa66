"""Holds an exported TFLite file against the Keras model it came from."""

import dataclasses
import warnings

import keras
import numpy as np

from keras_bcgd import tflite_format

# The three sets of kernels of the runtime, by the name of its op resolver.
KERNELS = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}


@dataclasses.dataclass
class VerificationReport:
    """How a file's predictions compare with the model's.

    A prediction is the index of the largest output, the lowest one on a tie.

    Attributes:
        path: String, the file.
        kernels: String, the kernels it ran on.
        samples: Int.
        equal: Int, samples with equal predictions and no tie in the file.
        ties: Int, samples in which the file's largest output occurs twice.
        equal_ties: Int, those of them with equal predictions.
        largest_difference: Float, the largest difference of an output from
            the model's, in steps of the file's output; the model's outputs
            are clipped to the range of the file's first.
        model_accuracy: Float, or `None` without labels.
        file_accuracy: Float, or `None` without labels.
    """

    path: str
    kernels: str
    samples: int
    equal: int
    ties: int
    equal_ties: int
    largest_difference: float
    model_accuracy: float | None = None
    file_accuracy: float | None = None

    @property
    def agreement(self):
        """The share of samples with equal predictions and no tie."""
        return self.equal / self.samples

    def __str__(self):
        different = self.samples - self.equal - self.ties
        lines = [
            f"{self.path} on {self.kernels} kernels, {self.samples} samples",
            f"  equal predictions   {self.equal} ({self.agreement:.2%})",
            f"  different           {different}",
            f"  ties in the file    {self.ties}, of which {self.equal_ties} "
            "with equal predictions",
            "  largest difference  "
            f"{self.largest_difference:.2f} steps of the output",
        ]
        if self.model_accuracy is not None:
            lines.append(
                f"  accuracy            {self.model_accuracy:.2%} in Keras, "
                f"{self.file_accuracy:.2%} in the file"
            )
        return "\n".join(lines)


def verify_tflite(
    model, path, x, y=None, kernels="xnnpack", batch_size=256, verbose=0
):
    """Runs a file and its model on the same inputs and compares predictions.

    Args:
        model: The Keras model that was exported.
        path: String or path-like, the TFLite file.
        x: Array of inputs, as for `model.predict`.
        y: Array of labels: one integer for each sample, or one-hot. Defaults
            to `None`: no accuracies.
        kernels: String, the kernels of the runtime: `"xnnpack"` (its
            default), `"builtin"` (no delegate) or `"reference"`. Defaults to
            `"xnnpack"`.
        batch_size: Int, the batch of the Keras model; that of the file is
            fixed in it. Defaults to `256`.
        verbose: Int. `1` shows a progress bar. Defaults to `0`.

    Returns:
        A `VerificationReport`; printed, it is a few lines.

    Raises:
        ValueError: If an argument is not one of the above.
        ImportError: If `ai-edge-litert` is not installed.

    Example:

    ```python
    report = keras_bcgd.verify_tflite(model, "digits.tflite", x, y)
    print(report.agreement)
    ```
    """
    x = np.asarray(x)
    runner = TFLiteRunner(path, kernels)
    _check_inputs(x, runner.input_shape)
    labels = None if y is None else _labels(y, len(x))
    expected = model.predict(x, batch_size=batch_size, verbose=0)
    codes = runner.run(runner.quantize(x), verbose)
    if expected.shape != codes.shape:
        raise ValueError(
            "The outputs of `model` and of the file at `path` must have the "
            f"same shape. Received: {expected.shape[1:]} and {codes.shape[1:]}"
        )

    expected = expected.reshape(len(x), -1).astype(np.float64)
    codes = codes.reshape(len(x), -1)
    model_prediction = np.argmax(expected, axis=1)
    file_prediction = np.argmax(codes, axis=1)
    same = model_prediction == file_prediction
    largest = codes.max(axis=1, keepdims=True)
    tie = np.sum(codes == largest, axis=1) > 1

    steps = expected / runner.output_scale + runner.output_zero_point
    limits = np.iinfo(codes.dtype)
    difference = np.abs(codes - np.clip(steps, limits.min, limits.max))
    report = VerificationReport(
        path=runner.path,
        kernels=kernels,
        samples=len(x),
        equal=int(np.sum(same & ~tie)),
        ties=int(np.sum(tie)),
        equal_ties=int(np.sum(same & tie)),
        largest_difference=float(difference.max()),
    )
    if labels is not None:
        report.model_accuracy = float(np.mean(model_prediction == labels))
        report.file_accuracy = float(np.mean(file_prediction == labels))
    return report


class TFLiteRunner:
    """Runs a TFLite file with integer input and output.

    Args:
        path: String or path-like, the file.
        kernels: String: `"xnnpack"`, `"builtin"` or `"reference"`.
        keep_tensors: Boolean. Whether the tensors inside can be read by
            `tensor` after a run, where the kernels fill them. Defaults to
            `False`.
    """

    def __init__(self, path, kernels="xnnpack", keep_tensors=False):
        if kernels not in KERNELS:
            raise ValueError(
                f"`kernels` must be one of {', '.join(KERNELS)}. "
                f"Received: kernels={kernels!r}"
            )
        self.path = str(path)
        self.interpreter = _interpreter(self.path, kernels, keep_tensors)
        (self._input,) = self.interpreter.get_input_details()
        (self._output,) = self.interpreter.get_output_details()
        for details in (self._input, self._output):
            if not np.issubdtype(details["dtype"], np.integer):
                raise ValueError(
                    "The file at `path` must have an integer input and output, "
                    "as `export_tflite` writes. Received: "
                    f"'{details['name']}' of {details['dtype'].__name__}"
                )
        self.input_shape = tuple(map(int, self._input["shape"]))
        self.output_scale, self.output_zero_point = self._output["quantization"]

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
        batch = self.input_shape[0]
        progress = keras.utils.Progbar(len(codes), verbose=verbose)
        outputs = []
        for start in range(0, len(codes), batch):
            part = codes[start : start + batch]
            missing = batch - len(part)
            full = np.concatenate([part, np.repeat(part[-1:], missing, 0)])
            self.interpreter.set_tensor(self._input["index"], full)
            self.interpreter.invoke()
            output = self.interpreter.get_tensor(self._output["index"])
            outputs.append(output[: len(part)])
            progress.update(start + len(part))
        return np.concatenate(outputs)


def _interpreter(path, kernels, keep_tensors):
    tflite_format.schema()  # raises where the runtime is not installed
    from ai_edge_litert import interpreter

    resolver = getattr(interpreter.OpResolverType, KERNELS[kernels])
    try:
        with warnings.catch_warnings():
            # To keep the tensors costs memory: so it warns, but we ask.
            warnings.simplefilter("ignore")
            result = interpreter.Interpreter(
                model_path=path,
                experimental_op_resolver_type=resolver,
                experimental_preserve_all_tensors=keep_tensors,
            )
        result.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "`path` must be a TFLite file that the runtime can load: "
            f"{error}. Received: path={path!r}"
        ) from error
    return result


def _check_inputs(x, input_shape):
    if x.shape[1:] != input_shape[1:] or not len(x):
        raise ValueError(
            "`x` must have the shape (samples, "
            f"{', '.join(map(str, input_shape[1:]))}) and at least one sample."
            f" Received: shape {x.shape}"
        )


def _labels(y, count):
    y = np.asarray(y)
    if y.ndim == 0 or len(y) != count:
        raise ValueError(
            "`y` must have one label for each sample in `x`. Received: "
            f"{y.size if y.ndim == 0 else len(y)} labels for {count} samples"
        )
    labels = y.reshape(count, -1)
    return labels[:, 0] if labels.shape[1] == 1 else np.argmax(labels, axis=1)
