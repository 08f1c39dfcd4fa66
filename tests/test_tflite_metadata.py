"""The labels in a TFLite file: the archive, the metadata, what is refused."""

import io
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
from flatbuffers import number_types
from flatbuffers.table import Table

import keras_bcgd as kb
from keras_bcgd.tflite import metadata
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.schema import load_schema

LABELS = ["Katze", "dog, small", " été", "日本", "dog, small"]


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    parts = [kb.QuantDense(8, bits=4), kb.QuantReLU(4)]
    output = kb.QuantDense(len(LABELS), bits=4)
    return keras.Sequential(
        [keras.Input((6,)), *parts, output], name="five_classes"
    )


def export(model, path, **settings):
    return kb.export_tflite(model, path, input_range=(0, 1), **settings)


def buffers(path):
    """Of a file: names to the bytes of their buffers."""
    contents = path.read_bytes()
    file = load_schema().ModelT.InitFromPackedBuf(contents, 0)
    return {
        entry.name.decode(): bytes(file.buffers[entry.buffer].data)
        for entry in file.metadata or []
    }


class Reader:
    """A table, read by the number of a field in the schema."""

    def __init__(self, data, position):
        self.table = Table(data, position)

    @classmethod
    def root(cls, data):
        return cls(
            data, flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0)
        )

    def offset(self, field):
        return self.table.Offset(4 + 2 * field)

    def string(self, field):
        return self.table.String(self.offset(field) + self.table.Pos).decode()

    def int8(self, field):
        place = self.offset(field) + self.table.Pos
        return self.table.Get(number_types.Int8Flags, place)

    def tables(self, field):
        offset = self.offset(field)
        start = self.table.Vector(offset)
        return [
            Reader(self.table.Bytes, self.table.Indirect(start + 4 * i))
            for i in range(self.table.VectorLen(offset))
        ]

    def fields(self, count=16):
        """The numbers of the fields that are set."""
        return [field for field in range(count) if self.offset(field)]


def test_labels_are_a_file_of_an_archive(model, tmp_path):
    path = tmp_path / "m.tflite"
    report = export(model, path, labels=LABELS)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        (info,) = archive.infolist()
        text = archive.read("labels.txt").decode()
    # Stored, so that apps can map it.
    assert info.compress_type == zipfile.ZIP_STORED
    assert text.splitlines() == LABELS and text.endswith("\n")
    assert path.stat().st_size == report.file_bytes


@pytest.mark.parametrize("kernels", KERNELS)
def test_outputs_are_those_without_labels(kernels, model, tmp_path):
    export(model, tmp_path / "without", batch_size=4)
    export(model, tmp_path / "with", batch_size=4, labels=LABELS)
    codes = np.random.default_rng(0).integers(-128, 128, (64, 6), np.int8)
    outputs = [
        TFLiteRunner(tmp_path / name, kernels).run(codes)
        for name in ("without", "with")
    ]
    assert len(np.unique(outputs[0])) > 1
    np.testing.assert_array_equal(*outputs)


def test_metadata_follows_the_schema(model, tmp_path):
    """The numbers are the places of the fields in metadata_schema.fbs."""
    path = tmp_path / "m.tflite"
    export(model, path, labels=LABELS)
    (buffer,) = buffers(path).values()
    assert list(buffers(path)) == ["TFLITE_METADATA"]
    assert buffer[4:8] == b"M001"

    root = Reader.root(buffer)
    assert root.fields() == [0, 3, 7]
    assert (root.string(0), root.string(7)) == ("five_classes", "1.0.0")
    (graph,) = root.tables(3)
    assert graph.fields() == [2, 3]
    (network_input,), (output,) = graph.tables(2), graph.tables(3)
    assert network_input.fields() == [0]
    assert network_input.string(0) == "input"
    assert output.fields() == [0, 6]
    assert output.string(0) == "output"
    (file,) = output.tables(6)
    assert file.fields() == [0, 2]
    assert (file.string(0), file.int8(2)) == ("labels.txt", 2)


def test_metadata_starts_at_a_multiple_of_16_bytes(model, tmp_path):
    path = tmp_path / "m.tflite"
    export(model, path, labels=LABELS)
    (buffer,) = buffers(path).values()
    assert path.read_bytes().index(buffer) % 16 == 0


def test_same_labels_same_bytes(model, tmp_path):
    for name in "ab":
        export(model, tmp_path / name, labels=LABELS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_without_labels_nothing_is_added(model, tmp_path):
    export(model, tmp_path / "m.tflite")
    assert buffers(tmp_path / "m.tflite") == {}
    assert not zipfile.is_zipfile(tmp_path / "m.tflite")


@pytest.mark.parametrize(
    "labels", [tuple(LABELS), np.array(LABELS), dict.fromkeys("abcde")]
)
def test_labels_in_any_container(labels, model, tmp_path):
    export(model, tmp_path / "m.tflite", labels=labels)
    contents = (tmp_path / "m.tflite").read_bytes()
    assert metadata.read_labels(contents) == list(labels)


@pytest.mark.parametrize(
    "labels, message",
    [
        (LABELS[:4], "one for each of the 5 outputs. Received: 4 labels"),
        ([], "one for each of the 5 outputs. Received: 0 labels"),
        ("abcde", "must be a list of strings. Received: labels='abcde'"),
        (5, "must be a list of strings. Received: labels=5"),
        (range(5), "strings of one line, none of them blank. Received: 0"),
        ([*"abcd", None], "Received: None among them"),
        ([*"abcd", "e\nf"], r"Received: 'e\\nf' among them"),
        ([*"abcd", "e\n"], r"Received: 'e\\n' among them"),
        ([*"abcd", "e\r"], r"Received: 'e\\r' among them"),
        ([*"abcd", ""], "Received: '' among them"),
        ([*"abcd", " "], "Received: ' ' among them"),
    ],
)
def test_bad_labels(labels, message, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "m.tflite", labels=labels)
    assert not list(tmp_path.iterdir())


def test_read_labels_needs_no_archive():
    assert metadata.read_labels(b"TFL3") is None
    contents = metadata.append_labels(b"TFL3", ["a"])
    assert metadata.read_labels(contents) == ["a"]
    # Weights that look like the end of an archive.
    start = contents.index(b"PK\x05\x06")
    assert metadata.read_labels(contents[start:]) is None


def test_read_labels_of_an_archive_of_something_else():
    stream = io.BytesIO(b"TFL3")
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("vocabulary.txt", "a")
    assert metadata.read_labels(stream.getvalue()) is None
