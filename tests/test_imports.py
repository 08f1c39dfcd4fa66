"""Holds the imports against the arrows of the design, kept in `ALLOWED`."""

import ast
import graphlib
import importlib.util
import os
import subprocess
import sys

import pytest
import source_tree
from source_tree import ROOT

# What each file or folder of the package may import. The method imports the
# method and `utils.checks`; the other folders stand on it in layers: `tflite`
# knows no Keras, `network` reads models, and what can be exported is said by
# `export`. `__init__` may import all, and none imports it.
ALLOWED = {
    # The method.
    "backend": set(),
    "exact_numpy": set(),
    "activations": {"backend", "utils"},
    "branches": {"activations", "backend"},
    "gradient_scale": {"backend", "utils"},
    "pointwise": {"activations", "backend"},
    "ternary_threshold": {"backend"},
    "projections": {"backend", "ternary_threshold", "utils"},
    "constraints": {"projections", "utils"},
    "layers": {
        "activations",
        "backend",
        "branches",
        "constraints",
        "exact_numpy",
        "gradient_scale",
        "pointwise",
        "utils",
    },
    "models": {"layers", "utils"},
    "optimizers": {"backend", "constraints", "projections"},
    "theory": set(),
    # What needs no Keras model.
    "utils": set(),
    "tflite": {"utils"},
    # What reads one. `tflite` for the bytes of weights in tables alone: see
    # the test below.
    "network": {"layers"},
    "analysis": {
        "activations",
        "branches",
        "constraints",
        "layers",
        "network",
        "projections",
        "tflite",
        "utils",
    },
    "calibration": {"activations", "analysis", "layers", "network", "utils"},
    "on_device": {"backend", "utils"},
    "callbacks": {
        "analysis",
        "constraints",
        "export",
        "layers",
        "network",
        "optimizers",
        "projections",
        "utils",
    },
    "plots": {
        "activations",
        "analysis",
        "callbacks",
        "layers",
        "network",
        "utils",
    },
    "export": {
        "activations",
        "branches",
        "layers",
        "network",
        "pointwise",
        "projections",
        "tflite",
        "utils",
    },
    # `export` for `find_problems` alone: see the test below.
    "conversion": {
        "activations",
        "constraints",
        "export",
        "layers",
        "network",
        "pointwise",
        "projections",
        "utils",
    },
    # `export` for `arguments` and `support`: what both refuse.
    "onnx": {
        "activations",
        "branches",
        "export",
        "layers",
        "network",
        "utils",
    },
    # `export` for its integers.
    "stock": {"activations", "branches", "export", "layers", "network"},
    "verification": {"network", "tflite", "utils"},
    "micro": {"tflite", "utils"},
    "cli": {
        "export",
        "micro",
        "network",
        "onnx",
        "tflite",
        "utils",
        "verification",
    },
    "__main__": {"cli"},
}

METHOD = {
    "activations",
    "backend",
    "branches",
    "constraints",
    "exact_numpy",
    "gradient_scale",
    "layers",
    "models",
    "optimizers",
    "projections",
    "ternary_threshold",
    "theory",
}

# Needed by one function or one backend: imported where they are used.
OPTIONAL = {
    "ai_edge_litert",
    "jax",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "pandas",
    "qonnx",
    "tensorflow",
    "tflite_micro",
}
MAP = "keras_bcgd/__init__.py"
PACKAGE_FILES = source_tree.python_files("keras_bcgd")
USER_FILES = source_tree.python_files("examples")


def module_of(path):
    """keras_bcgd/layers/quant_relu.py -> layers."""
    return path.split("/")[1].removesuffix(".py")


def package_imports(path):
    """The files of the package that a file imports, as (file, line)."""
    for entry in source_tree.imports(path):
        if entry.top == "keras_bcgd":
            yield source_tree.imported_file(entry, path), entry.line


def public_names():
    """The names that `keras_bcgd` exports."""
    return {
        entry.name
        for entry in source_tree.imports(MAP)
        if entry.top == "keras_bcgd"
    } | {"__version__"}


def test_arrows_name_the_modules_that_exist():
    modules = {module_of(path) for path in PACKAGE_FILES} - {"__init__"}
    assert set(ALLOWED) == modules, (
        "ALLOWED in tests/test_imports.py needs one line for each module. "
        f"Add: {sorted(modules - set(ALLOWED))}. "
        f"Remove: {sorted(set(ALLOWED) - modules)}"
    )


def test_conversion_asks_the_export_what_it_refuses_and_nothing_else():
    """The plan of a conversion says what `export_tflite` would refuse."""
    imported = [
        (entry.module, entry.name)
        for path in PACKAGE_FILES
        if module_of(path) == "conversion"
        for entry in source_tree.imports(path)
        if "keras_bcgd.export" in f"{entry.module}.{entry.name}"
    ]
    assert imported == [("keras_bcgd.export.graph", "find_problems")]


def test_analysis_takes_of_tflite_what_needs_no_runtime():
    """It runs with JAX, where nothing of TensorFlow is installed."""
    imported = {
        file
        for path in PACKAGE_FILES
        if module_of(path) == "analysis"
        for file, _ in package_imports(path)
        if module_of(file) == "tflite"
    }
    assert imported == {"keras_bcgd/tflite/lut.py"}
    tops = {entry.top for entry in source_tree.imports(*imported)}
    assert tops <= {"numpy", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE_FILES if module_of(p) in METHOD]
)
def test_the_method_takes_of_utils_the_checks_alone(path):
    used = {file for file, _ in package_imports(path) if "/utils/" in file}
    assert used <= {"keras_bcgd/utils/checks.py"}


def test_arrows_have_no_cycle():
    graphlib.TopologicalSorter(ALLOWED).prepare()


def test_files_have_no_cycle():
    graph = {
        path: {file for file, _ in package_imports(path)}
        for path in PACKAGE_FILES
    }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", [p for p in PACKAGE_FILES if p != MAP])
def test_imports_follow_the_arrows(path):
    module = module_of(path)
    allowed = ALLOWED.get(module, set())
    for file, line in package_imports(path):
        imported = module_of(file)
        assert imported in allowed | {module}, (
            f"{path}, line {line}: `{module}` imports `{imported}`. ALLOWED "
            f"in tests/test_imports.py has {sorted(allowed)}"
        )


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE_FILES if module_of(p) == "theory"]
)
def test_theory_needs_numpy_alone(path):
    tops = {entry.top for entry in source_tree.imports(path)}
    assert tops <= {"keras_bcgd", "numpy", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", PACKAGE_FILES)
def test_optional_packages_are_imported_in_functions(path):
    for entry in source_tree.imports(path):
        assert entry.in_function or entry.top not in OPTIONAL, (
            f"{path}, line {entry.line}: import `{entry.top}` in the function "
            "that needs it"
        )


def dotted_name(node):
    """`a.b.c` of an attribute expression, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted_name(node.value)}.{node.attr}"
    return ""


def is_private_keras(name):
    """Whether a dotted name reaches Keras other than as public `keras.*`."""
    parts = name.split(".")
    if parts[0] in ("tf", "tensorflow"):
        return "keras" in parts
    return parts[0] in ("keras", "tf_keras") and (
        parts[0] == "tf_keras"
        or "src" in parts
        or any(part.startswith("_") for part in parts if part != "__version__")
    )


@pytest.mark.parametrize(
    "name, expected",
    [
        ("keras.layers.Dense", False),
        ("keras.__version__", False),
        ("src.keras", False),
        ("keras.src.backend", True),
        ("keras._tf_keras", True),
        ("tf.keras.Model", True),
        ("tensorflow.keras", True),
        ("tf_keras", True),
    ],
)
def test_private_keras_is_told_from_public(name, expected):
    assert is_private_keras(name) == expected


@pytest.mark.parametrize("path", PACKAGE_FILES + USER_FILES)
def test_keras_is_used_by_its_public_names(path):
    names = [
        (".".join(filter(None, [entry.module, entry.name])), entry.line)
        for entry in source_tree.imports(path)
    ]
    for node in ast.walk(source_tree.parse(path)):
        if isinstance(node, ast.Attribute):
            names.append((dotted_name(node), node.lineno))
    for name, line in names:
        assert not is_private_keras(name), (
            f"{path}, line {line}: `{name}` is not public Keras: use `keras.*`"
        )


@pytest.mark.parametrize("path", USER_FILES)
def test_examples_use_public_names(path):
    public = public_names()
    used = [
        (entry.name, entry.line)
        for entry in source_tree.imports(path)
        if entry.top == "keras_bcgd" and entry.name is not None
    ]
    for entry in source_tree.imports(path):
        assert not entry.module.startswith("keras_bcgd."), (
            f"{path}, line {entry.line}: import from `keras_bcgd`, not from "
            f"`{entry.module}`"
        )
    for node in ast.walk(source_tree.parse(path)):
        if isinstance(node, ast.Attribute):
            if dotted_name(node.value) == "keras_bcgd":
                used.append((node.attr, node.lineno))
    for name, line in used:
        assert name in public, (
            f"{path}, line {line}: `keras_bcgd.{name}` is not exported by "
            "keras_bcgd/__init__.py"
        )


@pytest.mark.parametrize(
    "backend, unused",
    [
        ("tensorflow", ["ai_edge_litert"]),
        ("jax", ["ai_edge_litert", "tensorflow"]),
    ],
)
def test_import_loads_only_the_backend(backend, unused):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = (
        "import sys, keras_bcgd\n"
        f"loaded = [name for name in {unused} if name in sys.modules]\n"
        "assert not loaded, f'loaded: {loaded}'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()


if __name__ == "__main__":
    for module in ALLOWED:
        arrows = {
            module_of(file)
            for path in PACKAGE_FILES
            if module_of(path) == module
            for file, _ in package_imports(path)
        } - {module}
        print(f"{module:12} -> {', '.join(sorted(arrows))}")
