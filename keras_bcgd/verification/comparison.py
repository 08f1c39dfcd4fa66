"""Values, decisions and labels of one output, counted batch by batch."""

import dataclasses

import numpy as np

from keras_bcgd.verification.tolerance import tolerance


@dataclasses.dataclass
class Counts:
    """What was counted so far; the attributes of `VerificationReport`."""

    samples: int = 0
    values: int = 0
    different_values: int = 0
    larger_differences: int = 0
    clipped_values: int = 0
    largest_difference: float = 0.0
    decisions: int = 0
    equal: int = 0
    ties: int = 0
    equal_ties: int = 0
    rounding_differences: int = 0
    inside_differences: int = 0
    labels: int = 0
    model_score: float = 0.0
    file_score: float = 0.0


class Comparison:
    """One output of a file against that of its model.

    Args:
        file: `tflite.reader.TFLiteFile`.
        output: `tflite.runner.Output`.
        kernels: String.
        task: `tasks.Task`.
    """

    def __init__(self, file, output, kernels, task):
        self.file = file
        self.output = output
        self.kernels = kernels
        self.task = task
        self.counts = Counts()

    def add(self, codes, expected, labels=None):
        """Counts a batch.

        Args:
            codes: Integer array of shape `(samples, ..., outputs)`.
            expected: Float array of that shape, what the model computes.
            labels: Array as of `tasks.read_labels`, or `None`.

        Returns:
            Boolean array: which samples differ in a value or a decision.
        """
        scale, zero_point = self.output.scale, self.output.zero_point
        expected = expected.astype(np.float64)
        codes = codes.astype(np.int64)
        steps = expected / scale + zero_point
        limits = np.iinfo(self.output.dtype)
        rounded = np.clip(steps, limits.min, limits.max)
        allowed = 0.5 + tolerance(
            self.file,
            self.output.tensor,
            self.kernels,
            np.max(np.abs(steps - zero_point), initial=0.0),
        )
        difference = np.abs(codes - rounded)
        is_different = difference > allowed
        counts = self.counts
        counts.samples += len(codes)
        counts.values += codes.size
        counts.different_values += int(np.sum(is_different))
        counts.larger_differences += int(np.sum(difference > 1 + allowed))
        counts.clipped_values += int(
            np.sum(
                (steps < limits.min - allowed) | (steps > limits.max + allowed)
            )
        )
        counts.largest_difference = max(
            counts.largest_difference,
            float(np.max(np.abs(codes - steps), initial=0.0)),
        )
        differs = is_different
        if self.task.name != "regression":
            differs = differs | self._add_decisions(
                codes, expected, is_different, labels
            )
        elif labels is not None:
            real = scale * (codes - zero_point)
            self._add_scores(
                labels.size,
                np.sum(np.abs(expected - labels)),
                np.sum(np.abs(real - labels)),
            )
        return differs.reshape(len(codes), -1).any(axis=1)

    def _add_decisions(self, codes, expected, is_different, labels):
        """Which decisions are not equal, in an array that broadcasts."""
        task, counts = self.task, self.counts
        ours, _ = task.decide(expected, task.threshold)
        threshold = task.threshold / self.output.scale + self.output.zero_point
        files, tie = task.decide(codes, threshold)
        same = ours == files
        equal = same & ~tie
        if not task.has_threshold:
            # One decision of several values: none of them may differ.
            is_different = is_different.any(axis=-1)
        counts.decisions += equal.size
        counts.equal += int(np.sum(equal))
        counts.ties += int(np.sum(tie))
        counts.equal_ties += int(np.sum(same & tie))
        counts.rounding_differences += int(np.sum(~equal & ~is_different))
        counts.inside_differences += int(np.sum(~equal & is_different))
        if labels is not None:
            self._add_scores(
                equal.size, np.sum(ours == labels), np.sum(files == labels)
            )
        return ~equal if task.has_threshold else ~equal[..., None]

    def _add_scores(self, labels, model_score, file_score):
        self.counts.labels += int(labels)
        self.counts.model_score += float(model_score)
        self.counts.file_score += float(file_score)
