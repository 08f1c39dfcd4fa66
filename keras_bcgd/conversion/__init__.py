"""From a float Keras model to a quantized one that trains.

Module -> what it does:

- `settings`: the arguments, and their exceptions for single layers.
- `kinds`: which layers have a quantized form.
- `planner`: what becomes of each layer; `plan`: that as a table.
- `rebuild`: the new model, with the weights.
- `float_weights`: the weights of a float network from a file.
"""

import warnings

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.conversion.float_weights import (
    load_float_weights as load_float_weights,
)
from keras_bcgd.conversion.plan import ConversionPlan as ConversionPlan
from keras_bcgd.conversion.plan import PlannedLayer as PlannedLayer
from keras_bcgd.conversion.planner import make_plan
from keras_bcgd.conversion.rebuild import planned_calls
from keras_bcgd.conversion.rebuild import rebuild
from keras_bcgd.conversion.settings import Overrides
from keras_bcgd.conversion.settings import Settings
from keras_bcgd.export.graph import find_problems
from keras_bcgd.network import graph
from keras_bcgd.utils.checks import check_bits


def quantize_model(
    model,
    weight_bits=4,
    activation_bits=4,
    *,
    branch_bits=8,
    overrides=None,
    first_last=8,
    projection="lloyd",
    per_channel=False,
    alpha_gradient="three_valued",
    alpha_initializer="half_gaussian",
):
    """Makes a quantized network from a float one, with its weights.

    A new, ordinary Keras model of the same architecture. The float weights
    are copied: they are the y from which `BlendedOptimizer` trains on (slide
    "Blended Coarse Gradient Descent"), and evaluated at once the model gives
    the accuracy of their projection. The given model is not changed.

    - Conv1D, Conv2D, Conv2DTranspose, DepthwiseConv2D and Dense become
      QuantConv1D, QuantConv2D and so on, of the same names; a SeparableConv2D
      becomes two of them.
    - ReLU and `Activation("relu")` become QuantReLU; from `activation="relu"`
      it follows the layer `conv` as `conv_relu`. Where the ReLU has a largest
      value, as ReLU6, a bound on alpha keeps it.
    - What an integer file holds in 8 bits and no QuantReLU rounds, training
      rounds too: an addition before a ReLU becomes a QuantAddReLU, and a
      QuantIdentity, named `..._codes`, follows other branches, sums, averages
      and concatenations of several tensors.
    - All else is copied by its config. Layers with weights and activations
      that have no quantized form (swish, say) stay float; one warning lists
      them, and what `export_tflite` would refuse.
      `print(conversion_plan(model))` tells all of it beforehand.

    Args:
        model: A built `keras.Sequential` or functional model, with any number
            of inputs and outputs; models within it are converted too. A layer
            that is called several times, or in several models, stays one
            layer, but a ReLU becomes one QuantReLU for each call. (Of models
            that share a layer, Keras' `load_model` loads none; `load_weights`
            does.)
        weight_bits: Int from 1 to 8, or 32: float. Defaults to `4`.
        activation_bits: Int from 1 to 8, or 32: float. Defaults to `4`.
        branch_bits: Int from 4 to 8 (the file has 8), the bits of what no
            QuantReLU rounds; `None`: float, as in the slides. Defaults to
            `8`.
        overrides: Exceptions for single layers. A dict from names of layers,
            with the wildcards of `fnmatch`, or from classes of layers, to a
            dict of some of the other arguments (but for `first_last`), or to
            `"float"`. Layers in models within the model have names like
            `"inner/conv1"`; either part may be matched. Of several exceptions
            for one layer all count, the later ones more. Or a function from a
            layer to such a dict, `"float"` or `None`. Defaults to `None`.
        first_last: Int from 1 to 8, or 32: the bits of the weights of the
            layers that have no other weights before them, or none after them
            (the first convolution, the classifier), projected by `"lloyd"`.
            `None`: as the others, as it is with `weight_bits=32`. Defaults
            to `8`.
        projection: String; see `keras_bcgd.project`. Defaults to `"lloyd"`.
        per_channel: Boolean; see `QuantConv2D`. Defaults to `False`.
        alpha_gradient: String; see `QuantReLU`. Defaults to `"three_valued"`.
        alpha_initializer: See `QuantReLU`. Defaults to `"half_gaussian"`.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        ValueError: If an argument is not one of the above, if the model is
            not built, not functional or quantized already, if a layer cannot
            be copied by its config, or if an exception changes nothing.

    Example:

    ```python
    float_model = keras.applications.MobileNet(
        (32, 32, 3), weights=None, classes=10, classifier_activation=None
    )
    model = keras_bcgd.quantize_model(
        float_model,
        weight_bits=4,
        activation_bits=4,
        overrides={
            "conv_dw_*": {"weight_bits": 8},
            keras.layers.ReLU: {"alpha_gradient": "two_valued"},
        },
    )
    ```
    """
    plan = conversion_plan(
        model,
        weight_bits,
        activation_bits,
        branch_bits=branch_bits,
        overrides=overrides,
        first_last=first_last,
        projection=projection,
        per_channel=per_channel,
        alpha_gradient=alpha_gradient,
        alpha_initializer=alpha_initializer,
    )
    new = rebuild(model, plan)
    problems = {
        "these cannot be quantized": plan.left_in_float,
        "export_tflite would refuse": plan.not_exportable,
    }
    found = [
        "\n- ".join([f"{what}:", *lines])
        for what, lines in problems.items()
        if lines
    ]
    if found:
        warnings.warn(
            f"In the model '{model.name}' " + "\nand ".join(found),
            stacklevel=2,
        )
    return new


def conversion_plan(
    model,
    weight_bits=4,
    activation_bits=4,
    *,
    branch_bits=8,
    overrides=None,
    first_last=8,
    projection="lloyd",
    per_channel=False,
    alpha_gradient="three_valued",
    alpha_initializer="half_gaussian",
):
    """Tells what `quantize_model` would do, and does nothing.

    Args:
        model: All arguments are those of `quantize_model`.
        weight_bits: See there.
        activation_bits: See there.
        branch_bits: See there.
        overrides: See there.
        first_last: See there.
        projection: See there.
        per_channel: See there.
        alpha_gradient: See there.
        alpha_initializer: See there.

    Returns:
        A `ConversionPlan`; printed, it is a table with a line for each layer,
        and a list of what `export_tflite` would refuse, if there is anything.

    Raises:
        ValueError: As `quantize_model`, but that the copies are not tried.

    Example:

    >>> float_model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(4, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2, name="classifier"),
    ... ])
    >>> plan = keras_bcgd.conversion_plan(
    ...     float_model, weight_bits=2, first_last=None
    ... )
    >>> print(plan)
    layer       type   becomes                 W bits  A bits  note
    hidden      Dense  QuantDense + QuantReLU       2       4
    classifier  Dense  QuantDense                   2       -
    """
    _check_model(model)
    base = Settings(
        weight_bits,
        activation_bits,
        branch_bits,
        projection,
        per_channel,
        alpha_gradient,
        alpha_initializer,
    )
    first_last = check_bits(
        first_last, allow_float=True, allow_none=True, name="first_last"
    )
    overrides = Overrides(overrides)
    plan = make_plan(graph.read_network(model), base, first_last, overrides)
    plan.not_exportable = find_problems(
        model, lambda calls: planned_calls(model, plan, calls)
    )
    return plan


def check_exportable(model):
    """Raises an error if `export_tflite` would refuse the model.

    For before training: it looks at layers, shapes and how they are connected,
    not at weights, and needs no data.

    Args:
        model: A built `keras.Sequential` or functional model, quantized or
            float. Of a float model it checks what `quantize_model` would make
            of it, by the defaults; for other arguments read
            `conversion_plan(model, ...).not_exportable`.

    Raises:
        ValueError: If the model cannot be exported, or if `quantize_model`
            would refuse it. The message has a line for each problem: the
            layer, its class, and what to do.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)),
    ...     keras_bcgd.QuantConv2D(4, 3, activation="tanh", name="conv"),
    ...     keras_bcgd.QuantReLU(4),
    ... ], name="net")
    >>> keras_bcgd.check_exportable(model)
    Traceback (most recent call last):
    ...
    ValueError: The model 'net' cannot be exported to TFLite. Received:
    - 'conv' (QuantConv2D): use activation=None and a QuantReLU after it
    """
    what = "The model"
    if _is_float(model):
        what = "What `quantize_model` makes of the model"
        problems = conversion_plan(model).not_exportable
    else:
        problems = find_problems(model)
    if problems:
        raise ValueError(
            f"{what} '{model.name}' cannot be exported to TFLite. Received:\n- "
            + "\n- ".join(problems)
        )


def _is_float(model):
    return graph.is_graph(model) and not any(
        _is_quantized(leaf) for _, leaf in graph.leaves(model)
    )


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be a keras.Sequential or a functional keras.Model. "
            f"Received: model={model!r}"
        )
    if not graph.is_graph(model):
        raise ValueError(
            f"The model '{model.name}' has no known input shape: begin it with "
            "a keras.Input, or call it once. Only Sequential and functional "
            "models without a `call` of their own can be converted; of a "
            "subclassed model, convert the functional parts. Received: "
            f"{type(model).__name__} with built={model.built}"
        )
    leaves = dict(graph.leaves(model))
    quantized = [path for path, leaf in leaves.items() if _is_quantized(leaf)]
    if quantized:
        raise ValueError(
            f"The model '{model.name}' is quantized already; for other bits "
            "convert the float model again. Received: a model with the "
            f"layers {', '.join(quantized)}"
        )
    for path, leaf in leaves.items():
        try:
            leaf.get_config()
        except Exception as error:
            raise ValueError(
                f"The layer '{path}' ({type(leaf).__name__}) cannot be copied,"
                f" as its `get_config()` fails: {error}"
            ) from error
    _check_shared(leaves)


def _is_quantized(layer):
    if getattr(layer, "quantization_mode", None) is not None:
        return True  # by Keras
    if isinstance(layer, quant_layers.Composite):
        return any(_is_quantized(part) for part, _ in layer.parts)
    quantizers = quant_layers.QuantReLU, quant_layers.QuantIdentity
    if isinstance(layer, quant_layers.QuantKernel):
        return layer.is_quantized
    return isinstance(layer, quantizers)


def _check_shared(leaves):
    """A layer is copied by its config: what is inside of it, too."""
    owners = {}  # id of a weight: path and layer
    for path, leaf in leaves.items():
        for weight in leaf.weights:
            other, owner = owners.setdefault(id(weight), (path, leaf))
            if owner is not leaf:
                raise ValueError(
                    f"The layers '{other}' ({type(owner).__name__}) and "
                    f"'{path}' ({type(leaf).__name__}) share the weight "
                    f"'{weight.path}', which their copies would not. Use one "
                    "layer in both places, or give each its own weights."
                )
