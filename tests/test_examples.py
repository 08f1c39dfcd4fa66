"""The examples run as a user runs them, with less to do."""

import importlib.util
import json
import os
import pathlib
import re
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
        int8, int4, lut = map(int, row[-3:])
        assert lut < int4 < int8
    assert len(list(tmp_path.glob("*.tflite"))) == 13
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    if importlib.util.find_spec("tflite_micro"):
        assert (
            "540 of 540 predictions and 5,400 of 5,400 outputs" in result.stdout
        )
    else:
        assert "pip install keras-bcgd[micro]" in result.stdout


@pytest.mark.slow
def test_demo_reaches_what_it_is_for(tmp_path):
    """All seeds: 4W4A near the float network, the file equal to the model."""
    pytest.importorskip("ai_edge_litert", reason="the export needs it")
    result = run("demo.py", f"--output_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    rows = {}
    for line in result.stdout.splitlines():
        name, _, rest = line.partition("  ")
        if rest.split():
            rows.setdefault(name, []).append(rest.split())
    means = {name: found[-1] for name, found in rows.items() if len(found) > 1}
    accuracy = {
        name: float(mean[1])
        for name, mean in means.items()
        if mean[0] == "mean"
    }
    for name in ("4W4A BC", "4W4A BCGD"):
        assert accuracy[name] >= accuracy["float32"] - 1.0
    for name in ("4W4A BC", "4W4A BCGD", "1W4A BC", "1W4A BCGD"):
        assert len(rows[name]) == 4
        for row in rows[name]:
            assert float(row[3]) >= 99.5, (name, row)


def test_demo_explains_itself():
    result = run("demo.py", "--help")
    assert "integer TFLite file" in result.stdout
    assert "--epochs" in result.stdout


def test_demo_refuses_unknown_arguments():
    result = run("demo.py", "surplus")
    assert result.returncode != 0
    assert "surplus" in result.stdout + result.stderr


def pictures_in(folder):
    """{name: suffixes} of what the example left there."""
    found = {}
    for path in folder.iterdir():
        assert path.stat().st_size > 5000, path
        found.setdefault(path.stem, set()).add(path.suffix)
    return found


def test_two_layer_draws_what_is_asked_for(tmp_path):
    result = run(
        "two_layer.py",
        f"--output_dir={tmp_path}",
        "--only=staircase,population",
    )
    assert result.returncode == 0, result.stderr
    both = {".png", ".svg"}
    assert pictures_in(tmp_path) == {"staircase": both, "population": both}
    assert "population: saddles at 95 and 90 degrees" in result.stdout


@pytest.mark.slow
def test_two_layer_finds_what_the_theory_says(tmp_path):
    result = run("two_layer.py", f"--output_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert len(pictures_in(tmp_path)) == 7
    assert "0 miss the teacher" in result.stdout
    assert "7 of the 7 in the theorem's region" in result.stdout


def test_two_layer_explains_itself():
    result = run("two_layer.py", "--help")
    assert "hill of terraces" in result.stdout
    assert "--output_dir" in result.stdout


def test_two_layer_refuses_unknown_pictures(tmp_path):
    result = run("two_layer.py", "--only=x", f"--output_dir={tmp_path}/new")
    assert result.returncode != 0
    assert "--only takes staircase" in result.stdout + result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_from_a_float_model_to_a_file(tmp_path):
    """Built and trained, then the same converted again from its file."""
    pytest.importorskip("ai_edge_litert", reason="the export needs it")
    common = ["--smoke", "--epochs=1", "--calibration_images=64"]
    result = run(
        "from_float.py", *common, "--float_epochs=1", f"--out={tmp_path}/a"
    )
    assert result.returncode == 0, result.stderr
    float_model = f"--float_model={tmp_path}/a/float.keras"
    result = run(
        "from_float.py",
        *common,
        float_model,
        "--calibration=none",
        f"--out={tmp_path}/b",
    )
    assert result.returncode == 0, result.stderr
    names = {"float.keras", "model.tflite", "plan.txt", "quantized.keras"}
    names |= {"model_int16.tflite", "float32.tflite", "int8_ptq.tflite"}
    for folder, steps in (("a", 5), ("b", 4)):
        found = {path.name for path in (tmp_path / folder).iterdir()}
        assert found == names | {"report.json"}
        report = json.loads((tmp_path / folder / "report.json").read_text())
        assert len(report["rows"]) == steps
        for file in report["files"].values():
            assert file["samples"] == 128
            assert file["equal"] + file["ties"] >= 126
    rows = result.stdout.splitlines()[-8:]
    assert rows[0].split() == ["after", "accuracy", "classes", "predicted"]
    assert rows[5].startswith("int8_ptq")
    assert "logits differ by at most" in rows[-1]


def test_from_a_float_model_of_ones_own(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the export needs it")
    float_model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    float_model.save(tmp_path / "own.keras")
    result = run(
        "from_float.py",
        "--smoke",
        f"--float_model={tmp_path}/own.keras",
        "--epochs=1",
        "--calibration_images=64",
        f"--out={tmp_path}",
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    for file in report["files"].values():
        assert file["equal"] + file["ties"] == file["samples"]
    assert report["others"]["int8_ptq"]["file_bytes"] > 1000


def test_segmentation(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the export needs it")
    result = run(
        "segmentation.py",
        "--smoke",
        "--width=4",
        "--float_epochs=1",
        "--epochs=1",
        "--networks=4w4a",
        "--test_images=16",
        f"--out={tmp_path}",
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    file = report["rows"]["4w4a"]["file"]
    for kernels in ("xnnpack", "builtin", "reference"):
        assert file[kernels]["pixels"] == 16 * 32 * 32
        share = file[kernels]["equal"] / file[kernels]["pixels"]
        assert share >= 0.995, (kernels, share)
    assert "equal pixels" in result.stdout
    assert (tmp_path / "4w4a.tflite").stat().st_size > 1000


def test_segmentation_explains_itself():
    result = run("segmentation.py", "--help")
    assert "U-Net" in result.stdout
    assert "--reference_images" in result.stdout


def test_segmentation_needs_data(tmp_path):
    result = run(
        "segmentation.py",
        f"--data_dir={tmp_path}/none.npz",
        f"--out={tmp_path}",
    )
    assert result.returncode != 0
    assert "is no file that examples/cifar10_data.py wrote" in (
        result.stdout + result.stderr
    )
    result = run("segmentation.py", "--networks=four", f"--out={tmp_path}")
    assert result.returncode != 0
    assert "names like 4w8a" in result.stdout + result.stderr


def test_keyword_spotting(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="the export needs it")
    result = run(
        "keyword_spotting.py",
        "--smoke",
        "--width=8",
        "--float_epochs=1",
        "--epochs=1",
        "--networks=4w4a",
        f"--out={tmp_path}",
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [(row["task"], row["network"]) for row in report["rows"]] == [
        ("words", "float"),
        ("words", "4w4a"),
        ("watch", "float"),
        ("watch", "4w4a"),
    ]
    for row in report["rows"][1::2]:
        for kernels in ("xnnpack", "builtin", "reference"):
            found = row["file"][kernels]
            assert found["samples"] == 128
            assert found["equal"] + found["ties"] == 128, (row["task"], kernels)
        name = f"{row['task']}_4w4a.tflite"
        assert (tmp_path / name).stat().st_size == row["file"]["file_bytes"]
    assert "equal, ties apart" in result.stdout
    assert "words: data synthetic" in result.stdout
    assert "watch: operators CAST, CONV_2D" in result.stdout


def test_keyword_spotting_explains_itself():
    result = run("keyword_spotting.py", "--help")
    assert "SYNTHETIC" in result.stdout
    assert "--reference_samples" in result.stdout


def test_keyword_spotting_refuses_unknown_tasks(tmp_path):
    for argument, message in (
        ("--tasks=speech", "--tasks takes words, watch, not 'speech'"),
        ("--networks=four", "names like 4w8a"),
    ):
        result = run("keyword_spotting.py", argument, f"--out={tmp_path}/new")
        assert result.returncode != 0
        assert message in result.stdout + result.stderr
    assert not list(tmp_path.iterdir())


def test_from_float_explains_itself():
    result = run("from_float.py", "--help")
    assert "calibrate          alphas that suit" in result.stdout
    assert "--float_model" in result.stdout


def test_from_float_refuses_other_sizes(tmp_path):
    result = run("from_float.py", "--smoke", "--size=40", f"--out={tmp_path}")
    assert result.returncode != 0
    assert "multiple of 32, not 40" in result.stdout + result.stderr


@pytest.mark.slow
def test_train_and_deploy(tmp_path):
    """Float, quantized, deployed: random images, every step of the way."""
    pytest.importorskip("ai_edge_litert", reason="the export needs it")
    common = ["--smoke", "--net=mobilenet", "--epochs=1", "--batch_size=64"]
    stages = {
        "float": ["--stage=float", "--recipe=recommended"],
        "quantized": [
            "--recipe=recommended",
            "--learning_rate=0.01",
            f"--init_from={tmp_path}/float/model.keras",
        ],
    }
    for name, arguments in stages.items():
        workdir = f"--workdir={tmp_path / name}"
        result = run("cifar10.py", *common, *arguments, workdir)
        assert result.returncode == 0, result.stderr
    result = run(
        "deploy_tflite.py",
        "--smoke",
        f"--model={tmp_path}/quantized/model.keras",
        f"--float_model={tmp_path}/float/model.keras",
        f"--out={tmp_path}/deployed",
        "--runs=2",
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "deployed" / "report.json").read_text())
    assert report["int8"]["is_integer"] and report["int4"]["is_integer"]
    for kernels in ("xnnpack", "builtin", "reference"):
        assert report["int8"][kernels]["equal"] == 64
    assert 0 < report["latency"]["int8"]["median_ms"]
    if importlib.util.find_spec("tflite_micro"):
        deploys_to_microcontrollers(tmp_path)


def deploys_to_microcontrollers(folder):
    """The same network; what had its name in the results gives way."""
    results = folder / "rows.json"
    results.write_text('[{"name": "small"}]')
    result = run(
        "deploy_micro.py",
        "--smoke",
        f"--model={folder}/quantized/model.keras",
        f"--float_model={folder}/float/model.keras",
        f"--out={folder}/micro",
        "--name=small",
        f"--results={results}",
        "--test_images=4",
        "--micro_images=2",
        "--compared_images=2",
    )
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(results.read_text())
    assert row == json.loads((folder / "micro" / "report.json").read_text())
    files = row["files"]
    assert files["lut"]["bytes"] < files["int8"]["bytes"]
    assert files["int8"]["xnnpack"]["samples"] == 4
    assert files["lut"]["micro"]["equal"] == 2
    assert row["lut_values_unlike_int8"] == 0 < row["lut_values"]
    assert 0 < row["ptq"]["bytes"]
    assert f"{files['lut']['bytes']:,}" in result.stdout


def test_the_page_has_the_tables_of_the_results():
    """docs/microcontrollers.md is not edited by hand, and leaves out none."""
    results = ROOT / "results" / "microcontrollers.json"
    printed = run("deploy_micro.py", "--table_only", f"--results={results}")
    assert printed.returncode == 0, printed.stderr
    page = (ROOT / "docs" / "microcontrollers.md").read_text(encoding="utf-8")
    tables = printed.stdout.strip().split("\n\n")
    assert len(tables) == 2
    for table in tables:
        assert len(table.splitlines()) > 2
        assert table in page


def test_mixed_precision(tmp_path):
    """Every plan is trained; the mixed one fits in the budget."""
    out = tmp_path / "rows.json"
    result = run(
        "mixed_precision.py",
        "--smoke",
        "--epochs=1",
        "--bits=1,2,4",
        "--uniform_bits=2",
        "--measured_images=64",
        f"--out={out}",
    )
    assert result.returncode == 0, result.stderr
    rows = {row["plan"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"uniform", "mixed", "ends"}
    assert rows["mixed"]["bytes"] <= rows["uniform"]["bytes"]
    assert rows["uniform"]["bytes"] < rows["ends"]["bytes"]
    for plan, row in rows.items():
        assert len(row["accuracies"]) == 2
        assert f"2 bits, {plan}" in result.stdout
    assert "stage1_block1_conv1" in result.stdout


def test_mixed_precision_needs_a_network():
    result = run("mixed_precision.py")
    assert result.returncode != 0
    assert "give --float_model" in result.stdout + result.stderr


def test_imagenet_curves(tmp_path):
    """Two runs; the legend says what they differ in."""
    for name, blending in (("bc", 0.0), ("bcgd", 1e-5)):
        folder = tmp_path / name
        folder.mkdir()
        config = {"weight_bits": 1, "activation_bits": 4, "blending": blending}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "log.csv").write_text(
            "epoch,val_top1,val_top5\n1,0.1,0.3\n2,0.2,0.4\n"
        )
    folders = [f"{tmp_path}/bc", f"{tmp_path}/bcgd"]
    figure = tmp_path / "curves.svg"
    result = run("imagenet_curves.py", f"--figure={figure}", *folders)
    assert result.returncode == 0, result.stderr
    drawn = figure.read_text()
    for label in ("ρ = 0.0", "ρ = 1e-05", "top-5 accuracy", "1-bit weights"):
        assert re.search(f"<!--.*{label}", drawn), label
    for figure, given, message in (
        ("c", folders, "--figure is a .png, .svg or .pdf, not c"),
        ("c.png", [str(tmp_path)], "is no folder of a stage"),
    ):
        result = run("imagenet_curves.py", f"--figure={figure}", *given)
        assert result.returncode != 0
        assert message in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
