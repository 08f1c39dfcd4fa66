"""Holds an exported TFLite file against the Keras model it came from."""

import dataclasses

import keras
import numpy as np

from keras_bcgd import tables
from keras_bcgd.divergence import HALFWAY
from keras_bcgd.divergence import KERNELS_WITH_TENSORS
from keras_bcgd.divergence import Divergence
from keras_bcgd.divergence import first_divergence
from keras_bcgd.tflite_runner import KERNELS as KERNELS
from keras_bcgd.tflite_runner import TFLiteRunner as TFLiteRunner


@dataclasses.dataclass
class VerificationReport:
    """How a file's predictions compare with the model's.

    A prediction is the index of the largest output, the lowest one on a tie.
    `samples = equal + rounding_differences + inside_differences`.

    Attributes:
        path: String, the file.
        kernels: String, the kernels it ran on.
        samples: Int.
        equal: Int, samples with equal predictions and no tie in the file.
        ties: Int, samples in which the file's largest output occurs twice.
        equal_ties: Int, those of them with equal predictions.
        rounding_differences: Int, samples that are not equal because the
            steps of the output are too coarse: rounded to them, the model's
            own largest outputs tie, and the file predicts one of these.
        inside_differences: Int, the others that are not equal: the file
            computes something else.
        largest_difference: Float, the largest difference of an output from
            the model's, in steps of the file's output; the model's outputs
            are clipped to the range of the file's first.
        model_accuracy: Float, or `None` without labels.
        file_accuracy: Float, or `None` without labels.
        traced: Boolean, whether the tensors inside were compared.
        first_divergence: `Divergence`, the first tensor inside that differs
            from the Keras layer, or `None`.

    Example:

    ```python
    report = keras_bcgd.verify_tflite(model, "digits.tflite", x_test, y_test)
    print(report.equal, "of", report.samples, "predictions are equal,")
    print(report.inside_differences, "others not by rounding of the output")
    ```
    """

    path: str
    kernels: str
    samples: int
    equal: int
    ties: int
    equal_ties: int
    rounding_differences: int
    inside_differences: int
    largest_difference: float
    model_accuracy: float | None = None
    file_accuracy: float | None = None
    traced: bool = False
    first_divergence: Divergence | None = None

    @property
    def agreement(self):
        """The share of samples with equal predictions and no tie."""
        return self.equal / self.samples

    def __str__(self):
        title = f"{self.path} on {self.kernels} kernels, {self.samples} samples"
        rows = zip(_LABELS, _cells(self), strict=True)
        return "\n".join([title, *_indented(rows), *_divergence_lines(self)])


_LABELS = (
    "equal predictions",
    "different",
    "ties in the file",
    "  with equal predictions",
    "not equal by rounding of the output",
    "not equal by differences inside",
    "largest difference, steps of the output",
    "accuracy in Keras",
    "accuracy in the file",
)


def _cells(report):
    return (
        f"{report.equal} ({report.agreement:.2%})",
        str(report.samples - report.equal - report.ties),
        str(report.ties),
        str(report.equal_ties),
        str(report.rounding_differences),
        str(report.inside_differences),
        f"{report.largest_difference:.2f}",
        _percent(report.model_accuracy),
        _percent(report.file_accuracy),
    )


def _percent(share):
    return "-" if share is None else f"{share:.2%}"


def _indented(rows):
    return [f"  {line}" for line in tables.columns(list(rows))]


def _divergence_lines(report):
    if not report.traced:
        return []
    where = report.first_divergence or "none in the tensors compared"
    return [f"  first divergence inside ({report.kernels}): {where}"]


@dataclasses.dataclass
class KernelsReport:
    """One `VerificationReport` for each set of kernels; printed, a table.

    Attributes:
        reports: List of `VerificationReport`.

    Example:

    ```python
    report = keras_bcgd.verify_tflite_on_all_kernels(
        model, "digits.tflite", x_test
    )
    for one in report.reports:
        print(one.kernels, one.agreement)
    ```
    """

    reports: list

    @property
    def agreement(self):
        """The smallest share of samples with equal predictions and no tie."""
        return min(report.agreement for report in self.reports)

    def __str__(self):
        first = self.reports[0]
        columns = [["", *_LABELS]]
        columns += [
            [report.kernels, *_cells(report)] for report in self.reports
        ]
        lines = [f"{first.path}, {first.samples} samples"]
        lines += _indented(zip(*columns, strict=True))
        for report in self.reports:
            lines += _divergence_lines(report)
        return "\n".join(lines)


def verify_tflite(
    model,
    path,
    x,
    y=None,
    kernels="xnnpack",
    batch_size=256,
    verbose=0,
    trace=None,
    trace_samples=64,
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
        trace: Boolean. Whether to look for the first tensor inside that
            differs from the Keras layer. `None`: only if predictions differ
            that rounding of the output does not explain. The default kernels
            do not show their tensors: on them there is never a trace.
            Defaults to `None`.
        trace_samples: Int, how many samples are traced, those with different
            predictions first. Defaults to `64`.

    Returns:
        A `VerificationReport`; printed, it is a few lines.

    Raises:
        ValueError: If an argument is not one of the above.
        ImportError: If `ai-edge-litert` is not installed.

    Example:

    ```python
    report = keras_bcgd.verify_tflite(model, "digits.tflite", x_test, y_test)
    print(report.agreement)
    ```
    """
    (report,) = _verify(
        [kernels], model, path, x, y, batch_size, verbose, trace, trace_samples
    )
    return report


def verify_tflite_on_all_kernels(
    model,
    path,
    x,
    y=None,
    batch_size=256,
    verbose=0,
    trace=None,
    trace_samples=64,
):
    """`verify_tflite` on each of the three sets of kernels.

    Args:
        model, path, x, y, batch_size, verbose, trace, trace_samples: As in
            `verify_tflite`.

    Returns:
        A `KernelsReport`; printed, it is a table.

    Raises:
        ValueError: If an argument is not one of the above.
        ImportError: If `ai-edge-litert` is not installed.

    Example:

    ```python
    print(
        keras_bcgd.verify_tflite_on_all_kernels(
            model, "digits.tflite", x_test, y_test
        )
    )
    ```
    """
    return KernelsReport(
        _verify(
            KERNELS,
            model,
            path,
            x,
            y,
            batch_size,
            verbose,
            trace,
            trace_samples,
        )
    )


def _verify(
    kernel_sets, model, path, x, y, batch_size, verbose, trace, trace_samples
):
    """A report for each set of kernels; the model runs once."""
    x = np.asarray(x)
    runners = {kernels: TFLiteRunner(path, kernels) for kernels in kernel_sets}
    for runner in runners.values():
        _check_inputs(x, runner.input_shape)
    _check_trace(trace, trace_samples)
    labels = None if y is None else _labels(y, len(x))
    expected = model.predict(x, batch_size=batch_size, verbose=0)
    reports = []
    for kernels, runner in runners.items():
        report, inside = _compare(runner, kernels, x, labels, expected, verbose)
        wanted = trace
        if trace is None:
            wanted = np.any(inside) and isinstance(model, keras.Model)
        if wanted and kernels in KERNELS_WITH_TENSORS:
            chosen = np.argsort(~inside, kind="stable")[:trace_samples]
            report.traced = True
            report.first_divergence = first_divergence(
                model, path, x[chosen], kernels
            )
        reports.append(report)
    return reports


def _compare(runner, kernels, x, labels, expected, verbose):
    """The report without a trace, and which samples differ inside."""
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
    tie = np.sum(_is_largest(codes), axis=1) > 1

    steps = expected / runner.output_scale + runner.output_zero_point
    limits = np.iinfo(codes.dtype)
    steps = np.clip(steps, limits.min, limits.max)
    tied = _may_tie(steps)
    explained = np.sum(tied, axis=1) > 1
    explained &= tied[np.arange(len(x)), file_prediction]
    equal = same & ~tie
    inside = ~equal & ~explained
    report = VerificationReport(
        path=runner.path,
        kernels=kernels,
        samples=len(x),
        equal=int(np.sum(equal)),
        ties=int(np.sum(tie)),
        equal_ties=int(np.sum(same & tie)),
        rounding_differences=int(np.sum(~equal & explained)),
        inside_differences=int(np.sum(inside)),
        largest_difference=float(np.abs(codes - steps).max()),
    )
    if labels is not None:
        report.model_accuracy = float(np.mean(model_prediction == labels))
        report.file_accuracy = float(np.mean(file_prediction == labels))
    return report, inside


def _is_largest(outputs):
    return outputs == outputs.max(axis=1, keepdims=True)


def _may_tie(steps):
    """Which outputs can be the largest code once they are rounded.

    Rounding keeps the order: all that it can do is to make a tie. What is
    halfway between two codes may become either.
    """
    low = np.ceil(steps - 0.5 - HALFWAY)
    high = np.floor(steps + 0.5 + HALFWAY)
    return high >= low.max(axis=1, keepdims=True)


def _check_inputs(x, input_shape):
    if x.shape[1:] != input_shape[1:] or not len(x):
        raise ValueError(
            "`x` must have the shape (samples, "
            f"{', '.join(map(str, input_shape[1:]))}) and at least one sample."
            f" Received: shape {x.shape}"
        )


def _check_trace(trace, trace_samples):
    if trace not in (None, True, False):
        raise ValueError(
            f"`trace` must be True, False or None. Received: trace={trace!r}"
        )
    if not isinstance(trace_samples, (int, np.integer)) or trace_samples < 1:
        raise ValueError(
            "`trace_samples` must be an integer above 0. "
            f"Received: trace_samples={trace_samples!r}"
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
