"""QuantAdd, QuantMultiply and QuantConcatenate: several tensors to one grid."""

import keras
from keras import ops

from keras_bcgd.layers.quant_add_relu import can_be_one
from keras_bcgd.layers.quant_identity import QuantIdentity


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantAdd(QuantIdentity):
    """Adds two tensors and rounds the sum to a signed 8-bit grid.

    As an `Add` and a QuantIdentity behind it: the linear bottlenecks of
    MobileNetV2. Before a ReLU use `QuantAddReLU`, whose sum needs no grid of
    its own.

    Args:
        bits: Int from 2 to 8. Defaults to `8`, what an integer file has.
        **kwargs: Arguments of `QuantIdentity`.

    Call arguments:
        inputs: List of two float tensors of one shape.

    Returns:
        Tensor of that shape.

    Example:

    >>> layer = keras_bcgd.QuantAdd(alpha_initializer="ones")
    >>> np.array(layer([np.array([1.0, -2.0]), np.array([1.4, 0.7])]))
    array([ 2., -1.], dtype=float32)
    """

    def build(self, input_shape):
        check_tensors(self, input_shape, 2)
        first, second = map(tuple, input_shape)
        if not can_be_one(first, second):
            raise ValueError(
                f"Layer '{self.name}' must be called with two tensors of one "
                f"shape. Received: shapes {first} and {second}"
            )
        super().build(first)

    def merge(self, inputs):
        first, second = inputs
        return first + second

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])

    def compute_mask(self, inputs, previous_mask):
        return keras.layers.Add().compute_mask(inputs, previous_mask)


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantMultiply(QuantIdentity):
    """Multiplies two tensors and rounds the product to a grid.

    The gate of squeeze-and-excitation, or x times sigmoid(x). The two tensors
    must be rounded to 8 bits themselves. Their product goes to the nearest
    code, as in the runtime's MUL; derivatives are coarse
    (`keras_bcgd.branches.quant_identity`).

    Args:
        bits: Int from 2 to 8. An integer file has 8, or fewer where `minimum`
            is given. Defaults to `8`.
        minimum: Float, at most 0: the smallest product there can be. With
            `0.0` the codes are `0` to `2**bits - 1`. `None`: as many codes
            below 0 as above. Defaults to `None`.
        **kwargs: Arguments of `QuantIdentity`.

    Call arguments:
        inputs: List of two float tensors of as many axes, whose sizes are
            equal or 1.

    Returns:
        Tensor of the shape to which the two broadcast.

    Example:

    >>> layer = keras_bcgd.QuantMultiply(alpha_initializer="ones")
    >>> np.array(layer([np.array([[3.0, -4.0]]), np.array([[0.5]])]))
    array([[ 2., -2.]], dtype=float32)
    """

    def build(self, input_shape):
        check_tensors(self, input_shape, 2)
        shape = _broadcast(self, input_shape)
        super().build(shape)

    def merge(self, inputs):
        first, second = inputs
        # Products of codes have up to 16 bits: too many for half precision.
        dtype = keras.backend.result_type(first.dtype, "float32")
        return ops.cast(first, dtype) * ops.cast(second, dtype)

    def compute_output_shape(self, input_shape):
        return _broadcast(self, input_shape)

    def compute_mask(self, inputs, previous_mask):
        return keras.layers.Multiply().compute_mask(inputs, previous_mask)


@keras.saving.register_keras_serializable(package="keras_bcgd")
class QuantConcatenate(QuantIdentity):
    """Concatenates tensors and rounds all of them to one signed grid.

    As a `Concatenate` and a QuantIdentity behind it.

    Args:
        axis: Int, the axis that becomes longer. Defaults to `-1`.
        bits: Int from 2 to 8. Defaults to `8`, what an integer file has.
        **kwargs: Arguments of `QuantIdentity`.

    Call arguments:
        inputs: List of float tensors that differ in `axis` only.

    Returns:
        Tensor.

    Example:

    >>> layer = keras_bcgd.QuantConcatenate(alpha_initializer="ones")
    >>> np.array(layer([np.array([[1.4]]), np.array([[-7.6, 2.0]])]))
    array([[ 1., -8.,  2.]], dtype=float32)
    """

    def __init__(self, axis=-1, bits=8, **kwargs):
        super().__init__(bits=bits, **kwargs)
        self.concatenation = keras.layers.Concatenate(axis)
        self.axis = self.concatenation.axis

    def build(self, input_shape):
        check_tensors(self, input_shape)
        super().build(self.concatenation.compute_output_shape(input_shape))

    def merge(self, inputs):
        return ops.concatenate(inputs, self.axis)

    def compute_output_shape(self, input_shape):
        return self.concatenation.compute_output_shape(input_shape)

    def compute_mask(self, inputs, previous_mask):
        return self.concatenation.compute_mask(inputs, previous_mask)

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


def check_tensors(layer, shapes, count=None):
    """Raises a `ValueError` if a layer is not called with a list of tensors.

    Args:
        layer: Keras layer.
        shapes: The argument of its `build`.
        count: Int, how many tensors there must be, or `None`: two at least.
            Defaults to `None`.
    """
    # The shape of a single tensor holds numbers and None.
    is_list = all(isinstance(shape, (list, tuple)) for shape in shapes)
    fits = len(shapes) == count if count else len(shapes) > 1
    if not is_list or not fits:
        wanted = "two tensors" if count else "two tensors or more"
        raise ValueError(
            f"Layer '{layer.name}' must be called with a list of {wanted}. "
            f"Received: shapes {shapes}"
        )


def _broadcast(layer, shapes):
    first, second = shapes
    sizes = []
    for m, n in zip(first, second, strict=len(first) == len(second)):
        if m != n and 1 not in (m, n) and None not in (m, n):
            break
        sizes.append(n if m == 1 else m)
    if len(first) != len(second) or len(sizes) < len(first):
        raise ValueError(
            f"Layer '{layer.name}' must be called with two tensors of as many "
            "axes, whose sizes are equal or 1. "
            f"Received: shapes {tuple(first)} and {tuple(second)}"
        )
    return tuple(sizes)
