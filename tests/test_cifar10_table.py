"""The tables of CIFAR-10: which runs, in which order, and what is drawn."""

import collections
import dataclasses
import json

import pytest
from absl import app

import cifar10_table
from cifar10_tables import cells
from cifar10_tables import levers
from cifar10_tables import plans
from cifar10_tables import report

REDUCED = plans.PLANS["reduced"]
NETS = list(cells.PAPER_FLOAT)


# Runs


@pytest.mark.parametrize("plan", plans.PLANS.values())
@pytest.mark.parametrize("net", NETS)
def test_every_run_starts_from_an_earlier_one(plan, net):
    seen = set()
    for run in plans.runs(plan, net):
        assert run.name not in seen
        assert run.start_name is None or run.start_name in seen
        assert (run.start is None) == (run.flags.get("stage") == "float")
        seen.add(run.name)


def test_the_cells_of_the_slides_tables():
    """Three-valued all columns; the two other derivatives at 1W4A."""
    runs = plans.runs(REDUCED, "resnet20")
    seeds = collections.Counter(run.cell for run in runs)
    for bits in (1, 2, 4):
        for method in ("bc", "bcgd"):
            count = 3 if bits == 1 else 2
            assert seeds[f"resnet20_{bits}w4a_{method}"] == count
    assert seeds["resnet20_32w4a_bcgd"] == 2
    for gradient in ("ae", "two_valued"):
        for method in ("bc", "bcgd"):
            assert seeds[f"resnet20_1w4a_{method}_{gradient}"] == 2


def test_the_flags_of_a_run():
    runs = {run.name: run for run in plans.runs(REDUCED, "resnet20")}
    run = runs["resnet20_2w4a_bc_seed1"]
    assert run.start_name == "resnet20_float_seed1"
    assert run.flags == {
        "net": "resnet20",
        "train_images": 5000,
        "weight_bits": 2,
        "activation_bits": 4,
        "blending": 0.0,
        "epochs": 4,
        "validation_freq": 2,
    }
    assert runs["resnet20_1w4a_bcgd_ae_seed0"].flags["blending"] == 1e-5
    assert runs["resnet20_1w4a_bcgd_ae_seed0"].flags["alpha_gradient"] == "ae"
    # The curves of these two are drawn: every epoch is tested.
    for method in ("bc", "bcgd"):
        flags_of_run = runs[f"resnet20_1w4a_{method}_seed0"].flags
        assert "validation_freq" not in flags_of_run


def test_variants_differ_from_the_papers_recipe_by_what_they_say():
    runs = {run.name: run for run in plans.runs(REDUCED, "resnet20")}
    for variant, (columns, changed) in cells.VARIANTS.items():
        for column in columns:
            name = f"resnet20_{column.lower()}_bcgd"
            base = runs[f"{name}_seed0"].flags | {"validation_freq": 2}
            flags_of_run = runs[f"{name}_{variant}_seed0"].flags
            assert flags_of_run == base | changed


@pytest.mark.parametrize(
    ("gradient", "net", "column", "method", "accuracy"),
    [
        ("ae", "vgg11", "32W4A", "BC", 91.74),
        ("ae", "resnet20", "1W4A", "BCGD", 90.10),
        ("three_valued", "resnet20", "2W4A", "BC", 91.02),
        ("three_valued", "vgg11", "4W4A", "BCGD", 91.70),
        ("two_valued", "resnet20", "4W4A", "BC", 91.37),
    ],
)
def test_the_papers_numbers(gradient, net, column, method, accuracy):
    """Read off the slides once more, one in each corner."""
    found = cells.paper_accuracy(net, gradient, column, method)
    assert found == accuracy


def test_levers_change_one_thing_each():
    found = plans.runs(plans.PLANS["levers"], "resnet20")
    runs = {run.name: run for run in found}
    start = "resnet20_float_recommended_seed0"
    for seed in (0, 1):
        for column in levers.COLUMNS:
            name = f"resnet20_{column.lower()}_bcgd_recommended"
            base = runs[f"{name}_seed{seed}"]
            assert base.start_name == start
            for lever, changed in levers.LEVERS.items():
                run = runs[f"{name}_{lever}_seed{seed}"]
                assert run.start_name == start
                assert run.flags == base.flags | changed
    run = runs["resnet20_1w4a_bcgd_recommended_progressive_seed1"]
    assert run.start_name == "resnet20_2w4a_bcgd_recommended_seed1"
    # On the full schedule each seed has a float network of its own.
    found = plans.runs(plans.PLANS["beyond"], "vgg11")
    assert {run.start_name for run in found if run.seed == 2} == {
        None,
        "vgg11_float_recommended_seed2",
        "vgg11_4w4a_bcgd_recommended_seed2",
        "vgg11_2w4a_bcgd_recommended_seed2",
    }


# The report


def row(cell, seed, accuracy, plan="reduced"):
    return {
        "plan": plan,
        "schedule": plans.PLANS[plan].text,
        "cell": cell,
        "seed": seed,
        "machine": "a machine",
        "config": {"net": "resnet20", "epochs": 2},
        "epochs": 2,
        "test_accuracy_last": accuracy,
        "test_accuracy_best": accuracy + 0.01,
        "test_accuracy_by_epoch": {"1": accuracy / 2, "2": accuracy},
    }


ROWS = [
    row("resnet20_float", 0, 0.50),
    row("resnet20_float", 1, 0.52),
    row("resnet20_float_long", 0, 0.53),
    row("resnet20_1w4a_bc", 0, 0.40),
    row("resnet20_1w4a_bc", 1, 0.46),
    row("resnet20_1w4a_bcgd", 0, 0.41),
    row("resnet20_1w4a_bcgd", 1, 0.42),
    row("resnet20_1w4a_bcgd_mse", 0, 0.45),
    row("resnet20_1w4a_bcgd", 0, 0.9005, plan="paper"),
]


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "cifar10.json"
    path.write_text(json.dumps(ROWS))
    return path


def test_levers_beside_the_recommended_recipe(tmp_path, capsys):
    path = tmp_path / "cifar10.json"
    base = levers.cell("resnet20", "1W4A")
    lever = levers.cell("resnet20", "1W4A", "lsq")
    rows = [
        row(base, 0, 0.40, "levers"),
        row(base, 1, 0.44, "levers"),
        row(lever, 1, 0.47, "levers") | {"test_accuracy_as_trained": 0.46},
    ]
    path.write_text(json.dumps(rows))
    report.report(path, "resnet20")
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if "46.00" in line)
    cells_of_line = [part.strip() for part in line.split("|")[1:-1]]
    assert cells_of_line[1:4] == ["1W4A", "46.00", "47.00"]
    assert cells_of_line[4] == "+3.00 [+3.00, +3.00]"


def test_plans_are_kept_apart(results):
    found = report.load(results, "resnet20")
    assert found["paper"].text("resnet20_1w4a_bcgd") == "90.05"
    assert found["reduced"].text("resnet20_1w4a_bcgd") == "41.50 ±0.50 (2)"
    assert found["reduced"].text("resnet20_2w4a_bcgd") == ""


def test_differences_are_of_equal_seeds(results):
    found = report.load(results, "resnet20")["reduced"]
    bc, bcgd = "resnet20_1w4a_bc", "resnet20_1w4a_bcgd"
    assert found.difference(bcgd, bc) == "-1.50 [-4.00, +1.00]"
    assert found.difference(bcgd, "resnet20_float_long").startswith("-12.00")
    assert found.difference(bcgd, "resnet20_none") == ""


def test_the_printed_tables(results, capsys):
    report.report(results, "resnet20")
    text = capsys.readouterr().out
    reduced, paper = text.split("=== resnet20, the paper's schedule")
    assert "REDUCED" in reduced and "REDUCED" not in paper
    assert "51.00 ±1.00 (2) / 92.41" in reduced
    assert "43.00 ±3.00 (2) / 89.37" in reduced
    assert "90.05 / 90.05" in paper
    assert "| mse " in reduced and "+4.00 [+4.00, +4.00]" in reduced
    # No table of derivatives that nobody ran.
    assert "two_valued" not in text
    for plan in ("reduced", "paper"):
        for picture in ("table", "curves"):
            file = results.with_name(f"cifar10_resnet20_{plan}_{picture}.png")
            assert file.stat().st_size > 10_000


# The runner


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """`do(runs)` with a program that writes a result, or fails for seed 1."""
    program = tmp_path / "program.py"
    program.write_text(
        "import ast, json, pathlib, sys\n"
        "def literal(text):\n"
        "    try: return ast.literal_eval(text)\n"
        "    except (SyntaxError, ValueError): return text\n"
        "given = dict(a[2:].partition('=')[::2] for a in sys.argv[2:])\n"
        "if given['seed'] == '1': sys.exit('bad luck')\n"
        "if 'init_from' in given:\n"
        "    assert pathlib.Path(given['init_from']).exists(), given\n"
        "folder = pathlib.Path(given['workdir'])\n"
        "(folder / 'model.keras').write_text('')\n"
        "(folder / 'history.json').write_text(\n"
        "    json.dumps([{'val_accuracy': 0.25}, {}]))\n"
        "(folder / 'result.json').write_text(json.dumps(\n"
        "    {'test_accuracy_last': 0.5, 'seconds': 1, 'config':\n"
        "     {'init_from': 0, **{k: literal(given[k]) for k in given}}}))\n"
        "with open(folder.parent / 'calls', 'a') as calls:\n"
        "    calls.write(folder.name + '\\n')\n"
    )
    monkeypatch.setattr(cifar10_table, "PROGRAM", program)
    values = {
        "plan": "reduced",
        "net": "resnet20",
        "only": "",
        "steps_per_execution": 1,
        "on_device": False,
        "checkpoint_seconds": 0,
        "runs_dir": str(tmp_path / "runs"),
        "jobs": 3,
        "threads": 1,
        "data_dir": None,
        "smoke": False,
        "unfinished_on": None,
    }
    monkeypatch.setattr(
        cifar10_table, "FLAGS", collections.namedtuple("F", values)(**values)
    )
    return tmp_path


def runs_of(*names):
    runs = plans.runs(REDUCED, "resnet20")
    return [run for run in runs if run.name in names]


def test_runs_wait_for_their_start_and_are_done_once(runner):
    names = ["resnet20_float_seed0", "resnet20_1w4a_bc_seed0"]
    for _ in range(2):
        doing = cifar10_table.Runner(runs_of(*names))
        doing.do_all()
        assert not doing.failed
    calls = (runner / "runs" / "reduced" / "calls").read_text().split()
    assert calls == names


def test_a_failure_stops_only_what_needs_it(runner, capsys):
    names = ["resnet20_float_seed0", "resnet20_float_seed1"]
    doing = cifar10_table.Runner(runs_of(*names, "resnet20_1w4a_bc_seed1"))
    doing.do_all()
    assert sorted(doing.failed) == [
        "resnet20_1w4a_bc_seed1",
        "resnet20_float_seed1",
    ]
    text = capsys.readouterr().out
    assert "resnet20_float_seed1 is missing" in text
    log = runner / "runs/reduced/resnet20_float_seed1/log.txt"
    assert "bad luck" in log.read_text()


def test_rows_are_added_to_those_of_other_plans(runner):
    path = runner / "results" / "cifar10.json"
    path.parent.mkdir()
    path.write_text(json.dumps([row("resnet20_float", 0, 0.9, plan="paper")]))
    runs = runs_of("resnet20_float_seed0")
    cifar10_table.Runner(runs).do_all()
    for _ in range(2):
        cifar10_table.update_results(path, runs)
        rows = json.loads(path.read_text())
        assert [found["plan"] for found in rows] == ["paper", "reduced"]
    assert rows[1]["test_accuracy_by_epoch"] == {"1": 0.25}
    assert "init_from" not in rows[1]["config"]


def test_rows_of_runs_that_have_not_ended(runner, monkeypatch, capsys):
    """They say so in the file and in the tables."""
    folder = runner / "runs/reduced/resnet20_1w4a_bc_seed0"
    folder.mkdir(parents=True)
    config = {"net": "resnet20", "epochs": 4, "init_from": "a path"}
    (folder / "config.json").write_text(json.dumps(config))
    history = [
        {"val_accuracy": accuracy, "seconds": 2.0}
        for accuracy in (0.1, 0.3, 0.2)
    ]
    (folder / "history.json").write_text(json.dumps(history))
    path = runner / "results" / "cifar10.json"
    runs = runs_of("resnet20_1w4a_bc_seed0", "resnet20_1w4a_bcgd_seed0")
    cifar10_table.update_results(path, runs)
    assert json.loads(path.read_text()) == []
    flags = cifar10_table.FLAGS._replace(unfinished_on="a card")
    monkeypatch.setattr(cifar10_table, "FLAGS", flags)
    cifar10_table.update_results(path, runs)
    (found,) = json.loads(path.read_text())
    assert found["machine"] == "a card"
    assert found["epochs"] == 3 and found["config"]["epochs"] == 4
    assert found["test_accuracy_last"] == 0.2
    assert found["test_accuracy_best"] == 0.3 and found["best_epoch"] == 2
    report.report(path, "resnet20")
    text = capsys.readouterr().out
    assert "20.00* / 89.37" in text
    assert "3 of 4" in text


def test_threads_are_those_of_tensorflow(runner):
    assert cifar10_table.environment()["TF_NUM_INTRAOP_THREADS"] == "1"


def test_a_result_of_other_settings_does_not_count(runner):
    (run,) = runs_of("resnet20_float_seed0")
    cifar10_table.Runner([run]).do_all()
    assert cifar10_table.is_done(run)
    other = dataclasses.replace(run, flags=run.flags | {"epochs": 11})
    assert not cifar10_table.is_done(other)


def test_only_brings_what_its_runs_start_from(runner, monkeypatch):
    def chosen(only):
        flags = cifar10_table.FLAGS._replace(only=only)
        monkeypatch.setattr(cifar10_table, "FLAGS", flags)
        return [run.name for run in cifar10_table.chosen_runs()]

    assert chosen("1w4a_bc_seed1") == [
        "resnet20_float_seed1",
        "resnet20_1w4a_bc_seed1",
    ]
    for bad in ("three_valued", "["):
        with pytest.raises(app.UsageError, match="--only"):
            chosen(bad)


def test_the_papers_plan_fills_all_tables():
    runs = plans.runs(plans.PLANS["paper"], "vgg11")
    found = {run.cell for run in runs}
    name = cells.cell_name
    for gradient in cells.ALPHA_GRADIENTS:
        assert name("vgg11", "32W4A", "BCGD", gradient) in found
        for column in cells.COLUMNS[1:]:
            for method in cells.METHODS:
                assert name("vgg11", column, method, gradient) in found


def test_no_rows_at_all(results, capsys):
    report.report(results, "vgg11")
    assert "has no row of vgg11" in capsys.readouterr().out
    with pytest.raises(app.UsageError, match="--results"):
        report.report(results.with_name("none.json"), "vgg11")
