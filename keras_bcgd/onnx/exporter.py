"""`export_onnx`: the arguments, then the steps in order."""

import types

from keras_bcgd.export import arguments
from keras_bcgd.network import ends
from keras_bcgd.network import traits
from keras_bcgd.onnx.conversion import Conversion
from keras_bcgd.onnx.file import OPSET
from keras_bcgd.onnx.file import OnnxFile
from keras_bcgd.onnx.formats import FORMATS
from keras_bcgd.onnx.report import OnnxReport
from keras_bcgd.onnx.tensor import channels_first
from keras_bcgd.onnx.writer import Writer
from keras_bcgd.utils import checks
from keras_bcgd.utils.files import write_atomically

_DATA_FORMATS = ("channels_first", "channels_last")


def export_onnx(
    model,
    path,
    format="qonnx",
    batch_size=1,
    data_format="channels_first",
    labels=None,
):
    """Writes a trained model as an ONNX file that says how it is quantized.

    The file computes what Keras computes, layer by layer, in float32. Each
    kernel and each rounding of training is told from what is float:

    - `"qonnx"`: by a `Quant`, or `BipolarQuant` at 1-bit weights, of the QONNX
      standard, for FINN, hls4ml and the package `qonnx`.
    - `"qcdq"`: by QuantizeLinear, Clip and DequantizeLinear, with integers as
      weights, for onnxruntime and whatever else runs ONNX.

    The staircase rounds up and these operators to the nearest, so that nearly
    alpha / 2 is added before them (`keras_bcgd.onnx.staircase`). Sums on a
    threshold of the staircase stay on the side on which training has them.

    Args:
        model: A built `keras.Sequential` or functional model, also nested, of
            the convolutions, dense layers and activations of this package but
            QuantConv2DTranspose and QuantActivation and its kin,
            BatchNormalization, poolings, Add, Concatenate, paddings, crops,
            Flatten, Reshape, Permute, layers for training only such as
            Dropout, a Rescaling or Normalization, and a softmax or sigmoid at
            the end. Stock Conv2D, DepthwiseConv2D, Dense and ReLU stay in
            float.
        path: String or path-like, the file to write.
        format: String: `"qonnx"` or `"qcdq"`. Defaults to `"qonnx"`.
        batch_size: Int, the fixed batch of the file, as FINN wants it; or
            `None`: any. Defaults to `1`.
        data_format: String, what inputs and outputs that are maps are:
            `"channels_first"`, as ONNX has them, or `"channels_last"`, as
            Keras has them, by a Transpose at each. Defaults to
            `"channels_first"`.
        labels: List of strings, the names of the classes in their order,
            which become the metadata `labels` of the file, one in a line.
            `None`: none, as it must be for several outputs. Defaults to
            `None`.

    Returns:
        An `OnnxReport`; printed, it is a table.

    Raises:
        ValueError: If an argument is not one of the above, or the model has
            something that cannot be exported: the message names every such
            layer.
        OSError: If the file cannot be written.
        ImportError: If `onnx` is not installed.

    Example:

    ```python
    import onnxruntime

    report = keras_bcgd.export_onnx(model, "digits.onnx", format="qcdq")
    print(report)
    session = onnxruntime.InferenceSession("digits.onnx")
    image = np.float32(x_test[:1]).transpose(0, 3, 1, 2)
    (logits,) = session.run(None, {"input": image})
    ```
    """
    path = arguments.check_path(path)
    checks.check_choice("format", format, tuple(FORMATS))
    checks.check_count("batch_size", batch_size, allow_none=True)
    checks.check_choice("data_format", data_format, _DATA_FORMATS)
    checks.check_model(model)
    if not model.built or not traits.is_model(model):
        raise ValueError(
            f"The model '{model.name}' has no known input shape: begin it with "
            "a keras.Input, or call it once. Only Sequential and functional "
            "models without a `call` of their own can be exported. Received: "
            f"{type(model).__name__} with built={model.built}"
        )
    inputs = _ends(model.inputs, ends.input_names(model), "input")
    outputs = _ends(model.outputs, ends.output_names(model), "output")
    labels = arguments.check_labels(
        labels,
        {
            name: types.SimpleNamespace(output_shape=shape)
            for name, shape in outputs.items()
        },
    )
    is_last = data_format == "channels_last"
    file = OnnxFile(batch_size, [*inputs, *outputs])
    writer = Writer(file, FORMATS[format])
    tensors = [
        file.input(name, shape, is_last) for name, shape in inputs.items()
    ]
    tensors = Conversion(model, writer).run(tensors)
    for name, tensor in zip(outputs, tensors, strict=True):
        file.output(name, tensor, is_last)
    metadata = {} if labels is None else {"labels": "\n".join(labels)}
    contents = file.contents(model.name, metadata)
    write_atomically(path, contents)
    return OnnxReport(
        path=path,
        file_bytes=len(contents),
        format=format,
        opset=OPSET,
        inputs=_file_shapes(inputs, batch_size, is_last),
        outputs=_file_shapes(outputs, batch_size, is_last),
        layers=writer.layers,
    )


def _ends(tensors, names, single):
    """Dict from the names of inputs or outputs to shapes without the batch."""
    if len(names) == 1:
        names = [single]
    shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
    return dict(zip(names, shapes, strict=True))


def _file_shapes(shapes, batch_size, is_last):
    return {
        name: (batch_size, *(shape if is_last else channels_first(shape)))
        for name, shape in shapes.items()
    }
