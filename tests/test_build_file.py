"""Holds BUILD against its generator, and against the files by itself.

Starlark parses as Python, so BUILD is read with `ast`.
"""

import ast
import collections
import difflib
import itertools
import pathlib
import subprocess
import sys

import build_file
import pytest
import source_tree

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAIN = "tests/run_pytest.py"
RULES = ("py_binary", "py_library", "py_test")
FOLDERS = ("benchmarks", "examples", "keras_bcgd", "tests")


def test_build_is_what_the_generator_writes():
    lines = difflib.unified_diff(
        (ROOT / "BUILD").read_text(encoding="utf-8").splitlines(),
        build_file.text().splitlines(),
        "BUILD",
        "BUILD as it should be",
        lineterm="",
        n=1,
    )
    diff = "\n".join(itertools.islice(lines, 40))
    assert not diff, f"run `make build-file` and commit BUILD:\n{diff}"


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


def owners():
    """{file: names of the targets with it}, without the main file of tests."""
    found = collections.defaultdict(list)
    for name, target in TARGETS.items():
        for path in target["srcs"]:
            if target["rule"] != "py_test" or path != MAIN:
                found[path].append(name)
    return found


def test_every_source_is_in_exactly_one_target():
    found = owners()
    paths = [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(paths) > 100  # the folders were found
    wrong = {path: found[path] for path in paths if len(found[path]) != 1}
    assert not wrong, f"BUILD has these in none or several targets: {wrong}"


def test_every_file_exists():
    for name, target in TARGETS.items():
        assert target["srcs"], f"BUILD: {name} has no `srcs`"
        for path in target["srcs"] + target["data"]:
            assert (ROOT / path).is_file(), f"BUILD: {name}: no file {path}"


def test_every_label_is_a_target():
    for name, target in TARGETS.items():
        labels = target["deps"]
        assert len(set(labels)) == len(labels), f"BUILD: {name}: {labels}"
        for label in labels:
            own = label.startswith(":") and label[1:] in TARGETS
            assert own or label.startswith("@pypi//"), (
                f"BUILD: {name} needs {label}: no such target"
            )


def test_every_test_file_is_run_by_pytest():
    found = owners()
    for path in (ROOT / "tests").rglob("test_*.py"):
        path = path.relative_to(ROOT).as_posix()
        for name in found[path]:
            target = TARGETS[name]
            assert target["rule"] == "py_test", f"BUILD: {name}"
            assert target["srcs"] == [MAIN, path], f"BUILD: {name}"
            assert target["args"] == [path], f"BUILD: {name}"
            assert target["main"] == MAIN, f"BUILD: {name}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A function that makes the sources of another project: {path: text}."""
    monkeypatch.setattr(source_tree, "ROOT", tmp_path)
    monkeypatch.setattr(build_file, "ATTRIBUTES", {})
    monkeypatch.setattr(build_file, "RUN_BY", {})

    def make(files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text, encoding="utf-8")
        return tmp_path

    source_tree.imports.cache_clear()
    yield make
    source_tree.imports.cache_clear()


def labels_by_name():
    return {target["name"]: target["deps"] for target in build_file.targets()}


def test_folders_are_targets(project):
    project(
        {
            "keras_bcgd/__init__.py": "import keras_bcgd.export.operators.add",
            "keras_bcgd/export/__init__.py": "import numpy",
            "keras_bcgd/export/operators/add.py": "import keras_bcgd.export.x",
            "keras_bcgd/export/x.py": "import csv",
            "examples/program.py": "from training import workdir",
            "examples/training/__init__.py": "",
            "examples/training/workdir.py": "from training.time import now",
            "examples/training/time.py": "now = 0",
        }
    )
    found = {target["name"]: target for target in build_file.targets()}
    assert list(found) == ["export", "keras_bcgd", "program", "training"]
    assert found["export"]["srcs"] == [
        "keras_bcgd/export/__init__.py",
        "keras_bcgd/export/operators/add.py",
        "keras_bcgd/export/x.py",
    ]
    assert {name: target["deps"] for name, target in found.items()} == {
        "export": ["@pypi//numpy"],
        "keras_bcgd": [":export"],
        "program": [":training"],
        "training": [],
    }


def test_a_file_of_the_package_hides_no_other_package(project):
    """Python does not look for modules in a package's folder."""
    project(
        {
            "keras_bcgd/reader.py": "import tflite",
            "keras_bcgd/tflite/__init__.py": "",
        }
    )
    assert labels_by_name()["reader"] == ["@pypi//tflite"]


def test_a_program_is_a_binary(project):
    main = 'import sys\n\nif __name__ == "__main__":\n    sys.exit()\n'
    project(
        {
            "benchmarks/speed.py": main,
            "examples/data.py": "import csv",
            "examples/demo.py": main,
            "tests/helper.py": main,
        }
    )
    rules = {target["name"]: target["rule"] for target in build_file.targets()}
    assert rules == {
        "data": "py_library",
        "demo": "py_binary",
        "speed": "py_binary",
        "helper": "py_library",
    }


def test_tests_are_run_by_the_main_file(project):
    project(
        {
            "tests/conftest.py": "import keras",
            "tests/run_pytest.py": "import pytest",
            "tests/folder/helper.py": "import numpy",
            "tests/folder/test_b.py": "import helper",
            "tests/test_a.py": "import folder.helper",
        }
    )
    found = {target["name"]: target for target in build_file.targets()}
    assert list(found) == ["folder", "run_pytest", "test_a", "test_b"]
    assert found["run_pytest"]["srcs"] == [
        "tests/conftest.py",
        "tests/run_pytest.py",
    ]
    for name, path in [
        ("test_a", "tests/test_a.py"),
        ("test_b", "tests/folder/test_b.py"),
    ]:
        assert found[name] == {
            "rule": "py_test",
            "name": name,
            "srcs": sorted([MAIN, path]),
            "args": [path],
            "main": MAIN,
            "deps": [":folder", ":run_pytest"],
        }


def test_a_name_in_use_gets_its_folders_in_front(project):
    project(
        {
            "keras_bcgd/calibration/__init__.py": "",
            "examples/calibration.py": "import keras_bcgd.calibration",
            "examples/data/__init__.py": "import calibration",
            "examples/demo.py": "import data.files",
            "examples/data/files.py": "",
            "tests/data.py": "import examples.data",
        }
    )
    assert labels_by_name() == {
        "calibration": [],
        "demo": [":examples_data"],
        "examples_calibration": [":calibration"],
        "examples_data": [":examples_calibration"],
        "tests_data": [":examples_data"],
    }


@pytest.mark.parametrize(
    "paths",
    [
        ("examples/data/files.py", "examples/data.py"),
        ("keras_bcgd/data/__init__.py", "keras_bcgd/data.py"),
    ],
)
def test_a_file_and_a_folder_of_one_name_are_an_error(project, paths):
    project(dict.fromkeys(paths, ""))
    with pytest.raises(ValueError, match="rename one of them"):
        build_file.text()


def test_a_cycle_of_targets_is_an_error(project):
    project(
        {
            "keras_bcgd/a/one.py": "import keras_bcgd.b.one",
            "keras_bcgd/a/two.py": "",
            "keras_bcgd/b/one.py": "def f():\n    import keras_bcgd.a.two",
        }
    )
    with pytest.raises(ValueError, match="(:a needs :b|:b needs :a) needs"):
        build_file.text()


@pytest.mark.parametrize("table", ["ATTRIBUTES", "RUN_BY"])
def test_a_table_that_names_no_file_is_an_error(project, monkeypatch, table):
    project({"tests/test_a.py": ""})
    monkeypatch.setattr(build_file, table, {"tests/test_b.py": {}})
    with pytest.raises(ValueError, match="tests/test_b.py: no such file"):
        build_file.text()


def test_attributes_of_the_table_are_written(project, monkeypatch):
    project({"tests/helper.py": ""})
    added = {"tags": ["a", "b"], "data": ["SOURCES", "BUILD"], "size": "large"}
    monkeypatch.setattr(build_file, "ATTRIBUTES", {"tests/helper.py": added})
    assert build_file.text().endswith(
        """
py_library(
    name = "helper",
    size = "large",
    srcs = ["tests/helper.py"],
    data = SOURCES + ["BUILD"],
    tags = [
        "a",
        "b",
    ],
)
"""
    )
    added["sise"] = "large"
    with pytest.raises(ValueError, match="'sise'"):
        build_file.text()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "BUILD"
    path.write_text("old", encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(build_file, "text", lambda: "no \ud800 in UTF-8")
        with pytest.raises(UnicodeEncodeError):
            build_file.write(path)
    assert path.read_text(encoding="utf-8") == "old"
    build_file.write(path)
    assert path.read_text(encoding="utf-8") == build_file.text()
    assert list(tmp_path.iterdir()) == [path]


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
