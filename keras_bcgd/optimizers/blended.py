"""BlendedOptimizer: blended coarse gradient descent around any optimizer.

Slides "Full Quantization Problem", "Blended Gradient Descent" and "Blended
Coarse Gradient Descent", with the slides' w_f written y:

    alpha <- alpha - eta_alpha * coarse gradient
    y     <- (1 - rho) y + rho w - eta * coarse gradient at w
    w     <- proj_Q(y)
"""

import numbers
import sys

import keras
from keras import ops

from keras_bcgd import backend
from keras_bcgd.constraints import AlphaBound
from keras_bcgd.constraints import QuantProjection
from keras_bcgd.optimizers.blending import blend
from keras_bcgd.optimizers.blending import check_blending
from keras_bcgd.optimizers.blending import deserialize_blending
from keras_bcgd.optimizers.blending import rho_of_update
from keras_bcgd.optimizers.blending import serialize_blending
from keras_bcgd.optimizers.kernels import flag_of
from keras_bcgd.optimizers.kernels import project_y
from keras_bcgd.optimizers.kernels import with_new_weights
from keras_bcgd.optimizers.l2 import add_l2
from keras_bcgd.optimizers.wrapper import OptimizerWrapper


@keras.saving.register_keras_serializable(package="keras_bcgd")
class BlendedOptimizer(OptimizerWrapper):
    """Blended coarse gradient descent (BCGD) around any Keras optimizer.

    The model's quantized kernels hold w. The optimizer keeps their float
    weights y, the shadows, and lets `inner_optimizer` work on these; momentum,
    schedules, weight decay and clipping are the inner optimizer's and act on y.
    All other variables are its own business, but that every alpha moves by a
    fraction of its step.

    Source: slides "Blended Gradient Descent" and "Blended Coarse Gradient
    Descent".

    Update rule, with rho = `blending`:

    ```
    alpha = max(alpha + alpha_learning_rate_multiplier * step, 1e-3)
    y = (1 - rho) * y + rho * w - eta * (gradient at w + l2 * y)
    w = proj_Q(y)
    ```

    Quantized kernels are the variables whose constraint is a
    `QuantProjection`, alphas those whose constraint is an `AlphaBound`. When
    the optimizer is built, a shadow takes over the kernel's float weights and
    the kernel is projected. Weights that are loaded into the model after that
    and do not lie on the grid of the last scale are taken over at the next
    step: they become the shadow.

    The inner optimizer's averages (`use_ema`) are taken of y and of alpha; what
    the kernel gets is the projection of the mean. This optimizer keeps them in
    its place, so that the callback `SwapEMAWeights` does not find them.

    Args:
        inner_optimizer: `keras.optimizers.Optimizer` that has not been built:
            it serves one model. Learning rate, clipping, ... are set on it.
        blending: Float in [0, 1], rho. 0 is BinaryConnect, 1 is projected
            gradient descent. Or a `LearningRateSchedule` of the number of
            updates made so far, or a callable without arguments, as Keras
            takes for a learning rate; what these give is clipped to [0, 1].
            The attribute `blending` is the rho of the next update. Defaults to
            `1e-5`, the slides'.
        alpha_learning_rate_multiplier: Float >= 0, times the step that the
            inner optimizer would make of an alpha ("two scale learning").
            Above 4 bits take `0.01 * (15 / (2**bits - 1)) ** 2`: the largest
            level then learns alike. Defaults to `0.01`, the slides'.
        l2: Float >= 0. Coupled L2 regularization: `l2 * y` is added to the
            gradients of weights, biases and batch normalization, never of an
            alpha. `weight_decay` of the inner optimizer, if it has that, is
            decoupled and spares alphas as well. Defaults to `0.0`.
        alpha_l2: Float >= 0. The same for alphas: `alpha_l2 * alpha` is added
            to their gradients. L2 of strength s on the clipping level of PACT
            and APoT, `(2**bits - 1) * alpha`, is an `alpha_l2` of
            `s * (2**bits - 1) ** 2`. Defaults to `0.0`.
        name: String. Defaults to `None`.

    Raises:
        ValueError: If an argument is not one of the above, or belongs to the
            inner optimizer, or that one has been built.

    Example:

    ```python
    sgd = keras.optimizers.SGD(0.1, momentum=0.95)
    optimizer = keras_bcgd.BlendedOptimizer(sgd, blending=1e-5, l2=1e-4)
    model.compile(optimizer, loss=loss)
    ```

    References:
        - [Yin et al., 2019](https://arxiv.org/abs/1808.05240)
    """

    def __init__(
        self,
        inner_optimizer,
        blending=1e-5,
        alpha_learning_rate_multiplier=0.01,
        l2=0.0,
        alpha_l2=0.0,
        name=None,
        **kwargs,
    ):
        super().__init__(inner_optimizer, name=name, **kwargs)
        _check_number(
            "alpha_learning_rate_multiplier", alpha_learning_rate_multiplier
        )
        _check_number("l2", l2)
        _check_number("alpha_l2", alpha_l2)
        self.blending = blending
        self.alpha_learning_rate_multiplier = float(
            alpha_learning_rate_multiplier
        )
        self.l2 = float(l2)
        self.alpha_l2 = float(alpha_l2)
        self._not_decayed = [], []
        self._use_ema = False

    @property
    def blending(self):
        """rho of the next update: a float or a scalar tensor."""
        return rho_of_update(self._blending, self.iterations)

    @blending.setter
    def blending(self, blending):
        self._blending = check_blending(blending)

    def build(self, variables):
        if self.built:
            return
        self._check_inner(self.inner_optimizer)
        with backend.eager_scope():
            self._shadows = {}  # index of a kernel: y
            self._scales = {}  # index of a kernel: the scale of its w
            self._alpha_steps = {}  # index of an alpha: where a step led
            for i, variable in enumerate(variables):
                if isinstance(variable.constraint, QuantProjection):
                    self._build_kernel(i, variable)
                elif isinstance(variable.constraint, AlphaBound):
                    self._alpha_steps[i] = self._add_copy(variable, "step")
            super().build(variables)
            targets = [self._target(i) for i in range(len(variables))]
            self._exclude_from_inner_decay(targets)
            # The inner optimizer would average alphas that made a whole step.
            # From here on it knows the shadows and is of no other use.
            self._use_ema = self.inner_optimizer.use_ema
            self.inner_optimizer.use_ema = False
            self.inner_optimizer.build(targets)
            self._averages = {}  # index of a variable: its mean
            if self._use_ema:
                for i, target in enumerate(targets):
                    self._averages[i] = self.add_variable_from_reference(
                        target, "average"
                    )

    def _build_kernel(self, i, kernel):
        self._shadows[i] = self._add_copy(kernel, "shadow")
        w, scale = project_y(kernel.constraint, backend.read(kernel))
        self._scales[i] = self.add_variable(
            shape=scale.shape,
            initializer=lambda *args, **kwargs: scale,
            dtype=kernel.dtype,
            name=f"{kernel.path.replace('/', '_')}_scale",
        )
        kernel.assign(w)
        flag = flag_of(kernel)
        if flag is not None:
            flag.assign(kernel.constraint.mark)

    def _add_copy(self, variable, name):
        # `fit` may build inside the traced step, where an assignment would
        # come too late: the value is there at creation. A copy, because JAX
        # donates the buffers of both variables to the step.
        value = ops.copy(backend.read(variable))
        return self.add_variable_from_reference(
            variable, name, initializer=lambda *args, **kwargs: value
        )

    def _target(self, i):
        """What the inner optimizer updates for variable `i`."""
        if i in self._shadows:
            return self._shadows[i]
        if i in self._alpha_steps:
            return self._alpha_steps[i]
        return self._trainable_variables[i]

    def apply(self, grads, trainable_variables=None):
        grads = list(grads)
        if not grads:
            return
        indices = self._indices(grads, trainable_variables)
        is_update = self._is_update()
        y, w, scales = self._read_kernels()
        grads = self._add_l2(grads, indices, y)
        rho = self.blending
        for i, shadow in self._shadows.items():
            blended = blend(y[i], w[i], rho, is_update)
            shadow.assign(blended if i in indices else y[i])
        for i, step in self._alpha_steps.items():
            step.assign(self._trainable_variables[i])

        self.inner_optimizer.apply(grads, [self._target(i) for i in indices])

        self._step_alphas()
        self._update_averages()
        self._write_kernels(w, scales, is_update)
        self.own_iterations.assign_add(1)

    def _indices(self, grads, variables):
        """The place of each gradient among the variables built with."""
        if variables is None:
            if not self.built or len(grads) != len(self._trainable_variables):
                raise ValueError(
                    "Without `trainable_variables`, `grads` must have one "
                    "gradient for each variable that the optimizer was built "
                    f"with. Received: {len(grads)} gradients for "
                    f"{len(self._trainable_variables)} variables"
                )
            return list(range(len(grads)))
        variables = list(variables)
        if not self.built:
            self.build(variables)
        self._check_variables_are_known(variables)
        return [self._get_variable_index(variable) for variable in variables]

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Excludes variables from the inner optimizer's weight decay.

        Alphas always are. To be called before the optimizer is built.

        Args:
            var_list: List of the model's variables. Defaults to `None`.
            var_names: List of strings; variables whose name contains one of
                them. Defaults to `None`.
        """
        self._not_decayed = list(var_list or []), list(var_names or [])

    def _exclude_from_inner_decay(self, targets):
        if self.inner_optimizer.weight_decay is None:
            return
        if hasattr(self.inner_optimizer, "_exclude_from_weight_decay"):
            raise ValueError(
                "Call `exclude_from_weight_decay` on the BlendedOptimizer, not "
                "on its `inner_optimizer`, which knows the shadows only."
            )
        var_list, var_names = self._not_decayed
        excluded = list(self._alpha_steps.values())
        excluded += [
            target
            for target, variable in zip(
                targets, self._trainable_variables, strict=True
            )
            if any(variable is v for v in var_list)
        ]
        self.inner_optimizer.exclude_from_weight_decay(excluded, var_names)

    def _is_update(self):
        """Whether this call ends a round of gradient accumulation."""
        steps = self.inner_optimizer.gradient_accumulation_steps
        if not steps:
            return None
        return ops.equal((self.own_iterations + 1) % steps, 0)

    def _read_kernels(self):
        """The state before the step: y, w and its scale for each kernel."""
        kernels = {i: self._trainable_variables[i] for i in self._shadows}
        shadows = {i: backend.read(v) for i, v in self._shadows.items()}
        scales = {i: backend.read(v) for i, v in self._scales.items()}
        values = {i: backend.read(v) for i, v in kernels.items()}
        if not kernels:
            return {}, {}, {}
        constraints = {i: kernel.constraint for i, kernel in kernels.items()}
        return with_new_weights(constraints, shadows, values, scales)

    def _add_l2(self, grads, indices, y):
        """Adds `l2 * y` to gradients, `alpha_l2 * alpha` to those of alphas."""
        strengths = [
            self.alpha_l2 if i in self._alpha_steps else self.l2
            for i in indices
        ]
        values = [y.get(i, self._trainable_variables[i]) for i in indices]
        return add_l2(grads, values, strengths, self.loss_scale_factor)

    def _step_alphas(self):
        """Moves each alpha by a fraction of the inner optimizer's step."""
        alphas = {}
        for i, step in self._alpha_steps.items():
            alpha = backend.read(self._trainable_variables[i])
            stepped = backend.read(step)
            if self.alpha_learning_rate_multiplier != 1:
                stepped = alpha + self.alpha_learning_rate_multiplier * (
                    stepped - alpha
                )
            alphas[i] = self._trainable_variables[i].constraint(stepped)
        self._assign(alphas)

    def _update_averages(self):
        """Keras' `use_ema`, on y and on the alphas that were really used."""
        if not self._use_ema:
            return
        inner = self.inner_optimizer
        count = self.own_iterations // (inner.gradient_accumulation_steps or 1)
        overwrites = inner.ema_overwrite_frequency
        for i, average in self._averages.items():
            value = backend.read(self._averaged(i))
            momentum = inner.ema_momentum * ops.cast(count != 0, value.dtype)
            mean = momentum * backend.read(average) + (1 - momentum) * value
            average.assign(mean)
            if overwrites:
                due = ops.equal((count + 1) % overwrites, 0)
                backend.assign_on_each_replica(
                    [self._averaged(i)], [ops.where(due, mean, value)]
                )

    def _averaged(self, i):
        """The variable whose mean is taken: y for a kernel."""
        return self._shadows.get(i, self._trainable_variables[i])

    def _write_kernels(self, w, scales, is_update):
        """w <- proj_Q(y)."""
        if not self._shadows:
            return

        def project_all():
            new_w, new_scales = {}, {}
            for i, shadow in self._shadows.items():
                constraint = self._trainable_variables[i].constraint
                y = backend.read(shadow)
                new_w[i], new_scales[i] = project_y(constraint, y, scales[i])
            return new_w, new_scales

        if is_update is None:
            w, scales = project_all()
        else:
            w, scales = backend.cond(
                is_update, project_all, lambda: (w, scales)
            )
        for i, scale in self._scales.items():
            scale.assign(scales[i])
        self._assign(w)
        self._mark_kernels()

    def _assign(self, values):
        variables = [self._trainable_variables[i] for i in values]
        backend.assign_on_each_replica(variables, list(values.values()))

    def _mark_kernels(self):
        """Tells the layers that their kernels hold w from now on.

        On JAX a traced step cannot change a variable of the layer that is not
        trainable; `finalize_variable_values` repeats it at the end of `fit`.
        """
        flags, marks = [], []
        for i in self._shadows:
            kernel = self._trainable_variables[i]
            flag = flag_of(kernel)
            if flag is not None:
                # One tensor each: JAX refuses to donate a buffer twice.
                flags.append(flag)
                marks.append(ops.full((), kernel.constraint.mark, flag.dtype))
        backend.assign_on_each_replica(flags, marks)

    def finalize_variable_values(self, var_list):
        if not self.built:
            return
        if self._use_ema:
            for i, average in self._averages.items():
                # A copy, as in `_add_copy`.
                self._averaged(i).assign(ops.copy(backend.read(average)))
            _, w, scales = self._read_kernels()
            self._write_kernels(w, scales, is_update=None)
        self._mark_kernels()

    def shadow(self, kernel):
        """The float weights y of a quantized kernel.

        With the policy "mixed_float16" Keras puts a LossScaleOptimizer around
        this one: then `model.optimizer` has no such method, while
        `keras_bcgd.shadow(model, kernel)` finds this one.

        Args:
            kernel: `keras.Variable`, the kernel of a quantized layer.

        Returns:
            `keras.Variable` of the same shape, updated in place by training.

        Raises:
            ValueError: If the optimizer keeps no shadow for `kernel`.

        Example:

        ```python
        optimizer = keras_bcgd.BlendedOptimizer(keras.optimizers.SGD(0.1))
        model.compile(optimizer, loss)
        model.fit(x_train, y_train, verbose=0)
        y = optimizer.shadow(model.layers[0].kernel)
        ```
        """
        for i, shadow in getattr(self, "_shadows", {}).items():
            if self._trainable_variables[i] is kernel:
                return shadow
        raise ValueError(
            "`kernel` must be a variable with a QuantProjection constraint "
            "that this optimizer was built with. "
            f"Received: kernel={kernel}"
        )

    def get_config(self):
        config = super().get_config()
        if self.built:
            config["inner_optimizer"]["config"]["use_ema"] = self._use_ema
        multiplier = self.alpha_learning_rate_multiplier
        config.update(
            {
                "blending": serialize_blending(self._blending),
                "alpha_learning_rate_multiplier": multiplier,
                "l2": self.l2,
                "alpha_l2": self.alpha_l2,
            }
        )
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if "blending" in config:
            config["blending"] = deserialize_blending(
                config["blending"], custom_objects
            )
        return super().from_config(config, custom_objects)


def _check_number(name, value):
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= sys.float_info.max:
        raise ValueError(
            f"`{name}` must be a number, finite and >= 0. "
            f"Received: {name}={value!r}"
        )
