"""Fully quantized Keras networks by blended coarse gradient descent.

The method; the headings are those of the slides, arXiv:1808.05240:

- `projections`: w = proj_Q(y), "Projection: solving least squares problem".
- `exact_numpy`: the same, exact and fast, outside a traced step.
- `activations`: sigma(x, alpha), "Activation Quantization (AQ)", and its
  coarse derivatives, "Coarse Gradients".
- `gradient_scale`: LSQ's factor of the derivative by alpha.
- `branches`: the signed 8-bit grid of a residual branch.
- `pointwise`: sigmoid, tanh and hard sigmoid on the grids of a file.
- `constraints`: the projection and the bound on alpha as Keras constraints.
- `layers`: QuantConv2D and its kin, QuantDense, QuantReLU and what residual
  networks need.
- `models`: vgg11, resnet_cifar, resnet18 and mobilenet_cifar.
- `optimizers`: y <- (1 - rho) y + rho w - eta gradient, "Blended Coarse
  Gradient Descent"; shadow, the y of a kernel.
- `theory`: the two-layer network with binarized ReLU: closed forms, coarse
  gradient descent, "Theorem (Positive Correlation)". NumPy only.

What surrounds it:

- `network`: the one reader of Keras models: layers, calls, graph, traits.
- `conversion`: quantize_model, a quantized network from a float one of yours;
  load_float_weights, from a file of its weights.
- `calibration`: every alpha, and batch normalization, from a few batches.
- `on_device`: `fit` with the data and their augmentation on the device.
- `callbacks`: alphas, codes and distances in `fit`; a CSV log; dead layers;
  alignment while training.
- `analysis`: a table of layers (bits, bytes, operations), what quantizing one
  layer costs, and mixed bits from that.
- `plots`: pictures of codes, alphas, staircases and trainings.
- `export`: the trained network as an integer TFLite file.
- `verification`: that file held against the model it came from.
- `tflite`: TFLite files: written, read, run, inspected and timed.
- `micro`: sources in C++ that run a file on a microcontroller.
- `onnx`: the trained network as an ONNX file for other compilers.
- `stock`: the network as stock Keras layers, for TensorFlow's own converter.
- `utils`: arguments, batches, text and files, for these.
"""

from keras_bcgd import models as models
from keras_bcgd import theory as theory
from keras_bcgd.activations import quant_relu as quant_relu
from keras_bcgd.analysis.sensitivity import SensitivityTable as SensitivityTable
from keras_bcgd.analysis.sensitivity import sensitivity as sensitivity
from keras_bcgd.analysis.summary import summary as summary
from keras_bcgd.analysis.summary_table import SummaryTable as SummaryTable
from keras_bcgd.calibration.batch_norm import (
    reestimate_batch_norm as reestimate_batch_norm,
)
from keras_bcgd.calibration.calibrate import Calibration as Calibration
from keras_bcgd.calibration.calibrate import best_alpha as best_alpha
from keras_bcgd.calibration.calibrate import calibrate as calibrate
from keras_bcgd.callbacks.align_for_export import (
    AlignForExport as AlignForExport,
)
from keras_bcgd.callbacks.csv_logger import (
    QuantizationCSVLogger as QuantizationCSVLogger,
)
from keras_bcgd.callbacks.dead_layers import (
    WarnOnDeadLayers as WarnOnDeadLayers,
)
from keras_bcgd.callbacks.monitor import (
    QuantizationMonitor as QuantizationMonitor,
)
from keras_bcgd.constraints import AlphaBound as AlphaBound
from keras_bcgd.constraints import QuantProjection as QuantProjection
from keras_bcgd.conversion import ConversionPlan as ConversionPlan
from keras_bcgd.conversion import check_exportable as check_exportable
from keras_bcgd.conversion import conversion_plan as conversion_plan
from keras_bcgd.conversion import load_float_weights as load_float_weights
from keras_bcgd.conversion import quantize_model as quantize_model
from keras_bcgd.exact_numpy import project_exact_numpy as project_exact_numpy
from keras_bcgd.export import AlignmentReport as AlignmentReport
from keras_bcgd.export import ExportReport as ExportReport
from keras_bcgd.export import UnpackReport as UnpackReport
from keras_bcgd.export import align_for_export as align_for_export
from keras_bcgd.export import export_tflite as export_tflite
from keras_bcgd.export import unpack_tflite as unpack_tflite
from keras_bcgd.layers import PadChannels as PadChannels
from keras_bcgd.layers import QuantActivation as QuantActivation
from keras_bcgd.layers import QuantAdd as QuantAdd
from keras_bcgd.layers import QuantAddReLU as QuantAddReLU
from keras_bcgd.layers import QuantConcatenate as QuantConcatenate
from keras_bcgd.layers import QuantConv1D as QuantConv1D
from keras_bcgd.layers import QuantConv2D as QuantConv2D
from keras_bcgd.layers import QuantConv2DTranspose as QuantConv2DTranspose
from keras_bcgd.layers import QuantDense as QuantDense
from keras_bcgd.layers import QuantDepthwiseConv2D as QuantDepthwiseConv2D
from keras_bcgd.layers import QuantHardSigmoid as QuantHardSigmoid
from keras_bcgd.layers import QuantIdentity as QuantIdentity
from keras_bcgd.layers import QuantLeakyReLU as QuantLeakyReLU
from keras_bcgd.layers import QuantMultiply as QuantMultiply
from keras_bcgd.layers import QuantPReLU as QuantPReLU
from keras_bcgd.layers import QuantReLU as QuantReLU
from keras_bcgd.layers import QuantSeparableConv2D as QuantSeparableConv2D
from keras_bcgd.micro import MicroSourcesReport as MicroSourcesReport
from keras_bcgd.micro import write_micro_sources as write_micro_sources
from keras_bcgd.on_device import fit_on_device as fit_on_device
from keras_bcgd.onnx import OnnxReport as OnnxReport
from keras_bcgd.onnx import export_onnx as export_onnx
from keras_bcgd.optimizers import BlendedOptimizer as BlendedOptimizer
from keras_bcgd.optimizers import shadow as shadow
from keras_bcgd.plots import plot_alphas as plot_alphas
from keras_bcgd.plots import plot_curves as plot_curves
from keras_bcgd.plots import plot_staircase as plot_staircase
from keras_bcgd.plots import plot_weight_codes as plot_weight_codes
from keras_bcgd.projections import project as project
from keras_bcgd.stock import to_stock_layers as to_stock_layers
from keras_bcgd.tflite.inspection import inspect_tflite as inspect_tflite
from keras_bcgd.tflite.inspection_report import (
    InspectionReport as InspectionReport,
)
from keras_bcgd.tflite.latency import LatencyReport as LatencyReport
from keras_bcgd.tflite.latency import benchmark_tflite as benchmark_tflite
from keras_bcgd.verification import KernelsReport as KernelsReport
from keras_bcgd.verification import VerificationReport as VerificationReport
from keras_bcgd.verification import verify_tflite as verify_tflite
from keras_bcgd.verification import (
    verify_tflite_on_all_kernels as verify_tflite_on_all_kernels,
)
from keras_bcgd.verification.divergence import Divergence as Divergence
from keras_bcgd.verification.divergence import (
    first_divergence as first_divergence,
)

__version__ = "0.1.0"
