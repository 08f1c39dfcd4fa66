"""What outputs decide: a class, a sign, labels, or nothing but values."""

import dataclasses

import keras
import numpy as np

from keras_bcgd.network import traits
from keras_bcgd.network.functional import UnreadableError
from keras_bcgd.network.functional import read_functional

TASKS = ("classification", "binary", "multilabel", "regression")

# Rows of labels that sum to 1 within this are distributions over classes.
_SUM_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Task:
    """What one output decides.

    Attributes:
        name: String, one of `TASKS`.
        threshold: Float, above which an output says yes.
        is_inferred: Boolean. Whether it was not given.
    """

    name: str
    threshold: float
    is_inferred: bool

    @property
    def has_threshold(self):
        """Whether each output is compared with the threshold by itself."""
        return self.name in ("binary", "multilabel")

    def decide(self, outputs, threshold):
        """`(decisions, ties)` of an output.

        Args:
            outputs: Array of shape `(samples, ..., outputs)`.
            threshold: Float, in the unit of the outputs.

        Returns:
            Two arrays, of the shape of `outputs` or without its last axis.
        """
        if self.has_threshold:
            return outputs > threshold, np.abs(outputs - threshold) < 1e-6
        largest = outputs == outputs.max(axis=-1, keepdims=True)
        return np.argmax(outputs, axis=-1), largest.sum(axis=-1) > 1


def choose(task, threshold, shape, labels, activation):
    """The `Task` of an output.

    Args:
        task: String, one of `TASKS`, or `None`: by the others.
        threshold: Float, or `None`: 0.5 after a sigmoid, else 0.0.
        shape: Tuple, that of the output, without the samples.
        labels: Array, or `None`.
        activation: The Keras function at the end of the model, or `None`.

    Returns:
        `Task`.

    Raises:
        ValueError: If the task does not fit the output.
    """
    if task is not None and task not in TASKS:
        raise ValueError(
            f"`task` must be one of {', '.join(TASKS)}, or None. "
            f"Received: task={task!r}"
        )
    is_sigmoid = activation is keras.activations.sigmoid
    if threshold is None:
        threshold = 0.5 if is_sigmoid else 0.0
    if task is not None:
        _check_fits(task, shape)
        return Task(task, threshold, False)
    infer = _infer_of_one if shape[-1] == 1 else _infer_of_several
    return Task(infer(shape, labels, is_sigmoid), threshold, True)


def _check_fits(task, shape):
    if (task == "classification" and shape[-1] < 2) or (
        task == "binary" and shape[-1] != 1
    ):
        raise ValueError(
            '`task="classification"` needs two outputs or more along the last '
            'axis, `task="binary"` one. Received: '
            f"task={task!r} for outputs of shape {shape}"
        )


def _infer_of_one(shape, labels, is_sigmoid):
    if is_sigmoid:
        return "binary"
    # Without labels values are compared, which hides nothing.
    is_yes_or_no = labels is not None and np.all(np.isin(labels, (0, 1)))
    return "binary" if is_yes_or_no else "regression"


def _infer_of_several(shape, labels, is_sigmoid):
    if is_sigmoid:
        return "multilabel"
    if labels is None or labels.shape[1:] != shape:
        return "classification"
    is_distribution = np.all(labels >= 0) and np.allclose(
        labels.sum(axis=-1), 1, atol=_SUM_TOLERANCE
    )
    if is_distribution:
        return "classification"
    return "multilabel" if np.all(np.isin(labels, (0, 1))) else "regression"


def read_labels(task, labels, shape):
    """Labels in the form of the decisions of a task, checked.

    Args:
        task: `Task`.
        labels: Array whose first axis is the samples.
        shape: Tuple, that of the output, without the samples.

    Returns:
        Array of classes, of Booleans or, for a regression, of numbers.

    Raises:
        ValueError: If their shape or values do not fit; says which would.
    """
    places, size = shape[:-1], shape[-1]
    given = labels.shape[1:]
    if task.name == "classification":
        if given == shape and size > 1:
            return np.argmax(labels, axis=-1)
        if given not in (places, (*places, 1)):
            raise _wrong_shape(task, labels, [places, (*places, 1), shape])
        labels = labels.reshape(len(labels), *places)
        if np.any(labels != np.floor(labels)) or (
            labels.size and (labels.min() < 0 or labels.max() >= size)
        ):
            raise ValueError(
                f"`y` must hold the classes, integers from 0 to {size - 1}. "
                f"Received: values from {labels.min()} to {labels.max()}"
            )
        return labels
    allowed = [shape] if size > 1 else [places, shape]
    if given not in allowed:
        raise _wrong_shape(task, labels, allowed)
    labels = labels.reshape(len(labels), *shape)
    if task.name == "regression":
        return labels
    if not np.all(np.isin(labels, (0, 1))):
        raise ValueError(
            f'`y` must hold 0 and 1 for the task "{task.name}"; for other '
            'numbers use `task="regression"`. Received: values from '
            f"{labels.min()} to {labels.max()}"
        )
    return labels.astype(bool)


def _wrong_shape(task, labels, allowed):
    shapes = " or ".join(
        f"({', '.join(['samples', *map(str, shape)])})" for shape in allowed
    )
    return ValueError(
        f'`y` must have the shape {shapes} for the task "{task.name}". '
        f"Received: shape {labels.shape}"
    )


def final_activation(model, index):
    """The activation at the end of a model's output, or `None`."""
    if not isinstance(model, keras.Model) or not model.layers:
        return None
    if isinstance(model, keras.Sequential):
        layer, index = model.layers[-1], 0
    elif not traits.is_model(model):
        return None
    else:
        try:
            name, _, index = read_functional(model).ends[index]
        except (UnreadableError, IndexError):
            return None
        (layer,) = [one for one in model.operations if one.name == name]
    if isinstance(layer, keras.Model):
        return final_activation(layer, index)
    return getattr(layer, "activation", None)
