"""What `write_micro_sources` wrote, as text."""

import dataclasses

from keras_bcgd.micro import arena
from keras_bcgd.utils import tables


@dataclasses.dataclass
class MicroSourcesReport:
    """What `write_micro_sources` wrote; `str(report)` is a short table.

    Attributes:
        path: String, the TFLite file.
        directory: String, the folder.
        name: String, what the identifiers in the sources begin with.
        files: List of strings, the names of the files written.
        methods: List of strings, how TFLM's resolver gets the operators:
            `"AddConv2D"`.
        model_bytes: Int, the size of the TFLite file, which stays in flash.
        arena_bytes: Int, the smallest arena in which TFLM's interpreter loaded
            and ran the file, in steps of 16 bytes. More than the sum of the
            next two where loading takes room for a moment.
        tensor_bytes: Int, of these what is computed and the buffers of kernels,
            which TFLM calls non-persistent.
        persistent_bytes: Int, of these what the interpreter keeps of the graph.
        pointer_bytes: Int, the size of a pointer where it was measured.
        runtime: String, what measured it: `"tflite-micro 0.dev20261023"`.
        machine: String, where: `"x86_64"`.

    Example:

    ```python
    report = keras_bcgd.write_micro_sources("digits.tflite", "digits_micro")
    assert report.arena_bytes >= report.tensor_bytes + report.persistent_bytes
    ```
    """

    path: str
    directory: str
    name: str
    files: list
    methods: list
    model_bytes: int
    arena_bytes: int
    tensor_bytes: int
    persistent_bytes: int
    pointer_bytes: int
    runtime: str
    machine: str

    def __str__(self):
        rows = [
            ("model, in flash", self.model_bytes),
            ("arena, in RAM", self.arena_bytes),
            ("  tensors", self.tensor_bytes),
            ("  persistent", self.persistent_bytes),
        ]
        room = self.arena_bytes - self.tensor_bytes - self.persistent_bytes
        if room >= arena.ALIGNMENT:
            rows.append(("  to load it", room))
        return "\n".join(
            [
                f"{self.path}: sources in {self.directory}",
                f"  {', '.join(self.files)}",
                *tables.columns([(a, f"{n:,} bytes") for a, n in rows]),
                f"operators: {', '.join(m[3:] for m in self.methods)}",
                f"arena measured by {self.runtime} on {self.machine}, with "
                f"pointers of {self.pointer_bytes} bytes",
            ]
        )
