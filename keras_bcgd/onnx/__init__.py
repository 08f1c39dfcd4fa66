"""Writes a trained model as an ONNX file that says how it is quantized.

Each layer becomes the operators that compute what it computes, in float, and
each rounding of training one or more operators that say so: a `Quant` of the
QONNX standard, or QuantizeLinear, Clip and DequantizeLinear.

- `exporter`: `export_onnx`: the arguments, then the steps in order.
- `conversion`: goes through the calls of a model; refuses in one error.
- `readers`: what writes a call of each class of layers.
- `formats`: how each of the two formats says what is rounded.
- `staircase`: a ceil in the words of both, which round to the nearest.
- `tensor`: a tensor of the file, channels first, and flattened ones.
- `file`: the nodes, the constants and the bytes.
- `report`: what `export_onnx` returns.
"""

from keras_bcgd.onnx.exporter import export_onnx as export_onnx
from keras_bcgd.onnx.report import OnnxLayer as OnnxLayer
from keras_bcgd.onnx.report import OnnxReport as OnnxReport
