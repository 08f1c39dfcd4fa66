"""Layers with a kernel, and batch normalization."""

import numpy as np

from keras_bcgd.network import traits
from keras_bcgd.network.trained import read_weight
from keras_bcgd.onnx.readers import activations
from keras_bcgd.onnx.readers import geometry
from keras_bcgd.onnx.writer import Unsupported
from keras_bcgd.onnx.writer import output_shape


def convolution(writer, layer, name, x):
    """A convolution: the kernel from (window, in, out) to (out, in, window)."""
    codes, scale = _read(layer)
    window = len(layer.kernel_size)
    codes = np.transpose(codes, [window + 1, window, *range(window)])
    return _convolve(writer, layer, name, x, codes, scale, layer.groups)


def depthwise(writer, layer, name, x):
    """A depthwise convolution: one of as many groups as channels."""
    codes, scale = _read(layer)
    *window, channels, multiplier = codes.shape
    codes = np.moveaxis(codes, (-2, -1), (0, 1))
    codes = codes.reshape(channels * multiplier, 1, *window)
    return _convolve(writer, layer, name, x, codes, scale, channels)


def dense(writer, layer, name, x):
    """A dense layer; on a map, a convolution of size 1."""
    codes, scale = _read(layer)
    if len(x.shape) > 1:
        window = len(x.shape) - 1
        codes = codes.T.reshape(*codes.T.shape, *[1] * window)
        kernel = _kernel(writer, layer, name, codes, scale, 0)
        return _finish(writer, layer, name, x, "Conv", kernel, {})
    codes = x.by_channel(codes)  # the rows of a flattened map
    if writer.has_gemm:
        kernel = _kernel(writer, layer, name, codes.T, scale, 0)
        return _finish(writer, layer, name, x, "Gemm", kernel, {"transB": 1})
    kernel = _kernel(writer, layer, name, codes, scale, 1)
    y = writer.file.node("MatMul", [x, kernel], name, codes.shape[-1:])
    if layer.use_bias:
        bias = writer.file.constant(f"{name}/bias", _bias(layer))
        y = writer.file.same("Add", [y, bias], f"{name}/sum")
    return activations.of_kernel(writer, layer, name, y)


def normalization(writer, layer, name, x):
    """A batch normalization."""
    rank = len(x.shape) + 1
    if layer.axis % rank != rank - 1:
        raise Unsupported("it must normalize the last axis: use axis=-1")
    mean = read_weight(layer, "moving_mean", layer.moving_mean)
    variance = read_weight(layer, "moving_variance", layer.moving_variance)
    gamma, beta = np.ones_like(mean), np.zeros_like(mean)
    if layer.scale:
        gamma = read_weight(layer, "gamma", layer.gamma)
    if layer.center:
        beta = read_weight(layer, "beta", layer.beta)
    values = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
    constants = [
        writer.file.constant(f"{name}/{key}", x.by_channel(value))
        for key, value in values.items()
    ]
    return writer.file.same(
        "BatchNormalization",
        [x, *constants],
        name,
        epsilon=float(layer.epsilon),
    )


def _read(layer):
    """`(codes, scale)` of a kernel; of a float one, it and `None`."""
    if getattr(layer, "lora_rank", None):
        raise Unsupported(
            "LoRA weights cannot be exported: `save_weights` merges them, so "
            "load them into the same model without LoRA"
        )
    kernel = read_weight(layer, "kernel", layer.kernel)
    if type(layer) in traits.QUANTIZED and layer.is_quantized:
        scale, codes = layer.kernel_scale_and_codes()
        return codes, np.asarray(scale)
    return kernel, None


def _kernel(writer, layer, name, codes, scale, axis):
    """The name of the tensor of a kernel in the layout of the file."""
    if scale is None:
        return writer.float_kernel(layer, name, codes)
    # One for each channel: in the order of the channels in any layout.
    scale = scale.reshape(-1)
    return writer.quantized_kernel(layer, name, codes, scale, axis)


def _convolve(writer, layer, name, x, codes, scale, groups):
    kernel = _kernel(writer, layer, name, codes, scale, 0)
    window, strides, dilation = (
        list(sizes)
        for sizes in (layer.kernel_size, layer.strides, layer.dilation_rate)
    )
    settings = {
        "kernel_shape": window,
        "strides": strides,
        "dilations": dilation,
        "group": groups,
        "pads": geometry.pads(x, window, strides, layer.padding, dilation),
    }
    return _finish(writer, layer, name, x, "Conv", kernel, settings)


def _finish(writer, layer, name, x, kind, kernel, settings):
    """The operator with its bias, and the activation of the layer."""
    inputs = [x, kernel]
    if layer.use_bias:
        inputs.append(writer.file.constant(f"{name}/bias", _bias(layer)))
    shape = output_shape(layer, x)
    y = writer.file.node(kind, inputs, name, shape, **settings)
    return activations.of_kernel(writer, layer, name, y)


def _bias(layer):
    return read_weight(layer, "bias", layer.bias)
