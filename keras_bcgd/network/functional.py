"""The serialized graph of a functional model: which call reads which tensor.

Keras keeps no public record of the calls of a layer but the config of the
model; it is read here and nowhere else.
"""

import dataclasses

import keras


@dataclasses.dataclass
class TensorReference:
    """A tensor that a serialized call reads.

    Attributes:
        origin: `(name, number, index)`: the layer that computes it, the number
            of the call, and which of its outputs it is.
        shape: Tuple, its shape.
    """

    origin: tuple
    shape: tuple


@dataclasses.dataclass
class Operation:
    """A layer of the model, or an operation that is none.

    Attributes:
        name: String.
        kind: String, the name of its class.
        operation: The Keras layer or operation.
        uses: List of lists of `TensorReference`: what each call of it reads.
        numbers: List of lists of the numbers that each call of it is given
            besides: `[[3.0]]` of `x + 3.0`.
        are_plain: List of Booleans: whether each call of it is given a tensor,
            or a list of several, and nothing else.
    """

    name: str
    kind: str
    operation: object
    uses: list
    numbers: list = dataclasses.field(default_factory=list)
    are_plain: list = dataclasses.field(default_factory=list)

    @property
    def layer(self):
        """The Keras layer; `None`: it is none."""
        is_layer = isinstance(self.operation, keras.layers.Layer)
        return self.operation if is_layer else None


@dataclasses.dataclass
class FunctionalGraph:
    """A functional model as it is serialized.

    Attributes:
        starts: List of the origins of its inputs.
        ends: List of the origins of its outputs.
        operations: List of `Operation`.
    """

    starts: list
    ends: list
    operations: list


class UnreadableError(ValueError):
    """The config of a model fails, most likely because of one of its layers.

    Attributes:
        layers: The layers of that model.
    """

    def __init__(self, model, error):
        super().__init__(
            f"The graph of the model '{model.name}' cannot be read, as the "
            f"`get_config()` of one of its layers fails: {error}"
        )
        self.layers = model.layers


def read_functional(model):
    """The serialized graph of a functional model.

    Args:
        model: A built functional `keras.Model`.

    Returns:
        `FunctionalGraph`.

    Raises:
        UnreadableError: If its config cannot be had.
    """
    try:
        config = without_training(model).get_config()
    except (NotImplementedError, TypeError) as error:
        raise UnreadableError(model, error) from error
    operations = {operation.name: operation for operation in model.operations}
    return FunctionalGraph(
        starts=_origins(config["input_layers"]),
        ends=_origins(config["output_layers"]),
        operations=[
            Operation(
                entry["name"],
                entry["class_name"],
                operations[entry["name"]],
                [_tensors(use) for use in entry["inbound_nodes"]],
                [_numbers(use) for use in entry["inbound_nodes"]],
                [_is_plain(use) for use in entry["inbound_nodes"]],
            )
            for entry in config["layers"]
        ],
    )


def without_training(model):
    """A functional model of the same layers, not compiled."""
    return keras.Model(model.input, model.output, name=model.name)


def _tensors(call):
    """The `TensorReference`s in a serialized call, in order."""
    if isinstance(call, dict):
        if call.get("class_name") == "__keras_tensor__":
            config = call["config"]
            return [
                TensorReference(
                    tuple(config["keras_history"]), tuple(config["shape"])
                )
            ]
        call = _in_order(call)
    if isinstance(call, (list, tuple)):
        return [tensor for part in call for tensor in _tensors(part)]
    return []


def _numbers(call):
    """The numbers among the positional arguments of a serialized call."""
    args = call.get("args", ()) if isinstance(call, dict) else ()
    return [arg for arg in args if isinstance(arg, (int, float))]


def _is_plain(call):
    """Whether a serialized call has a tensor, or a list of several, alone."""
    if not isinstance(call, dict):
        return False
    # Keras writes masks down, where there are none as well.
    if any(value is not None for value in call.get("kwargs", {}).values()):
        return False
    args = call.get("args", ())
    if len(args) != 1:
        return False
    parts = args
    if isinstance(args[0], (list, tuple)):
        parts = args[0]
        if len(parts) < 2:
            return False
    return all(
        isinstance(part, dict) and part.get("class_name") == "__keras_tensor__"
        for part in parts
    )


def _origins(struct):
    """The `(name, number, index)` in the inputs or outputs of a config."""
    if isinstance(struct, dict):
        struct = _in_order(struct)
    if len(struct) == 3 and isinstance(struct[0], str):
        return [tuple(struct)]
    return [found for part in struct for found in _origins(part)]


def _in_order(struct):
    """The values of a dict, in the order in which Keras flattens it."""
    return [struct[key] for key in sorted(struct)]
