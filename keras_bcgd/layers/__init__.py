"""Quantized layers: arguments, weights and configs; no mathematics.

`QuantConv1D`, `QuantConv2D`, `QuantConv2DTranspose`, `QuantDepthwiseConv2D`
and `QuantDense` are the stock Keras layers with a `QuantProjection` on their
kernel; `QuantKernel` is the mixin that they share. `QuantSeparableConv2D` is
made of two of them. `QuantReLU` is the quantized ReLU with its trainable
resolution. `QuantAddReLU` ends a residual block, `QuantIdentity` puts any
other tensor on a signed grid, and `PadChannels` is for shortcuts.
"""

from keras_bcgd.layers.composite import Composite as Composite
from keras_bcgd.layers.pad_channels import PadChannels as PadChannels
from keras_bcgd.layers.quant_activation import (
    QuantActivation as QuantActivation,
)
from keras_bcgd.layers.quant_add_relu import QuantAddReLU as QuantAddReLU
from keras_bcgd.layers.quant_conv1d import QuantConv1D as QuantConv1D
from keras_bcgd.layers.quant_conv2d import QuantConv2D as QuantConv2D
from keras_bcgd.layers.quant_conv2d_transpose import (
    QuantConv2DTranspose as QuantConv2DTranspose,
)
from keras_bcgd.layers.quant_dense import QuantDense as QuantDense
from keras_bcgd.layers.quant_depthwise_conv2d import (
    QuantDepthwiseConv2D as QuantDepthwiseConv2D,
)
from keras_bcgd.layers.quant_hard_sigmoid import (
    QuantHardSigmoid as QuantHardSigmoid,
)
from keras_bcgd.layers.quant_identity import QuantIdentity as QuantIdentity
from keras_bcgd.layers.quant_kernel import QuantKernel as QuantKernel
from keras_bcgd.layers.quant_leaky_relu import NegativeSlope as NegativeSlope
from keras_bcgd.layers.quant_leaky_relu import QuantLeakyReLU as QuantLeakyReLU
from keras_bcgd.layers.quant_leaky_relu import QuantPReLU as QuantPReLU
from keras_bcgd.layers.quant_merge import QuantAdd as QuantAdd
from keras_bcgd.layers.quant_merge import QuantConcatenate as QuantConcatenate
from keras_bcgd.layers.quant_merge import QuantMultiply as QuantMultiply
from keras_bcgd.layers.quant_relu import QuantReLU as QuantReLU
from keras_bcgd.layers.quant_separable_conv2d import (
    QuantSeparableConv2D as QuantSeparableConv2D,
)
from keras_bcgd.layers.quant_table import QuantTable as QuantTable
