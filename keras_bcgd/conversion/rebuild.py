"""The planned model: new layers from configs, and the float weights copied."""

import collections

import keras

from keras_bcgd import layers as quant_layers
from keras_bcgd.constraints import bound_up_to
from keras_bcgd.conversion import kinds
from keras_bcgd.conversion import weights
from keras_bcgd.network import graph
from keras_bcgd.network.calls import Call
from keras_bcgd.network.functional import without_training


def rebuild(model, plan):
    """A new model by a plan, with the weights of the old one.

    Args:
        model: The float model.
        plan: `ConversionPlan` for it.

    Returns:
        A model that is not compiled.
    """
    rebuilder = _Rebuilder(model, plan)
    new = rebuilder.model(model)
    rebuilder.copy_weights()
    return new


def planned_calls(model, plan, calls):
    """The calls of the model that `rebuild` makes, without making it.

    Args:
        model: The float model.
        plan: `ConversionPlan` for it.
        calls: List of `network.calls.Call`, those of the float model.

    Returns:
        The same of the new model. Its new layers are not built.
    """
    rebuilder = _Rebuilder(model, plan)
    operands = {}  # key of an addition in a QuantAddReLU: what it adds
    planned = []
    for call in calls:
        row = rebuilder.rows_by_operation.get(id(call.layer))
        if row is None or not row.becomes:
            planned.append(call)
        elif row.is_passed_over:
            planned.append(
                Call(keras.layers.Identity(), call.sources, call.key)
            )
        elif row.absorbed is not None:
            step = -1 if row.reversed else 1
            operands[call.key] = call.sources[::step]
        elif row.has_addition:
            (key,) = call.sources
            planned.append(Call(_add_relu(row), operands[key], call.key))
        elif _is_staircase_alone(row):
            relu = _staircase(row, row.layer.name)
            planned.append(Call(relu, call.sources, call.key))
        else:
            planned += _chain(_made(rebuilder, row), call)
    return planned


def _made(rebuilder, row):
    try:
        return rebuilder.layers_for(row)
    except ValueError:  # which `rebuild` will raise
        return [row.layer]


def _chain(layers, call):
    """Calls of layers, one after another, in the place of one call."""
    *inner, last = layers
    calls, sources = [], call.sources
    for layer in inner:
        key = f"{call.key}/{layer.name}"
        calls.append(Call(layer, sources, key))
        sources = [key]
    return [*calls, Call(last, sources, call.key)]


class _Rebuilder:
    """Makes each layer and each inner model once: what is shared stays so."""

    def __init__(self, model, plan):
        self.names = _Names(model)
        self.rows = {row.name: row for row in plan.layers}
        self.rows_by_operation = {id(row.operation): row for row in plan.layers}
        self.models = {}  # id of an old model: the new one
        self.layers = {}  # id of an old layer: that layer, the new ones

    def model(self, old):
        """The model that takes the place of one."""
        if id(old) not in self.models:
            if isinstance(old, keras.Sequential):
                new = self._sequential(old)
            else:
                builder = _Builder(self)
                new = keras.models.clone_model(
                    without_training(old),
                    clone_function=builder.clone,
                    call_function=builder.call,
                )
            if not old.trainable:
                new.trainable = False
            self.models[id(old)] = new
        return self.models[id(old)]

    def _sequential(self, old):
        (start,) = old.inputs
        layers = [
            keras.Input(
                batch_shape=start.shape, dtype=start.dtype, name=start.name
            )
        ]
        for layer in old.layers:
            if graph.is_graph(layer):
                layers.append(self.model(layer))
            else:
                layers += self.layers_for(self.rows_by_operation[id(layer)])
        return keras.Sequential(layers, name=old.name)

    def layers_for(self, row):
        """The layers that take the place of one, in their order."""
        layer = row.layer
        if _is_staircase_alone(row):
            # Of a ReLU that is shared each model has its own.
            return [_staircase(row, layer.name)]
        key = id(row.operation)
        if key not in self.layers:
            self.layers[key] = row.operation, _layers_for(row, self.names)
        return self.layers[key][1]

    def copy_weights(self):
        for old_layer, new_layers in self.layers.values():
            weights.copy(old_layer, new_layers)


class _Names:
    """Names of new layers that no model has in which they will be."""

    def __init__(self, model):
        self.taken = collections.defaultdict(list)  # id of a layer: sets
        self._read(model, set())

    def _read(self, model, seen):
        if id(model) in seen:
            return
        seen.add(id(model))
        names = {tensor.name for tensor in model.inputs}
        operations = getattr(model, "operations", model.layers)
        names.update(operation.name for operation in operations)
        for layer in model.layers:
            self.taken[id(layer)].append(names)
            if graph.is_graph(layer):
                self._read(layer, seen)

    def new(self, layer, wanted):
        """A name like `wanted` for what follows or replaces a layer."""
        taken = self.taken[id(layer)]
        name, count = wanted, 0
        while any(name in names for names in taken):
            count += 1
            name = f"{wanted}_{count}"
        for names in taken:
            names.add(name)
        return name


class _Builder:
    """The functions that `keras.models.clone_model` calls for one model."""

    def __init__(self, rebuilder):
        self.rebuilder = rebuilder
        self.made = {}  # id of the first new layer: its row, all of them
        self.called = set()

    def clone(self, layer):
        """The first of the layers that take the place of a layer."""
        if graph.is_graph(layer):
            return self.rebuilder.model(layer)
        row = self.rebuilder.rows_by_operation.get(id(layer))
        if row is None or (row.layer is None and not row.becomes):
            return type(layer).from_config(layer.get_config())
        if row.is_passed_over:
            made = [keras.layers.Identity(name=layer.name)]
        elif row.absorbed is not None:
            # At the place of the addition; `call` then passes the ReLU over.
            made = [_add_relu(self.rebuilder.rows[row.absorbed])]
        elif row.has_addition:
            made = [keras.layers.Identity(name=layer.name)]
        else:
            made = self.rebuilder.layers_for(row)
        self.made[id(made[0])] = row, made
        return made[0]

    def call(self, layer, *args, **kwargs):
        """Calls it and those that follow it."""
        if id(layer) not in self.made:
            return layer(*args, **kwargs)
        row, made = self.made[id(layer)]
        if row.layer is None or row.is_passed_over:
            # An operation, which is given numbers besides.
            (x,) = (
                x
                for x in keras.tree.flatten([args, kwargs])
                if isinstance(x, keras.KerasTensor)
            )
            if row.is_passed_over:
                return x
            args, kwargs = (x,), {}
        if row.becomes and "inputs" in kwargs:
            args = (kwargs.pop("inputs"), *args)
        if row.has_addition:
            return args[0]
        if row.reversed:
            args = (list(reversed(args[0])), *args[1:])
        if id(layer) in self.called and _is_staircase_alone(row):
            # A ReLU that is shared becomes one staircase for each call.
            name = self.rebuilder.names.new(row.layer, row.layer.name)
            return _staircase(row, name)(*args, **kwargs)
        self.called.add(id(layer))
        x = layer(*args, **kwargs)
        for follower in made[1:]:
            x = follower(x)
        return x


def _is_staircase_alone(row):
    return row.staircase and not (row.layer_has_kernel or row.has_addition)


def _layers_for(row, names):
    """The new layers that take the place of a layer with more than a ReLU."""
    name = row.operation.name
    if row.product:
        made = [_product(row)]
    elif row.function and not row.layer_has_kernel:
        return [_activation(row, name)]
    elif row.kernel is None:
        made = [_copy(row)]
    elif type(row.layer) is keras.layers.SeparableConv2D:
        made = _separated(row, names)
    else:
        made = [_with_quantized_kernel(row)]
    if row.staircase:
        made.append(_staircase(row, names.new(row.layer, f"{name}_relu")))
    if row.function:
        name_of_it = names.new(row.layer, f"{name}_{row.function}")
        made.append(_activation(row, name_of_it))
    if row.identity:
        made.append(_identity(row, names.new(row.layer, f"{name}_codes")))
    return made


def _staircase(row, name):
    return quant_layers.QuantReLU(
        row.settings.activation_bits,
        name=name,
        **_staircase_arguments(row),
        **_common(row),
    )


def _activation(row, name):
    """An activation on trained grids."""
    common = {} if row.layer is None else _common(row)
    if row.layer is not None:
        common["activity_regularizer"] = row.layer.activity_regularizer
    if row.function == "hard_sigmoid":
        return quant_layers.QuantHardSigmoid(name=name, **common)
    if row.function == "leaky_relu":
        slope = kinds.slope_of(row.layer)
        return quant_layers.QuantLeakyReLU(slope, name=name, **common)
    if row.function == "prelu":
        return quant_layers.QuantPReLU(
            row.layer.alpha_initializer,
            row.layer.alpha_regularizer,
            name=name,
            **common,
        )
    return quant_layers.QuantActivation(
        row.function, row.activation_bits, name=name, **common
    )


def _product(row):
    return quant_layers.QuantMultiply(
        row.settings.branch_bits,
        minimum=row.minimum,
        name=row.layer.name,
        **_common(row),
    )


def _common(row):
    return {"dtype": row.layer.dtype_policy, "trainable": row.layer.trainable}


def _staircase_arguments(row):
    """A QuantReLU in the place of a ReLU6 stays at or below 6."""
    arguments = {
        "activity_regularizer": row.layer.activity_regularizer,
        "alpha_gradient": row.settings.alpha_gradient,
        "alpha_initializer": row.settings.alpha_initializer,
    }
    largest = kinds.largest_of_relu(row.layer)
    if largest is not None:
        arguments["alpha_constraint"] = bound_up_to(
            largest, row.activation_bits
        )
    return arguments


def _add_relu(row):
    return quant_layers.QuantAddReLU(
        row.activation_bits,
        branch_bits=row.settings.branch_bits,
        shortcut_is_branch=row.shortcut_is_branch,
        name=row.layer.name,
        **_staircase_arguments(row),
        **_common(row),
    )


def _identity(row, name):
    return quant_layers.QuantIdentity(
        row.settings.branch_bits, name=name, **_common(row)
    )


def _config(row):
    """The config of a layer without what goes to a QuantReLU after it."""
    config = row.layer.get_config()
    if row.has_activation:
        config["activation"] = None
        config["activity_regularizer"] = None
    return config


def _copy(row):
    return _from_config(row, type(row.layer), _config(row))


def _from_config(row, kind, config):
    try:
        return kind.from_config(config)
    except Exception as error:
        raise ValueError(
            f"The layer '{row.name}' ({row.kind}) cannot be made again by its "
            f"`from_config(get_config())`: {error}"
        ) from error


def _with_quantized_kernel(row):
    """The stock layer's config, with bits in the place of the constraint."""
    config = _config(row)
    config.pop(getattr(row.kernel, "constraint_name", None), None)
    for name in ("lora_rank", "lora_alpha", "quantization_config"):
        config.pop(name, None)
    if "branch_bits" in config:
        settings = row.settings
        branch_bits = settings.branch_bits if settings.has_branches else None
        config["branch_bits"] = branch_bits
    return _from_config(row, row.kernel, {**config, **_projection(row)})


def _projection(row):
    return {
        "bits": row.settings.weight_bits,
        "projection": row.settings.projection,
        "per_channel": row.settings.per_channel,
    }


def _separated(row, names):
    """A depthwise convolution and one of size 1."""
    old, common = _config(row), _common(row)
    name = names.new(row.layer, f"{old['name']}_depthwise")
    depthwise = quant_layers.QuantDepthwiseConv2D(
        old["kernel_size"],
        strides=old["strides"],
        padding=old["padding"],
        depth_multiplier=old["depth_multiplier"],
        data_format=old["data_format"],
        dilation_rate=old["dilation_rate"],
        use_bias=False,
        depthwise_regularizer=old["depthwise_regularizer"],
        name=name,
        **_projection(row),
        **common,
    )
    pointwise = quant_layers.QuantConv2D(
        old["filters"],
        1,
        data_format=old["data_format"],
        activation=old["activation"],
        use_bias=old["use_bias"],
        kernel_regularizer=old["pointwise_regularizer"],
        bias_regularizer=old["bias_regularizer"],
        bias_constraint=old["bias_constraint"],
        activity_regularizer=old["activity_regularizer"],
        name=old["name"],
        **_projection(row),
        **common,
    )
    if not row.settings.has_branches:
        return [depthwise, pointwise]
    between = _identity(row, names.new(row.layer, f"{name}_codes"))
    return [depthwise, between, pointwise]
