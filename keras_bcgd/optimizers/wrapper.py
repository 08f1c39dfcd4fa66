"""OptimizerWrapper: what any optimizer around another one has to hand on."""

import warnings

import keras
from keras import ops

_INNER_ARGUMENTS = (
    "learning_rate",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


class OptimizerWrapper(keras.optimizers.Optimizer):
    """An optimizer that lets `inner_optimizer` make the steps.

    Learning rate, step counter, loss scale and all variables are those of the
    inner optimizer, also for callbacks and for files. A subclass overrides
    `build` and `apply`.

    Args:
        inner_optimizer: `keras.optimizers.Optimizer` instance that updates
            weights itself.
        name: String. Defaults to `None`.
        **kwargs: None is accepted: the error says where it belongs.

    Raises:
        ValueError: If `inner_optimizer` is something else, or has been built,
            or an argument is given that belongs to it.
    """

    def __init__(self, inner_optimizer, name=None, **kwargs):
        self._check_inner(inner_optimizer)
        for argument, value in kwargs.items():
            where = (
                f"Set `{argument}` on the `inner_optimizer`."
                if argument in _INNER_ARGUMENTS
                else "There is no such argument."
            )
            raise ValueError(
                f"{type(self).__name__} does not accept `{argument}`. {where} "
                f"Received: {argument}={value!r}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer

    def _check_inner(self, inner_optimizer):
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "`inner_optimizer` must be a keras.optimizers.Optimizer "
                "instance, for example keras.optimizers.SGD(0.1). "
                f"Received: inner_optimizer={inner_optimizer!r}"
            )
        wrappers = (OptimizerWrapper, keras.optimizers.LossScaleOptimizer)
        if isinstance(inner_optimizer, wrappers):
            raise ValueError(
                "`inner_optimizer` must be an optimizer that updates weights "
                "itself. A LossScaleOptimizer goes around "
                f"{type(self).__name__}, not inside it. "
                f"Received: inner_optimizer={inner_optimizer!r}"
            )
        if inner_optimizer.built:
            raise ValueError(
                "`inner_optimizer` must be an optimizer that has not been "
                "built: this one keeps the state of other variables. Make a "
                f"new {type(inner_optimizer).__name__} for each model. "
                f"Received: inner_optimizer={inner_optimizer!r}, with "
                f"{len(inner_optimizer.variables)} variables"
            )

    @property
    def own_iterations(self):
        """Calls of `apply` so far, gradient accumulation not regarded."""
        return super().iterations

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def loss_scale_factor(self):
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor):
        # The base class sets its default before there is an inner optimizer.
        if hasattr(self, "inner_optimizer"):
            self.inner_optimizer.loss_scale_factor = factor

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    @property
    def variables(self):
        return super().variables + self.inner_optimizer.variables

    # Keras saves the inner optimizer by itself, as an attribute that is an
    # optimizer. `variables` names its variables too, as JAX needs it: in the
    # file they would stand twice.
    def save_own_variables(self, store):
        for i, variable in enumerate(super().variables):
            store[str(i)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        own = super().variables
        values = [store[str(i)] for i in range(len(store.keys()))]
        expected = [tuple(variable.shape) for variable in own]
        received = [tuple(value.shape) for value in values]
        if received != expected:
            warnings.warn(
                f"The saved optimizer '{self.name}' has no state for this "
                "model; training starts from the loaded weights. Expected "
                f"variables of shapes {expected}, received {received}.",
                stacklevel=2,
            )
            return
        for variable, value in zip(own, values, strict=True):
            variable.assign(value)

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"name": self.name, "inner_optimizer": inner}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**config)
