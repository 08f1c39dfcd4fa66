"""write_micro_sources: what its files say, compiled where that can be.

TFLM is not compiled here: main.cc is against the headers of `tflm_stubs`.
"""

import errno
import os
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tflm_stubs
from tflite_files import add_identity

import keras_bcgd as kb
from keras_bcgd import cli
from keras_bcgd.micro import arena
from keras_bcgd.micro import names
from keras_bcgd.micro import operators
from keras_bcgd.micro import sample
from keras_bcgd.tflite import reader
from keras_bcgd.tflite import schema
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.runner import load_interpreter
from keras_bcgd.tflite.writer import TFLiteWriter
from keras_bcgd.utils import files
from keras_bcgd.utils import user_files

pytest.importorskip("tflite_micro", reason="it measures and runs the file")

COMPILER = shutil.which("g++") or shutil.which("clang++")
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic"]


def chain(path, operators=1, shape=(1, 2, 2, 3), kind="int8"):
    """A file of poolings that give back what they get."""
    writer = TFLiteWriter("chain")
    tensors = [
        writer.add_tensor(f"t{i}", shape, kind, 0.5, 3 if kind == "int8" else 0)
        for i in range(operators + 1)
    ]
    for x, y in zip(tensors, tensors[1:], strict=False):
        add_identity(writer, x, y)
    path.write_bytes(writer.finish({"x": tensors[0]}, {"y": tensors[-1]}))
    return path


# Names that would end a comment, or continue it on the next line.
ENDS = ("a */ b\n", "\\")


def two_ends(path):
    """A file with two inputs of two types and shapes, and two outputs."""
    writer = TFLiteWriter("two")
    ends = []
    for name, shape, kind, zero_point in (
        (ENDS[0], (2, 1, 1, 3), "int8", 3),
        (ENDS[1], (2, 2, 1, 5), "int16", 0),
    ):
        x, y = (
            writer.add_tensor(f"{name}{end}", shape, kind, 0.5, zero_point)
            for end in "xy"
        )
        ends.append((x, y))
    # Those of the second run first, and come first.
    for x, y in reversed(ends):
        add_identity(writer, x, y)
    (x, y), (other_x, other_y) = ends
    path.write_bytes(
        writer.finish(
            {ENDS[1]: other_x, ENDS[0]: x}, {ENDS[1]: other_y, ENDS[0]: y}
        )
    )
    return path


def refused(path, operator):
    """A file with an operator that TFLM may not have."""
    writer = TFLiteWriter("refused")
    x, y = (writer.add_tensor(name, (1, 4), "int8", 1.0) for name in "xy")
    writer.add_operator(operator, [x], [y])
    path.write_bytes(writer.finish({"x": x}, {"y": y}))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the file of a network with tables, and real inputs."""
    folder = tmp_path_factory.mktemp("trained")
    keras.utils.set_random_seed(0)
    parts = [
        kb.QuantConv2D(16, 3, bits=2),
        kb.QuantReLU(4),
        kb.QuantConv2D(16, 3, bits=1),
        kb.QuantReLU(4),
        keras.layers.Flatten(),
        kb.QuantDense(5, bits=8),
    ]
    model = keras.Sequential([keras.Input((6, 6, 3)), *parts])
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3)) / 255
    kb.export_tflite(
        model, folder / "net.v1.tflite", (0, 1), x, weight_format="lut"
    )
    np.savez(folder / "x.npz", x=x)
    return folder


def write(path, folder, **settings):
    return kb.write_micro_sources(path, folder / "out", **settings)


def array(text, name):
    """The numbers of an array in a header."""
    found = re.search(
        rf"^constexpr (\w+)_t {name}\[\] = {{(.*?)}};", text, re.S | re.M
    )
    return np.array(re.findall(r"-?\d+", found[2]), found[1])


def number(text, name):
    return int(re.search(rf"^constexpr size_t {name} = (\d+);", text, re.M)[1])


def sampled(folder, name, count=1):
    """The inputs and outputs in a header, in its order."""
    text = (folder / f"{name}_sample.h").read_text()
    return [
        [array(text, f"{name}_{kind}_{place}") for place in range(count)]
        for kind in ("input", "output")
    ]


def litert(path, inputs):
    """What the reference kernels of LiteRT compute of flat inputs."""
    interpreter = load_interpreter(path, "reference")
    details = interpreter.get_input_details()
    for one, codes in zip(details, inputs, strict=True):
        interpreter.set_tensor(one["index"], codes.reshape(one["shape"]))
    interpreter.invoke()
    return [
        interpreter.get_tensor(one["index"]).reshape(-1)
        for one in interpreter.get_output_details()
    ]


def compile_and_run(folder, sources, *flags):
    if COMPILER is None:
        pytest.skip("no C++ compiler: neither g++ nor clang++")
    done = subprocess.run(
        [COMPILER, *FLAGS, *flags, "-o", "program", *sources],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return subprocess.run(["./program"], cwd=folder, capture_output=True)


WRITER = """
#include <cstdio>
#include "digits_model.h"
int main() {
  std::fwrite(digits_model, 1, digits_model_len, stdout);
}
"""


def test_array_is_the_file(trained, tmp_path):
    path = trained / "net.v1.tflite"
    write(path, tmp_path, name="digits")
    (tmp_path / "out" / "writer.cc").write_text(WRITER)
    done = compile_and_run(
        tmp_path / "out", ["digits_model.cc", "writer.cc"], "-O0"
    )
    assert done.stdout == path.read_bytes()


def test_array_is_aligned(tmp_path):
    """Of a file so short that no compiler would align it by itself."""
    path = chain(tmp_path / "m.tflite")
    write(path, tmp_path)
    source = tmp_path / "out" / "m_model.cc"
    text, count = re.subn("{.*?}", "{1}", source.read_text(), flags=re.S)
    assert count == 1
    check = 'static_assert(__alignof__(m_model) == 16, "16");\nint main() {}\n'
    source.write_text(text + check)
    assert compile_and_run(tmp_path / "out", [source.name]).returncode == 0


@pytest.fixture(params=["chain", "two_ends", "trained"])
def program(request, trained, tmp_path):
    """A folder with sources, stubs and what their interpreter should see."""
    path, count = trained / "net.v1.tflite", 1
    if request.param == "chain":
        path = chain(tmp_path / "m.tflite")
    if request.param == "two_ends":
        path, count = two_ends(tmp_path / "m.tflite"), 2
    report = write(path, tmp_path, name="digits")
    folder = tmp_path / "out"
    tflm_stubs.write(folder)
    for kind, arrays in zip(
        ("input", "output"), sampled(folder, "digits", count), strict=True
    ):
        for place, codes in enumerate(arrays):
            (folder / f"{kind}_{place}").write_bytes(codes.tobytes())
    flags = [f"-DARENA_BYTES={report.arena_bytes}", f"-DINPUTS={count}"]
    return folder, count, flags


def run_main(folder, flags):
    sources = ["main.cc", "digits_model.cc"]
    flags = [*flags, "-I.", "-DTF_LITE_STATIC_MEMORY", "-fno-rtti"]
    done = compile_and_run(folder, sources, *flags)
    return done.returncode, done.stdout.decode()


def test_program_compares_every_value(program):
    folder, count, flags = program
    assert run_main(folder, flags) == (0, "equal")
    for place in range(count):
        path = folder / f"output_{place}"
        codes = bytearray(path.read_bytes())
        codes[0] ^= 1
        codes[-1] ^= 1
        path.write_bytes(codes)
    assert run_main(folder, flags) == (1, f"{2 * count} values differ")


def test_program_sets_every_input(program):
    folder, count, flags = program
    for place in range(count):
        path = folder / f"input_{place}"
        codes = path.read_bytes()
        path.write_bytes(codes[:-1] + bytes([codes[-1] ^ 1]))
        assert run_main(folder, flags) == (1, "the file does not run")
        path.write_bytes(codes[:-1])
        reason = f"input {place} has another size"
        assert run_main(folder, flags) == (1, reason)
        path.write_bytes(codes)


def test_headers_stand_alone_and_can_come_twice(program):
    folder, _, flags = program
    for header in folder.glob("*.h"):
        (folder / "twice.cc").write_text(
            f'#include "{header.name}"\n#include "{header.name}"\n'
            "int main() {}\n"
        )
        assert compile_and_run(folder, ["twice.cc"], "-I.").returncode == 0


def test_output_of_another_size_differs(program):
    folder, _, flags = program
    path = folder / "output_0"
    path.write_bytes(path.read_bytes() * 2)
    status, said = run_main(folder, flags)
    assert status == 1 and said.endswith("values differ")


def test_program_needs_the_layout_of_tflm(program):
    folder, _, flags = program
    with pytest.raises(AssertionError, match="-DTF_LITE_STATIC_MEMORY: do so"):
        compile_and_run(folder, ["main.cc", "digits_model.cc"], *flags, "-I.")


def test_lines_are_short(trained, tmp_path):
    write(trained / "net.v1.tflite", tmp_path, name="digits")
    for path in (tmp_path / "out").iterdir():
        for line in path.read_text().splitlines():
            assert len(line) <= 80, (path.name, line)


def test_operators_are_those_of_the_file(trained, tmp_path):
    report = write(trained / "net.v1.tflite", tmp_path, name="digits")
    file = reader.read_tflite(trained / "net.v1.tflite")
    expected = {tflm_stubs.METHODS[one.name] for one in file.operators}
    assert "AddDecode" in expected and len(file.operators) > len(expected)
    text = (tmp_path / "out" / "digits_ops.h").read_text()
    added = re.findall(r"resolver\.(\w+)\(\)", text)
    assert sorted(added) == sorted(expected) == report.methods
    assert f"MicroMutableOpResolver<{len(expected)}>" in text


def test_methods_are_those_of_tflm():
    variables = {"ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE"}
    known = {
        name: method
        for name, method in tflm_stubs.METHODS.items()
        if name not in variables
    }
    builtin = vars(schema.load_schema().BuiltinOperator)
    assert set(known) - set(builtin) == {"TFLM_DECODE"}
    found = {name: operators.method(name) for name in {*builtin, *known}}
    assert {name: m for name, m in found.items() if m} == known


@pytest.mark.parametrize(
    "operator, reason",
    [
        ("GELU", "builtin operators that .* has, or TFLM_DECODE. .* GELU in"),
        ("ethos-u", "builtin operators that .* has, or .* ethos-u in path="),
        ("VAR_HANDLE", "must have no variables, .* VAR_HANDLE in path="),
    ],
)
def test_operators_that_are_refused(operator, reason, tmp_path, monkeypatch):
    versions = "keras_bcgd.tflite.writer._VERSIONS"
    monkeypatch.setattr(versions, {operator: 1})
    path = refused(tmp_path / "m.tflite", operator)
    with pytest.raises(ValueError, match=reason):
        write(path, tmp_path)
    assert not (tmp_path / "out").exists()


def test_float_inputs_are_refused(tmp_path):
    path = chain(tmp_path / "m.tflite", kind="float32")
    with pytest.raises(ValueError, match="integer input and output.*float32"):
        write(path, tmp_path)


@pytest.mark.parametrize("count", [1, 10, 60])
@pytest.mark.parametrize("size", [1, 40])
def test_arena_is_the_smallest(count, size, tmp_path):
    """Many small tensors take more to load than to run."""
    path = chain(tmp_path / "m.tflite", count, (1, size, size, 4))
    report = write(path, tmp_path)
    runner = TFLiteRunner(path, "micro")
    about = path.read_bytes(), sample.make(runner)
    assert arena.runs(*about, report.arena_bytes)
    assert not arena.runs(*about, report.arena_bytes - 16)
    # Two tensors at a time, each at a multiple of 16 bytes.
    assert report.tensor_bytes == 2 * -(-(size**2) * 4 // 16) * 16
    assert report.persistent_bytes > 100 * count
    room = report.arena_bytes - report.tensor_bytes - report.persistent_bytes
    assert (room >= 16) == (size == 1)
    assert ("to load it" in str(report)) == (size == 1)


def test_arena_with_tables(trained, tmp_path):
    path = trained / "net.v1.tflite"
    report = write(path, tmp_path, name="digits")
    about = path.read_bytes(), sample.make(TFLiteRunner(path, "micro"))
    assert arena.runs(*about, report.arena_bytes)
    assert not arena.runs(*about, report.arena_bytes * 15 // 16)
    # The weights of the second layer as they are when they are expanded.
    assert report.tensor_bytes > 16 * 3 * 3 * 16
    text = (tmp_path / "out" / "digits_arena.h").read_text()
    for part in ("arena", "tensor", "persistent"):
        assert number(text, f"digits_{part}_bytes") == getattr(
            report, f"{part}_bytes"
        )
    for words in (report.runtime, report.machine, "a pointer takes 8 bytes"):
        assert words in text
    for line in (f"{report.arena_bytes:,} bytes", "Conv2D", report.runtime):
        assert line in str(report)


def test_arena_in_which_other_codes_come_out_is_not_enough(tmp_path):
    path = chain(tmp_path / "m.tflite")
    data, one = path.read_bytes(), sample.make(TFLiteRunner(path, "micro"))
    assert arena.runs(data, one, 65536)
    one.outputs[0].codes[0, 0, 0, 0] ^= 1
    assert not arena.runs(data, one, 65536)


def test_sample_is_the_first_input_given(trained, tmp_path):
    path, x = trained / "net.v1.tflite", np.load(trained / "x.npz")["x"]
    write(path, tmp_path, name="digits", x=x[7:])
    (codes,), (found,) = sampled(tmp_path / "out", "digits")
    # An input from 0 to 1 has the codes of the bytes of an image, less 128.
    np.testing.assert_array_equal(codes, (x[7] * 255).reshape(-1) - 128)
    # LiteRT has no tables: compared is a run of TFLM.
    runner = TFLiteRunner(path, "micro")
    expected = runner.run(codes.reshape(1, 6, 6, 3))
    np.testing.assert_array_equal(found, expected.reshape(-1))
    assert len(set(found)) > 1


def test_random_sample_is_the_same_each_time(tmp_path):
    path = two_ends(tmp_path / "m.tflite")
    texts = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        write(path, tmp_path / folder)
        text = (tmp_path / folder / "out" / "m_sample.h").read_bytes()
        texts.append(text)
    assert texts[0] == texts[1]
    inputs, outputs = sampled(tmp_path / "first" / "out", "m", 2)
    for codes in inputs:
        assert len(set(codes.tolist())) > 4
    for found, expected in zip(outputs, litert(path, inputs), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_sample_of_several_inputs(tmp_path):
    """By name, in the order of the file; a batch that is filled up."""
    path = two_ends(tmp_path / "m.tflite")
    x = {
        ENDS[0]: np.array([[1, -2, 60.1]]).reshape(1, 1, 1, 3),
        ENDS[1]: np.arange(30).reshape(3, 2, 1, 5) / 2,
    }
    write(path, tmp_path, x=x)
    inputs, outputs = sampled(tmp_path / "out", "m", 2)
    assert inputs[0].tolist() == list(range(20))
    assert inputs[1].tolist() == [5, -1, 123] * 2
    for found, codes in zip(outputs, inputs, strict=True):
        np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize(
    "x, reason",
    [
        (np.zeros((3, 4)), r"\(samples, 2, 2, 3\), with a .*shape \(3, 4\)"),
        (np.zeros((0, 2, 2, 3)), r"with a sample. .*shape \(0, 2, 2, 3\)"),
        (1.0, r"`x` must have the shape .*shape \(\)"),
    ],
)
def test_bad_samples(x, reason, tmp_path):
    path = chain(tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=reason):
        write(path, tmp_path, x=x)


@pytest.mark.parametrize(
    "x, reason",
    [
        (np.zeros((1, 3)), "(?s)an array for each of .*Received: ndarray"),
        ({"x": 1}, "Received: 'x'"),
        (
            {ENDS[0]: np.zeros((1, 3)), ENDS[1]: np.zeros((1, 3))},
            r"2, 1, 5\) for the input ",
        ),
    ],
)
def test_bad_samples_of_several_inputs(x, reason, tmp_path):
    path = two_ends(tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=reason):
        write(path, tmp_path, x=x)


def test_maps_of_height_one_take_sequences(tmp_path):
    path = chain(tmp_path / "m.tflite", shape=(1, 1, 4, 3))
    write(path, tmp_path, x=np.arange(12).reshape(1, 4, 3) / 2)
    (codes,), _ = sampled(tmp_path / "out", "m")
    assert codes.tolist() == list(range(3, 15))


@pytest.mark.parametrize(
    "path, expected",
    [
        ("digits.tflite", "digits"),
        ("a/b/ResNet-20 (int8).tflite", "ResNet_20_int8"),
        ("1w4a.lut.tflite", "model_1w4a_lut"),
        ("__x__.tflite", "x"),
        ("class.tflite", "model_class"),
        ("日本.tflite", "model"),
    ],
)
def test_name_is_that_of_the_file(path, expected):
    assert names.choose(None, path) == expected
    assert names.choose(expected, path) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1a",
        "a-b",
        "a b",
        "_a",
        "a_",
        "a__b",
        "naïve",
        "int",
        "xor",
        3,
        "a\n",
    ],
)
def test_bad_names(name, tmp_path):
    path = chain(tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="`name` must be .*name=") as raised:
        write(path, tmp_path, name=name)
    assert str(raised.value).endswith(f"Received: name={name!r}")
    assert not (tmp_path / "out").exists()


def test_folder_has_what_the_report_says(tmp_path):
    path = chain(tmp_path / "m.tflite")
    report = write(path, tmp_path)
    assert report.files == sorted(os.listdir(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["m.tflite", "out"]
    assert report.model_bytes == path.stat().st_size
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~mask


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    report = write(chain(tmp_path / "m.tflite"), tmp_path)
    assert report.files == sorted(os.listdir(tmp_path / "out"))


def test_folder_that_holds_something(tmp_path, monkeypatch):
    path = chain(tmp_path / "m.tflite")
    (tmp_path / "out").mkdir()
    kept = {"main.cc": "mine", "other.txt": "mine"}
    for name, text in kept.items():
        (tmp_path / "out" / name).write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(arena, "measure", None)  # not so late
        with pytest.raises(ValueError, match="new or empty, unless `over"):
            write(path, tmp_path)
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == kept
    report = write(path, tmp_path, overwrite=True)
    assert set(os.listdir(tmp_path / "out")) == {*report.files, "other.txt"}
    assert (tmp_path / "out" / "other.txt").read_text() == "mine"
    assert "MicroInterpreter" in (tmp_path / "out" / "main.cc").read_text()


@pytest.mark.parametrize("exists", [False, True])
def test_full_disk_leaves_nothing(exists, tmp_path, monkeypatch):
    path, written = chain(tmp_path / "m.tflite"), []
    if exists:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "main.cc").write_text("mine")

    def no_space(handle):
        written.append(handle)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device: '.*/out'"):
        write(path, tmp_path, overwrite=exists)
    assert os.listdir(tmp_path).count("out") == exists
    assert len(os.listdir(tmp_path)) == 1 + exists
    if exists:
        assert os.listdir(tmp_path / "out") == ["main.cc"]
        assert (tmp_path / "out" / "main.cc").read_text() == "mine"


def test_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "out" / "main.cc").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="/out'"):
        write(chain(tmp_path / "m.tflite"), tmp_path, overwrite=True)
    assert os.listdir(tmp_path / "out") == ["main.cc"]


def test_without_tflite_micro(tmp_path, monkeypatch):
    path = chain(tmp_path / "m.tflite")
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ImportError, match=r"pip install keras-bcgd\[micro\]"):
        write(path, tmp_path)


def command(line, capsys):
    """`(status, stdout, stderr)` of `keras-bcgd micro`."""
    status = cli.main(["micro", *line.split()])
    return status, *capsys.readouterr()


def test_command_writes_the_same(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = trained / "net.v1.tflite"
    status, out, err = command(
        f"{path} --out a --name digits --data {trained}/x.npz", capsys
    )
    assert (status, err) == (0, "")
    report = kb.write_micro_sources(
        path, "b", name="digits", x=np.load(trained / "x.npz")["x"]
    )
    assert out == str(report).replace("sources in b", "sources in a") + "\n"
    for name in report.files:
        assert (tmp_path / "a" / name).read_bytes() == (
            tmp_path / "b" / name
        ).read_bytes()
    assert command(f"{path} --out a --force", capsys)[0] == 0
    assert "net_v1_model.cc" in os.listdir("a")


def test_command_reads_several_inputs(tmp_path, monkeypatch, capsys):
    """The names of `two_ends` are none of a file in an archive."""
    path = two_ends(tmp_path / "m.tflite")
    taken = []

    def load_data(path, inputs):
        taken.append((path, inputs))
        return {ENDS[0]: np.zeros((1, 3)), ENDS[1]: np.ones((1, 2, 1, 5))}, None

    monkeypatch.setattr(user_files, "load_data", load_data)
    line = f"{path} --out {tmp_path}/out --data x.npz"
    assert command(line, capsys)[0] == 0
    assert taken == [("x.npz", [ENDS[1], ENDS[0]])]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("no.tflite --out a", "No such file or directory: no.tflite"),
        ("m.tflite --out a/b", "No such file or directory: "),
        ("m.tflite --out m.tflite", "Not a directory: m.tflite"),
        ("m.tflite --out full", "must be new or empty, unless `overwrite`"),
        (
            "m.tflite --out a --name for",
            "no keyword of C++. Received: name='for'",
        ),
        ("m.tflite --out a --data no.npz", "No such file or directory: no.npz"),
        ("full/x --out a", "must be a TFLite file"),
        ("full/x --out a --data x.npz", "must be a TFLite file"),
    ],
)
def test_command_says_in_one_line_why(
    line, reason, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    chain(tmp_path / "m.tflite")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"x")
    status, out, err = command(line, capsys)
    assert (status, out) == (1, "")
    assert err.startswith("keras-bcgd micro: error: ") and err.count("\n") == 1
    assert reason in err
    assert sorted(os.listdir()) == ["full", "m.tflite"]
    assert os.listdir("full") == ["x"]


def test_command_does_without_tensorflow(tmp_path):
    path = chain(tmp_path / "m.tflite")
    code = (
        "import sys; from keras_bcgd import cli\n"
        f"assert cli.main(['micro', {str(path)!r}, '--out', 'out']) == 0\n"
        "assert 'tensorflow' not in sys.modules"
    )
    source = os.path.dirname(kb.__path__[0])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": source, "KERAS_BACKEND": "numpy"},
    )
    assert done.returncode == 0, done.stderr
