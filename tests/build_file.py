"""Writes BUILD from the sources: `make build-file`.

Each file is a target of the same name, each folder below `keras_bcgd` or
`examples` one target with all that is in it. `deps` are the imports, those
inside functions too. Nothing here depends on which files there are; what the
sources do not say stands in the table below.
"""

import collections
import graphlib
import os
import pathlib
import sys
import tempfile

import source_tree

# The targets are sorted by these folders, then by name.
GROUPS = ("keras_bcgd", "examples", "benchmarks", "tests")
MAIN = "tests/run_pytest.py"

# What the sources do not say. HEADER is the beginning of BUILD; the lists that
# it defines may stand in ATTRIBUTES.
HEADER = """\
# Written by `make build-file`: do not change it by hand.
#
# One target for each file, or for each folder below keras_bcgd/ and examples/.
# `deps` are the imports, those inside functions too. What the sources do not
# say stands in tests/build_file.py.

load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])

# What the tests of the sources read.
SOURCES = glob([
    "benchmarks/**/*.py",
    "examples/**/*.py",
    "keras_bcgd/**/*.py",
    "tests/**/*.py",
])

# What the tests of the documentation read.
DOCS = glob([
    "*.md",
    "docs/**/*.md",
    "docs/figures/*.png",
    "docs/figures/*.svg",
    "docs/quant_relu_figure.py",
    "examples/README.md",
    "mkdocs.yml",
])
"""
LISTS = ("DOCS", "SOURCES")
# More attributes of the target with this file.
ATTRIBUTES = {
    MAIN: {"data": ["pyproject.toml"]},
    "tests/test_build_file.py": {
        "data": ["SOURCES", "BUILD", "requirements_lock.txt"]
    },
    "tests/test_docs.py": {"data": ["DOCS", "SOURCES"]},
    "tests/test_imports.py": {"data": ["SOURCES"]},
    "tests/test_readme.py": {"data": ["Makefile", "README.md"]},
}
# What a test runs other than by an import statement.
RUN_BY = {
    "tests/test_docs.py": ["keras_bcgd/__init__.py"],
    "tests/test_examples.py": [
        "examples/cifar10.py",
        "examples/demo.py",
        "examples/deploy_tflite.py",
        "examples/from_float.py",
        "examples/imagenet_curves.py",
        "examples/keyword_spotting.py",
        "examples/mixed_precision.py",
        "examples/segmentation.py",
        "examples/two_layer.py",
    ],
    "tests/test_imports.py": ["keras_bcgd/__init__.py"],
    "tests/test_readme.py": ["keras_bcgd/__init__.py"],
}
# Imports whose package has another name, or needs a second one. Keras runs on
# TensorFlow under Bazel.
PYPI = {
    "absl": ["absl_py"],
    "keras": ["keras", "tensorflow"],
    "sklearn": ["scikit_learn"],
    "tensorboardX": ["tensorboardx"],
}
# All attributes that a target may have, in the order of BUILD.
ORDER = (
    "name",
    "size",
    "timeout",
    "srcs",
    "args",
    "data",
    "main",
    "tags",
    "visibility",
    "deps",
)


def group_of(path):
    return path.partition("/")[0]


def is_test(path):
    """Whether a file is one that pytest runs."""
    name = path.rpartition("/")[2]
    return group_of(path) == "tests" and name.startswith("test_")


def is_program(path):
    """Whether a file does something when it is run."""
    text = (source_tree.ROOT / path).read_text(encoding="utf-8")
    return '\nif __name__ == "__main__":' in text


def unit_of(path):
    """The file or folder whose target has this file.

    A folder has all below it but tests, which are targets each by itself;
    conftest.py, which pytest reads for each test, goes with the main file.
    """
    group, first, *below = path.split("/")
    if below and not is_test(path):
        return f"{group}/{first}"
    if path == "tests/conftest.py":
        return MAIN
    return group if path == f"{group}/__init__.py" else path


def names_of(units):
    """{unit: name of its target}: that of the file or folder.

    The package keeps a name that others have as well; these get the folders
    they are in, as in `examples_calibration`.
    """
    alike = collections.defaultdict(list)
    for unit in units:
        alike[unit.rpartition("/")[2].removesuffix(".py")].append(unit)
    units_by_name = collections.defaultdict(list)
    for name, same in alike.items():
        for unit in same:
            keeps = len(same) == 1 or group_of(unit) == "keras_bcgd"
            whole = unit.removesuffix(".py").replace("/", "_")
            units_by_name[name if keeps else whole].append(unit)
    for name, same in units_by_name.items():
        if len(same) > 1:
            raise ValueError(
                f"{' and '.join(same)} would be the one target `{name}`: "
                "rename one of them"
            )
    return {same[0]: name for name, same in units_by_name.items()}


def needed_deps(paths, names):
    """The labels for what these files import or run, sorted."""
    labels = set()
    for path in paths:
        for file in RUN_BY.get(path, ()):
            labels.add(f":{names[unit_of(file)]}")
        if is_test(path):
            labels.add(f":{names[MAIN]}")
        for entry in source_tree.imports(path):
            file = source_tree.imported_file(entry, path)
            if file is not None and group_of(file) in GROUPS:
                labels.add(f":{names[unit_of(file)]}")
            elif file is not None:
                raise ValueError(
                    f"{path}, line {entry.line}: {file} is in none of {GROUPS}"
                )
            elif entry.top not in sys.stdlib_module_names:
                packages = PYPI.get(entry.top, [entry.top])
                labels.update(f"@pypi//{package}" for package in packages)
    return sorted(labels - {f":{names[unit_of(path)]}" for path in paths})


def target_for(unit, paths, names):
    """The attributes of a target; "rule" is the name of its rule."""
    target = {"rule": "py_library", "name": names[unit], "srcs": paths}
    if is_test(unit):
        target |= {"rule": "py_test", "srcs": sorted([MAIN, unit])}
        target |= {"args": [unit], "main": MAIN}
    elif group_of(unit) in ("examples", "benchmarks"):
        if paths == [unit] and is_program(unit):
            target["rule"] = "py_binary"
    for path in paths:
        target |= ATTRIBUTES.get(path, {})
    target["deps"] = needed_deps(paths, names)
    return target


def targets():
    """All targets, in the order of BUILD."""
    paths_of = collections.defaultdict(list)
    known = source_tree.python_files(*GROUPS)
    for path in known:
        paths_of[unit_of(path)].append(path)
    run = [file for files in RUN_BY.values() for file in files]
    for path in [*ATTRIBUTES, *RUN_BY, *run]:
        if path not in known:
            raise ValueError(f"tests/build_file.py has {path}: no such file")
    names = names_of(paths_of)
    found = [target_for(unit, paths_of[unit], names) for unit in names]
    check_cycles(found)
    places = {
        name: (GROUPS.index(group_of(unit)), name)
        for unit, name in names.items()
    }
    return sorted(found, key=lambda target: places[target["name"]])


def check_cycles(found):
    """Raise an error if targets depend on one another, as Bazel would."""
    graph = {
        f":{target['name']}": [x for x in target["deps"] if x.startswith(":")]
        for target in found
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        # Each is a dependency of the next one.
        cycle = " needs ".join(reversed(error.args[1]))
        raise ValueError(f"targets need one another: {cycle}") from error


def starlark(value):
    """The text of an attribute's value."""
    if isinstance(value, str):
        return f'"{value}"'
    if not isinstance(value, list):
        return repr(value)
    terms = [item for item in value if item in LISTS]
    items = [f'"{item}"' for item in value if item not in LISTS]
    if len(items) == 1:
        terms.append(f"[{items[0]}]")
    elif items:
        lines = "".join(f"        {item},\n" for item in items)
        terms.append(f"[\n{lines}    ]")
    return " + ".join(terms)


def written(target):
    """A target as it stands in BUILD."""
    unknown = set(target) - {"rule", *ORDER}
    if unknown:
        raise ValueError(f"{target['name']}: add {sorted(unknown)} to ORDER")
    lines = [
        f"    {attribute} = {starlark(target[attribute])},\n"
        for attribute in ORDER
        if target.get(attribute) not in (None, [])
    ]
    return f"{target['rule']}(\n{''.join(lines)})\n"


def text():
    """The whole content of BUILD."""
    return "\n".join([HEADER, *map(written, targets())])


def write(path):
    """Write BUILD: there is never a part of it."""
    content = text()
    handle, temporary = tempfile.mkstemp(prefix=".BUILD-", dir=path.parent)
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp keeps others out
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    try:
        write(source_tree.ROOT / "BUILD")
    except ValueError as error:
        sys.exit(f"BUILD is not written: {error}")
