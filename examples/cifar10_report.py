"""Draws the slides' CIFAR-10 tables from a results file, ours beside theirs.

    python examples/cifar10_report.py --results=results/cifar10.json

Prints a table for each plan and writes, beside the results, one picture of it
and one of the curves with and without blending.
"""

from absl import app
from absl import flags

from cifar10_tables import cells
from cifar10_tables import report


def main(_):
    report.report(flags.FLAGS.results, flags.FLAGS.net)


if __name__ == "__main__":
    flags.DEFINE_string("results", "results/cifar10.json", "The rows.")
    flags.DEFINE_enum(
        "net", "resnet20", list(cells.PAPER_FLOAT), "The network."
    )
    app.run(main)
