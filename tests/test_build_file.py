"""Holds BUILD against the sources: files, imports and tests, without Bazel.

Starlark parses as Python, so BUILD is read with `ast`.
"""

import ast
import collections
import subprocess
import sys

import pytest
import source_tree
from source_tree import ROOT

MAIN = "tests/run_pytest.py"
RULES = ("py_binary", "py_library", "py_test")
# Imports whose package has another name, or needs a second one. Keras runs on
# TensorFlow under Bazel.
PYPI = {
    "absl": ["absl_py"],
    "keras": ["keras", "tensorflow"],
    "sklearn": ["scikit_learn"],
    "tensorboardX": ["tensorboardx"],
}
# What a test runs other than by an import statement.
RUN_BY = {
    "test_docs": {":keras_bcgd"},
    "test_examples": {
        ":cifar10",
        ":demo",
        ":deploy_tflite",
        ":from_float",
        ":mixed_precision",
        ":two_layer",
    },
    "test_imports": {":keras_bcgd"},
    "test_readme": {":keras_bcgd"},
}


def value_of(node, constants):
    """The value of a Starlark expression as simple as those in BUILD."""
    if isinstance(node, ast.Name):
        return constants[node.id]
    if isinstance(node, ast.List):
        return [value_of(item, constants) for item in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return value_of(node.left, constants) + value_of(node.right, constants)
    if isinstance(node, ast.Call) and node.func.id == "glob":
        patterns = value_of(node.args[0], constants)
        found = [path for pattern in patterns for path in ROOT.glob(pattern)]
        assert found, f"BUILD line {node.lineno}: no file matches {patterns}"
        return [path.relative_to(ROOT).as_posix() for path in found]
    return ast.literal_eval(node)


def read_targets():
    """{name: attributes} of the targets in BUILD; "rule" is the rule's name."""
    constants, targets = {}, {}
    for node in ast.parse((ROOT / "BUILD").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            constants[node.targets[0].id] = value_of(node.value, constants)
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and call.func.id in RULES:
            target = {"rule": call.func.id, "srcs": [], "deps": [], "data": []}
            for keyword in call.keywords:
                target[keyword.arg] = value_of(keyword.value, constants)
            assert target["name"] not in targets, target["name"]
            targets[target["name"]] = target
    return targets


TARGETS = read_targets()


def own_sources(target):
    """The sources of a target, without the main file that all tests share."""
    shared = [MAIN] if target["rule"] == "py_test" else []
    return [path for path in target["srcs"] if path not in shared]


OWNERS = collections.defaultdict(list)
for target_name, its_attributes in TARGETS.items():
    for source in own_sources(its_attributes):
        OWNERS[source].append(target_name)

TEST_FILES = [path for path in OWNERS if path.startswith("tests/test_")]


def needed_deps(target):
    """The labels for what the sources of a target import or run."""
    labels = set(RUN_BY.get(target["name"], ()))
    if target["rule"] == "py_test":
        labels.add(":run_pytest")
    for path in own_sources(target):
        for entry in source_tree.imports(path):
            file = source_tree.imported_file(entry, path)
            if file is not None:
                # `test_every_source...` complains of a file without target.
                labels.update(f":{name}" for name in OWNERS[file])
            elif entry.top not in sys.stdlib_module_names:
                packages = PYPI.get(entry.top, [entry.top])
                labels.update(f"@pypi//{package}" for package in packages)
    return labels - {f":{target['name']}"}


def starlark(attribute, value):
    """One attribute of a target, as BUILD writes it."""
    if isinstance(value, str):
        return f'    {attribute} = "{value}",\n'
    if len(value) == 1:
        return f'    {attribute} = ["{value[0]}"],\n'
    lines = "".join(f'        "{item}",\n' for item in value)
    return f"    {attribute} = [\n{lines}    ],\n"


def is_program(path):
    """Whether a file does something when it is run."""
    return 'if __name__ == "__main__":' in (ROOT / path).read_text("utf-8")


def target_for(path):
    """The target that should have this source.

    A file is a target of the same name; a folder in keras_bcgd/ is one target;
    conftest.py, which pytest reads for each test, goes with the main file.
    """
    folder, _, file = path.rpartition("/")
    package, _, subpackage = folder.partition("/")
    target = {"rule": "py_library", "name": file.removesuffix(".py")}
    target["srcs"] = [path]
    if package == "keras_bcgd" and subpackage:
        target["name"] = subpackage
        target["srcs"] = source_tree.python_files(folder)
    elif path == "keras_bcgd/__init__.py":
        target["name"] = "keras_bcgd"
    elif package in ("examples", "benchmarks") and is_program(path):
        target["rule"] = "py_binary"
    elif path == "tests/conftest.py":
        target |= {"name": "run_pytest", "srcs": [path, MAIN]}
    elif path.startswith("tests/test_"):
        target["rule"] = "py_test"
        target |= {"srcs": [MAIN, path], "args": [path], "main": MAIN}
    target["deps"] = sorted(needed_deps(target))
    return target


def written(target):
    lines = [
        starlark(*item)
        for item in target.items()
        if item[0] != "rule" and item[1]
    ]
    return f"{target['rule']}(\n{''.join(lines)})\n"


def test_every_source_is_in_exactly_one_target():
    folders = ("keras_bcgd", "tests", "examples", "benchmarks")
    for path in source_tree.python_files(*folders):
        expected = target_for(path)
        assert OWNERS[path] == [expected["name"]], (
            f"BUILD has {path} in the targets {OWNERS[path]}. It should be in "
            f"this one alone:\n{written(expected)}"
        )


@pytest.mark.parametrize("name", TARGETS)
def test_files_of_a_target_exist(name):
    target = TARGETS[name]
    assert target["srcs"], f"BUILD: {name} has no `srcs`"
    for path in target["srcs"] + target["data"]:
        assert (ROOT / path).is_file(), f"BUILD: {name} names {path}: no file"


@pytest.mark.parametrize("name", TARGETS)
def test_deps_of_a_target_are_its_imports(name):
    target = TARGETS[name]
    needed, given = needed_deps(target), target["deps"]
    assert len(set(given)) == len(given), f"BUILD: {name} repeats a dependency"
    assert set(given) == needed, (
        f"BUILD: the imports of {name} ask for\n"
        f"{starlark('deps', sorted(needed))}"
        f"missing: {sorted(needed - set(given))}, "
        f"not imported: {sorted(set(given) - needed)}"
    )


@pytest.mark.parametrize("path", TEST_FILES)
def test_every_test_file_is_run_by_pytest(path):
    for name in OWNERS[path]:
        target = TARGETS[name]
        found = {key: target.get(key) for key in ("rule", "srcs", "args")}
        assert found == {
            "rule": "py_test",
            "srcs": [MAIN, path],
            "args": [path],
        }, f"BUILD: {name} should be\n{written(target_for(path))}"
        assert target["main"] == MAIN


def test_every_package_is_locked():
    lock = (ROOT / "requirements_lock.txt").read_text(encoding="utf-8")
    locked = {
        line.partition("==")[0].lower().replace("-", "_").replace(".", "_")
        for line in lock.splitlines()
    }
    for name, target in TARGETS.items():
        for label in target["deps"]:
            package = label.removeprefix("@pypi//")
            assert label.startswith(":") or package in locked, (
                f"BUILD: {name} needs {package}: add it to an extra in "
                "setup.py and to requirements_lock.txt"
            )


@pytest.mark.parametrize(
    "text, passes",
    [
        ("def test_it():\n    assert True\n", True),
        ("def test_it():\n    assert False\n", False),
        ("def it_is_no_test():\n    assert True\n", False),
    ],
)
def test_main_passes_only_if_a_test_ran_and_passed(tmp_path, text, passes):
    path = tmp_path / "test_it.py"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / MAIN, path], cwd=tmp_path, capture_output=True
    )
    assert (done.returncode == 0) == passes, done.stdout.decode()
