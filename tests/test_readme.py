"""The README says what is true: its code runs, its names exist."""

import importlib
import pathlib
import re

import keras
import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_blocks_run(tmp_path, monkeypatch, capsys):
    """The ten lines, then those that go on from them or a float model."""
    pytest.importorskip("ai_edge_litert", reason="the export needs it")
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    images = (digits.images * 15 / 255)[..., None].astype("float32")
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code) == 3
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    names = {
        "x_train": images[:1200],
        "y_train": digits.target[:1200],
        "x_test": images[1200:],
        "y_test": digits.target[1200:],
    }
    names["float_model"] = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    for block in code:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "digits.tflite").stat().st_size > 0
    printed = capsys.readouterr().out
    agreement = re.search(r"equal decisions +\d+ \(([\d.]+)%\)", printed)
    assert float(agreement[1]) >= 99.9
    assert "exact: every code in the file is that of the model" in printed
    assert "\nequal: all 597 decisions and 5,970 values\n" in printed


def test_the_equation_table_names_code_that_exists():
    found = 0
    for row in README.splitlines():
        if not row.startswith("|") or ".py`" not in row:
            continue
        for part in re.split(r"(?<!\\)\|", row)[3].split(";"):
            file, *names = re.findall(r"`([^`]+)`", part)
            module = "keras_bcgd." + file.removesuffix(".py").replace("/", ".")
            content = importlib.import_module(module)
            source = pathlib.Path(content.__file__).read_text(encoding="utf-8")
            for name in names:
                name = re.split(r"[(.=]", name)[0]
                assert re.search(rf"\b{name}\b", source), (file, name)
                found += 1
    assert found > 15


def test_the_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = re.findall(r"\bmake ([a-z-]+)", README)
    assert commands
    for target in commands:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
