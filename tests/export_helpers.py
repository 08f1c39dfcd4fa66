"""Networks as after training, their files, and what these should compute."""

import keras
import numpy as np

import keras_bcgd as kb
from keras_bcgd.export import export_tflite
from keras_bcgd.tflite.runner import KERNELS
from keras_bcgd.tflite.runner import TFLiteRunner
from keras_bcgd.tflite.schema import load_schema

layers = keras.layers

# On the grid of `input_range=(0, 1)`.
INPUT_RANGE = (0.0, 1.0)


def grid_inputs(shape, samples=16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (samples, *shape)) / 255


# The trained network, straight from its definition, in float64.


def reference(model, x):
    for layer in model.layers:
        x = REFERENCE.get(type(layer), lambda layer, x: x)(layer, x)
    return x


def numpy_of(variable):
    return np.float64(keras.ops.convert_to_numpy(variable))


def pads(size, window, stride, padding):
    if padding == "valid":
        return 0, 0
    total = max(0, (-(-size // stride) - 1) * stride + window - size)
    return total // 2, total - total // 2


def patches(x, window, strides, padding, dilation=(1, 1), value=0.0):
    """Shape `(samples, height, width, positions in the window, channels)`."""
    window = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    amounts = [
        pads(size, w, stride, padding)
        for size, w, stride in zip(x.shape[1:3], window, strides, strict=True)
    ]
    x = np.pad(x, [(0, 0), *amounts, (0, 0)], constant_values=value)
    view = np.lib.stride_tricks.sliding_window_view(x, window, axis=(1, 2))
    view = view[:, :: strides[0], :: strides[1]]
    view = view[..., :: dilation[0], :: dilation[1]]
    return np.moveaxis(view, 3, -1).reshape(*view.shape[:3], -1, x.shape[-1])


def two(numbers):
    """Of height and width; a layer of time has a width alone."""
    return (1, 1, *numbers)[-2:]


def reference_conv(layer, x):
    kernel = numpy_of(layer.quantized_kernel)
    padding = layer.padding
    if padding == "causal":
        before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        x, padding = np.pad(x, [(0, 0), (before, 0), (0, 0)]), "valid"
    has_time = x.ndim == 3
    if has_time:
        x, kernel = x[:, None], kernel[None]
    views = patches(
        x,
        two(layer.kernel_size),
        two(layer.strides),
        padding,
        two(layer.dilation_rate),
    )
    kernel = kernel.reshape(-1, *kernel.shape[2:])
    if isinstance(layer, kb.QuantDepthwiseConv2D):
        x = np.einsum("nhwpc,pcm->nhwcm", views, kernel)
        x = x.reshape(*x.shape[:3], -1)
    else:
        groups = [
            np.einsum("nhwpc,pco->nhwo", *part)
            for part in zip(
                np.split(views, layer.groups, axis=-1),
                np.split(kernel, layer.groups, axis=-1),
                strict=True,
            )
        ]
        x = np.concatenate(groups, axis=-1)
    x = x[:, 0] if has_time else x
    return x + numpy_of(layer.bias) if layer.use_bias else x


def reference_transposed(layer, x):
    """Each input adds its window, with which "same" begins before the map."""
    kernel = numpy_of(layer.quantized_kernel)
    sizes, begins = [], []
    for size, k, stride in zip(
        x.shape[1:3], layer.kernel_size, layer.strides, strict=True
    ):
        whole = (size - 1) * stride + max(k, stride)
        is_same = layer.padding == "same"
        sizes.append(size * stride if is_same else whole)
        missing = (size - 1) * stride + k - sizes[-1]
        begins.append(max(missing, 0) // 2)
    whole = [size + max(layer.kernel_size) for size in sizes]
    y = np.zeros((len(x), *whole, kernel.shape[2]))
    for i, j in np.ndindex(*x.shape[1:3]):
        top, left = i * layer.strides[0], j * layer.strides[1]
        bottom, right = np.add([top, left], layer.kernel_size)
        y[:, top:bottom, left:right] += np.einsum(
            "nc,hwoc->nhwo", x[:, i, j], kernel
        )
    y = y[:, begins[0] :, begins[1] :][:, : sizes[0], : sizes[1]]
    return y + numpy_of(layer.bias) if layer.use_bias else y


def reference_dense(layer, x):
    x = x @ numpy_of(layer.quantized_kernel)
    return x + numpy_of(layer.bias) if layer.use_bias else x


def reference_norm(layer, x):
    sigma = np.sqrt(numpy_of(layer.moving_variance) + layer.epsilon)
    x = (x - numpy_of(layer.moving_mean)) / sigma
    x = x * numpy_of(layer.gamma) if layer.scale else x
    return x + numpy_of(layer.beta) if layer.center else x


def reference_relu(layer, x):
    alpha = numpy_of(layer.alpha)
    levels = alpha * np.arange(2**layer.bits - 1)
    return alpha * np.sum(x[..., None] > levels, axis=-1)


def reference_pool(layer, x, reduce=np.max, value=-np.inf):
    has_time = x.ndim == 3
    views = patches(
        x[:, None] if has_time else x,
        two(layer.pool_size),
        two(layer.strides),
        layer.padding,
        value=value,
    )
    y = reduce(views, axis=3)
    return y[:, 0] if has_time else y


def reference_average(layer, x):
    return reference_pool(layer, x, np.mean)


REFERENCE = {
    kb.QuantConv1D: reference_conv,
    kb.QuantConv2D: reference_conv,
    kb.QuantConv2DTranspose: reference_transposed,
    kb.QuantDepthwiseConv2D: reference_conv,
    kb.QuantDense: reference_dense,
    kb.QuantReLU: reference_relu,
    layers.BatchNormalization: reference_norm,
    layers.MaxPooling1D: reference_pool,
    layers.MaxPooling2D: reference_pool,
    layers.AveragePooling1D: reference_average,
    layers.AveragePooling2D: reference_average,
    layers.GlobalAveragePooling1D: lambda layer, x: x.mean(1),
    layers.GlobalAveragePooling2D: lambda layer, x: x.mean((1, 2)),
    layers.GlobalMaxPooling1D: lambda layer, x: x.max(1),
    layers.GlobalMaxPooling2D: lambda layer, x: x.max((1, 2)),
    layers.Cropping1D: lambda layer, x: x[
        :, layer.cropping[0] : x.shape[1] - layer.cropping[1]
    ],
    layers.Cropping2D: lambda layer, x: x[
        :,
        layer.cropping[0][0] : x.shape[1] - layer.cropping[0][1],
        layer.cropping[1][0] : x.shape[2] - layer.cropping[1][1],
    ],
    layers.Flatten: lambda layer, x: x.reshape(len(x), -1),
    layers.Reshape: lambda layer, x: x.reshape(len(x), *layer.target_shape),
    layers.ZeroPadding1D: lambda layer, x: np.pad(
        x, [(0, 0), layer.padding, (0, 0)]
    ),
    layers.ZeroPadding2D: lambda layer, x: np.pad(
        x, [(0, 0), *layer.padding, (0, 0)]
    ),
}


def randomize(model, seed=0):
    """Batch normalization and alpha as after training; two gammas below 0."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(size=size) * 0.3)
            layer.moving_variance.assign(rng.uniform(0.05, 0.5, size))
            if layer.scale:
                gamma = rng.uniform(0.5, 1.5, size)
                gamma[0] = 0.0
                gamma[1:3] *= -1
                layer.gamma.assign(gamma)
            if layer.center:
                layer.beta.assign(rng.normal(size=size) * 0.5)
        elif isinstance(layer, kb.QuantReLU):
            layer.alpha.assign(rng.uniform(1.0, 2.0) / 2**layer.bits)
        elif getattr(layer, "use_bias", False):
            layer.bias.assign(rng.normal(size=layer.bias.shape) * 0.3)
    return model


def network(shape, *parts, seed=0):
    keras.utils.set_random_seed(seed)
    return randomize(keras.Sequential([keras.Input(shape), *parts]), seed)


def exported(model, tmp_path, samples=16, **settings):
    """`(path, report)` of a file with all samples in one batch.

    Of the model as it is, with 8-bit outputs, if not said otherwise.
    """
    settings.setdefault("input_range", INPUT_RANGE)
    settings.setdefault("output_type", "int8")
    settings.setdefault("align", False)
    path = str(tmp_path / "model.tflite")
    return path, export_tflite(model, path, batch_size=samples, **settings)


def run(path, x, kernels):
    """The real outputs of a file."""
    runner = TFLiteRunner(path, kernels)
    codes = runner.run(runner.quantize(x)).astype(np.float64)
    return (codes - runner.output_zero_point) * runner.output_scale


def assert_same_codes(model, tmp_path, x=None, **settings):
    """The final codes are the trained ones, on every kernel set."""
    if x is None:
        x = grid_inputs(model.input_shape[1:])
    path, report = exported(model, tmp_path, len(x), **settings)
    alpha = numpy_of(model.layers[-1].alpha)
    expected = np.round(reference(model, x) / alpha)
    assert len(np.unique(expected)) > 1
    for kernels in KERNELS:
        codes = np.round(run(path, x, kernels) / alpha)
        np.testing.assert_array_equal(codes, expected, kernels)
    return report


def outputs_of(model, x):
    """What Keras computes, in float64 under that policy."""
    return np.float64(keras.ops.convert_to_numpy(model(x, training=False)))


def assert_all_codes(model, tmp_path, x=None, **settings):
    """As `assert_same_codes`, for any graph, with Keras as the reference.

    The output must be that of a quantizer, with an alpha.
    """
    if x is None:
        x = grid_inputs(model.input_shape[1:])
    kernel_sets = settings.pop("kernel_sets", KERNELS)
    path, report = exported(model, tmp_path, len(x), **settings)
    alpha = [numpy_of(layer.alpha) for layer in quantizers(model)][-1]
    expected = np.round(outputs_of(model, x) / alpha)
    assert len(np.unique(expected)) > 1
    for kernels in kernel_sets:
        codes = np.round(run(path, x, kernels) / alpha)
        np.testing.assert_array_equal(codes, expected, kernels)
    return report


def quantizers(model):
    return [layer for layer in model.layers if hasattr(layer, "alpha")]


def normalize(model, x):
    """Statistics of batch normalization as data leaves them; random alphas."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
            gamma = rng.uniform(0.5, 1.5, layer.gamma.shape)
            gamma[1:3] *= -1
            layer.gamma.assign(gamma)
            layer.beta.assign(rng.normal(size=gamma.shape) * 0.5)
        elif isinstance(layer, kb.QuantReLU):
            layer.alpha.assign(rng.uniform(4.0, 8.0) / 2**layer.bits)
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    model(x, training=True)
    return model


def random_resnet(weight_bits, activation_bits, branch_bits=8):
    """Eight layers up to the last QuantAddReLU, as after training."""
    keras.utils.set_random_seed(0)
    model = kb.models.resnet_cifar(
        8,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        branch_bits=branch_bits,
        input_shape=(16, 16, 3),
    )
    model = keras.Model(model.inputs[0], quantizers(model)[-1].output)
    return normalize(model, grid_inputs((16, 16, 3), seed=1))


def read_file(path):
    schema = load_schema()
    with open(path, "rb") as file:
        return schema.ModelT.InitFromPackedBuf(file.read(), 0)


def file_codes(path, name):
    """The integers of a constant tensor, unpacked."""
    contents = read_file(path)
    (graph,) = contents.subgraphs
    (tensor,) = [t for t in graph.tensors if t.name.decode() == name]
    data = np.uint8(contents.buffers[tensor.buffer].data)
    if tensor.type == load_schema().TensorType.INT4:
        data = np.stack([data % 16, data // 16], axis=-1).reshape(-1)
        data = np.where(data > 7, data.astype(int) - 16, data)
        return data[: np.prod(tensor.shape)].reshape(tensor.shape)
    return data.view(np.int8).reshape(tensor.shape).astype(int)
