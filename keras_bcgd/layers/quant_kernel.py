"""QuantKernel: the mixin that gives a stock layer a quantized kernel."""

import warnings

import numpy as np
from keras import ops

from keras_bcgd import backend
from keras_bcgd.constraints import QuantProjection
from keras_bcgd.exact_numpy import project_exact_numpy
from keras_bcgd.utils.checks import check_bits

FLOAT_BITS = 32


class QuantKernel:
    """What a stock Keras layer needs to use a quantized kernel: a mixin.

    The contract, the same for every quantized layer:

    - `layer.kernel` holds the float weights y until the first optimizer step,
      and the quantized weights w = proj_Q(y) from then on.
    - `layer.quantized_kernel` is what the network uses: proj_Q(y) before that
      step; after it w itself, without a projection.
    - `layer.kernel_is_quantized` says which of the two `layer.kernel` holds.
      It is a weight, saved and loaded with the kernel: 0 (False) for y, for w
      the `mark` of its grid. To give a trained layer new float weights, load
      them (`load_weights`, `set_weights`) or set it to False with them.
    - Quantized weights of another grid, of more bits than the layer has, are
      float weights to it.

    `BlendedOptimizer` sets the flag: it is handed variables, no layers, and
    finds it as `layer.kernel.kernel_is_quantized`. Under a stock optimizer,
    which applies the projection as a constraint, it stays False and the layer
    projects the kernel again in every call: the same network, to rounding.
    """

    # The kept axes of the kernel when `per_channel=True`, and the constructor
    # argument of the stock layer that `bits` replaces.
    channel_axes = ()
    constraint_name = "kernel_constraint"

    def _set_projection(self, bits, projection, per_channel):
        """Checks the arguments and puts the projection on the kernel."""
        given = getattr(self, self.constraint_name)
        if given is not None:
            raise ValueError(
                f"`{self.constraint_name}` cannot be given to a "
                f"{type(self).__name__}: `bits` already sets it to a "
                "QuantProjection. For another constraint use the stock Keras "
                f"layer. Received: {self.constraint_name}={given}"
            )
        if not isinstance(per_channel, bool):
            raise ValueError(
                "`per_channel` must be True or False. "
                f"Received: per_channel={per_channel!r}"
            )
        self.bits = check_bits(bits, allow_float=True)
        if self.is_quantized and getattr(self, "lora_rank", None):
            raise ValueError(
                "`lora_rank` needs float weights: use bits=32. "
                f"Received: lora_rank={self.lora_rank}, bits={bits}"
            )
        self.projection = projection
        self.per_channel = per_channel
        if self.is_quantized:
            axis = self.channel_axes if per_channel else None
            constraint = QuantProjection(self.bits, projection, axis)
            setattr(self, self.constraint_name, constraint)

    @property
    def is_quantized(self):
        """Whether the weights are quantized: False at `bits=32`."""
        return self.bits != FLOAT_BITS

    @property
    def kernel_projection(self):
        """The `QuantProjection` of the kernel, `None` at `bits=32`."""
        return getattr(self, self.constraint_name)

    def build(self, input_shape):
        super().build(input_shape)
        if self.is_quantized:
            self.kernel_is_quantized = self.add_weight(
                name="kernel_is_quantized",
                shape=(),
                dtype="uint8",
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )
            self.kernel.kernel_is_quantized = self.kernel_is_quantized

    def add_weight(self, *args, name=None, **kwargs):
        if name == "kernel" and self.is_quantized:
            # In mixed precision the float32 weights are projected and the
            # result is rounded, not the other way round.
            kwargs["autocast"] = False
        return super().add_weight(*args, name=name, **kwargs)

    @property
    def quantized_kernel(self):
        """The kernel that the network uses, in the dtype of the variable.

        Its gradient goes to `kernel` unchanged: slide "Blended Coarse Gradient
        Descent" takes the gradient at w.
        """
        kernel = backend.read(self.kernel)
        if not self.is_quantized:
            return kernel
        flag = self.kernel_is_quantized
        marks = np.array(self.kernel_projection.marks_of_its_grid, flag.dtype)
        quantized = backend.cond(
            ops.any(ops.equal(backend.read(flag), marks)),
            lambda: kernel,
            lambda: self._project(kernel),
        )
        return _with_gradient_of(kernel, ops.stop_gradient(quantized))

    def _with_bias_and_activation(self, outputs):
        """What a stock layer does with the result of its convolution."""
        if self.use_bias:
            shape = [1] * len(outputs.shape)
            channel = -1 if self.data_format == "channels_last" else 1
            shape[channel] = outputs.shape[channel]
            outputs = ops.add(outputs, ops.reshape(self.bias, shape))
        if self.activation is not None:
            return self.activation(outputs)
        return outputs

    def _project(self, kernel):
        scale, codes = self.kernel_projection.project(kernel)
        return ops.cast(scale * codes, kernel.dtype)

    def kernel_scale_and_codes(self):
        """The scale and the integer codes of `quantized_kernel`.

        Returns:
            `(scale, codes)`, NumPy arrays of the shapes that
            `keras_bcgd.project` returns.

        Raises:
            ValueError: If the layer is not quantized (`bits=32`).
        """
        if not self.is_quantized:
            raise ValueError(
                f"The weights of layer '{self.name}' have no codes: they are "
                "not quantized (bits=32)."
            )
        # The nearest quantized tensor to one that is quantized is itself, so
        # the exact projection finds the codes of any method.
        kernel = ops.convert_to_numpy(self.quantized_kernel)
        scale, codes, is_on_grid = self._nearest_codes(kernel)
        if not is_on_grid:
            raise ValueError(
                f"The kernel of layer '{self.name}' is marked as quantized but "
                f"holds other weights than {self.bits}-bit ones. After "
                "assigning float weights to it, set its `kernel_is_quantized` "
                "to False."
            )
        return scale, codes

    def _nearest_codes(self, kernel):
        """Scale and codes nearest to `kernel`, and whether they are it."""
        axis = self.kernel_projection.axis
        scale, codes = project_exact_numpy(kernel, self.bits, axis)
        # NaN is left to who reads the scale.
        error = np.max(np.abs(scale * codes - kernel))
        return scale, codes, not error > 1e-4 * np.max(np.abs(kernel))

    def set_weights(self, weights):
        """Sets the weights from a list of arrays.

        Args:
            weights: List as `get_weights` returns it, of a layer like this or
                of its stock twin, which has float weights and no flag.
        """
        if not self._has_flag:
            super().set_weights(weights)
            return
        weights = list(weights)
        flag = [w is self.kernel_is_quantized for w in self.weights].index(True)
        if len(weights) == len(self.weights) - 1:
            weights.insert(flag, np.array(False))
        super().set_weights(weights)
        self._set_flag(weights[flag])

    def _set_flag(self, flag):
        """Sets the flag to what was loaded with the kernel, if that is right.

        The mark of another grid becomes 0: the kernel holds float weights.
        """
        flag = np.asarray(ops.convert_to_numpy(flag))
        mark = int(flag)
        is_on_grid = mark in self.kernel_projection.marks_of_its_grid
        if mark and flag.dtype == bool:
            # Version 0.1 did not tell the grid.
            mark = self.kernel_projection.mark
            kernel = ops.convert_to_numpy(self.kernel)
            _, _, is_on_grid = self._nearest_codes(kernel)
        if mark and not is_on_grid:
            scales = "for each channel" if self.per_channel else "for the layer"
            warnings.warn(
                "Quantized weights were loaded into a layer whose grid is "
                f"another: {self.bits} bits, one scale {scales}. They are its "
                "float weights: the network uses their projection, and "
                "training starts from them.",
                stacklevel=3,
            )
            mark = 0
        self.kernel_is_quantized.assign(mark)

    # Conv2D and Dense save a fixed list of variables and refuse a file with
    # more or fewer than the layer has. The flag goes last. A file without it
    # is that of the layer at 32 bits and holds float weights.
    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self._has_flag and self._flag_key not in store.keys():
            store[self._flag_key] = self.kernel_is_quantized

    def load_own_variables(self, store):
        if self.built and not store.keys():
            raise ValueError(
                f"The file has no weights for layer '{self.name}'. Keras finds "
                "those of a layer by the name of its class, here "
                f"{type(self).__name__}. If they are in the file as those of a "
                "stock layer, load it with keras_bcgd.load_float_weights."
            )
        if self._has_flag:
            store = {key: store[key] for key in store.keys()}
            store.setdefault(self._flag_key, np.array(False))
        super().load_own_variables(store)
        if self._has_flag:
            self._set_flag(store[self._flag_key])

    @property
    def _has_flag(self):
        return self.built and self.is_quantized

    @property
    def _flag_key(self):
        return str(1 + int(self.use_bias))

    def get_config(self):
        config = super().get_config()
        config.pop(self.constraint_name)
        config.update(
            {
                "bits": self.bits,
                "projection": self.projection,
                "per_channel": self.per_channel,
            }
        )
        return config


@ops.custom_gradient
def _with_gradient_of(kernel, quantized):
    """Returns `quantized`; the gradient of the result goes to `kernel`."""

    def gradient(*args, upstream=None):
        if upstream is None:
            (upstream,) = args
        return upstream, ops.zeros_like(quantized)

    return ops.cast(quantized, kernel.dtype), gradient
