"""The examples run as a user runs them, with less to do."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parent.parent

if keras.backend.backend() != "tensorflow":
    pytest.skip("the examples are TensorFlow programs", True)


def run(example, *arguments):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_demo(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the export needs it")
    result = run(
        "demo.py",
        f"--output_dir={tmp_path}",
        "--seeds=5",
        "--float_epochs=3",
        "--epochs=1",
    )
    assert result.returncode == 0, result.stderr
    rows = [
        line.split()
        for line in result.stdout.splitlines()
        if line.startswith(("4W4A", "1W4A")) and "mean" not in line
    ]
    assert len(rows) == 4
    for row in rows:
        assert float(row[5]) >= 99, row  # equal predictions, %
    assert len(list(tmp_path.glob("*.tflite"))) == 9
    assert (tmp_path / "demo.png").stat().st_size > 10_000


def test_demo_explains_itself():
    result = run("demo.py", "--help")
    assert "integer TFLite file" in result.stdout
    assert "--epochs" in result.stdout


def test_demo_refuses_unknown_arguments():
    result = run("demo.py", "surplus")
    assert result.returncode != 0
    assert "surplus" in result.stdout + result.stderr
