"""Where the channels of a layer may go: what `channel_search` finds."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Places:
    """Where channels may go; arrays with one element for each.

    Attributes:
        bias: The bias as training has it, which is not that of the file where
            its kernels are early.
        change: The relative change of D.
        default_risk: The share of outputs in a zone of the default kernels.
        risk: The same of some kernel.
    """

    bias: np.ndarray
    change: np.ndarray
    default_risk: np.ndarray
    risk: np.ndarray

    @classmethod
    def empty(cls, count):
        """That of so many channels, to be filled."""
        return cls(*np.zeros((4, count)))

    def put(self, where, other):
        """Puts others in some places."""
        for field in dataclasses.fields(self):
            getattr(self, field.name)[where] = getattr(other, field.name)

    def take(self, where):
        """Some of them."""
        return Places(
            *(getattr(self, f.name)[where] for f in dataclasses.fields(self))
        )
