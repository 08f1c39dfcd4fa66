"""What each source file imports, read from its text without running it."""

import ast
import dataclasses
import functools
import pathlib

# Bazel runs a test on links to the sources: this is where they lead.
ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported name; `name` is None in `import module`."""

    module: str
    name: str | None
    line: int
    in_function: bool

    @property
    def top(self):
        return self.module.partition(".")[0]


def python_files(*folders):
    """The Python files in these folders, as sorted paths from the root."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    )


def parse(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), path)


@functools.cache
def imports(path):
    """All imports of a file; those in functions run only when called."""
    return list(_imports(parse(path), in_function=False))


def _imports(node, in_function):
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, None, node.lineno, in_function)
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"line {node.lineno}: write the full module name"
        for alias in node.names:
            yield Import(node.module, alias.name, node.lineno, in_function)
    function = isinstance(node, ast.FunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, in_function or function)


def imported_file(entry, importer):
    """The file of this project that an import reads, or None."""
    dotted = [entry.module]
    if entry.name is not None:
        dotted.insert(0, f"{entry.module}.{entry.name}")
    # Python and pytest put a file's folder on the path of modules, and
    # pyproject.toml the examples.
    folders = [pathlib.PurePosixPath(), pathlib.PurePosixPath(importer).parent]
    if importer.startswith(("tests/", "benchmarks/", "examples/")):
        folders.append(pathlib.PurePosixPath("examples"))
    for folder in folders:
        for name in dotted:
            base = folder.joinpath(*name.split("."))
            for path in (f"{base}.py", f"{base}/__init__.py"):
                if (ROOT / path).is_file():
                    return path
    return None
