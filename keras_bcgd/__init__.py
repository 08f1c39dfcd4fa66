"""Fully quantized Keras networks by blended coarse gradient descent.

Module -> equation (headings of the slides, arXiv:1808.05240):

- `projections`: w = proj_Q(y), "Projection: solving least squares problem".
- `exact_numpy`: the same, exact and fast, outside a traced step.
- `activations`: sigma(x, alpha), "Activation Quantization (AQ)", and its
  coarse derivatives, "Coarse Gradients".
- `branches`: the signed 8-bit grid of a residual branch.
- `constraints`: the projection and the bound on alpha as Keras constraints.
- `layers`: QuantConv2D, QuantDepthwiseConv2D, QuantDense, QuantReLU and what
  residual networks need.
- `models`: vgg11, resnet_cifar, resnet18 and mobilenet_cifar.
- `conversion`: quantize_model, the same from a float model of yours;
  load_float_weights, from a file of its weights.
- `histogram`: the alpha with the smallest mean squared error.
- `batches`: batches from arrays, datasets and other iterables.
- `calibration`: calibrate, every alpha from a few batches.
- `optimizers`: y <- (1 - rho) y + rho w - eta gradient, "Blended Coarse
  Gradient Descent"; shadow, the y of a kernel.
- `monitor`: QuantizationMonitor, a callback: alphas, codes, distances.
- `csv_logger`: the same in a CSV file.
- `dead_layers`: WarnOnDeadLayers, a callback.
- `summary`, `summary_table`: a table of layers: bits, bytes, operations.
- `macs`, `call_trace`, `activation_statistics`: what is in that table.
- `sensitivity`: what quantizing one layer costs, and mixed bits from that.
- `bit_allocation`: the greedy choice.
- `plots`: pictures of codes, alphas, staircases and trainings.
- `model_layers`, `tables`, `checks`: layers, text and arguments, for these.
- `theory`: the two-layer network with binarized ReLU: closed forms, coarse
  gradient descent, "Theorem (Positive Correlation)". NumPy only.
- `export`: the trained network as an integer TFLite file.
- `stock`: the same as stock Keras layers, for TensorFlow's own converter.
- `verification`: that file held against the model it came from.
- `divergence`: where the two first differ.
- `inspection`: what is in a TFLite file.
- `runtime_needs`: the runtimes that run it.
- `tflite_metadata`: the labels of the classes in it.
- `latency`: how long it takes, and each of its operators.
"""

from keras_bcgd import models as models
from keras_bcgd import theory as theory
from keras_bcgd.activations import quant_relu as quant_relu
from keras_bcgd.calibration import Calibration as Calibration
from keras_bcgd.calibration import best_alpha as best_alpha
from keras_bcgd.calibration import calibrate as calibrate
from keras_bcgd.constraints import AlphaBound as AlphaBound
from keras_bcgd.constraints import QuantProjection as QuantProjection
from keras_bcgd.conversion import ConversionPlan as ConversionPlan
from keras_bcgd.conversion import check_exportable as check_exportable
from keras_bcgd.conversion import conversion_plan as conversion_plan
from keras_bcgd.conversion import load_float_weights as load_float_weights
from keras_bcgd.conversion import quantize_model as quantize_model
from keras_bcgd.csv_logger import QuantizationCSVLogger as QuantizationCSVLogger
from keras_bcgd.dead_layers import WarnOnDeadLayers as WarnOnDeadLayers
from keras_bcgd.divergence import Divergence as Divergence
from keras_bcgd.divergence import first_divergence as first_divergence
from keras_bcgd.exact_numpy import project_exact_numpy as project_exact_numpy
from keras_bcgd.export import AlignmentReport as AlignmentReport
from keras_bcgd.export import ExportReport as ExportReport
from keras_bcgd.export import align_for_export as align_for_export
from keras_bcgd.export import export_tflite as export_tflite
from keras_bcgd.inspection import InspectionReport as InspectionReport
from keras_bcgd.inspection import inspect_tflite as inspect_tflite
from keras_bcgd.latency import LatencyReport as LatencyReport
from keras_bcgd.latency import benchmark_tflite as benchmark_tflite
from keras_bcgd.layers import PadChannels as PadChannels
from keras_bcgd.layers import QuantAddReLU as QuantAddReLU
from keras_bcgd.layers import QuantConv2D as QuantConv2D
from keras_bcgd.layers import QuantDense as QuantDense
from keras_bcgd.layers import QuantDepthwiseConv2D as QuantDepthwiseConv2D
from keras_bcgd.layers import QuantIdentity as QuantIdentity
from keras_bcgd.layers import QuantReLU as QuantReLU
from keras_bcgd.monitor import QuantizationMonitor as QuantizationMonitor
from keras_bcgd.optimizers import BlendedOptimizer as BlendedOptimizer
from keras_bcgd.optimizers import shadow as shadow
from keras_bcgd.plots import plot_alphas as plot_alphas
from keras_bcgd.plots import plot_curves as plot_curves
from keras_bcgd.plots import plot_staircase as plot_staircase
from keras_bcgd.plots import plot_weight_codes as plot_weight_codes
from keras_bcgd.projections import project as project
from keras_bcgd.sensitivity import SensitivityTable as SensitivityTable
from keras_bcgd.sensitivity import sensitivity as sensitivity
from keras_bcgd.stock import to_stock_layers as to_stock_layers
from keras_bcgd.summary import summary as summary
from keras_bcgd.summary_table import SummaryTable as SummaryTable
from keras_bcgd.verification import KernelsReport as KernelsReport
from keras_bcgd.verification import VerificationReport as VerificationReport
from keras_bcgd.verification import verify_tflite as verify_tflite
from keras_bcgd.verification import (
    verify_tflite_on_all_kernels as verify_tflite_on_all_kernels,
)

__version__ = "0.1.0"
