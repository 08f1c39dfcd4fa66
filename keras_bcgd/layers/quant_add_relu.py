"""QuantAddReLU: the end of a residual block."""

import keras

from keras_bcgd import branches
from keras_bcgd.layers.quant_relu import QuantReLU
from keras_bcgd.utils.checks import check_bits


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantAddReLU(QuantReLU):
    """Adds a branch to a shortcut and applies a QuantReLU to the sum.

    `QuantReLU()(branch + shortcut)`, with the branch rounded to signed 8-bit
    codes, as it is in an integer file before the addition. The step of these
    codes is a fixed part of alpha (`keras_bcgd.branches.branch_step`), so that
    the file can add exactly what training added. Without `branch_bits` the sum
    is that of the slides' networks.

    Args:
        bits: Int from 1 to 8, the bit width of the output. Defaults to `4`.
        branch_bits: Int from 4 to 8, the bit width of the branch, or `None`:
            the branch stays float. Defaults to `8`.
        shortcut_is_branch: Boolean. Whether the shortcut is no output of a
            QuantReLU but a branch as well, to be rounded like it: a
            convolution (shortcut B of residual networks). Defaults to `False`.
        **kwargs: Arguments of `QuantReLU`.

    Call arguments:
        inputs: List of two float tensors of one shape: the branch and the
            shortcut.

    Returns:
        Tensor of that shape.

    Raises:
        ValueError: If an argument is not one of the above.

    Example:

    >>> layer = keras_bcgd.QuantAddReLU(bits=2, alpha_initializer="ones")
    >>> branch, shortcut = np.array([-0.51, 0.3]), np.array([1.0, 1.0])
    >>> np.array(layer([branch, shortcut]))
    array([1., 2.], dtype=float32)
    """

    def __init__(
        self, bits=4, branch_bits=8, shortcut_is_branch=False, **kwargs
    ):
        super().__init__(bits=bits, **kwargs)
        self.branch_bits = check_branch_bits(branch_bits)
        if not isinstance(shortcut_is_branch, bool):
            raise ValueError(
                "`shortcut_is_branch` must be True or False. "
                f"Received: shortcut_is_branch={shortcut_is_branch!r}"
            )
        self.shortcut_is_branch = shortcut_is_branch

    def build(self, input_shape):
        _check_pair(self.name, input_shape)
        super().build(input_shape[0])

    def call(self, inputs):
        branch, shortcut = inputs
        if self.branch_bits is None:
            return super().call(branch + shortcut)
        grid = self.scaled_alpha(branch), self.bits, self.branch_bits
        branch = branches.quant_branch(branch, *grid)
        if not self.shortcut_is_branch:
            return super().call(branch + shortcut)
        # Only one of the two carries the half step of the staircase.
        step = branches.branch_step(*grid)
        bits = self.branch_bits
        total = branch + branches.quant_identity(shortcut, step, bits)
        if self.bits <= bits - 2:
            # The sum is on the grid of both: without its rounding error, what
            # ends on a threshold stays there.
            total = branches.quant_identity(total, step, bits + 1)
        return super().call(total)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def get_config(self):
        config = super().get_config()
        config.update(
            {
                "branch_bits": self.branch_bits,
                "shortcut_is_branch": self.shortcut_is_branch,
            }
        )
        return config


def check_branch_bits(branch_bits):
    """Returns `branch_bits` as an int or `None`, or raises."""
    return check_bits(
        branch_bits, allow_none=True, smallest=4, name="branch_bits"
    )


def _check_pair(name, shapes):
    # The shape of a single tensor holds numbers and None.
    is_pair = len(shapes) == 2 and all(
        isinstance(shape, (list, tuple)) for shape in shapes
    )
    if not is_pair or not can_be_one(*shapes):
        raise ValueError(
            f"Layer '{name}' must be called with a list of two tensors of one "
            f"shape, the branch and the shortcut. Received: shapes {shapes}"
        )


def can_be_one(first, second):
    """Whether two shapes agree wherever both are known."""
    return len(first) == len(second) and all(
        m == n or m is None or n is None
        for m, n in zip(first, second, strict=True)
    )
