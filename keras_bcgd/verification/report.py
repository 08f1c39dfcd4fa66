"""What a verification counted, as text."""

import dataclasses

from keras_bcgd.utils import tables
from keras_bcgd.verification.divergence import Divergence


@dataclasses.dataclass
class VerificationReport:
    """How the answers of a file compare with those of its model.

    First every value: the file's code must be the nearest one to what the
    model computes, as far as the kernels can round it. Then what the values
    decide, by `task`: a decision is one class (of a sample, or of a pixel), or
    one yes or no. `decisions = equal + rounding_differences +
    inside_differences`.

    Attributes:
        path: String, the file.
        kernels: String, the kernels it ran on.
        output: String, the name of the output, `None` if it is the only one.
        samples: Int.
        task: String: `"classification"`, `"binary"`, `"multilabel"` or
            `"regression"`, which has no decisions.
        threshold: Float, above which an output says yes; `None` in other
            tasks.
        is_task_inferred: Boolean. Whether the task was not given.
        values: Int, the values compared.
        different_values: Int, those whose code is not the nearest one.
        larger_differences: Int, those of them that are wrong by more than one
            step.
        clipped_values: Int, values of the model outside of the file's range.
        largest_difference: Float, of all values, clipped or not, in steps of
            the file's output.
        decisions: Int.
        equal: Int, decisions that are equal, with no tie in the file.
        ties: Int, decisions of the file between equal codes, or by a code
            exactly at the threshold.
        equal_ties: Int, those of them that agree with the model's.
        rounding_differences: Int, decisions that are not equal because the
            steps of the output are too coarse: all codes are the nearest.
        inside_differences: Int, the others that are not equal: the file
            computes something else.
        model_accuracy: Float, the share of the model's decisions that are the
            labels', or `None` without labels.
        file_accuracy: Float, the same of the file's.
        model_error: Float, for a regression: the mean absolute difference of
            the model's values from the labels, or `None`.
        file_error: Float, the same of the file's.
        traced: String, the kernels on which tensors inside were compared, or
            `None`.
        first_divergence: `Divergence`, the first tensor inside that differs
            from the Keras layer, or `None`.

    Example:

    ```python
    report = keras_bcgd.verify_tflite(model, "digits.tflite", x_test, y_test)
    print(report.equal, "of", report.decisions, "predictions are equal,")
    print(report.inside_differences, "others not by rounding of the output")
    assert report.is_equal
    ```
    """

    path: str
    kernels: str
    output: str | None
    samples: int
    task: str
    threshold: float | None
    is_task_inferred: bool
    values: int
    different_values: int
    larger_differences: int
    clipped_values: int
    largest_difference: float
    decisions: int
    equal: int
    ties: int
    equal_ties: int
    rounding_differences: int
    inside_differences: int
    model_accuracy: float | None = None
    file_accuracy: float | None = None
    model_error: float | None = None
    file_error: float | None = None
    traced: str | None = None
    first_divergence: Divergence | None = None

    @property
    def agreement(self):
        """The share of equal decisions; of a regression, of equal values."""
        if self.task == "regression":
            wrong = self.different_values + self.clipped_values
            return 1 - wrong / self.values
        return self.equal / self.decisions

    @property
    def is_equal(self):
        """Whether all values and decisions are equal.

        Of a classification values may be clipped: the small ones do not
        decide.
        """
        return not (
            self.different_values
            or (self.clipped_values and self.task != "classification")
            or self.equal < self.decisions
        )

    @property
    def verdict(self):
        """One line: equal or not, and why."""
        if self.is_equal:
            parts = [f"{self.values:,} values"]
            if self.decisions:
                parts.insert(0, f"{self.decisions:,} decisions")
            clipped = ""
            if self.clipped_values:
                clipped = f" ({self.clipped_values:,} values are clipped)"
            return f"equal: all {' and '.join(parts)}{clipped}"
        return f"NOT equal: {'; '.join(self._reasons())}"

    def _reasons(self):
        where = ""
        if self.first_divergence is not None:
            where = f", first in '{self.first_divergence.name}'"
        if self.inside_differences:
            yield (
                f"{self.inside_differences:,} of {self.decisions:,} decisions "
                f"differ inside{where}"
            )
        elif self.different_values:
            yield (
                f"{self.different_values:,} of {self.values:,} values "
                f"differ{where}"
            )
        if self.rounding_differences:
            yield (
                f"{self.rounding_differences:,} of {self.decisions:,} "
                "decisions by rounding of the output, as it has too few steps"
            )
        if self.clipped_values and self.task != "classification":
            yield (
                f"{self.clipped_values:,} of {self.values:,} values are "
                "outside of the file's range"
            )

    def __str__(self):
        rows = zip(_LABELS, _cells(self), strict=True)
        lines = [self.verdict, _title(self)]
        lines += _indented([row for row in rows if row[1] is not None])
        return "\n".join([*lines, *_divergence_lines(self)])


def _title(report):
    output = f" '{report.output}'" if report.output else ""
    how = "inferred" if report.is_task_inferred else "given"
    threshold = ""
    if report.threshold is not None:
        threshold = f", threshold {report.threshold:g}"
    return (
        f"{report.path}{output} on {report.kernels} kernels, "
        f"{report.samples:,} samples, task {report.task} ({how}{threshold})"
    )


_LABELS = (
    "values",
    "  not the nearest code",
    "    by more than one step",
    "  clipped",
    "largest difference, steps of the output",
    "equal decisions",
    "different",
    "ties in the file",
    "  with equal decisions",
    "not equal by rounding of the output",
    "not equal by differences inside",
    "accuracy in Keras",
    "accuracy in the file",
    "mean absolute error in Keras",
    "mean absolute error in the file",
)


def _cells(report):
    """What stands behind each of the labels; `None`: does not apply."""
    decisions = [None] * 6
    if report.decisions:
        decisions = [
            f"{report.equal:,} ({report.equal / report.decisions:.2%})",
            f"{report.decisions - report.equal - report.ties:,}",
            f"{report.ties:,}",
            f"{report.equal_ties:,}",
            f"{report.rounding_differences:,}",
            f"{report.inside_differences:,}",
        ]
    return (
        f"{report.values:,}",
        f"{report.different_values:,}",
        f"{report.larger_differences:,}",
        f"{report.clipped_values:,}",
        f"{report.largest_difference:,.2f}",
        *decisions,
        _percent(report.model_accuracy),
        _percent(report.file_accuracy),
        _number(report.model_error),
        _number(report.file_error),
    )


def _percent(share):
    return None if share is None else f"{share:.2%}"


def _number(value):
    return None if value is None else f"{value:.6g}"


def _indented(rows):
    return [f"  {line}" for line in tables.columns([list(r) for r in rows])]


def _divergence_lines(report):
    if report.traced is None:
        return []
    where = report.first_divergence or "none in the tensors compared"
    return [f"  first divergence inside ({report.traced}): {where}"]


@dataclasses.dataclass
class KernelsReport:
    """One `VerificationReport` for each set of kernels, and each output.

    Printed, a table.

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
        """The smallest share of equal decisions, or values."""
        return min(report.agreement for report in self.reports)

    @property
    def is_equal(self):
        """Whether all values and decisions are equal in each of them."""
        return all(report.is_equal for report in self.reports)

    def __str__(self):
        lines = []
        for report in self.reports:
            lines.append(f"{_column(report)}: {report.verdict}")
        lines += dict.fromkeys(map(_title, self.reports))
        columns = [["", *_LABELS]]
        columns += [
            [_column(report), *_cells(report)] for report in self.reports
        ]
        rows = [
            ["-" if cell is None else cell for cell in row]
            for row in zip(*columns, strict=True)
            if any(cell is not None for cell in row[1:])
        ]
        lines += _indented(rows)
        for report in self.reports:
            lines += _divergence_lines(report)
        return "\n".join(lines)


def _column(report):
    if report.output is None:
        return report.kernels
    return f"{report.kernels}/{report.output}"
