"""The documentation says what is true: its code runs, its links lead on."""

import ast
import doctest
import importlib.util
import itertools
import pathlib
import re

import keras
import numpy as np
import pytest
import reference
import source_tree
from public_api import public_callables

from keras_bcgd.tflite import runtime_needs

if keras.backend.backend() != "tensorflow":
    pytest.skip("the pages are run on TensorFlow", True)

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
TEXTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/README.md",
    *(f"docs/{page}" for page in PAGES),
]
# A fence, what stands in it, and the same fence.
BLOCK = re.compile(r"^(```)(\w*)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"python (examples/\w+\.py)((?:[^\n`]*\\\n)*[^\n`]*)")


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(path):
    """(language, code) of each fenced block, in order."""
    return [(found[2], found[3]) for found in BLOCK.finditer(read(path))]


def runnable(page):
    languages = {language for language, _ in blocks(f"docs/{page}")}
    return bool(languages & {"python", "pycon"})


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """The arrays that a page may take for granted; an empty folder."""
    pytest.importorskip("ai_edge_litert", reason="the export needs it")
    datasets = pytest.importorskip("sklearn.datasets")
    monkeypatch.chdir(tmp_path)
    data = datasets.load_digits()
    images = (data.images * 15 / 255)[..., None].astype("float32")
    return {
        "x_train": images[:1200],
        "y_train": data.target[:1200],
        "x_test": images[1200:],
        "y_test": data.target[1200:],
    }


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_blocks_run(page, digits):
    """In order and with common names, as a reader would paste them."""
    names = digits | {"__name__": "__main__"}
    for number, (language, code) in enumerate(blocks(f"docs/{page}")):
        place = f"{page}, block {number}"
        if language == "python":
            exec(compile(code, place, "exec"), names)
        elif language == "pycon":
            test = doctest.DocTestParser().get_doctest(
                code, names, place, page, 0
            )
            found = []
            runner = doctest.DocTestRunner(verbose=False)
            runner.run(test, out=found.append, clear_globs=False)
            assert runner.tries and not runner.failures, "".join(found)


@pytest.mark.parametrize("text", TEXTS)
def test_blocks_are_marked_by_what_they_are(text):
    """What is marked as Python is Python; of no other library if it runs."""
    for language, code in blocks(text):
        assert language in ("", "py", "python", "pycon", "sh"), language
        if language in ("python", "py"):
            ast.parse(code)


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_left_to_fill_in(text):
    assert not re.search(r"@[A-Z]+@|\b(TODO|TBD|XXX|KILLED)\b", read(text))


@pytest.mark.parametrize("text", TEXTS)
def test_links_lead_to_files(text):
    folder = (ROOT / text).parent
    for link in LINK.findall(read(text)):
        target = link.partition("#")[0]
        if not target or re.match(r"[a-z]+:", target):
            continue
        path = (folder / target).resolve()
        assert path.is_file(), f"{text}: {link}"
        # The site holds docs/ alone.
        if text.startswith("docs/"):
            assert path.is_relative_to(DOCS.resolve()), f"{text}: {link}"


def test_every_picture_is_shown():
    shown = set()
    for text in TEXTS:
        for link in LINK.findall(read(text)):
            shown.add(((ROOT / text).parent / link).resolve())
    for path in (DOCS / "figures").iterdir():
        assert path.resolve() in shown, path


@pytest.fixture
def quant_relu_figure():
    """The program that draws docs/figures/quant_relu.svg."""
    pytest.importorskip("matplotlib")
    path = DOCS / "quant_relu_figure.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_quant_relu_is_right(quant_relu_figure):
    """Its curves against NumPy; points on both sides of every jump."""
    value, by_x, by_alpha = quant_relu_figure.draw().axes
    x = value.lines[1].get_xdata()
    sigma, slope, three_valued = reference.quant_relu(x, alpha=1, bits=2)
    ae = np.ceil(np.clip(x, 0, 3))
    expected = [
        (value.lines[1], sigma),
        (by_x.lines[0], slope),
        (by_alpha.lines[0], ae),
        (by_alpha.lines[1], three_valued),
        (by_alpha.lines[2], 3 * (x > 3)),
    ]
    for line, y in expected:
        np.testing.assert_array_equal(line.get_xdata(), x)
        np.testing.assert_array_equal(line.get_ydata(), y)
    names = ["ae", "three_valued", "two_valued"]
    assert [line.get_label() for line in by_alpha.lines] == names
    jumps = np.arange(4)
    assert {*np.searchsorted(jumps, x)} == {0, 1, 2, 3, 4}
    assert not set(x) & set(jumps)


def test_the_picture_of_quant_relu_is_the_one_drawn(
    quant_relu_figure, tmp_path
):
    import matplotlib

    if f"matplotlib=={matplotlib.__version__}\n" not in read(
        "requirements_lock.txt"
    ):
        pytest.skip("another matplotlib may write other bytes")
    path = tmp_path / "quant_relu.svg"
    quant_relu_figure.save(path)
    assert path.read_bytes() == quant_relu_figure.PATH.read_bytes()
    assert path.stat().st_size < 40_000


def test_navigation_names_every_page_once():
    named = re.findall(r"^ +- (?:.+: )?(\S+\.md)$", read("mkdocs.yml"), re.M)
    assert sorted(named) == PAGES


def test_api_has_every_public_name_once():
    documented = [
        name
        for page in PAGES
        for name in re.findall(r"^::: (\S+)$", read(f"docs/{page}"), re.M)
    ]
    # A module that has the name of its function stands before it.
    documented = [re.sub(r"\.(\w+)\.\1$", r".\1", name) for name in documented]
    assert sorted(documented) == sorted(public_callables())


def test_runtimes_are_those_of_the_table():
    text = read("docs/runtimes.md")
    for oldest, operators in runtime_needs.OLDEST.items():
        releases = " | ".join(release or "none" for release in oldest)
        for name, version in operators.items():
            assert f"| `{name}` | {version} | {releases} |" in text


def test_examples_are_listed():
    """The programs in the root of examples/, and the folders beside them."""
    text = read("examples/README.md")
    files = [path.name for path in (ROOT / "examples").glob("*.py")]
    assert sorted(set(re.findall(r"`(\w+\.py)`", text))) == sorted(files)
    parts = (ROOT / "examples").glob("*/__init__.py")
    folders = [path.parent.name for path in parts]
    assert sorted(set(re.findall(r"`(\w+)/`", text))) == sorted(folders)


def test_examples_in_the_root_are_programs():
    for path in (ROOT / "examples").glob("*.py"):
        assert '__name__ == "__main__"' in path.read_text("utf-8"), path


def flags_of(program):
    """The names of the absl flags that a program and its imports define."""
    names = set()
    for entry in source_tree.imports(program):
        file = source_tree.imported_file(entry, program)
        if file is not None and file.startswith("examples/"):
            names |= flags_of(file)
    for node in ast.walk(source_tree.parse(program)):
        if isinstance(node, ast.Call):
            # `DEFINE_string("name", ...)` or `define(DEFINE_string, "name")`.
            for function, name in itertools.pairwise([node.func, *node.args]):
                if getattr(function, "attr", "").startswith("DEFINE_"):
                    names.add(name.value)
    return names


@pytest.mark.parametrize("text", TEXTS)
def test_commands_have_the_flags_of_their_programs(text):
    for program, arguments in COMMAND.findall(read(text)):
        known = flags_of(program)
        for flag in re.findall(r"--(\w+)", arguments):
            assert {flag, flag.removeprefix("no")} & known, (
                f"{text}: {program} has no --{flag}"
            )


def test_commands_are_found():
    commands = [
        found for text in TEXTS for found in COMMAND.findall(read(text))
    ]
    assert {"examples/cifar10.py", "examples/demo.py"} <= {
        program for program, _ in commands
    }
    assert any("--init_from" in arguments for _, arguments in commands)
