"""The bytes of a model in the classes of the schema."""

import numpy as np


def serialize(model):
    """The bytes of a file, the contents of buffers at multiples of 16.

    Args:
        model: `ModelT` of the schema.
    """
    import flatbuffers

    class AlignedBuilder(flatbuffers.Builder):
        """Puts the contents of buffers at multiples of 16 bytes."""

        def CreateNumpyVector(self, x):  # noqa: N802, the inherited name
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            self.StartVector(1, x.size, 16)
            self.head -= x.size
            self.Bytes[self.head : self.head + x.size] = x.tobytes()
            return self.EndVector()

    stored = sum(len(b.data) for b in model.buffers if b.data is not None)
    builder = AlignedBuilder(stored + 65536)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
