"""The planned model: new layers from configs, and the float weights copied."""

import collections

import keras
import numpy as np

from keras_bcgd import activations
from keras_bcgd import layers as quant_layers
from keras_bcgd.constraints import AlphaBound
from keras_bcgd.conversion import network
from keras_bcgd.export import support


def rebuild(model, plan):
    """A new model by a plan, with the weights of the old one.

    Args:
        model: The float model.
        plan: `ConversionPlan` for it.

    Returns:
        A model that is not compiled.
    """
    rows = {row.name: row for row in plan.layers}
    pairs = []
    new = _rebuild_model(model, "", rows, pairs)
    for old_layer, new_layers in pairs:
        _copy_weights(old_layer, new_layers)
    return new


def _rebuild_model(model, prefix, rows, pairs):
    if isinstance(model, keras.Sequential):
        new = _rebuild_sequential(model, prefix, rows, pairs)
    else:
        builder = _Builder(prefix, rows, pairs)
        new = keras.models.clone_model(
            network.without_training(model),
            clone_function=builder.clone,
            call_function=builder.call,
        )
    if not model.trainable:
        new.trainable = False
    return new


def _rebuild_sequential(model, prefix, rows, pairs):
    (start,) = model.inputs
    layers = [keras.Input(batch_shape=start.shape, dtype=start.dtype)]
    for layer in model.layers:
        if network.is_graph(layer):
            inner = f"{prefix}{layer.name}/"
            layers.append(_rebuild_model(layer, inner, rows, pairs))
        else:
            made = _layers_for(rows[prefix + layer.name])
            pairs.append((layer, made))
            layers += made
    return keras.Sequential(layers, name=model.name)


class _Builder:
    """The functions that `keras.models.clone_model` calls for one model."""

    def __init__(self, prefix, rows, pairs):
        self.prefix = prefix
        self.rows = rows
        self.pairs = pairs
        self.made = {}  # id of the first new layer: its row, all of them
        self.calls = collections.Counter()

    def clone(self, layer):
        """The first of the layers that take the place of a layer."""
        path = self.prefix + layer.name
        if network.is_graph(layer):
            return _rebuild_model(layer, f"{path}/", self.rows, self.pairs)
        if path not in self.rows or self.rows[path].layer is None:
            return type(layer).from_config(layer.get_config())
        row = self.rows[path]
        if row.absorbed is not None:
            # At the place of the addition; `call` then passes the ReLU over.
            made = [_add_relu(self.rows[row.absorbed])]
        elif row.has_addition:
            made = [keras.layers.Identity(name=layer.name)]
        else:
            made = _layers_for(row)
            self.pairs.append((layer, made))
        self.made[id(made[0])] = row, made
        return made[0]

    def call(self, layer, *args, **kwargs):
        """Calls it and those that follow it."""
        if id(layer) not in self.made:
            return layer(*args, **kwargs)
        row, made = self.made[id(layer)]
        if row.has_addition:
            return args[0]
        if row.reversed:
            args = (list(reversed(args[0])), *args[1:])
        call = self.calls[id(layer)]
        self.calls[id(layer)] += 1
        if call and _is_staircase_alone(made):
            # A ReLU that is shared becomes one staircase for each call.
            (layer,) = made = _layers_for(row, f"_{call}")
        x = layer(*args, **kwargs)
        for follower in made[1:]:
            x = follower(x)
        return x


def _is_staircase_alone(layers):
    return len(layers) == 1 and type(layers[0]) is quant_layers.QuantReLU


def _layers_for(row, suffix=""):
    """The new layers that take the place of a layer, in their order."""
    common = _common(row)
    name = row.layer.name
    if row.staircase and not row.layer_has_kernel:
        made = []
    elif type(row.layer) is keras.layers.SeparableConv2D and row.kernel:
        made = _separated(row, common)
    elif row.kernel is not None:
        made = [_with_quantized_kernel(row)]
    else:
        made = [_copy(row)]
    if row.staircase:
        made.append(
            quant_layers.QuantReLU(
                row.settings.activation_bits,
                **_alpha_arguments(row),
                name=f"{name}_relu" if made else f"{name}{suffix}",
                **common,
            )
        )
    if row.identity:
        made.append(_identity(row, f"{name}_codes", common))
    return made


def _common(row):
    return {"dtype": row.layer.dtype_policy, "trainable": row.layer.trainable}


def _alpha_arguments(row):
    """A QuantReLU in the place of a ReLU6 stays at or below 6."""
    arguments = {
        "alpha_gradient": row.settings.alpha_gradient,
        "alpha_initializer": row.settings.alpha_initializer,
    }
    top = support.largest_of_relu(row.layer)
    if top is not None:
        top = top / activations.largest_level(row.activation_bits)
        arguments["alpha_constraint"] = AlphaBound(min(1e-3, top), top)
    return arguments


def _add_relu(row):
    return quant_layers.QuantAddReLU(
        row.activation_bits,
        branch_bits=row.settings.branch_bits,
        shortcut_is_branch=row.shortcut_is_branch,
        name=row.layer.name,
        **_alpha_arguments(row),
        **_common(row),
    )


def _identity(row, name, common):
    return quant_layers.QuantIdentity(
        row.settings.branch_bits, name=name, **common
    )


def _copy(row):
    config = row.layer.get_config()
    if row.staircase:
        config["activation"] = None
    try:
        return type(row.layer).from_config(config)
    except Exception as error:
        raise ValueError(
            f"The layer '{row.name}' ({row.kind}) cannot be made again by its "
            f"`from_config(get_config())`: {error}"
        ) from error


def _with_quantized_kernel(row):
    """The stock layer's config, with bits in the place of the constraint."""
    config = row.layer.get_config()
    config.pop(row.kernel.constraint_name, None)
    for name in ("lora_rank", "lora_alpha", "quantization_config"):
        config.pop(name, None)
    if row.staircase:
        config["activation"] = None
    return row.kernel.from_config({**config, **_projection(row)})


def _projection(row):
    return {
        "bits": row.settings.weight_bits,
        "projection": row.settings.projection,
        "per_channel": row.settings.per_channel,
    }


def _separated(row, common):
    """A depthwise convolution and one of size 1."""
    old = row.layer.get_config()
    depthwise = quant_layers.QuantDepthwiseConv2D(
        old["kernel_size"],
        strides=old["strides"],
        padding=old["padding"],
        depth_multiplier=old["depth_multiplier"],
        data_format=old["data_format"],
        dilation_rate=old["dilation_rate"],
        use_bias=False,
        depthwise_regularizer=old["depthwise_regularizer"],
        name=f"{old['name']}_depthwise",
        **_projection(row),
        **common,
    )
    pointwise = quant_layers.QuantConv2D(
        old["filters"],
        1,
        data_format=old["data_format"],
        activation=None if row.staircase else old["activation"],
        use_bias=old["use_bias"],
        kernel_regularizer=old["pointwise_regularizer"],
        bias_regularizer=old["bias_regularizer"],
        name=old["name"],
        **_projection(row),
        **common,
    )
    if not row.settings.has_branches:
        return [depthwise, pointwise]
    between = _identity(row, f"{old['name']}_depthwise_codes", common)
    return [depthwise, between, pointwise]


def _copy_weights(old, new_layers):
    """Copies, as JAX gives a buffer up with the first model that runs."""
    if not old.weights:
        return
    if isinstance(new_layers[0], quant_layers.QuantDepthwiseConv2D) and (
        type(old) is keras.layers.SeparableConv2D
    ):
        depthwise, pointwise = (
            layer
            for layer in new_layers
            if isinstance(layer, quant_layers.QuantKernel)
        )
        _assign(depthwise.kernel, old.depthwise_kernel)
        _assign(pointwise.kernel, old.pointwise_kernel)
        if old.use_bias:
            _assign(pointwise.bias, old.bias)
        return
    new = new_layers[0]
    if isinstance(new, quant_layers.QuantKernel):
        _assign(new.kernel, old.kernel)
        if old.use_bias:
            _assign(new.bias, old.bias)
        return
    new.set_weights([np.array(weight) for weight in old.get_weights()])
    if isinstance(new, keras.layers.Normalization):
        new.finalize_state()


def _assign(variable, value):
    variable.assign(np.array(keras.ops.convert_to_numpy(value)))
