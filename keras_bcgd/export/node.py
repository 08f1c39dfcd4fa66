"""The graph of a file: nodes, each an operator and what is fused into it."""

import dataclasses

import keras

from keras_bcgd.network import traits

# Kinds of nodes that multiply by weights and can quantize their output.
CONVOLUTIONS = ("conv", "grouped", "depthwise", "transposed", "dense")
WEIGHTED = (*CONVOLUTIONS, "affine", "average")
# Kinds that see a map: of a tensor of (time, features) one of height 1.
ON_MAPS = (
    "average",
    "conv",
    "crop",
    "depthwise",
    "grouped",
    "max_pool",
    "pad",
    "transposed",
)


@dataclasses.dataclass
class Quantizer:
    """What quantizes the output of a node.

    Attributes:
        kind: String. `"staircase"`: a QuantReLU. `"branch"`: the signed grid
            of an operand that is added before a QuantReLU. `"identity"`: a
            QuantIdentity. `"hard_sigmoid"`: a QuantHardSigmoid. `"relu"`: a
            float ReLU, in 8 bits by calibration. `"any"`: 8 bits by
            calibration.
        layer: The Keras layer that has alpha, or the ReLU.
        half: Boolean. Whether a branch carries the half step, alpha / 2, that
            makes rounding the staircase.
        trained: Boolean. Whether training saw the same rounding.
    """

    kind: str
    layer: keras.layers.Layer | None = None
    half: bool = False
    trained: bool = True


@dataclasses.dataclass(eq=False)
class Node:
    """An operator: a layer and what is fused into it.

    Attributes:
        kind: String, one of `WEIGHTED` (`"affine"` has one weight for each
            channel), `"add"`, `"concatenate"`, `"crop"`, `"max_pool"`,
            `"maximum"`, `"multiply"`, `"pad"`, `"pad_channels"`,
            `"reshape"`, `"resize"`, `"rescale"`, `"table"`, `"transpose"`,
            `"softmax"`, `"sigmoid"`, `"input"` or, of a model that is
            refused, `"unknown"`.
        layer: The Keras layer; `None` where there is none.
        inputs: List of nodes.
        input_shape: Tuple of ints, without the batch, of the first input.
        output_shape: The same of its output.
        name: String, that of the layer whose output it computes.
        key: String, the key of the same in the list of calls, before the
            quantizer.
        norm: The `BatchNormalization` after it, or `None`.
        quantizer: The `Quantizer` of its output; `None` if the operator has
            no choice, or computes the logits.
        window: `(height, width)` of what it sees at once.
        strides: Its strides along height and width.
        dilation: The dilation of the window.
        padding: String, `"valid"`, `"same"` or, along the width alone,
            `"causal"`.
        has_height: Boolean. Whether its output got a height (`heights`).
        parts: Int, how often the weights are repeated (`means`).
        kernel: `(scale, codes)` of the kernel, once `trained_values` has read
            them.
    """

    kind: str
    layer: keras.layers.Layer | None
    inputs: list
    input_shape: tuple
    output_shape: tuple
    name: str
    key: str
    norm: keras.layers.Layer | None = None
    quantizer: Quantizer | None = None
    window: tuple = (1, 1)
    strides: tuple = (1, 1)
    dilation: tuple = (1, 1)
    padding: str = "valid"
    has_height: bool = False
    parts: int = 1
    kernel: tuple | None = None

    @property
    def is_convolution(self):
        """Whether the layer has a kernel."""
        return self.kind in CONVOLUTIONS

    @property
    def bits(self):
        """The bits of the weights of a convolution; float ones get 8."""
        return self.layer.bits if self.has_codes else 8

    @property
    def has_codes(self):
        """Whether training quantized the kernel."""
        return type(self.layer) in traits.QUANTIZED and self.layer.is_quantized


@dataclasses.dataclass
class Graph:
    """A model as nodes.

    Attributes:
        inputs: List of `Node`, those of the inputs.
        nodes: List of the other nodes in the order in which they run.
        outputs: List of `Node`.
        calls: List of `calls.Call`, for reference values.
        logits: Dict from the nodes that compute logits, which nothing but
            outputs shows and training does not quantize, to the list of these
            outputs: the node itself, or a softmax of it, say.
    """

    inputs: list
    nodes: list
    outputs: list
    calls: list
    logits: dict = dataclasses.field(default_factory=dict)

    @property
    def calibrated(self):
        """The nodes whose grid has to come from data."""
        return [
            node
            for node in self.nodes
            if node.quantizer is not None
            and node.quantizer.kind in ("relu", "any")
        ]

    def logits_of(self, output):
        """The node whose logits an output shows, or `None`."""
        for node, outputs in self.logits.items():
            if output in outputs:
                return node
        return None

    def readers(self):
        """Dict from each node to the list of the nodes that read it."""
        found = {node: [] for node in (*self.inputs, *self.nodes)}
        for node in self.nodes:
            for source in node.inputs:
                found[source].append(node)
        return found


def as_map(shape):
    """The shape of a tensor; of one of (time, features) with a height of 1."""
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def commutes(node):
    """Whether a quantizer can be moved through a node."""
    return node.kind in traits.COMMUTING.values()
