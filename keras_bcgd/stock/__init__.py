"""A trained network as stock Keras layers, for TensorFlow's own converter.

A staircase rounds up, an integer kernel to the nearest, and
`ceil(t) = round(t + 1/2)` but for ties: with alpha / 2 in the bias of the
convolution, batch normalization folded into it, the staircase of slide
"Activation Quantization (AQ)" is a ReLU and a fake-quant with step alpha. Its
range ends at the largest level, so that saturation is the upper end of the
staircase, and the ReLU, fused, the lower one.

Module -> what it does:

- `fake_quant`: the two layers that Keras does not have.
- `tensor`: a tensor of the stock model and what can still be done to it.
- `thresholds`: which constants and factors make rounding the staircase.
- `builder`: makes the layers of the stock model.
- `convolutions`: layers with a kernel and batch normalization.
- `quantizers`: QuantReLU, QuantAddReLU, QuantIdentity and sums.
- `averages`: poolings that average.
- `copies`: layers that stay what they are.
- `conversion`: goes through a model and finds the function of each layer.
"""

import keras
import numpy as np

from keras_bcgd.network import traits
from keras_bcgd.stock.builder import Builder
from keras_bcgd.stock.conversion import Conversion
from keras_bcgd.stock.tensor import StockTensor


def to_stock_layers(model, input_range=None, representative_data=None):
    """Makes a stock Keras model that converts to integers by itself.

    Batch normalization is folded into the convolutions before it, the kernels
    are the quantized ones, and a fake-quant after every staircase and on the
    input, the residual branches, averages and, given data, the outputs puts
    each tensor on the grid of an int8 tensor. Keras evaluates it with the
    accuracy of the deployed network, and TensorFlow's own converter makes an
    integer file of it.

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
    stock.compile(loss=loss, metrics=["accuracy"])
    print(stock.evaluate(x_test, y_test, verbose=0))

    converter = tf.lite.TFLiteConverter.from_keras_model(stock)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    contents = converter.convert()
    ```

    The last three lines are what `stock.export("stock.tflite",
    format="litert", optimizations=[tf.lite.Optimize.DEFAULT])` does.
    """
    if not traits.is_model(model):
        raise ValueError(
            "`model` must be a built Sequential or functional model. "
            f"Received: {model!r}"
        )
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input. Received: {len(model.inputs)}"
        )
    low, high = _input_range(input_range, representative_data)
    builder = Builder(calibrated=representative_data is not None)
    conversion = Conversion(builder)
    inputs = keras.Input(model.inputs[0].shape[1:], name="input")
    x = StockTensor(inputs)
    x.use_range(low, high)
    outputs = conversion.run(model, [x])
    conversion.check()
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
