"""Which runtime runs which kind of exported file?

Writes one small file of each kind (runtime_files.py) and one for each of their
operators, and runs them all on releases of TFLite runtimes, each in a virtual
environment of its own, which pip fills and which is removed afterwards:

    python -m benchmarks.runtimes --output=runtimes.md
    python -m benchmarks.runtimes --runtimes ai-edge-litert==1.0.1 \\
        tflite-runtime==2.14.0 --kinds chain output_type=int16

Each file runs on each set of kernels in a process of its own: a crash is a row.
The codes of its outputs, for random inputs, are held against those of the
`ai-edge-litert` installed beside this program, "the newest". Tables result:
the oldest release of each family from which on all run it, for files and for
single operators, and then all cells.

In these, "same" is the codes of the newest on builtin kernels, and
"XNNPACK" those of the newest on its default kernels, where they are others;
"3/320, max 1" is how many codes differ from builtin ones, and the largest
difference; "no (2)" is an error. It is the default kernels that are shown, and
builtin ones that are not the newest's. Reference kernels only have to run.
"""

import argparse
import dataclasses
import json
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata

import numpy as np

from benchmarks.runtime_files import KINDS
from benchmarks.runtime_worker import KERNELS
from keras_bcgd.tflite import reader
from keras_bcgd.tflite import runtime_needs
from keras_bcgd.tflite.schema import load_schema
from keras_bcgd.tflite.single_operators import single_operator_file

MODULES = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tensorflow-cpu": "tensorflow.lite.python.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
    "tflite-micro": "tflite_micro.python.tflite_micro.runtime",
}
# What was compiled for NumPy 1 cannot make an interpreter with NumPy 2.
OF_NUMPY_1 = re.compile(
    r"ai-edge-litert==1\.0\.|tflite-runtime==|tensorflow-cpu==2\.(\d|1[0-7])\."
)
RELEASES = {
    "ai-edge-litert": (
        "1.0.1 1.1.0 1.1.2 1.2.0 1.3.0 1.4.0 2.0.2 2.0.3 2.1.0 2.1.1 2.1.2 "
        "2.1.3 2.1.4 2.1.5 2.1.6 2.2.0 2.3.0"
    ),
    "tensorflow-cpu": (
        "2.7.4 2.8.4 2.9.3 2.10.0 2.11.0 2.12.0 2.13.0 2.14.0 2.15.0 2.16.1 "
        "2.17.0 2.18.0 2.19.0 2.20.0 2.21.0"
    ),
    "tflite-runtime": "2.7.0 2.8.0 2.9.1 2.10.0 2.11.0 2.12.0 2.13.0 2.14.0",
    "tflite-micro": "0.dev20261023182759",
}
DEFAULT_RUNTIMES = [
    f"{family}=={release}"
    for family, releases in RELEASES.items()
    for release in releases.split()
]
WORKER = pathlib.Path(__file__).with_name("runtime_worker.py")


@dataclasses.dataclass
class Sample:
    """A file, and the codes of its inputs beside it.

    `name` is that of its kind, or the signature of its operator.
    """

    name: str
    path: pathlib.Path
    version: int = 0


def write_samples(folder, kinds, count):
    """`(files, operators)`: lists of `Sample`."""
    files, operators = [], {}
    rng = np.random.default_rng(1)
    for kind in kinds:
        path = folder / f"file{len(files):03}.tflite"
        KINDS[kind](path=path)
        files.append(Sample(kind, path))
        contents = reader.read_tflite(path)
        graph = contents.model.subgraphs[0]
        write_inputs(path, graph, graph.inputs, count, rng)
        for operator in contents.operators:
            name = runtime_needs.signature(operator)
            path = folder / f"operator{len(operators):03}.tflite"
            sample = operators.setdefault(name, Sample(name, path))
            # The highest version of those that occur.
            if operator.version > sample.version:
                sample.version = operator.version
                single, given = single_operator_file(contents, operator)
                sample.path.write_bytes(single)
                write_inputs(sample.path, graph, given, count, rng)
    return files, list(operators.values())


def write_inputs(path, graph, indices, count, rng):
    """Random codes of all values, `count` samples of each input."""
    inputs = {}
    for place, index in enumerate(indices):
        tensor = graph.tensors[index]
        names = vars(load_schema().TensorType)
        (dtype,) = [n for n, value in names.items() if value == tensor.type]
        limits = np.iinfo(dtype.lower())
        inputs[str(place)] = rng.integers(
            limits.min,
            limits.max,
            (max(1, count // tensor.shape[0]), *tensor.shape),
            dtype.lower(),
            endpoint=True,
        )
    np.savez(path.with_suffix(".npz"), **inputs)


class NotRun(Exception):
    """Why a runtime is not there, or does not start."""


def environment(runtime, pythons, folder):
    """The interpreter of a virtual environment with that runtime."""
    place = folder / runtime.replace("==", "-")
    python = place / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile"]
    install += ["--disable-pip-version-check", runtime]
    if OF_NUMPY_1.match(runtime):
        install.append("numpy<2")
    if python.exists():
        call(install)
        return python
    problems = []
    for candidate in pythons:
        try:
            call([candidate, "-m", "venv", place])
            call(install)
            return python
        except NotRun as problem:
            problems.append(f"{candidate}: {problem}")
            shutil.rmtree(place, ignore_errors=True)
    raise NotRun("; ".join(problems))


def call(command):
    """Runs a program; the last line that it says is the error."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotRun("not found") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise NotRun(lines[-1]) from error


def run(python, runtime, folder, samples, seconds):
    """What each sample gives on each set of kernels.

    Returns:
        Dict from `(name, kernels)` to codes, or to why there are none.
    """
    module = MODULES[runtime.partition("==")[0]]
    with tempfile.TemporaryDirectory() as results:
        call([python, WORKER, module, folder, results, str(seconds)])
        return {
            (sample.name, kernels): outcome(results, sample.path.stem, kernels)
            for sample in samples
            for kernels in KERNELS
        }


def outcome(results, stem, kernels):
    """Codes, an error, or `None`: there are no such kernels."""
    path = pathlib.Path(results, f"{stem}.{kernels}.npy")
    if path.exists():
        return np.load(path)
    path = path.with_suffix(".txt")
    return one_line(path.read_text()) if path.exists() else None


def one_line(text):
    """An error without what differs from one file or release to the next."""
    text = re.sub(r"[\w/]*/(\w+\.cc):\d+", r"\1:", text)
    text = re.sub(r"Node number \d+ \((\w+)\)", r" \1", text)
    text = re.sub(r"Failed to apply the default.*?indexed at 0\.", "", text)
    text = re.sub(r" object at 0x\w+", "", text)
    return " ".join(text.split())


def compare(found, same_kernels, builtin):
    """A cell: how many codes differ and by how much, or the error."""
    if isinstance(found, str):
        return {"error": found}
    return {
        "outputs": found.size,
        "newest": difference(found, same_kernels),
        "builtin": difference(found, builtin),
    }


def difference(found, expected):
    distance = np.abs(found.astype(int) - expected.astype(int))
    return {
        "differing": int(np.count_nonzero(distance)),
        "largest": int(distance.max()),
    }


def measure(options, folder, environments):
    """The results as one dict, which JSON can hold."""
    files, operators = write_samples(folder, options.kinds, options.samples)
    samples = files + operators
    expected = run(
        sys.executable, "ai-edge-litert", folder, samples, options.seconds
    )
    cells, missing = {}, {}
    for runtime in options.runtimes:
        print(f"{runtime} ...", file=sys.stderr, flush=True)
        try:
            python = environment(runtime, options.pythons, environments)
            found = run(python, runtime, folder, samples, options.seconds)
        except NotRun as problem:
            missing[runtime] = str(problem)
            continue
        cells[runtime] = {
            sample.name: {
                kernels: compare(
                    found[sample.name, kernels],
                    expected[sample.name, kernels],
                    expected[sample.name, "builtin"],
                )
                for kernels in KERNELS
                if found[sample.name, kernels] is not None
            }
            for sample in samples
        }
        if options.environments is None:
            shutil.rmtree(python.parent.parent)
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "newest": f"ai-edge-litert {metadata.version('ai-edge-litert')}",
        "samples": options.samples,
        "files": [file.name for file in files],
        "operators": {each.name: each.version for each in operators},
        "cells": cells,
        "missing": missing,
    }


def cell_text(cell, errors):
    """How a cell stands beside the newest on builtin kernels."""
    if "error" in cell:
        if cell["error"] not in errors:
            errors.append(cell["error"])
        return f"no ({errors.index(cell['error']) + 1})"
    count, largest = cell["builtin"].values()
    if not count:
        return "same"
    if not cell["newest"]["differing"]:
        return "XNNPACK"
    return f"{count}/{cell['outputs']}, max {largest}"


def sample_text(cells, errors):
    """The default kernels, and others where they tell more."""
    text = cell_text(cells["default"], errors)
    runs = "error" not in cells["default"]
    for kernels, cell in cells.items():
        if ("error" not in cell) != runs:
            text += f"; {kernels}: {cell_text(cell, errors)}"
    builtin = cells.get("builtin", {"error": None})
    if runs and "error" not in builtin and builtin["builtin"]["differing"]:
        text += f"; builtin: {cell_text(builtin, errors)}"
    return text


def groups(results, family, names):
    """`[(first, last, texts)]`: releases in a row that give the same."""
    errors = results.setdefault("errors", [])
    found = []
    for runtime, cells in results["cells"].items():
        if not runtime.startswith(family + "=="):
            continue
        release = runtime.partition("==")[2]
        texts = [sample_text(cells[name], errors) for name in names]
        if found and found[-1][2] == texts:
            found[-1] = (found[-1][0], release, texts)
        else:
            found.append((release, release, texts))
    return found


def markdown(rows):
    header, *lines = rows
    return [
        f"| {' | '.join(row)} |"
        for row in [header, ["---"] * len(header), *lines]
    ]


def file_tables(results):
    """A table for each family: files by releases."""
    lines = []
    for family in MODULES:
        columns = groups(results, family, results["files"])
        if not columns:
            continue
        header = [family]
        for first, last, _ in columns:
            header.append(first if first == last else f"{first} to {last}")
        rows = [header]
        for place, name in enumerate(results["files"]):
            rows.append([name, *(texts[place] for _, _, texts in columns)])
        lines += [*markdown(rows), ""]
    return lines


def runs(cell, largest):
    if "error" in cell:
        return False
    distances = (cell["newest"]["largest"], cell["builtin"]["largest"])
    return min(distances) <= largest


def oldest(results, family, name, largest):
    """The first release from which on all run a file; "none" without one.

    Codes of the default kernels may be `largest` away from the newest's.
    """
    first = "none"
    for runtime, cells in results["cells"].items():
        if runtime.startswith(family + "=="):
            if not runs(cells[name]["default"], largest):
                first = "none"
            elif first == "none":
                first = runtime.partition("==")[2]
    return first


def oldest_table(results, names, largest):
    """The oldest release of each family for each file or operator."""
    families = [
        family
        for family in MODULES
        if any(name.startswith(family + "==") for name in results["cells"])
    ]
    rows = [["", *families]]
    for name in names:
        cells = [oldest(results, family, name, largest) for family in families]
        rows.append([name, *cells])
    return markdown(rows)


def report(results, largest):
    """All tables."""
    operators = [
        f"`{name}`, version {version}"
        for name, version in results["operators"].items()
    ]
    lines = [
        f"{results['machine']}, {results['samples']} random inputs; the "
        f"newest: {results['newest']}.",
        "",
        f"The oldest release that runs it, no code more than {largest} away:",
        "",
        *oldest_table(results, results["files"], largest),
        "",
        *oldest_table(results, results["operators"], largest),
        "",
        "Versions: " + "; ".join(operators) + ".",
        "",
        *file_tables(results),
    ]
    for number, error in enumerate(results.get("errors", []), start=1):
        lines.append(f"{number}. {error}")
    for runtime, error in results["missing"].items():
        lines += ["", f"Not run: {runtime}: {error}"]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--runtimes",
        nargs="+",
        default=DEFAULT_RUNTIMES,
        metavar="NAME==RELEASE",
        help=f"what pip installs, oldest first: {', '.join(MODULES)}; "
        f"default: {len(DEFAULT_RUNTIMES)} releases of all",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=list(KINDS),
        choices=list(KINDS),
        metavar="KIND",
        help=f"default: all of {', '.join(KINDS)}",
    )
    parser.add_argument(
        "--pythons",
        nargs="+",
        default=["python3.11", "python3.9"],
        metavar="PYTHON",
        help="interpreters; the first for which pip finds the release is "
        "taken. Default: %(default)s",
    )
    parser.add_argument(
        "--environments",
        metavar="DIR",
        help="keep the virtual environments there, and use those there are. "
        "Default: remove each after its run",
    )
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument(
        "--seconds", type=float, default=60, help="limit for one file"
    )
    parser.add_argument(
        "--largest",
        type=int,
        default=1,
        help="what runs has no code that differs by more. Default: %(default)s",
    )
    parser.add_argument("--output", metavar="FILE", help="write the tables")
    parser.add_argument("--json", metavar="FILE", help="write the results")
    options = parser.parse_args()
    for runtime in options.runtimes:
        if not re.fullmatch(rf"({'|'.join(MODULES)})==[\w.]+", runtime):
            parser.error(
                f"--runtimes must be NAME==RELEASE, with a name of "
                f"{', '.join(MODULES)}. Received: {runtime}"
            )

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary, "files")
        folder.mkdir()
        environments = pathlib.Path(options.environments or temporary)
        results = measure(options, folder, environments)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1))
    text = report(results, options.largest)
    if options.output:
        pathlib.Path(options.output).write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
