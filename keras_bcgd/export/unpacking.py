"""`unpack_tflite`: from a file that is small to one that is fast."""

import dataclasses
import os

from keras_bcgd.export import unpacked_model
from keras_bcgd.tflite import compaction
from keras_bcgd.tflite import metadata
from keras_bcgd.tflite import reader
from keras_bcgd.tflite import serialization
from keras_bcgd.utils.files import write_atomically

_SUFFIX = ".tflite"


@dataclasses.dataclass
class UnpackReport:
    """What `unpack_tflite` did; `str(report)` says it.

    Attributes:
        path: String, the file that was read.
        out: String, the file that was written.
        packed_bytes: Int, the size of the first.
        file_bytes: Int, that of the second.
        unpacked: Int, how many kernels were unpacked.
        thresholds: Int, the pairs of a channel and an output code of those
            that round twice with int4 weights, and once with int8 ones.
        equal: Int, of these, those that provably stayed in their place on the
            default kernels.

    Example:

    ```python
    report = keras_bcgd.unpack_tflite("digits.tflite")
    print(report.out, report.file_bytes, report.is_exact)
    ```
    """

    path: str
    out: str
    packed_bytes: int
    file_bytes: int
    unpacked: int
    thresholds: int = 0
    equal: int = 0

    @property
    def is_exact(self):
        """Whether the answers on the default kernels provably stay."""
        return self.equal == self.thresholds

    def __str__(self):
        lines = [
            f"{self.out}: {self.file_bytes:,} bytes, {self.unpacked} kernels "
            f"unpacked of {self.path}, {self.packed_bytes:,} bytes"
        ]
        if not self.is_exact:
            lines.append(
                f"{self.thresholds - self.equal:,} of {self.thresholds:,} "
                "thresholds may be one sum away from where they were"
            )
        return "\n".join(lines)


def unpack_tflite(path, out=None):
    """Writes a file with packed weights as one of int8 weights.

    A file with int4 or int2 weights, or with weights in tables, is small to
    download; with int8 weights LiteRT's default kernels are faster. Unpack it
    where it is installed: that takes no model, no data and little time.

    - A file of `weight_format="lut"`, which LiteRT does not run, becomes, byte
      by byte, what `export_tflite` writes of the same aligned model with
      `weight_format="int8"`.
    - Of one of `"int4"` or `"int2"` the answers on the default kernels stay.
      What these kernels compute with int4 weights (dense layers, convolutions
      of size 1) keeps its integers. What they leave to slower kernels, which
      round twice (other convolutions), gets biases with which rounding once
      gives the same codes; `report.is_exact` says whether that is proved for
      every input.

    A file without such weights is copied.

    Args:
        path: String or path-like, the file.
        out: String or path-like, the file to write. `None`: beside it, with
            `.int8.tflite` in the place of `.tflite`. Defaults to `None`.

    Returns:
        An `UnpackReport`; printed, it is a line.

    Raises:
        ValueError: If it is not a TFLite file or is damaged.
        OSError: If a file cannot be read or written.
        ImportError: If `ai-edge-litert` is not installed.

    Example:

    ```python
    keras_bcgd.export_tflite(
        model, "digits_small.tflite", input_range=(0, 1), weight_format="auto"
    )
    keras_bcgd.unpack_tflite("digits_small.tflite", "digits_fast.tflite")
    ```
    """
    path = os.fspath(path)
    if out is None:
        out = f"{path.removesuffix(_SUFFIX)}.int8{_SUFFIX}"
    out = os.fspath(out)
    file = reader.read_tflite(path)
    contents = file.data
    # As in the reader: a damaged file ends in whatever is impossible first.
    try:
        found = unpacked_model.unpack(file)
        if found.kernels:
            compaction.compact(file.model)
            contents = metadata.with_archive_of(
                file.data, serialization.serialize(file.model)
            )
    except Exception as error:
        raise ValueError(
            "`path` must be a whole TFLite file. Received a damaged one: "
            f"path={path!r}"
        ) from error
    write_atomically(out, contents)
    return UnpackReport(
        path,
        out,
        packed_bytes=len(file.data),
        file_bytes=len(contents),
        unpacked=found.kernels,
        thresholds=found.thresholds,
        equal=found.equal,
    )
