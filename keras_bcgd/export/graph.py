"""Reads a Keras model as a chain of stages, one per integer operator.

Each stage is a layer with what can be fused into it: the batch normalization
after it and the QuantReLU that quantizes its output.
"""

import dataclasses

import keras

from keras_bcgd.export.chain import AVERAGES
from keras_bcgd.export.chain import COMMUTING
from keras_bcgd.export.chain import CONVOLUTIONS
from keras_bcgd.export.chain import Problems
from keras_bcgd.export.chain import does_nothing
from keras_bcgd.export.chain import is_softmax
from keras_bcgd.export.chain import layer_chain
from keras_bcgd.layers import QuantReLU


@dataclasses.dataclass
class Stage:
    """A layer and what is fused into it.

    Attributes:
        kind: String: `"conv"`, `"depthwise"`, `"dense"`, `"relu"` (a QuantReLU
            of its own), `"average"`, `"max_pool"`, `"pad"`, `"reshape"` or
            `"softmax"`.
        layer: The Keras layer.
        input_shape: Tuple of ints, without the batch.
        output_shape: The same of its output.
        norm: The `BatchNormalization` after it, or `None`.
        relu: The `QuantReLU` that quantizes its output, or `None`.
    """

    kind: str
    layer: keras.layers.Layer
    input_shape: tuple
    output_shape: tuple
    norm: keras.layers.Layer | None = None
    relu: keras.layers.Layer | None = None

    @property
    def is_convolution(self):
        """Whether the layer has a quantized kernel."""
        return self.kind in CONVOLUTIONS.values()

    @property
    def gives_logits(self):
        """Whether its outputs are real numbers that no QuantReLU quantizes."""
        return self.is_convolution and self.relu is None

    @property
    def window(self):
        """Height and width of what the layer sees at once."""
        if self.kind == "relu":
            return (1, 1)
        for name in ("pool_size", "kernel_size"):
            if hasattr(self.layer, name):
                return tuple(getattr(self.layer, name))
        return tuple(self.input_shape[:2])  # global pooling

    @property
    def strides(self):
        """Strides along height and width."""
        return tuple(getattr(self.layer, "strides", (1, 1)))


def read_stages(model):
    """The stages of a model, from its input to its output.

    Args:
        model: A built `keras.Sequential` or functional model, a chain of
            layers with one input and one output.

    Returns:
        `(input_shape, stages)`: a tuple of ints without the batch, and a list
        of `Stage`.

    Raises:
        ValueError: If the model is not built, has several inputs or outputs,
            branches, or has a layer that cannot be exported. The message
            names every such layer.
    """
    _check_model(model)
    problems = Problems()
    chain = layer_chain(model, problems)
    problems.check()
    input_shape = tuple(model.input_shape[1:])
    if None in input_shape:
        raise ValueError(
            "The size of the input must be fixed, but for the batch. "
            f"Received: model.input_shape={model.input_shape}"
        )
    stages = _fuse(chain, input_shape, problems)
    problems.check()
    if not stages:
        raise ValueError(
            f"The model '{model.name}' has nothing to compute: it needs a "
            "layer with weights, a QuantReLU or a pooling."
        )
    return input_shape, stages


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a keras.Sequential or a functional keras.Model. "
            f"Received: model={model!r}"
        )
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            f"The model '{model.name}' has no known input shape: begin it with "
            "a keras.Input, or call it once. Only Sequential and functional "
            f"models can be exported. Received: {type(model).__name__} with "
            f"built={model.built}"
        )
    for name in ("inputs", "outputs"):
        if len(getattr(model, name)) != 1:
            raise ValueError(
                f"The model must have one of its `{name}`. "
                f"Received: {len(getattr(model, name))} {name}"
            )


def _fuse(chain, shape, problems):
    """Groups a chain of layers into stages."""
    chain = [layer for layer in chain if not does_nothing(layer)]
    stages = []
    # The stage whose output waits for its QuantReLU, and the one that a batch
    # normalization may follow.
    waiting = just_before = None
    for layer in chain:
        if type(layer) is keras.layers.BatchNormalization:
            if just_before is None:
                problems.add(
                    layer,
                    "it must come directly after a QuantConv2D, "
                    "QuantDepthwiseConv2D or QuantDense",
                )
            else:
                just_before.norm = layer
                just_before = None
            continue
        just_before = None
        if type(layer) is QuantReLU and waiting is not None:
            waiting.relu, waiting = layer, None
            continue

        output_shape = tuple(layer.compute_output_shape((None, *shape))[1:])
        stage = Stage(_kind(layer), layer, shape, output_shape)
        _check_stage(stage, waiting, layer is chain[-1], problems)
        stages.append(stage)
        shape = output_shape
        if stage.kind == "relu":
            stage.relu = layer
        elif stage.kind == "average":
            waiting = stage
        elif stage.is_convolution:
            waiting = just_before = stage
            if layer.activation is keras.activations.softmax:
                stages.append(Stage("softmax", layer, shape, shape))
    return stages


def _kind(layer):
    if type(layer) in CONVOLUTIONS:
        return CONVOLUTIONS[type(layer)]
    if type(layer) in COMMUTING:
        return COMMUTING[type(layer)]
    if type(layer) in AVERAGES:
        return "average"
    return "softmax" if is_softmax(layer) else "relu"


def _check_stage(stage, waiting, is_last, problems):
    layer = stage.layer
    needs_codes = stage.is_convolution or stage.kind == "average"
    if needs_codes and waiting is not None and waiting.is_convolution:
        problems.add(
            waiting.layer,
            "its output is not quantized: put a QuantReLU between it and "
            f"'{layer.name}'",
        )
    if stage.kind == "dense" and len(stage.input_shape) != 1:
        problems.add(layer, "put a Flatten before it")
    if stage.kind == "average":
        _check_average(stage, problems)
    softmax = stage.kind == "softmax" or (
        stage.is_convolution and layer.activation is keras.activations.softmax
    )
    if softmax and not is_last:
        problems.add(layer, "a softmax must be the last of the model")
    if stage.kind == "softmax" and getattr(layer, "axis", -1) not in (
        -1,
        len(stage.input_shape),
    ):
        problems.add(layer, "a softmax must be over the last axis")


def _check_average(stage, problems):
    if getattr(stage.layer, "padding", "valid") == "valid":
        return
    for size, pool, stride in zip(
        stage.input_shape, stage.window, stage.strides, strict=False
    ):
        if (-(-size // stride) - 1) * stride + pool > size:
            problems.add(
                stage.layer,
                "padding='same' averages over fewer values at the border: use "
                "padding='valid', or a size that the strides divide",
            )
            return
