"""QuantKernel: the mixin that gives a stock layer a quantized kernel."""

import numpy as np
from keras import ops

from keras_bcgd import backend
from keras_bcgd.constraints import QuantProjection
from keras_bcgd.exact_numpy import project_exact_numpy
from keras_bcgd.projections import check_bits

FLOAT_BITS = 32


class QuantKernel:
    """What a stock Keras layer needs to use a quantized kernel: a mixin.

    The contract, the same for every quantized layer:

    - `layer.kernel` holds the float weights y until the first optimizer step,
      and the quantized weights w = proj_Q(y) from then on.
    - `layer.quantized_kernel` is what the network uses: proj_Q(y) before that
      step; after it w itself, without a projection.
    - `layer.kernel_is_quantized` says which of the two `layer.kernel` holds.
      It is a Boolean weight, saved and loaded with the kernel. To give a
      trained layer new float weights, load them together with this flag
      (`load_weights`, `set_weights`) or set it to False with them.

    `BlendedOptimizer` sets the flag. Under a stock optimizer, which applies
    the projection as a constraint, it stays False and the layer projects the
    kernel again in every call: the same network, to rounding.
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
                dtype="bool",
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )
            self.kernel_projection.applied = self.kernel_is_quantized

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
        quantized = backend.cond(
            backend.read(self.kernel_is_quantized),
            lambda: kernel,
            lambda: self._project(kernel),
        )
        return _with_gradient_of(kernel, ops.stop_gradient(quantized))

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
        axis = self.kernel_projection.axis
        scale, codes = project_exact_numpy(kernel, self.bits, axis)
        # NaN is left to who reads the scale.
        largest = np.max(np.abs(kernel))
        if np.max(np.abs(scale * codes - kernel)) > 1e-4 * largest:
            raise ValueError(
                f"The kernel of layer '{self.name}' is marked as quantized but "
                f"holds other weights than {self.bits}-bit ones. After "
                "assigning float weights to it, set its `kernel_is_quantized` "
                "to False."
            )
        return scale, codes

    # Conv2D and Dense save a fixed list of variables and refuse a file with
    # more or fewer than the layer has. The flag goes last. A file without it
    # is that of the layer at 32 bits and holds float weights.
    def save_own_variables(self, store):
        super().save_own_variables(store)
        if self._has_flag and self._flag_key not in store.keys():
            store[self._flag_key] = self.kernel_is_quantized

    def load_own_variables(self, store):
        if self._has_flag:
            store = {key: store[key] for key in store.keys()}
            if store:
                store.setdefault(self._flag_key, False)
        super().load_own_variables(store)
        if self._has_flag:
            self.kernel_is_quantized.assign(store[self._flag_key])

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
