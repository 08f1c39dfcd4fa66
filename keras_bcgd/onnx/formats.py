"""How a file says what is rounded: QONNX, or stock operators (QCDQ).

Both formats have the same methods: `weights` writes a kernel, `codes` puts a
tensor on a grid, `clamp` goes before codes without a sign. They round to the
nearest, halves to even, as training does. `has_gemm` says what dense layers
are, `is_compared` how a runtime may round (`staircase`).
"""

import dataclasses

import numpy as np

QONNX_DOMAIN = "qonnx.custom_op.general"


@dataclasses.dataclass(frozen=True)
class Grid:
    """The numbers `step * code`, whole codes from `low` to `high`."""

    step: float
    low: int
    high: int

    @property
    def bits(self):
        """How many bits tell the codes apart."""
        return int(self.high - self.low).bit_length()

    @property
    def is_signed(self):
        """Whether the codes are those of a signed integer."""
        half = 2 ** (self.bits - 1)
        return (self.low, self.high) == (-half, half - 1)


class QonnxFormat:
    """A `Quant` or `BipolarQuant` behind each kernel and each tensor.

    Scale, zero point and bit width are inputs, the kernel is in float: what it
    is once it is rounded. Dense layers are a MatMul and an Add, which FINN and
    hls4ml read.
    """

    has_gemm = False
    # FINN makes thresholds of a Quant.
    is_compared = True

    def weights(self, file, name, codes, scale, axis, bits):
        """Writes a kernel; returns the name of the tensor.

        Args:
            file: `OnnxFile`.
            name: String.
            codes: Array of the kernel's shape.
            scale: Array of one scale, or of one for each channel.
            axis: Int, the axis of the channels.
            bits: Int.
        """
        scale = _for_axis(scale, axis, codes.ndim)
        kernel = file.constant(f"{name}/kernel", codes * scale)
        if bits == 1:
            inputs = [kernel, file.constant(f"{name}/kernel/scale", scale)]
            return _constant_node(file, "BipolarQuant", inputs, name, codes)
        # Rounding divides by the scale, which is 0 if all codes are.
        scale = np.where(scale > 0, scale, 1)
        inputs = [kernel, *_parameters(file, f"{name}/kernel", scale, 0, bits)]
        return _constant_node(
            file, "Quant", inputs, name, codes, **_attributes(True, True)
        )

    def codes(self, file, x, grid, name):
        """Puts a `Tensor` on a `Grid`; returns the new one."""
        zero_point = 0 if grid.is_signed else -grid.low
        parameters = _parameters(file, name, grid.step, zero_point, grid.bits)
        return file.same(
            "Quant",
            [x, *parameters],
            name,
            **_attributes(grid.is_signed, False),
            domain=QONNX_DOMAIN,
        )

    def clamp(self, file, x, name):
        """A ReLU, by which tools know that what follows has no sign."""
        return file.same("Relu", [x], f"{name}/relu")


def _parameters(file, name, scale, zero_point, bits):
    """The names of scale, zero point and bit width, constants."""
    return [
        file.constant(f"{name}/scale", scale),
        file.constant(f"{name}/zero_point", zero_point),
        file.constant(f"{name}/bits", bits),
    ]


def _attributes(is_signed, is_narrow):
    return {
        "signed": int(is_signed),
        "narrow": int(is_narrow),
        "rounding_mode": "ROUND",
    }


class QcdqFormat:
    """QuantizeLinear, Clip and DequantizeLinear; kernels are integers.

    Dense layers are a Gemm of transposed weights. Of a MatMul onnxruntime 1.32
    makes one that rounds its input to 8 bits (MatMulNBits).
    """

    has_gemm = True
    is_compared = False

    def weights(self, file, name, codes, scale, axis, bits):
        """As `QonnxFormat.weights`."""
        scale = scale.reshape(-1) if scale.size > 1 else scale.reshape(())
        inputs = [
            file.constant(f"{name}/kernel", codes, np.int8),
            file.constant(f"{name}/kernel/scale", scale),
            file.constant(
                f"{name}/kernel/zero_point", np.zeros_like(scale), np.int8
            ),
        ]
        settings = {"axis": axis} if scale.size > 1 else {}
        return _constant_node(
            file, "DequantizeLinear", inputs, name, codes, **settings
        )

    def codes(self, file, x, grid, name):
        """As `QonnxFormat.codes`."""
        limits, zero_point = np.iinfo(np.int8), 0
        if not limits.min <= grid.low <= grid.high <= limits.max:
            limits, zero_point = np.iinfo(np.uint8), -grid.low
        elif grid.low == 0:
            limits = np.iinfo(np.uint8)
        dtype = limits.dtype
        parameters = [
            file.constant(f"{name}/scale", grid.step),
            file.constant(f"{name}/zero_point", zero_point, dtype),
        ]
        x = file.same(
            "QuantizeLinear", [x, *parameters], f"{name}/codes", dtype=dtype
        )
        ends = grid.low + zero_point, grid.high + zero_point
        if ends != (limits.min, limits.max):
            clip = [
                file.constant(f"{name}/{end}", value, dtype)
                for end, value in zip(("low", "high"), ends, strict=True)
            ]
            x = file.same("Clip", [x, *clip], f"{name}/clipped", dtype=dtype)
        return file.same("DequantizeLinear", [x, *parameters], name)

    def clamp(self, file, x, name):
        """Nothing: the smallest code is 0."""
        return x


FORMATS = {"qonnx": QonnxFormat(), "qcdq": QcdqFormat()}


def _for_axis(scale, axis, rank):
    """Scales in a shape that broadcasts along an axis."""
    if scale.size == 1:
        return scale.reshape(())
    shape = [1] * rank
    shape[axis] = scale.size
    return scale.reshape(shape)


def _constant_node(file, kind, inputs, name, codes, **settings):
    """A node that computes a kernel; returns the name of the tensor."""
    domain = "" if kind == "DequantizeLinear" else QONNX_DOMAIN
    return file.kernel_node(
        kind, inputs, f"{name}/weights", codes.shape, domain=domain, **settings
    )
