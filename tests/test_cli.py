"""The command `keras-bcgd`: what it writes, and how it fails."""

import errno
import os
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import keras_bcgd as kb
from keras_bcgd import cli
from keras_bcgd.cli import inspection
from keras_bcgd.utils import files

COMMANDS = [
    "export",
    "align",
    "verify",
    "inspect",
    "benchmark",
    "micro",
    "unpack",
    "onnx",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, its file and data, under the names of the help texts."""
    folder = tmp_path_factory.mktemp("digits")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            kb.QuantDense(8, bits=4),
            kb.QuantReLU(4),
            kb.QuantDense(5, bits=4),
        ]
    )
    model.save(folder / "digits.keras")
    x = np.random.default_rng(0).integers(0, 256, (40, 6)) / 255
    y = model.predict(x, verbose=0).argmax(axis=1)
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x)
    np.savez(folder / "test.npz", x=x, y=y)
    kb.export_tflite(model, folder / "digits.tflite", (0, 1), x)
    kb.export_tflite(
        model, folder / "digits.int4.tflite", (0, 1), x, weight_format="int4"
    )
    return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


def run(line, capsys):
    """`(status, stdout, stderr)` of a command line."""
    try:
        status = cli.main(line.split())
    except SystemExit as leaving:
        status = leaving.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(line, capsys, status=1):
    """The one line on stderr of a command that fails."""
    found, out, err = run(line, capsys)
    assert found == status and out == ""
    assert err.count("\n") == 1 and err.endswith("\n")
    return err


@pytest.mark.parametrize("command", COMMANDS)
def test_example_of_the_help_runs(command, capsys):
    if command == "micro":
        pytest.importorskip("tflite_micro", reason="it measures the arena")
    if command == "onnx":
        pytest.importorskip("onnx")
    status, text, _ = run(f"{command} --help", capsys)
    assert status == 0
    example, *_ = re.findall(r"^  keras-bcgd (.*)$", text, re.MULTILINE)
    assert example.startswith(command)
    status, out, err = run(example, capsys)
    written = {
        "align": "aligned.keras",
        "onnx": "digits.onnx",
        "unpack": "digits.int8.tflite",
    }
    assert (status, err) == (0, "")
    assert written.get(command, "digits.tflite") in out


def test_help_names_the_commands(capsys):
    status, text, _ = run("--help", capsys)
    assert status == 0
    assert all(re.search(rf"^ +{name}\b", text, re.M) for name in COMMANDS)


@pytest.mark.parametrize("output_type", ["int8", "uint8", "int16"])
def test_export_writes_what_export_tflite_writes(output_type, tmp_path, capsys):
    settings = {
        "input_range": (-1.0, 1.5),
        "representative_data": np.load("x.npy"),
        "weight_format": "int4",
        "batch_size": 3,
        "input_type": "uint8",
        "output_type": output_type,
        "minimize": "latency",
    }
    model = keras.saving.load_model("digits.keras")
    report = kb.export_tflite(model, tmp_path / "a", **settings)
    status, out, _ = run(
        f"export digits.keras {tmp_path}/b --input_range -1 1.5 --data x.npy "
        "--weight_format int4 --batch_size 3 --input_type uint8 "
        f"--output_type {output_type} --minimize latency",
        capsys,
    )
    assert status == 0
    text = str(report).replace(f"{tmp_path}/a", f"{tmp_path}/b")
    aligned = f"{tmp_path}/b.aligned.keras"
    assert out == f"{text}\nthe aligned model: {aligned}\n"
    saved = keras.saving.load_model(aligned)
    for found, weight in zip(saved.weights, report.model.weights, strict=True):
        np.testing.assert_array_equal(found, weight)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("data", ["x.npy", "x.npz"])
def test_export_reads_both_forms_of_data(data, tmp_path, capsys):
    line = f"export digits.keras {tmp_path}/m --input_range 0 1 --data {data}"
    assert run(line, capsys)[0] == 0
    with open("digits.tflite", "rb") as file:
        assert (tmp_path / "m").read_bytes() == file.read()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_export_writes_labels(end, tmp_path, capsys):
    labels = ["Katze", "dog", "日本", "4", "5 6"]
    text = "\n".join(labels).replace("\n", end or "\n") + end
    (tmp_path / "names.txt").write_bytes(text.encode())
    status, _, _ = run(
        f"export digits.keras {tmp_path}/m --input_range 0 1 "
        f"--labels {tmp_path}/names.txt",
        capsys,
    )
    assert status == 0
    with zipfile.ZipFile(tmp_path / "m") as archive:
        assert archive.read("labels.txt").decode().splitlines() == labels
    assert "\nlabels: 5\n" in run(f"inspect {tmp_path}/m", capsys)[1]


@pytest.mark.parametrize(
    "contents, reason",
    [
        (b"a\nb\nc\nd\n", "one for each of the 5 outputs. Received: 4"),
        (b"a\nb\n\nc\nd\n", "none of them blank. Received: ''"),
        (b"\xff\xfe", "cannot read the labels names.txt: 'utf-8'"),
    ],
)
def test_bad_labels(contents, reason, tmp_path, monkeypatch, capsys):
    model = os.path.abspath("digits.keras")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_bytes(contents)
    line = f"export {model} m --input_range 0 1 --labels names.txt"
    assert reason in fails(line, capsys)
    assert not (tmp_path / "m").exists()


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A model that alignment moves: its branch has 256 codes."""
    keras.utils.set_random_seed(0)
    parts = [
        kb.QuantConv2D(4, 3, bits=2, use_bias=False),
        keras.layers.BatchNormalization(),
        kb.QuantReLU(4),
        kb.QuantConv2D(4, 3, bits=2, use_bias=False, name="branch"),
        keras.layers.BatchNormalization(),
        kb.QuantIdentity(),
        keras.layers.Flatten(),
        kb.QuantDense(3, bits=8),
    ]
    model = keras.Sequential([keras.Input((6, 6, 2)), *parts])
    path = tmp_path_factory.mktemp("residual") / "trained.keras"
    model.save(path)
    return path


@pytest.mark.parametrize("minimize", ["size", "latency"])
def test_align_saves_what_align_for_export_makes(
    minimize, residual, tmp_path, capsys
):
    model = keras.saving.load_model(residual)
    moved = kb.align_for_export(
        model, input_range=(-1, 2), weight_format="auto", minimize=minimize
    )
    assert len(moved)
    path = tmp_path / "aligned.keras"
    status, out, _ = run(
        f"align {residual} {path} --input_range -1 2 --weight_format auto "
        f"--minimize {minimize}",
        capsys,
    )
    assert status == 0
    aligned = keras.saving.load_model(path)
    for found, expected in zip(aligned.weights, model.weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert out == f"{path}: {moved}\n"
    row, *_ = [line for line in out.splitlines() if "branch" in line]
    (branch,) = [part for part in moved if part.name == "branch"]
    assert f"{branch.slope_change:.3%}" in row and f"{branch.risk:.1e}" in row
    assert [entry.name for entry in tmp_path.iterdir()] == ["aligned.keras"]


def test_export_as_it_is(residual, tmp_path, capsys):
    line = f"export {residual} {tmp_path}/m --input_range 0 1 --no_align"
    status, out, _ = run(line, capsys)
    assert status == 0 and "aligned" not in out
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_align_leaves_the_model_as_it_was(residual, tmp_path, capsys):
    before = residual.read_bytes()
    line = f"align {residual} {tmp_path}/a.keras --input_range 0 1"
    assert run(line, capsys)[0] == 0
    assert residual.read_bytes() == before


def test_align_in_place(residual, tmp_path, capsys):
    path = tmp_path / "m.keras"
    path.write_bytes(residual.read_bytes())
    mode = path.stat().st_mode
    assert run(f"align {path} {path} --input_range 0 1", capsys)[0] == 0
    assert path.read_bytes() != residual.read_bytes()
    assert path.stat().st_mode == mode
    keras.saving.load_model(path)


def test_align_uses_data(tmp_path, capsys):
    settings = "--data x.npy --weight_format int4"
    line = f"align digits.keras {tmp_path}/a.keras {settings}"
    assert run(line, capsys)[0] == 0
    assert (tmp_path / "a.keras").exists()


def test_failed_align_leaves_nothing(tmp_path, monkeypatch, capsys):
    def no_space(model, path):
        with open(path, "wb") as file:
            file.write(b"part of a model")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(keras.Sequential, "save", no_space)
    line = f"align digits.keras {tmp_path}/a.keras --input_range 0 1"
    assert "No space left on device" in fails(line, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_verify(kernels, capsys):
    model = keras.saving.load_model("digits.keras")
    data = np.load("test.npz")
    report = kb.verify_tflite(
        model, "digits.tflite", data["x"], data["y"], kernels
    )
    status, out, _ = run(
        "verify digits.keras digits.tflite --data test.npz "
        f"--kernels {kernels}",
        capsys,
    )
    assert (status, out) == (0, f"{report}\n")
    assert "in Keras 100.00%" in " ".join(out.split())


def test_verify_without_labels_on_all_kernels(capsys):
    status, out, _ = run(
        "verify digits.keras digits.tflite --data x.npy --kernels all", capsys
    )
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["xnnpack", "builtin", "reference"] in rows
    assert "accuracy" not in out
    assert [row[0] for row in rows[:3]] == [
        "xnnpack:",
        "builtin:",
        "reference:",
    ]


@pytest.mark.parametrize("share, expected", [(1.0, 0), (0.9, 1)])
def test_status_of_verify_is_that_of_the_share(
    share, expected, tmp_path, capsys
):
    """A file is equal to its model, and not to one with other weights."""
    model = keras.Sequential([keras.Input((2,)), kb.QuantDense(1, bits=8)])
    x = np.linspace(-1, 1, 256, dtype="float32")[:, None] * [1, 1]
    kb.export_tflite(model, tmp_path / "m.tflite", representative_data=x)
    if share < 1:
        model.layers[0].kernel.assign(-np.array(model.layers[0].kernel))
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", x=x, y=np.zeros(256))
    status, out, err = run(
        f"verify {tmp_path}/m.keras {tmp_path}/m.tflite --data "
        f"{tmp_path}/x.npz --task binary --threshold 0.25 --at_least {share}",
        capsys,
    )
    assert status == expected
    assert "task binary (given, threshold 0.25)" in out
    assert err.count("\n") == expected
    assert ("are equal, not 90.0000% as --at_least" in err) == bool(expected)


def test_inspect(capsys):
    status, out, _ = run("inspect digits.tflite", capsys)
    assert (status, out) == (0, f"{kb.inspect_tflite('digits.tflite')}\n")


def test_benchmark(capsys):
    status, out, _ = run(
        "benchmark digits.tflite digits.int4.tflite --runs 3 --threads 2 "
        "--kernels builtin --per_op",
        capsys,
    )
    assert status == 0
    assert out.startswith("builtin kernels, 2 threads, 3 rounds")
    assert out.count("operators one by one") == 2


@pytest.mark.parametrize(
    "line, reason",
    [
        ("", "the following arguments are required: COMMAND"),
        ("train", "invalid choice: 'train'"),
        ("inspect", "the following arguments are required: tflite"),
        (
            "benchmark digits.tflite --runs many",
            "invalid integer value: 'many'",
        ),
        ("benchmark digits.tflite --runs 0", "must be above 0, not 0"),
        ("verify digits.keras digits.tflite", "are required: --data"),
        ("verify a b --data c --kernels gpu", "--kernels: invalid choice"),
        ("benchmark digits.tflite --kernels micro", "invalid choice: 'micro'"),
        ("export a b --input_range 0", "--input_range: expected 2 arguments"),
        ("inspect digits.tflite --fast", "unrecognized arguments: --fast"),
    ],
)
def test_wrong_arguments(line, reason, capsys):
    err = fails(line, capsys, status=2)
    assert reason in err and "--help" in err


@pytest.mark.parametrize(
    "line, reason",
    [
        ("inspect no.tflite", "No such file or directory: no.tflite"),
        ("inspect digits.keras", "must be a TFLite file"),
        ("inspect .", "Is a directory"),
        ("benchmark digits.tflite x.npy", "must be a TFLite file"),
        (
            "verify no.keras digits.tflite --data x.npz",
            "No such file or directory: no.keras",
        ),
        (
            "verify digits.keras digits.tflite --data x.npz --micro",
            "--micro goes with --kernels all; --kernels micro is",
        ),
        (
            "verify x.npy digits.tflite --data x.npz",
            "cannot read the Keras model x.npy: it is not a .keras file",
        ),
        ("verify digits.keras x.npy --data x.npz", "must be a TFLite file"),
        (
            "verify digits.keras digits.tflite --data no.npz",
            "No such file or directory: no.npz",
        ),
        (
            "verify digits.keras digits.tflite --data digits.tflite",
            "cannot read the data digits.tflite: ",
        ),
        (
            "verify digits.keras digits.tflite --data digits.keras",
            "must have an array `x`. Received: ",
        ),
        ("export digits.keras new.tflite", "`input_range` or"),
        (
            "export digits.keras new.tflite --input_range 1 2",
            "0.0 between them",
        ),
        (
            "export digits.keras no/new.tflite --input_range 0 1",
            "`path` must be in a folder that exists",
        ),
        (
            "export digits.keras new.tflite --input_range 0 1 --labels no.txt",
            "No such file or directory: no.txt",
        ),
        (
            "export digits.keras new.tflite --input_range 0 1 "
            "--weight_format int2",
            "of 1 or 2 bits",
        ),
        ("align digits.keras new.keras", "`input_range` or"),
        (
            "align digits.keras new.tflite --input_range 0 1",
            "must be a .keras file, not new.tflite",
        ),
        (
            "align digits.keras no/new.keras --input_range 0 1",
            "`path` must be in a folder that exists",
        ),
        (
            "align no.keras new.keras --input_range 0 1",
            "No such file or directory: no.keras",
        ),
    ],
)
def test_failures_say_why_in_one_line(line, reason, capsys):
    err = fails(line, capsys)
    assert err.startswith(f"keras-bcgd {line.split()[0]}: error: ")
    assert reason in err
    assert not os.path.exists("new.tflite")
    assert not os.path.exists("new.keras")


def truncated(contents):
    return contents[: len(contents) // 2]


def damaged(contents):
    """Zeros in the middle, where the weights are."""
    middle = len(contents) // 2
    return contents[:middle] + bytes(200) + contents[middle + 200 :]


@pytest.mark.parametrize("damage", [truncated, damaged, lambda contents: b""])
@pytest.mark.parametrize("name", ["digits.keras", "digits.tflite", "test.npz"])
def test_damaged_files(name, damage, tmp_path, capsys):
    if damage is damaged and name == "digits.tflite":
        pytest.skip("other weights are still a file")
    with open(name, "rb") as file:
        (tmp_path / name).write_bytes(damage(file.read()))
    line = "verify digits.keras digits.tflite --data test.npz"
    err = fails(line.replace(name, f"{tmp_path}/{name}"), capsys)
    assert f"{tmp_path}/{name}" in err


def test_damaged_compression(tmp_path, capsys):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros(1000))
    contents = bytearray(path.read_bytes())
    start = contents.index(b"x.npy") + len("x.npy")
    start += int.from_bytes(contents[28:30], "little")  # the extra field
    contents[start] = 7  # a block of the type that does not exist
    path.write_bytes(contents)
    err = fails(f"verify digits.keras digits.tflite --data {path}", capsys)
    assert f"cannot read the data {path}: " in err


def test_keras_file_without_a_model(tmp_path, capsys):
    path = tmp_path / "empty.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")
    err = fails(f"export {path} {tmp_path}/m --input_range 0 1", capsys)
    assert f"cannot read the Keras model {path}: " in err


def test_layers_that_are_not_known(tmp_path, capsys):
    class Unknown(keras.layers.Layer):
        pass

    path = tmp_path / "unknown.keras"
    keras.Sequential([keras.Input((3,)), Unknown()]).save(path)
    err = fails(f"export {path} {tmp_path}/m --input_range 0 1", capsys)
    assert "cannot read the Keras model" in err and "Unknown" in err


def test_layers_that_cannot_be_exported(tmp_path, capsys):
    path = tmp_path / "float.keras"
    parts = [keras.layers.LSTM(3, name="memory"), kb.QuantDense(2, bits=2)]
    keras.Sequential([keras.Input((4, 3)), *parts]).save(path)
    err = fails(f"export {path} {tmp_path}/m --input_range 0 1", capsys)
    assert "memory" in err
    assert not (tmp_path / "m").exists()


def test_full_disk(tmp_path, monkeypatch, capsys):
    def no_space(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", no_space)
    path = tmp_path / "m.tflite"
    err = fails(f"export digits.keras {path} --input_range 0 1", capsys)
    assert f"No space left on device: {path}" in err
    assert not list(tmp_path.iterdir())


def test_interruption(monkeypatch, capsys):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection, "inspect_tflite", interrupt)
    assert "interrupted" in fails("inspect digits.tflite", capsys, status=130)


def test_bugs_are_not_hidden(monkeypatch):
    def bug(path):
        raise KeyError("a bug")

    monkeypatch.setattr(inspection, "inspect_tflite", bug)
    with pytest.raises(KeyError, match="a bug"):
        cli.main(["inspect", "digits.tflite"])


def run_python(*arguments):
    """Another process, on the backend that loads fastest."""
    path = os.path.dirname(kb.__path__[0])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "KERAS_BACKEND": "numpy"},
    )


def test_module_is_the_command():
    done = run_python("-m", "keras_bcgd", "inspect", "missing.tflite")
    assert done.returncode == 1
    reason = "No such file or directory: missing.tflite\n"
    assert done.stderr.endswith(f"keras-bcgd inspect: error: {reason}")
    assert "Traceback" not in done.stderr


def test_inspect_and_benchmark_do_without_tensorflow():
    done = run_python(
        "-c",
        "import sys; from keras_bcgd import cli\n"
        "assert cli.main(['inspect', 'digits.tflite']) == 0\n"
        "assert cli.main(['benchmark', 'digits.tflite', '--per_op']) == 0\n"
        "assert 'tensorflow' not in sys.modules",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "line, settings",
    [
        ("", {}),
        ("--format qcdq --any_batch", {"format": "qcdq", "batch_size": None}),
        (
            "--batch_size 4 --data_format channels_last --labels names.txt",
            {
                "batch_size": 4,
                "data_format": "channels_last",
                "labels": list("abcde"),
            },
        ),
    ],
)
def test_onnx_writes_what_export_onnx_writes(line, settings, tmp_path, capsys):
    pytest.importorskip("onnx")
    with open("names.txt", "w") as file:
        file.write("a\nb\nc\nd\ne\n")
    model = keras.Sequential([keras.Input((4, 3, 2)), kb.QuantConv2D(5, 3)])
    model.save(tmp_path / "map.keras")
    report = kb.export_onnx(model, tmp_path / "a", **settings)
    status, out, _ = run(
        f"onnx {tmp_path}/map.keras {tmp_path}/b {line}", capsys
    )
    assert status == 0
    assert out == f"{report}\n".replace(f"{tmp_path}/a", f"{tmp_path}/b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
