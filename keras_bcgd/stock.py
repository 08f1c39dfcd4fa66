"""A trained network as stock Keras layers, for TensorFlow's own converter.

A staircase rounds up, an integer kernel to the nearest, and
`ceil(t) = round(t + 1/2)` but for ties: with alpha / 2 in the bias of the
convolution, batch normalization folded into it, the staircase of slide
"Activation Quantization (AQ)" is a ReLU and a fake-quant with step alpha. Its
range ends at the largest level, so that saturation is the upper end of the
staircase, and the ReLU, fused, the lower one.
"""

import collections
import dataclasses

import keras
import numpy as np
from keras import ops

from keras_bcgd import branches
from keras_bcgd import layers as quant_layers
from keras_bcgd.activations import largest_level

_STEPS = 255  # of an 8-bit grid
_INT8_MAX = 127
# Rounding errors of a fake-quant in float32, in steps.
_NOISE = 2.0**-16

# The stock layer of each, and the arguments that it takes over.
_CONV = ("filters", "kernel_size", "strides", "padding", "dilation_rate")
_DEPTHWISE = ("depth_multiplier", *_CONV[1:])
_CONVOLUTIONS = {
    keras.layers.Conv2D: (keras.layers.Conv2D, _CONV),
    keras.layers.Dense: (keras.layers.Dense, ("units",)),
    keras.layers.DepthwiseConv2D: (keras.layers.DepthwiseConv2D, _DEPTHWISE),
    quant_layers.QuantConv2D: (keras.layers.Conv2D, _CONV),
    quant_layers.QuantDense: (keras.layers.Dense, ("units",)),
    quant_layers.QuantDepthwiseConv2D: (
        keras.layers.DepthwiseConv2D,
        _DEPTHWISE,
    ),
}

# Layers through which the staircase can be moved: monotone, and they keep 0.
_COMMUTING = (
    keras.layers.Cropping2D,
    keras.layers.Flatten,
    keras.layers.MaxPooling2D,
    keras.layers.Reshape,
    keras.layers.ZeroPadding2D,
)

# These do nothing outside training.
_TRAINING_ONLY = (
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.RandomBrightness,
    keras.layers.RandomContrast,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
)


@keras.saving.register_keras_serializable(package="keras_bcgd")
class FakeQuant(keras.layers.Layer):
    """Rounds to 256 codes from `low` to `high`: the grid of an int8 tensor.

    `keras.quantizers.fake_quant_with_min_max_vars` as a layer; TensorFlow's
    converter takes the scale and the zero point of the tensor from it.

    Args:
        low: Float, 0 or below. `None`: the layer does nothing yet.
        high: Float, 0 or above.
        max_value: Float, a code below `high` at which values are clipped, or
            `None`. Defaults to `None`.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, low, high, max_value=None, **kwargs):
        super().__init__(**kwargs)
        self.low = low
        self.high = high
        self.max_value = max_value

    def call(self, inputs):
        if self.low is None:
            return inputs
        if self.max_value is not None:
            inputs = ops.minimum(inputs, self.max_value)
        return keras.quantizers.fake_quant_with_min_max_vars(
            inputs, self.low, self.high
        )

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "low": self.low,
            "high": self.high,
            "max_value": self.max_value,
        }


@keras.saving.register_keras_serializable(package="keras_bcgd")
class FakeQuantKernel(keras.layers.Wrapper):
    """A stock layer whose kernel passes through a fake-quant.

    The converter gives a kernel the scale with which the largest weight of a
    channel is 127, and rounds the others. From this layer it takes the scale
    with which all of them are integers.

    Args:
        layer: `keras.layers.Conv2D`, `DepthwiseConv2D` or `Dense`.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def build(self, input_shape=None):
        super().build(input_shape)
        channels = int(
            np.prod(self.layer.kernel.shape[-1 - self._is_depthwise :])
        )
        self.step = self.add_weight(
            name="step",
            shape=(1 if self._is_dense else channels,),
            initializer="ones",
            trainable=False,
        )

    @property
    def _is_dense(self):
        return isinstance(self.layer, keras.layers.Dense)

    @property
    def _is_depthwise(self):
        return isinstance(self.layer, keras.layers.DepthwiseConv2D)

    def call(self, inputs):
        kernel = ops.convert_to_tensor(self.layer.kernel)
        shape = kernel.shape
        if self._is_depthwise:
            kernel = ops.reshape(kernel, (*shape[:2], -1))
        limit = _INT8_MAX * ops.convert_to_tensor(self.step)
        kernel = keras.quantizers.fake_quant_with_min_max_vars(
            kernel,
            -limit,
            limit,
            narrow_range=True,
            axis=None if self._is_dense else -1,
        )
        variables = [ops.reshape(kernel, shape), self.layer.bias]
        return self.layer.stateless_call(variables, [], inputs)[0]


def to_stock_layers(model, input_range=None, representative_data=None):
    """Makes a stock Keras model that converts to integers by itself.

    Batch normalization is folded into the convolutions before it, the kernels
    are the quantized ones, and a fake-quant after every staircase and on the
    input, the residual branches, averages and, given data, the outputs puts
    each tensor on the grid of an int8 tensor. Keras evaluates it with the
    accuracy of the deployed network, and TensorFlow's own converter makes an
    integer file of it:

    ```python
    converter = tf.lite.TFLiteConverter.from_keras_model(stock)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    contents = converter.convert()
    # or
    default = tf.lite.Optimize.DEFAULT
    stock.export("m.tflite", format="litert", optimizations=[default])
    ```

    Only `FakeQuant`, and `FakeQuantKernel` around a Conv2D, DepthwiseConv2D or
    Dense, are not of Keras. A kernel needs the latter where the converter,
    with the largest weight of each channel as 127, would round the others:
    hardly ever at 1 and 2 bits. It is not to be had for a Dense that is
    followed by batch normalization or has one scale per channel; there the
    weights of more than 2 bits are rounded once more, to 8 bits.

    In Keras the staircases give the trained codes, to rounding errors and a
    factor 1 - 2**-14 or less on residual branches, which makes ties go down.
    The file also rounds biases to the integers of its accumulators, so that
    some sums next to a threshold cross it; a deep residual network amplifies
    that. Averages, concatenated tensors and outputs are rounded to 8 bits in
    both. `export_tflite` places its biases with more care.

    Args:
        model: A trained `keras.Sequential` or functional model of the layers
            of this package and of Keras.
        input_range: `(low, high)`, the real inputs that 256 codes span:
            `(0, 1)` for images divided by 255. It must hold 0. `None`: the
            range of `representative_data`. Defaults to `None`.
        representative_data: Array of inputs, as for `model.predict`, that
            chooses the ranges of tensors that training left in float: the
            outputs, and residual branches without `branch_bits`. `None`:
            they are left to the converter, which then needs its own
            `representative_dataset`, without which these tensors and their
            layers stay in float. Defaults to `None`.

    Returns:
        A functional `keras.Model` with new weights, float32.

    Raises:
        ValueError: If an argument is not one of the above, or the model has
            something that cannot be converted: the message names every such
            layer.

    Example:

    ```python
    stock = keras_bcgd.to_stock_layers(model, (0, 1), x_train[:500])
    stock.compile(metrics=["accuracy"])
    print(stock.evaluate(x_test, y_test))
    ```
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a built Sequential or functional model. "
            f"Received: {model!r}"
        )
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input. Received: {len(model.inputs)}"
        )
    low, high = _input_range(input_range, representative_data)
    builder = _Builder(calibrated=representative_data is not None)
    inputs = keras.Input(model.inputs[0].shape[1:], name="input")
    x = _Tensor(inputs, step=(high - low) / _STEPS, low=low, high=high)
    outputs = builder.run(model, [x])
    builder.check()
    for x in outputs:
        builder.settle(x)
    for linear in builder.linears:
        linear.write()
    stock = keras.Model(inputs, [x.value for x in outputs], name=model.name)
    if len(outputs) == 1:
        stock = keras.Model(inputs, outputs[0].value, name=model.name)
    if representative_data is not None:
        _calibrate(inputs, builder.pending, representative_data)
    return stock


def _input_range(input_range, data):
    if input_range is None and data is None:
        raise ValueError(
            "One of `input_range` and `representative_data` is required. "
            "Received: None for both"
        )
    if input_range is None:
        return min(0.0, float(np.min(data))), max(0.0, float(np.max(data)))
    low, high = input_range if np.shape(input_range) == (2,) else (1, -1)
    if not low <= 0 <= high or not 0 < high - low < np.inf:
        raise ValueError(
            "`input_range` must be `(low, high)` with low <= 0 <= high and "
            f"low < high. Received: input_range={input_range}"
        )
    return float(low), float(high)


def _calibrate(inputs, pending, data, batch_size=256):
    """Sets the ranges of fake-quants to those of their inputs."""
    if not pending:
        return
    probe = keras.Model(inputs, [layer.input for layer in pending])
    low, high = np.zeros(len(pending)), np.zeros(len(pending))
    for start in range(0, len(data), batch_size):
        batch = np.asarray(data[start : start + batch_size], "float32")
        values = probe.predict_on_batch(batch)
        values = values if isinstance(values, list) else [values]
        low = np.minimum(low, [np.min(value) for value in values])
        high = np.maximum(high, [np.max(value) for value in values])
    high = np.where(high - low < 1e-6, low + 1, high)
    for layer, *limits in zip(pending, low, high, strict=True):
        layer.low, layer.high = map(float, limits)


@dataclasses.dataclass
class _Linear:
    """A convolution whose weights may still change until they are written.

    Its outputs are `slope * sum(codes * x) + constant`.

    Attributes:
        layer: The stock layer, or `FakeQuantKernel` around it.
        inputs: The Keras tensor on which it was called.
        codes: Array of the shape of the kernel; integers, unless the weights
            are float.
        slope: float64 array of shape `(channels,)`.
        constant: float64 array of shape `(channels,)`.
    """

    layer: keras.layers.Layer
    inputs: object
    codes: np.ndarray
    slope: np.ndarray
    constant: np.ndarray

    def write(self):
        """Assigns the weights of the layer."""
        layer, codes, slope = self.layer, self.codes, self.slope
        if isinstance(layer, FakeQuantKernel):
            step = np.abs(slope) / _multiplier(codes)
            # Channels without weights need a step, too.
            step = np.maximum(step, 2.0**-16 * (np.max(step) or 1.0))
            layer.step.assign(step[: layer.step.shape[0]])
            layer = layer.layer
        kernel = np.reshape(codes, (-1, len(slope))) * slope
        layer.kernel.assign(np.reshape(kernel, codes.shape))
        layer.bias.assign(self.constant)


def _multiplier(codes):
    """The largest integer by which codes can be multiplied in int8."""
    return _INT8_MAX // max(1, np.max(np.abs(codes)))


@dataclasses.dataclass
class _Tensor:
    """A tensor of the stock model and what can still be done to it.

    Attributes:
        value: The Keras tensor.
        on_grid: Boolean. Whether it has passed its fake-quant.
        step: Float, the step of that fake-quant, or `None`: not known yet.
        low: Float, the smallest value, or `None`.
        high: Float, the largest value, or `None`.
        linear: The `_Linear` that a constant can still be added to, or `None`.
        direct: Boolean. Whether it is the output of `linear` itself.
        spacing: Float, the step of the inputs of `linear`, or `None`.
    """

    value: object
    on_grid: bool = False
    step: float | None = None
    low: float | None = None
    high: float | None = None
    linear: _Linear | None = None
    direct: bool = False
    spacing: float | None = None


class _Unsupported(ValueError):
    """Says what to do about a layer; `_Builder` adds its name."""


class _Builder:
    """Builds the stock model, layer by layer.

    Args:
        calibrated: Boolean. Whether data will tell the ranges of tensors that
            training left in float.
    """

    def __init__(self, calibrated):
        self.calibrated = calibrated
        self.pending = []  # the fake-quants that wait for such a range
        self.linears = []
        self.names = set()
        self.problems = []

    def run(self, model, inputs):
        """The outputs of a model for these inputs, lists of `_Tensor`."""
        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                inputs = self.convert(layer, inputs)
            return inputs
        self.refuse_repeated_calls(model)
        tensors = dict(zip(map(id, model.inputs), inputs, strict=True))
        operations = [
            (op, keras.tree.flatten(op.input), keras.tree.flatten(op.output))
            for op in model.operations
            if not isinstance(op, keras.layers.InputLayer)
        ]
        readers = collections.Counter(map(id, model.outputs))
        for _, sources, _ in operations:
            readers.update(map(id, sources))
        for op, sources, results in operations:
            outputs = self.convert(op, [tensors[id(t)] for t in sources])
            tensors.update(zip(map(id, results), outputs, strict=True))
            for key, x in tensors.items():
                if readers[key] > 1:
                    x.linear = None  # what one reader needs, others do not
        return [tensors[id(tensor)] for tensor in model.outputs]

    def refuse_repeated_calls(self, model):
        """Raises where the graph is not one call of each layer."""
        for entry in model.get_config()["layers"]:
            if len(entry["inbound_nodes"]) > 1:
                layer = model.get_layer(entry["name"])
                self.refuse(layer, "call each layer once")
        self.check()

    def convert(self, layer, inputs):
        """The outputs of a layer, a list of `_Tensor`."""
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None):
            return self.run(layer, inputs)
        try:
            return [self.handler(layer)(self, layer, *inputs)]
        except _Unsupported as error:
            self.refuse(layer, error)
        # To find the other problems, too.
        results = keras.tree.flatten(layer.output)
        return [_Tensor(tensor, on_grid=True) for tensor in results]

    def refuse(self, layer, advice):
        self.problems.append(
            f"'{layer.name}' ({type(layer).__name__}): {advice}"
        )

    def check(self):
        """Raises a `ValueError` that lists the problems, if there are any."""
        if self.problems:
            raise ValueError(
                "The model cannot be made of stock layers. Received:\n- "
                + "\n- ".join(self.problems)
            )

    def handler(self, layer):
        """The function of `(self, layer, *inputs)` that converts a layer."""
        if getattr(layer, "data_format", None) == "channels_first":
            raise _Unsupported("use data_format='channels_last'")
        kind = type(layer)
        if kind is keras.layers.Activation:
            kind = _ACTIVATIONS.get(layer.activation)
        if kind not in _HANDLERS:
            raise _Unsupported(
                "it has no integer form here: remove it, or do it before or "
                "after the model"
            )
        return _HANDLERS[kind]

    def make(self, kind, *args, name, **kwargs):
        """A layer of the stock model, under a name that is still free."""
        unique, count = name, 0
        while unique in self.names:
            count += 1
            unique = f"{name}_{count}"
        self.names.add(unique)
        return kind(*args, name=unique, dtype="float32", **kwargs)

    def fake_quant(self, value, name, *limits):
        limits = [None if limit is None else float(limit) for limit in limits]
        layer = self.make(FakeQuant, *limits, name=f"{name}_quant")
        if layer.low is None:
            self.pending.append(layer)
        return layer(value)

    def settle(self, x):
        """Puts a tensor on its grid, before something else than a sum."""
        if not x.on_grid:
            self.put_on_grid(x)
        x.linear = None

    def put_on_grid(self, x):
        x.on_grid = True
        if x.step is not None:
            high = x.low + _STEPS * x.step
            x.value = self.fake_quant(x.value, "range", x.low, high)
        elif self.calibrated:
            x.value = self.fake_quant(x.value, "range", None, None)

    def nothing(self, layer, x):
        return x

    def commuting(self, layer, x):
        value = self.copy(layer)(x.value)
        return dataclasses.replace(x, value=value, direct=False)

    def copy(self, layer):
        config = layer.get_config()
        del config["dtype"]
        return self.make(type(layer), **config)

    def convolution(self, layer, x):
        """A convolution with the quantized kernel, as a stock layer."""
        if getattr(layer, "groups", 1) != 1:
            raise _Unsupported("use groups=1 or a QuantDepthwiseConv2D")
        activation = _ACTIVATIONS.get(layer.activation)
        if activation is None:
            raise _Unsupported("use activation=None and a QuantReLU after it")
        slope, codes = _kernel(layer)
        kind, names = _CONVOLUTIONS[type(layer)]
        stock = self.make(
            kind, name=layer.name, **{k: getattr(layer, k) for k in names}
        )
        bias = 0.0
        if layer.use_bias:
            bias = keras.ops.convert_to_numpy(layer.bias)
        x = self.linear(stock, x, codes, slope, bias)
        return _HANDLERS[activation](self, layer, x)

    def linear(self, stock, x, codes, slope, constant):
        """Calls a stock convolution, whose weights come later."""
        self.settle(x)
        depthwise = isinstance(stock, keras.layers.DepthwiseConv2D)
        channels = np.prod(codes.shape[2:] if depthwise else codes.shape[-1:])
        slope = np.broadcast_to(np.float64(slope).reshape(-1), channels)
        constant = np.broadcast_to(np.float64(constant), channels)
        if _is_rounded_again(stock, codes, slope):
            stock = FakeQuantKernel(stock, name=stock.name, dtype="float32")
        linear = _Linear(stock, x.value, codes, slope, constant)
        self.linears.append(linear)
        spacing = x.step if codes.dtype.kind == "i" else None
        value = stock(x.value)
        return _Tensor(value, linear=linear, direct=True, spacing=spacing)

    def linear_before(self, x):
        """`x`, with a `linear` whose constant can be changed."""
        if x.linear is not None:
            return x
        if len(x.value.shape) != 4:
            raise _Unsupported(
                "it must follow a convolution or Dense that nothing else reads"
            )
        channels = x.value.shape[-1]
        stock = self.make(keras.layers.DepthwiseConv2D, 1, name="identity")
        ones = np.ones((1, 1, channels, 1), int)
        # TensorFlow makes one of two equal convolutions of a tensor, and then
        # leaves their biases in float.
        return self.linear(stock, x, ones, 1 + len(self.linears) * 2.0**-22, 0)

    def normalization(self, layer, x):
        """Folds gamma (x - mean) / sqrt(variance + epsilon) + beta."""
        if layer.axis not in (-1, len(x.value.shape) - 1):
            raise _Unsupported("it must normalize the last axis")
        if not x.direct:
            x.linear = None
        x = self.linear_before(x)
        x.step = x.low = x.high = None
        mean, variance = map(_numpy, (layer.moving_mean, layer.moving_variance))
        ratio = 1 / np.sqrt(variance + layer.epsilon)
        if layer.scale:
            ratio = ratio * _numpy(layer.gamma)
        linear = x.linear
        if linear.inputs.ndim == 2 and isinstance(
            linear.layer, FakeQuantKernel
        ):
            # The converter knows only one scale for the kernel of a Dense.
            linear.layer = linear.layer.layer
            x.value = linear.layer(linear.inputs)
        linear.slope = ratio * linear.slope
        linear.constant = ratio * (linear.constant - mean)
        if layer.center:
            linear.constant = linear.constant + _numpy(layer.beta)
        return x

    def staircase(self, layer, x):
        """QuantReLU: half a step in the constant, ReLU, fake-quant."""
        x = self.linear_before(x)
        alpha, levels = _alpha(layer), largest_level(layer.bits)
        x.linear.constant = _centred(x, alpha, levels)
        return self.clipped(layer, x.value)

    def clipped(self, layer, value):
        """The ReLU and the fake-quant of a staircase."""
        alpha, levels = _alpha(layer), largest_level(layer.bits)
        name = layer.name
        value = self.make(keras.layers.ReLU, name=name)(value)
        limits = (levels - _STEPS) * alpha, levels * alpha
        value = self.fake_quant(value, name, *limits)
        return _Tensor(value, True, alpha, 0.0, levels * alpha)

    def add(self, layer, *inputs):
        """A sum, whose constant is that of a float term, if it has one."""
        linear = None
        for x in inputs:
            if x.step is None and x.linear is not None:
                linear = x.linear
            self.settle(x)
        value = self.make(keras.layers.Add, name=layer.name)(
            [x.value for x in inputs]
        )
        out = _Tensor(value, linear=linear)
        if all(x.step is not None for x in inputs):
            out.low = sum(x.low for x in inputs)
            out.high = sum(x.high for x in inputs)
            out.step = (out.high - out.low) / _STEPS
        return out

    def add_relu(self, layer, branch, shortcut):
        """QuantAddReLU: the branch carries the half step, on its grid."""
        if layer.branch_bits is None:
            return self.staircase(layer, self.add(layer, branch, shortcut))
        alpha, bits = _alpha(layer), layer.branch_bits
        step = branches.branch_step(alpha, layer.bits, bits)
        # Coarser steps than alpha / 2 are those of the shifted branch.
        shift = max(0, round(alpha / 2 / step)) if step < alpha else 0
        grid = _signed(bits, shift) * step
        if layer.shortcut_is_branch:
            other_grid = _signed(bits) * step
        else:
            self.settle(shortcut)
            other_grid = _codes(shortcut)
        shrink = _shrink(
            alpha,
            largest_level(layer.bits),
            grid,
            other_grid,
            shrinks_both=layer.shortcut_is_branch,
        )
        value = self.branch(layer, branch, alpha / 2, grid, shrink)
        other = shortcut.value
        if layer.shortcut_is_branch:
            other = self.branch(layer, shortcut, 0.0, other_grid, shrink)
        total = self.make(keras.layers.Add, name=f"{layer.name}_add")
        return self.clipped(layer, total([value, other]))

    def branch(self, layer, x, half, grid, shrink):
        """A residual branch plus `half`, on its signed grid."""
        linear = self.linear_before(x).linear
        linear.slope = shrink * linear.slope
        linear.constant = shrink * (linear.constant + half)
        return self.signed(x.value, f"{layer.name}_branch", shrink * grid)

    def signed(self, value, name, grid):
        """A fake-quant whose codes are `grid`, all 256 of them or less."""
        low, step = grid[0], grid[1] - grid[0]
        high = None if len(grid) > _STEPS else grid[-1]
        return self.fake_quant(value, name, low, low + _STEPS * step, high)

    def identity(self, layer, x):
        """QuantIdentity: a fake-quant on what has none yet."""
        if x.on_grid:
            x = self.linear_before(x)
        alpha = _alpha(layer)
        grid = alpha * _signed(layer.bits)
        value = self.signed(x.value, layer.name, grid)
        return _Tensor(value, True, alpha, grid[0], grid[-1])

    def average(self, layer, x):
        """AveragePooling2D as a convolution, which may change the grid."""
        height, width = x.value.shape[1:3]
        if layer.padding == "same" and (
            height is None
            or width is None
            or any(np.mod((height, width), layer.strides))
            or layer.pool_size != layer.strides
        ):
            raise _Unsupported("use padding='valid'")
        window = tuple(layer.pool_size)
        stock = self.make(
            keras.layers.DepthwiseConv2D,
            window,
            strides=layer.strides,
            name=layer.name,
        )
        self.settle(x)
        codes = np.ones((*window, x.value.shape[-1], 1), int)
        count = np.prod(window)
        out = self.linear(stock, x, codes, 1 / count, 0)
        return _with_average_grid(out, x, count)

    def global_average(self, layer, x):
        self.settle(x)
        out = _Tensor(self.copy(layer)(x.value))
        return _with_average_grid(out, x, np.inf)

    def concatenate(self, layer, *inputs):
        """Concatenate, on one grid for all."""
        if any(x.step is None for x in inputs):
            raise _Unsupported("use a QuantReLU or QuantIdentity before it")
        out = _Tensor(None, True)
        out.low = min(x.low for x in inputs)
        out.high = max(x.high for x in inputs)
        out.step = inputs[0].step
        values = [x.value for x in inputs]
        if not all(x.on_grid and x.step == out.step for x in inputs):
            out.step = (out.high - out.low) / _STEPS
            values = [
                self.fake_quant(
                    self.linear_before(x).value, layer.name, out.low, out.high
                )
                for x in inputs
            ]
        out.value = self.copy(layer)(values)
        return out

    def pad_channels(self, layer, x):
        """A ZeroPadding2D that takes width and channels for the image."""
        if len(x.value.shape) != 4:
            raise _Unsupported("its input must have 4 dimensions")
        self.settle(x)
        pad = self.make(
            keras.layers.ZeroPadding2D,
            ((0, 0), (0, layer.channels - x.value.shape[-1])),
            data_format="channels_first",
            name=layer.name,
        )
        return dataclasses.replace(x, value=pad(x.value))

    def relu(self, layer, x):
        if type(layer) is keras.layers.ReLU:
            return _Tensor(self.copy(layer)(x.value))
        return _Tensor(self.make(keras.layers.ReLU, name=layer.name)(x.value))

    def softmax(self, layer, x):
        self.settle(x)
        softmax = self.make(keras.layers.Softmax, name=layer.name)
        return _Tensor(softmax(x.value), True, 1 / 256, 0.0, 255 / 256)


_ACTIVATIONS = {
    None: keras.layers.Identity,
    keras.activations.linear: keras.layers.Identity,
    keras.activations.relu: keras.layers.ReLU,
    keras.activations.softmax: keras.layers.Softmax,
}

_HANDLERS = {
    keras.layers.Add: _Builder.add,
    keras.layers.AveragePooling2D: _Builder.average,
    keras.layers.BatchNormalization: _Builder.normalization,
    keras.layers.Concatenate: _Builder.concatenate,
    keras.layers.GlobalAveragePooling2D: _Builder.global_average,
    keras.layers.InputLayer: _Builder.nothing,
    keras.layers.ReLU: _Builder.relu,
    keras.layers.Softmax: _Builder.softmax,
    quant_layers.PadChannels: _Builder.pad_channels,
    quant_layers.QuantAddReLU: _Builder.add_relu,
    quant_layers.QuantIdentity: _Builder.identity,
    quant_layers.QuantReLU: _Builder.staircase,
    **dict.fromkeys(_COMMUTING, _Builder.commuting),
    **dict.fromkeys(_CONVOLUTIONS, _Builder.convolution),
    **dict.fromkeys(_TRAINING_ONLY, _Builder.nothing),
}


def _numpy(variable):
    return np.float64(keras.ops.convert_to_numpy(variable))


def _alpha(layer):
    return float(_numpy(layer.alpha))


def _kernel(layer):
    """Scales and codes of a kernel; scale 1 and the weights, if float."""
    if getattr(layer, "is_quantized", False):
        scale, codes = layer.kernel_scale_and_codes()
        return scale, np.int64(codes)
    return 1.0, _numpy(layer.kernel)


def _is_rounded_again(stock, codes, slope):
    """Whether the converter would change codes that it need not change."""
    if codes.dtype.kind != "i":
        return False
    if isinstance(stock, keras.layers.Dense) and np.ptp(slope):
        return False
    largest = np.abs(codes).reshape(-1, len(slope)).max(axis=0)
    return np.any(largest * _multiplier(codes) != _INT8_MAX)


def _with_average_grid(out, x, count):
    """The finest grid of a mean of `count` codes; exact if 256 suffice."""
    if x.step is not None:
        parts = max(1, _STEPS // round((x.high - x.low) / x.step))
        if parts >= count:
            parts -= parts % count
        out.step, out.low, out.high = x.step / parts, x.low, x.high
    return out


def _centred(x, alpha, levels):
    """The constant of `x.linear` such that rounding is the staircase.

    It must be raised by alpha / 2, and may lie a little off that: sums have
    the `spacing` of the inputs times the slope, and no threshold j * alpha may
    come to lie on the other side of one. The middle of the room that is left
    is safe from ties, which must go down, and from rounding errors.
    """
    linear = x.linear
    if x.spacing is None:
        return linear.constant + alpha * (0.5 - 2.0**-14)
    constant = linear.constant[:, None]
    spacing = np.abs(linear.slope[:, None]) * x.spacing
    spacing = np.maximum(spacing, 1e-9 * alpha)
    # From the last sum that stays at a level up to the threshold.
    gap = np.mod(alpha * np.arange(levels) - constant, spacing)
    shift = (gap.max(axis=1) + gap.min(axis=1) - spacing[:, 0]) / 2
    centred = linear.constant + alpha / 2 + shift
    # Without weights there is one value, best in the middle of its step.
    return np.where(
        linear.slope, centred, np.ceil(linear.constant / alpha) * alpha
    )


def _signed(bits, shift=0):
    """The codes around 0, in float64."""
    low, high = branches.smallest_and_largest_code(bits)
    return np.arange(low, high + 1.0) + shift


def _codes(x):
    """The real numbers of the codes of a tensor; 0 if its grid is unknown."""
    if x.step is None:
        return np.zeros(1)
    return np.arange(round(x.low / x.step), round(x.high / x.step) + 1) * x.step


def _shrink(alpha, levels, branch, shortcut, shrinks_both):
    """How much smaller a residual branch is made for ties to go down.

    The staircase of `branch - alpha / 2 + shortcut` rounds up, so that
    `branch + shortcut = (k + 1/2) * alpha` must give k. A factor below 1 on
    the branch does that if it exceeds rounding errors: those of a fake-quant,
    and those of kernels, whose scales have 20 bits. Of the possible ones it is
    the one that moves the fewest other sums across a threshold.
    """
    step = branch[1] - branch[0]
    sums = (branch + shortcut[:, None]) / alpha
    level = np.clip(np.ceil(sums - 0.5 - 1e-7), 0, levels)
    moved = sums if shrinks_both else branch / alpha
    coarsest = max(alpha, step, np.max(np.diff(shortcut), initial=0.0))
    least = max(2.0**-14, 2.0**-19 * coarsest / step)

    def margins(lost):
        rest = np.clip(sums - lost * moved, 0, levels)
        margin = 0.5 - np.abs(rest - level)
        return np.sum(margin > _NOISE), np.min(margin)

    return 1 - max(least * np.geomspace(1, 32, 41), key=margins)
