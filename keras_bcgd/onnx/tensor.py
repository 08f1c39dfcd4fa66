"""A tensor of the file: channels first, and the order of flattened ones.

Keras flattens a map with the channels last, ONNX with the channels first. A
tensor that was flattened remembers its order, so that the dense layer behind it
turns its rows and no operator has to move anything.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        name: String.
        shape: Tuple of ints, as Keras has it: without the batch, channels
            last. In the file the channels come first.
        order: Array of ints, of a flattened map: place `i` in the file is
            place `order[i]` in Keras. `None`: they are the same.
    """

    name: str
    shape: tuple
    order: np.ndarray | None = None

    @property
    def file_shape(self):
        """The shape in the file, without the batch."""
        return channels_first(self.shape)

    def by_channel(self, values):
        """Values for each channel, in the order of the file."""
        return values if self.order is None else values[self.order]


def channels_first(shape):
    """A shape with the last axis before the others."""
    return (*shape[-1:], *shape[:-1])


def to_first(rank):
    """The permutation of axes, batch included, that puts channels first."""
    return [0, rank, *range(1, rank)]


def to_last(rank):
    """The permutation that puts channels last."""
    return [0, *range(2, rank + 1), 1]


def flat_order(shape):
    """The `Tensor.order` of a map, flattened in the file; may be `None`."""
    places = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    order = np.moveaxis(places, -1, 0).reshape(-1)
    return None if np.array_equal(order, places.reshape(-1)) else order
