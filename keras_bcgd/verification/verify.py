"""verify_tflite: runs a file and its model on the same inputs."""

import math

import keras
import numpy as np

from keras_bcgd.network import ends
from keras_bcgd.tflite import reader
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import MICRO
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.utils.batches import read_batches
from keras_bcgd.utils.checks import check_count
from keras_bcgd.utils.progress_bar import Progress
from keras_bcgd.verification import feeding
from keras_bcgd.verification import tasks
from keras_bcgd.verification.comparison import Comparison
from keras_bcgd.verification.divergence import KERNELS_WITH_TENSORS
from keras_bcgd.verification.divergence import first_divergence
from keras_bcgd.verification.report import KernelsReport
from keras_bcgd.verification.report import VerificationReport

# Whose tensors inside are compared when the kernels do not show their own.
_TRACED = "builtin"


def verify_tflite(
    model,
    path,
    x,
    y=None,
    kernels="xnnpack",
    batch_size=256,
    verbose="auto",
    trace=None,
    trace_samples=64,
    task=None,
    threshold=None,
):
    """Runs a file and its model on the same inputs and compares the answers.

    Each value of each output first, then what it decides; docs/verification.md
    explains the report.

    Args:
        model: The Keras model that the file answers as: `report.model` of
            `export_tflite`.
        path: String or path-like, the TFLite file.
        x: Inputs, in a form that `keras_bcgd.calibrate` takes: an array, a
            `tf.data.Dataset`, a generator of batches, with labels or not. Of
            several inputs a list in the order of the model's, or a dict by
            name; the file gets them by name.
        y: Array of labels, `None` if there are none or `x` has them. By task:
            the classes as integers, one-hot or as shares, one for each sample
            or pixel; 0 or 1 for one output; as many of these as outputs; or
            numbers. Of several outputs a list in the order of the model's, or a
            dict by name. Defaults to `None`.
        kernels: String, the kernels of LiteRT: `"xnnpack"` (its default),
            `"builtin"` (no delegate) or `"reference"`; or `"micro"`,
            TensorFlow Lite Micro. Defaults to `"xnnpack"`.
        batch_size: Int, the batch of the Keras model; that of the file is
            fixed in it. Defaults to `256`.
        verbose: `"auto"`, 0 or 1. 0 shows no progress bar, `"auto"` one if it
            takes more than some seconds. Defaults to `"auto"`.
        trace: Boolean. Whether to look for the first tensor inside that
            differs from the Keras layer. `None`: only if a value differs. The
            default kernels do not show their tensors: then the builtin ones
            are compared. Defaults to `None`.
        trace_samples: Int, how many samples are traced, those that differ
            first. Defaults to `64`.
        task: String: `"classification"`, the largest along the last axis;
            `"binary"`, one output above a threshold; `"multilabel"`, each
            output above it; or `"regression"`, values only. `None`: by the
            shape of the output, its activation and the labels. Of several
            outputs also a dict by name. Defaults to `None`.
        threshold: Float. `None`: 0.5 after a sigmoid, else 0.0. Of several
            outputs also a dict by name. Defaults to `None`.

    Returns:
        A `VerificationReport`; printed, some lines, of which the first says
        whether all is equal. For a file with several outputs a
        `KernelsReport`, with one for each.

    Raises:
        ValueError: If an argument is not one of the above.
        ImportError: If `ai-edge-litert`, or for `"micro"` `tflite-micro`, is
            not installed.

    Example:

    ```python
    report = keras_bcgd.verify_tflite(model, "digits.tflite", x_test, y_test)
    print(report)
    assert report.is_equal
    ```
    """
    reports = _Verification(
        model, path, [kernels], task, threshold, trace, trace_samples
    ).run(x, y, batch_size, verbose)
    return reports[0] if len(reports) == 1 else KernelsReport(reports)


def verify_tflite_on_all_kernels(
    model,
    path,
    x,
    y=None,
    batch_size=256,
    verbose="auto",
    trace=None,
    trace_samples=64,
    task=None,
    threshold=None,
    micro=False,
):
    """`verify_tflite` on each of the three sets of kernels of LiteRT.

    Args:
        model: All arguments are those of `verify_tflite`.
        path: See there.
        x: See there.
        y: See there.
        batch_size: See there.
        verbose: See there.
        trace: See there.
        trace_samples: See there.
        task: See there.
        threshold: See there.
        micro: Boolean. Whether to run the file on TensorFlow Lite Micro as
            well. Defaults to `False`.

    Returns:
        A `KernelsReport`; printed, it is a table.

    Raises:
        ValueError: If an argument is not one of the above.
        ImportError: If `ai-edge-litert`, or with `micro` `tflite-micro`, is
            not installed.

    Example:

    ```python
    print(
        keras_bcgd.verify_tflite_on_all_kernels(
            model, "digits.tflite", x_test, y_test
        )
    )
    ```
    """
    kernel_sets = (*KERNELS, MICRO) if micro else KERNELS
    return KernelsReport(
        _Verification(
            model, path, kernel_sets, task, threshold, trace, trace_samples
        ).run(x, y, batch_size, verbose)
    )


class _Verification:
    """One model and one file, on some sets of kernels."""

    def __init__(
        self, model, path, kernel_sets, task, threshold, trace, trace_samples
    ):
        if trace not in (None, True, False):
            raise ValueError(
                "`trace` must be True, False or None. "
                f"Received: trace={trace!r}"
            )
        check_count("trace_samples", trace_samples)
        self.model = model
        self.trace, self.trace_samples = trace, trace_samples
        self.runners = {k: TFLiteRunner(path, k) for k in kernel_sets}
        self.runner = next(iter(self.runners.values()))
        names = [output.name for output in self.runner.outputs]
        self.tasks = ends.by_output(task, names, "task")
        self.thresholds = ends.by_output(threshold, names, "threshold")
        self.order = None  # where the file's outputs are among the model's
        self.file = reader.read_tflite(path)
        self.comparisons = {}  # (kernels, place of the output): Comparison
        # The same: samples that differ, and others, for a trace.
        self.differing, self.others = {}, {}

    def run(self, x, y, batch_size, verbose):
        """The list of reports."""
        data = feeding.with_labels(x, y, self.model)
        read, number = read_batches(data, self.model, batch_size, name="x")
        total = feeding.number_of_samples(x) if number else None
        if total is not None:
            total *= len(self.runners)
        bar = Progress(total, verbose, "sample")
        for x, *rest in read:
            arrays = feeding.by_input(x, self.model, self.runner.inputs)
            labels = rest[0] if rest else None
            expected = self.model.predict(
                feeding.for_model(arrays, self.model),
                batch_size=batch_size,
                verbose=0,
            )
            expected = self._in_order(expected)
            labels = self._labels(labels, expected)
            for kernels, runner in self.runners.items():
                codes = runner.run_outputs(runner.quantize(arrays))
                self._compare(kernels, arrays, codes, expected, labels)
                bar.add(len(codes[0]))
        return [self._report(*key) for key in self.comparisons]

    def _in_order(self, predicted):
        """The model's outputs in the order of the file's."""
        outputs = self.runner.outputs
        expected = keras.tree.flatten(predicted)
        if len(expected) != len(outputs):
            raise ValueError(
                "`model` and the file at `path` must have as many outputs. "
                f"Received: {len(expected)} and {len(outputs)}"
            )
        names = feeding.output_names(self.model, predicted)
        found = [output.name for output in outputs]
        self.order = list(range(len(outputs)))
        if len(outputs) > 1 and set(found) == set(names):
            self.order = [names.index(name) for name in found]
        expected = [expected[place] for place in self.order]
        for values, output in zip(expected, outputs, strict=True):
            if values.shape[1:] != output.shape[1:]:
                raise ValueError(
                    "The outputs of `model` and of the file at `path` must "
                    f"have the same shape. Received: {values.shape[1:]} and "
                    f"{output.shape[1:]}"
                )
        return expected

    def _labels(self, labels, expected):
        """The labels of each output, `None` where there are none."""
        if labels is None:
            return [None] * len(expected)
        if len(expected) == 1:
            return [np.asarray(keras.tree.flatten(labels)[0])]
        if isinstance(labels, dict):
            names = [output.name for output in self.runner.outputs]
            return ends.by_output(labels, names, "y")
        labels = list(labels)
        if len(labels) != len(expected):
            raise ValueError(
                "`y` must be a list of labels for each output. Received: "
                f"{len(labels)} for {len(expected)} outputs"
            )
        return [labels[place] for place in self.order]

    def _compare(self, kernels, arrays, codes, expected, labels):
        for place, output in enumerate(self.runners[kernels].outputs):
            key = kernels, place
            shape = _without_ones(output.shape[1:])
            if key not in self.comparisons:
                task = tasks.choose(
                    self.tasks[place],
                    self.thresholds[place],
                    shape,
                    labels[place],
                    tasks.final_activation(self.model, self.order[place]),
                )
                self.comparisons[key] = Comparison(
                    self.file, output, kernels, task
                )
                self.differing[key], self.others[key] = [], []
            comparison = self.comparisons[key]
            wanted = labels[place]
            if wanted is not None:
                wanted = tasks.read_labels(comparison.task, wanted, shape)
            differs = comparison.add(
                codes[place].reshape(-1, *shape),
                expected[place].reshape(-1, *shape),
                wanted,
            )
            for kept, which in (
                (self.differing[key], differs),
                (self.others[key], ~differs),
            ):
                places = np.flatnonzero(which)
                for i in places[: self.trace_samples - len(kept)]:
                    kept.append({name: x[i] for name, x in arrays.items()})

    def _report(self, kernels, place):
        comparison = self.comparisons[kernels, place]
        counts, task = comparison.counts, comparison.task
        scores = [None] * 4
        if counts.labels:
            means = [
                score / counts.labels
                for score in (counts.model_score, counts.file_score)
            ]
            is_error = task.name == "regression"
            scores = [None, None, *means] if is_error else [*means, None, None]
        several = len(self.runner.outputs) > 1
        traced, found = self._trace(kernels, place)
        return VerificationReport(
            path=self.runner.path,
            kernels=kernels,
            output=comparison.output.name if several else None,
            samples=counts.samples,
            task=task.name,
            threshold=task.threshold if task.has_threshold else None,
            is_task_inferred=task.is_inferred,
            values=counts.values,
            different_values=counts.different_values,
            larger_differences=counts.larger_differences,
            clipped_values=counts.clipped_values,
            largest_difference=counts.largest_difference,
            decisions=counts.decisions,
            equal=counts.equal,
            ties=counts.ties,
            equal_ties=counts.equal_ties,
            rounding_differences=counts.rounding_differences,
            inside_differences=counts.inside_differences,
            model_accuracy=scores[0],
            file_accuracy=scores[1],
            model_error=scores[2],
            file_error=scores[3],
            traced=traced,
            first_divergence=found,
        )

    def _trace(self, kernels, place):
        """`(kernels that were traced, Divergence)`, or two `None`."""
        wanted = self.trace
        if wanted is None:
            wanted = self.comparisons[kernels, place].counts.different_values
            wanted = wanted and isinstance(self.model, keras.Model)
        if not wanted:
            return None, None
        samples = self.differing[kernels, place] + self.others[kernels, place]
        samples = samples[: self.trace_samples]
        x = {
            name: np.stack([sample[name] for sample in samples])
            for name in samples[0]
        }
        traced = kernels if kernels in KERNELS_WITH_TENSORS else _TRACED
        path = self.runner.path
        x = feeding.for_model(x, self.model)
        return traced, first_divergence(self.model, path, x, traced)


def _without_ones(shape):
    """Of a map of one place, the shape of that place."""
    return shape[-1:] if math.prod(shape[:-1]) == 1 else shape
