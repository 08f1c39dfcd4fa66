"""The slides' CIFAR-10 tables from a results file, ours beside theirs."""

import collections
import pathlib
import statistics
import textwrap

from absl import app

from cifar10_tables import cells
from cifar10_tables import levers
from training import workdir as workdirs

METHOD_COLORS = {"BC": "tab:blue", "BCGD": "tab:orange"}


class Results:
    """The accuracies of one plan, in %, by cell."""

    def __init__(self, rows):
        self.schedule = rows[0]["schedule"]
        self.machines = sorted({row["machine"] for row in rows})
        self.last = collections.defaultdict(dict)  # cell: {seed: accuracy}
        self.as_trained = collections.defaultdict(dict)
        self.best = collections.defaultdict(dict)
        self.curves = collections.defaultdict(dict)
        self.unfinished = {}  # cell: "191 of 200", its epochs
        for row in rows:
            cell, seed = row["cell"], row["seed"]
            if row["epochs"] < row["config"]["epochs"]:
                epochs = f"{row['epochs']} of {row['config']['epochs']}"
                self.unfinished[cell] = epochs
            self.last[cell][seed] = 100 * row["test_accuracy_last"]
            if "test_accuracy_as_trained" in row:
                accuracy = 100 * row["test_accuracy_as_trained"]
                self.as_trained[cell][seed] = accuracy
            self.best[cell][seed] = 100 * row["test_accuracy_best"]
            self.curves[cell][seed] = {
                int(epoch): 100 * accuracy
                for epoch, accuracy in row["test_accuracy_by_epoch"].items()
            }

    def text(self, cell, seeds=None):
        """Mean, half the range over seeds and their number; "" if not run.

        With a star if one has not ended.
        """
        text = _summary(self.last.get(cell, {}), seeds)
        return text + "*" if cell in self.unfinished else text

    def best_text(self, cell):
        """The same of the best epochs."""
        return _summary(self.best.get(cell, {}))

    def common_seeds(self, cell, other):
        return self.last.get(cell, {}).keys() & self.last.get(other, {}).keys()

    def difference(self, cell, other):
        """Mean and range of the difference over the seeds of both."""
        seeds = self.common_seeds(cell, other)
        found = [self.last[cell][s] - self.last[other][s] for s in seeds]
        if not found:
            return ""
        mean = statistics.mean(found)
        return f"{mean:+.2f} [{min(found):+.2f}, {max(found):+.2f}]"


def _summary(by_seed, seeds=None):
    values = [v for seed, v in by_seed.items() if not seeds or seed in seeds]
    if not values:
        return ""
    text = f"{statistics.mean(values):.2f}"
    if len(values) > 1:
        half_range = (max(values) - min(values)) / 2
        text += f" ±{half_range:.2f} ({len(values)})"
    return text


def load(path, net):
    """`{plan: Results}` of one network."""
    try:
        rows = workdirs.read_json(path)
    except (OSError, ValueError) as error:
        raise app.UsageError(f"--results={path}: {error}") from None
    by_plan = collections.defaultdict(list)
    for row in rows:
        if row["config"]["net"] == net:
            by_plan[row["plan"]].append(row)
    return {plan: Results(rows) for plan, rows in by_plan.items()}


def table(headings, rows):
    """Aligned columns, in Markdown."""
    widths = [
        max(map(len, column)) for column in zip(headings, *rows, strict=True)
    ]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        )
        + " |"
        for line in lines
    )


def paper_tables(results, net, plan):
    """The slides' tables: ours, and the paper's after a slash."""
    for gradient in cells.ALPHA_GRADIENTS:
        rows = []
        for method in cells.METHODS:
            row = [f"{net} + {method}"]
            ours = results.text(f"{net}_float")
            row.append(_pair(ours, cells.PAPER_FLOAT[net]))
            for column in cells.COLUMNS:
                # Float weights are not blended.
                run = "BCGD" if column == "32W4A" else method
                name = cells.cell_name(net, column, run, gradient)
                paper = cells.paper_accuracy(net, gradient, column, method)
                row.append(_pair(results.text(name), paper))
            rows.append(row)
        if any(" / " in cell for row in rows for cell in row[2:]):
            yield (
                f"{gradient} alpha derivative, accuracy in % after the last "
                f"epoch: ours ({plan}) / paper",
                table(["", "Float", *cells.COLUMNS], rows),
            )


def _pair(ours, paper):
    return f"{ours} / {paper:.2f}" if ours else "-"


def beyond_table(results, net):
    """Each change against the paper's recipe at the same schedule."""
    rows = []
    variants = {name: columns for name, (columns, _) in cells.VARIANTS.items()}
    variants[cells.RECOMMENDED] = [f"{bits}W4A" for bits in cells.WEIGHT_BITS]
    for variant, columns in variants.items():
        for column in columns:
            base = cells.cell_name(net, column, "BCGD")
            name = cells.cell_name(net, column, "BCGD", variant=variant)
            if results.text(name):
                rows.append(
                    [
                        variant,
                        column,
                        results.text(name),
                        results.text(base, results.common_seeds(name, base)),
                        results.difference(name, base),
                    ]
                )
    return table(
        ["changed", "bits", "accuracy", "paper's recipe", "difference"], rows
    )


def lever_table(results, net):
    """Each lever against the recommended recipe at equal seeds.

    "as trained" is the accuracy before batch normalization was measured again.
    """
    rows = []
    for lever in ("", *levers.names()):
        for column in levers.COLUMNS:
            base = levers.cell(net, column)
            name = levers.cell(net, column, lever)
            if results.text(name):
                rows.append(
                    [
                        lever or "none",
                        column,
                        _summary(results.as_trained.get(name, {})),
                        results.text(name),
                        results.difference(name, base) if lever else "",
                    ]
                )
    return table(
        ["lever", "bits", "as trained", "BN again", "difference"], rows
    )


def comparisons(results, net):
    """BCGD against BC, and quantized against float networks."""
    rows = []
    for variant in ("", cells.RECOMMENDED):
        start = f"{net}_float" + (f"_{variant}" if variant else "")
        for bits in cells.WEIGHT_BITS:
            column = f"{bits}W4A"
            bc, bcgd = (
                cells.cell_name(net, column, method, variant=variant)
                for method in cells.METHODS
            )
            rows.append(
                [
                    column,
                    variant or "paper",
                    results.difference(bcgd, bc),
                    results.difference(bcgd, f"{start}_long"),
                    results.difference(bcgd, start),
                ]
            )
    return table(
        [
            "bits",
            "recipe",
            "BCGD - BC",
            "BCGD - float of as many epochs",
            "BCGD - float it started from",
        ],
        [row for row in rows if any(row[2:])],
    )


def cells_table(results):
    """Every cell's last and best accuracy."""
    rows = []
    for cell in results.last:
        tests = {len(curve) for curve in results.curves[cell].values()}
        rows.append(
            [
                cell,
                results.text(cell),
                results.best_text(cell),
                "/".join(map(str, sorted(tests))),
                results.unfinished.get(cell, ""),
            ]
        )
    return table(
        ["cell", "last epoch", "best epoch", "tests", "* epochs so far"], rows
    )


def _pyplot():
    """matplotlib for files; imported late, as only pictures need it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def draw_curves(results, net, path, title):
    """Test accuracy by epoch at 1W4A, blended against not."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for method, color in METHOD_COLORS.items():
        curves = results.curves.get(
            cells.cell_name(net, "1W4A", method), {}
        ).values()
        for i, curve in enumerate(curves):
            label = {"BC": "without blending (BC)", "BCGD": "blended (BCGD)"}
            axes.plot(
                list(curve),
                list(curve.values()),
                "-o" if len(curve) < 20 else "-",
                color=color,
                alpha=0.7,
                label=None if i else label[method],
            )
    axes.set(xlabel="epoch", ylabel="test accuracy, %")
    title = textwrap.fill(f"{net} 1W4A, one line per seed. {title}", 70)
    axes.set_title(title, fontsize="small")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_table(results, net, path, title):
    """Every seed of every cell of the slides' tables, and the paper's mark."""
    plt = _pyplot()
    figure, all_axes = plt.subplots(
        1, 3, figsize=(11, 4), sharey=True, layout="constrained"
    )
    for axes, gradient in zip(all_axes, cells.ALPHA_GRADIENTS, strict=True):
        for place, column in enumerate(cells.COLUMNS):
            for shift, (method, color) in zip(
                (-0.15, 0.15), METHOD_COLORS.items(), strict=True
            ):
                cell = cells.cell_name(net, column, method, gradient)
                values = list(results.last.get(cell, {}).values())
                axes.plot(
                    [place + shift] * len(values), values, "o", color=color
                )
                paper = cells.paper_accuracy(net, gradient, column, method)
                axes.plot(place + shift, paper, "_", color=color, ms=14)
        values = list(results.last.get(f"{net}_float", {}).values())
        if values:
            axes.axhline(statistics.mean(values), color="gray", lw=0.8)
        axes.axhline(cells.PAPER_FLOAT[net], color="gray", ls=":")
        axes.set_xticks(range(len(cells.COLUMNS)), cells.COLUMNS)
        axes.set_title(f"{gradient} alpha derivative", fontsize="small")
        axes.grid(alpha=0.3)
    for method, color in METHOD_COLORS.items():
        all_axes[0].plot([], [], "o", color=color, label=f"{method}, ours")
        all_axes[0].plot([], [], "_", color=color, label=f"{method}, paper")
    all_axes[0].plot([], [], color="gray", lw=0.8, label="float, ours")
    all_axes[0].plot([], [], color="gray", ls=":", label="float, paper")
    all_axes[0].set_ylabel("test accuracy, %")
    all_axes[-1].legend(
        *all_axes[0].get_legend_handles_labels(), fontsize="x-small"
    )
    figure.suptitle(f"{net}, {title}", fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def report(path, net):
    """Prints the tables of all plans and draws their pictures."""
    path = pathlib.Path(path)
    found = load(path, net)
    if not found:
        print(f"{path} has no row of {net}")
    for plan, results in found.items():
        print(f"\n=== {net}, {results.schedule}")
        for machine in results.machines:
            print(f"on {machine}")
        print("mean over seeds ± half their range (their number)")
        for title, text in paper_tables(results, net, plan):
            print(f"\n{title}\n{text}")
        print("\nmean [smallest, largest] difference")
        print(comparisons(results, net))
        print("\nBeyond the paper, BCGD, equal seeds")
        print(beyond_table(results, net))
        print("\nLevers beside the recommended recipe, equal seeds")
        print(lever_table(results, net))
        print("\nAll cells; the best of more tests is higher by chance alone")
        print(cells_table(results))
        in_figures = [cells.cell_name(net, "1W4A", m) for m in cells.METHODS]
        if not any(cell in results.curves for cell in in_figures):
            continue
        stem = f"{path.stem}_{net}_{plan}"
        for draw, what in ((draw_table, "table"), (draw_curves, "curves")):
            picture = path.with_name(f"{stem}_{what}.png")
            draw(results, net, picture, results.schedule)
            print(f"wrote {picture}")
