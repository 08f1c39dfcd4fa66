"""Runs the cells of the slides' CIFAR-10 tables and sets them beside the paper.

    python examples/cifar10_table.py --plan=reduced --jobs=2 --threads=1
    python examples/cifar10_table.py --plan=paper --only='w4a_(bc|bcgd)_seed'

Runs that are done are skipped and those that were killed go on, so that the
same command may be given again and again. Every row of --results says what it
was trained on; a table is drawn for each plan by itself.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

from absl import app
from absl import flags

from cifar10_tables import cells
from cifar10_tables import plans
from cifar10_tables import report
from training import workdir as workdirs

FLAGS = flags.FLAGS
PROGRAM = pathlib.Path(__file__).with_name("cifar10.py")


def chosen_runs():
    """The runs that --only names, and those that they start from."""
    plan = plans.PLANS[FLAGS.plan]
    runs = plans.runs(plan, FLAGS.net)
    try:
        names = {run.name for run in runs if re.search(FLAGS.only, run.name)}
    except re.error as error:
        raise app.UsageError(f"--only={FLAGS.only!r}: {error}") from None
    if not names:
        raise app.UsageError(
            f"--only={FLAGS.only!r} fits no run; --dry_run lists them all"
        )
    names |= {run.start_name for run in runs if run.name in names}
    return [run for run in runs if run.name in names]


def folder_of(name):
    return pathlib.Path(FLAGS.runs_dir) / FLAGS.plan / name


def settings_of(run):
    """The flags of cifar10.py that make the run what it is."""
    return run.flags | {"seed": run.seed, "smoke": FLAGS.smoke}


def command(run):
    """The call of cifar10.py that begins a run or goes on with it."""
    arguments = settings_of(run) | {
        "workdir": folder_of(run.name),
        "steps_per_execution": FLAGS.steps_per_execution,
        "on_device": FLAGS.on_device,
        "checkpoint_seconds": FLAGS.checkpoint_seconds,
    }
    if run.start:
        arguments["init_from"] = folder_of(run.start_name) / "model.keras"
    if FLAGS.data_dir:
        arguments["data_dir"] = FLAGS.data_dir
    listed = [f"--{name}={value}" for name, value in arguments.items()]
    return [sys.executable, str(PROGRAM), "--resume", *listed]


def environment():
    found = dict(os.environ)
    if FLAGS.threads:
        for name in (
            "TF_NUM_INTRAOP_THREADS",
            "TF_NUM_INTEROP_THREADS",
            "OMP_NUM_THREADS",
        ):
            found[name] = str(FLAGS.threads)
    return found


def is_done(run):
    """Whether its folder has a result, and of these very settings.

    One of others is for cifar10.py to refuse.
    """
    path = folder_of(run.name) / "result.json"
    if not path.exists():
        return False
    config = workdirs.read_json(path)["config"]
    return all(config[name] == v for name, v in settings_of(run).items())


class Runner:
    """Does runs, several at once, each after the one it starts from."""

    def __init__(self, runs):
        self.by_name = {run.name: run for run in runs}
        self.runs = [run for run in runs if not is_done(run)]
        self.finished = {run.name: threading.Event() for run in self.runs}
        self.failed = []
        self.begin = time.monotonic()
        self.count = 0

    def do_all(self):
        with concurrent.futures.ThreadPoolExecutor(FLAGS.jobs) as pool:
            # In order: what a run waits for was begun before it.
            list(pool.map(self.do, self.runs))

    def do(self, run):
        try:
            if run.start_name in self.finished:
                self.finished[run.start_name].wait()
            if run.start and not is_done(self.by_name[run.start_name]):
                self.report(run, f"not run: {run.start_name} is missing")
                return
            folder = folder_of(run.name)
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "log.txt", "a", encoding="utf-8") as log:
                status = subprocess.run(
                    command(run),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment(),
                ).returncode
            if status:
                self.report(run, f"failed, see {folder / 'log.txt'}")
                return
            result = workdirs.read_json(folder / "result.json")
            accuracy = result["test_accuracy_last"]
            self.report(run, f"{accuracy:7.2%} in {result['seconds']:.0f} s")
        finally:
            self.finished[run.name].set()

    def report(self, run, text):
        self.count += 1
        if not is_done(run):
            self.failed.append(run.name)
        minutes = (time.monotonic() - self.begin) / 60
        left = minutes / self.count * (len(self.runs) - self.count)
        print(
            f"[{self.count}/{len(self.runs)}] {run.name}: {text} "
            f"({minutes:.0f} min, about {left:.0f} more)",
            flush=True,
        )


def row_of(run):
    """One row of the results: what was run, and what came out."""
    folder = folder_of(run.name)
    history = workdirs.read_json(folder / "history.json")
    if is_done(run):
        result = workdirs.read_json(folder / "result.json")
    else:
        result = {
            "config": workdirs.read_json(folder / "config.json"),
            **workdirs.accuracies(history),
            "machine": FLAGS.unfinished_on,
        }
    plan = plans.PLANS[FLAGS.plan]
    return {
        "plan": FLAGS.plan,
        "schedule": plan.text,
        "cell": run.cell,
        "seed": run.seed,
        "runs_at_the_same_time": FLAGS.jobs,
        **result,
        "test_accuracy_by_epoch": {
            epoch: entry["val_accuracy"]
            for epoch, entry in enumerate(history, 1)
            if "val_accuracy" in entry
        },
    }


def update_results(path, runs):
    """Puts the rows of finished runs into the file, beside those there.

    With --unfinished_on those of the others as well, as far as they are.
    """
    rows = workdirs.read_json(path) if path.exists() else []
    by_name = {(row["plan"], row["cell"], row["seed"]): row for row in rows}
    for run in runs:
        is_begun = (folder_of(run.name) / "history.json").exists()
        if is_done(run) or (FLAGS.unfinished_on and is_begun):
            row = row_of(run)
            row["config"].pop("init_from")
            by_name[row["plan"], row["cell"], row["seed"]] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    workdirs.write_json(path, list(by_name.values()))


def main(_):
    runs = chosen_runs()
    if FLAGS.dry_run:
        for run in runs:
            state = "done" if is_done(run) else "to do"
            print(f"{state:6} {run.name}: {' '.join(command(run)[3:])}")
        return
    failed = []
    if not FLAGS.unfinished_on:
        runner = Runner(runs)
        runner.do_all()
        failed = runner.failed
    if not FLAGS.smoke:
        results = pathlib.Path(FLAGS.results)
        update_results(results, runs)
        report.report(results, FLAGS.net)
    if failed:
        sys.exit(f"Not finished: {', '.join(failed)}")


if __name__ == "__main__":
    flags.DEFINE_enum("plan", "reduced", list(plans.PLANS), "The schedule.")
    flags.DEFINE_enum(
        "net", "resnet20", list(cells.PAPER_FLOAT), "The network."
    )
    flags.DEFINE_string("only", "", "A regular expression: runs of such names.")
    flags.DEFINE_string("data_dir", None, "See cifar10.py.")
    flags.DEFINE_string("runs_dir", "runs", "Where the folders of runs go.")
    flags.DEFINE_string(
        "results", "results/cifar10.json", "Where the rows go; figures beside."
    )
    flags.DEFINE_integer("jobs", 1, "Runs at the same time.", lower_bound=1)
    flags.DEFINE_integer("threads", 0, "Of each run; 0: TensorFlow's choice.")
    flags.DEFINE_integer("steps_per_execution", 1, "See cifar10.py.")
    flags.DEFINE_bool("on_device", False, "See cifar10.py.")
    flags.DEFINE_float("checkpoint_seconds", 0, "See cifar10.py.")
    flags.DEFINE_bool("dry_run", False, "Only list the runs.")
    flags.DEFINE_string(
        "unfinished_on",
        None,
        "Train nothing; write the rows of what is there, of runs that have not "
        "ended as well. The machine that these were trained on, in words.",
    )
    flags.DEFINE_bool(
        "smoke", False, "Random images, to try the program: no results."
    )
    app.run(main)
