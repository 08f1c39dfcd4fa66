"""One file for each operator, and the table of what each one computes.

A file has a function for each pass that needs one:

- `make_step(node, inputs, plan)`: the `Step` of a node: the grid of its output.
- `write(step, inputs, file)`: its operators; returns the tensor they compute.

Between the two, `integers` finds the weights of the steps that have some.
"""

from keras_bcgd.export.operators import add
from keras_bcgd.export.operators import concatenation
from keras_bcgd.export.operators import convolution
from keras_bcgd.export.operators import crop
from keras_bcgd.export.operators import final
from keras_bcgd.export.operators import max_pool
from keras_bcgd.export.operators import maximum
from keras_bcgd.export.operators import multiply
from keras_bcgd.export.operators import pad
from keras_bcgd.export.operators import rescale
from keras_bcgd.export.operators import reshape
from keras_bcgd.export.operators import resize
from keras_bcgd.export.operators import table
from keras_bcgd.export.operators import transpose

OPERATORS = {
    "add": add,
    "affine": convolution,
    "average": convolution,
    "concatenate": concatenation,
    "conv": convolution,
    "crop": crop,
    "dense": convolution,
    "depthwise": convolution,
    "grouped": convolution,
    "max_pool": max_pool,
    "maximum": maximum,
    "multiply": multiply,
    "pad": pad,
    "pad_channels": pad,
    "rescale": rescale,
    "reshape": reshape,
    "resize": resize,
    "sigmoid": final,
    "softmax": final,
    "table": table,
    "transposed": convolution,
    "transpose": transpose,
}
