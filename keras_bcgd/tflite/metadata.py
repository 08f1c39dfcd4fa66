"""The labels of the classes in a TFLite file, as its standard metadata.

The names are lines of a text file in a ZIP archive behind the graph; a buffer
of the graph, `BUFFER`, says which tensor they belong to (the schema
`metadata_schema.fbs` of TensorFlow Lite). Runtimes look at neither, tools for
apps at both.
"""

import io
import zipfile
import zlib

BUFFER = "TFLITE_METADATA"
LABELS_FILE = "labels.txt"

# No archive; weights that look like one; an archive of something else.
_NO_ARCHIVE = (
    zipfile.BadZipFile,
    EOFError,
    KeyError,
    RuntimeError,
    zlib.error,
)
_IDENTIFIER = b"M001"
# The oldest parser of this identifier knows all that is written here.
_PARSER_VERSION = "1.0.0"
_TENSOR_AXIS_LABELS = 2
# The fields of each table, in the order of the schema, as far as needed.
_FIELDS = {
    "ModelMetadata": (
        "name",
        "description",
        "version",
        "subgraph_metadata",
        "author",
        "license",
        "associated_files",
        "min_parser_version",
    ),
    "SubGraphMetadata": (
        "name",
        "description",
        "input_tensor_metadata",
        "output_tensor_metadata",
    ),
    "TensorMetadata": (
        "name",
        "description",
        "dimension_names",
        "content",
        "process_units",
        "stats",
        "associated_files",
    ),
    "AssociatedFile": ("name", "description", "type"),
}


def labels_metadata(name, input_names, output_name):
    """The contents of `BUFFER`: the output has labels along its last axis.

    Args:
        name: String, the model.
        input_names: List of strings, those of the inputs.
        output_name: String.

    Returns:
        Bytes.
    """
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    labels = _table(
        builder,
        "AssociatedFile",
        name=builder.CreateString(LABELS_FILE),
        type=_TENSOR_AXIS_LABELS,
    )
    output = _table(
        builder,
        "TensorMetadata",
        name=builder.CreateString(output_name),
        associated_files=_vector(builder, labels),
    )
    inputs = [
        _table(builder, "TensorMetadata", name=builder.CreateString(input_name))
        for input_name in input_names
    ]
    graph = _table(
        builder,
        "SubGraphMetadata",
        input_tensor_metadata=_vector(builder, *inputs),
        output_tensor_metadata=_vector(builder, output),
    )
    model = _table(
        builder,
        "ModelMetadata",
        name=builder.CreateString(name),
        subgraph_metadata=_vector(builder, graph),
        min_parser_version=builder.CreateString(_PARSER_VERSION),
    )
    builder.Finish(model, _IDENTIFIER)
    return bytes(builder.Output())


def _table(builder, kind, **values):
    """Writes a table; its values are offsets, but for `type`."""
    fields = _FIELDS[kind]
    builder.StartObject(len(fields))
    for field, value in values.items():
        slot = fields.index(field)
        if field == "type":
            builder.PrependInt8Slot(slot, value, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return builder.EndObject()


def _vector(builder, *tables):
    """A vector of tables."""
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()


def append_labels(contents, labels):
    """A TFLite file with the labels behind it.

    Args:
        contents: Bytes of the file.
        labels: List of strings.

    Returns:
        Bytes, a TFLite file and a ZIP archive in one.
    """
    stream = io.BytesIO()
    stream.write(contents)
    with zipfile.ZipFile(stream, "w") as archive:
        # A `ZipInfo` has a fixed date: the same labels, the same bytes.
        lines = "".join(f"{label}\n" for label in labels)
        archive.writestr(zipfile.ZipInfo(LABELS_FILE), lines.encode())
    return stream.getvalue()


def read_labels(contents):
    """The labels in a TFLite file, or `None` if it has none.

    Args:
        contents: Bytes of the file.

    Returns:
        List of strings, or `None`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(contents)) as archive:
            lines = archive.read(LABELS_FILE).decode(errors="replace")
    except _NO_ARCHIVE:
        return None
    return lines.removesuffix("\n").split("\n")


def with_archive_of(source, contents):
    """A TFLite file with the archive behind another, if that has one.

    Args:
        source: Bytes of the other file.
        contents: Bytes of the file.

    Returns:
        Bytes.
    """
    stream = io.BytesIO()
    stream.write(contents)
    try:
        with zipfile.ZipFile(io.BytesIO(source)) as archive:
            entries = [(one, archive.read(one)) for one in archive.infolist()]
    except _NO_ARCHIVE:
        return contents
    with zipfile.ZipFile(stream, "w") as archive:
        for entry, data in entries:
            archive.writestr(entry, data)
    return stream.getvalue()
