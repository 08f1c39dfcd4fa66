"""Holds all of a model that is trained but the codes of its kernels.

While it is held, the codes of the weights are trained and nothing else: gamma,
beta, biases, alphas and the scales of kernels stay, and batch normalization
computes with its moving statistics, as in the file. By two means that Keras
has: what stays has a constraint that brings it back after each step, and a
layer is called with `training=False`.
"""

import functools

import keras
from keras import ops

from keras_bcgd.constraints import QuantProjection
from keras_bcgd.network.model_layers import leaves
from keras_bcgd.projections import nearest_codes


class Held:
    """A model that is held, from construction to `release`.

    Args:
        model: `keras.Model`, compiled.
        kernels: List of the `keras.Variable`s whose codes are trained.
    """

    def __init__(self, model, kernels):
        self.model = model
        self._constraints = []  # of each variable, what it had
        kernels = {id(kernel) for kernel in kernels}
        for variable in model.trainable_variables:
            self._constraints.append((variable, variable.constraint))
            if id(variable) in kernels:
                variable.constraint = _OnOneScale(variable.constraint)
            else:
                variable.constraint = _Still(variable)
        self._norms = [
            layer
            for layer in leaves(model).values()
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        for layer in self._norms:
            # Not by `setattr`, with which Keras tracks what a layer holds.
            vars(layer)["call"] = _inference(layer.call)
        _trace_anew(model)

    def release(self):
        """Gives everything back."""
        for variable, constraint in self._constraints:
            variable.constraint = constraint
        for layer in self._norms:
            vars(layer).pop("call", None)
        self._constraints, self._norms = [], []
        _trace_anew(self.model)


def _trace_anew(model):
    """Has the step compiled again, as the model is now."""
    step = vars(model).get("train_step")
    if step is not None:
        # That of `fit_on_device`. JAX knows a function that it has traced
        # before: it must be another one.
        model.train_step = functools.wraps(step)(lambda *args: step(*args))
    model.make_train_function(force=True)


class _Still(keras.constraints.Constraint):
    """Every value becomes the one that a variable has now."""

    def __init__(self, variable):
        self.value = ops.convert_to_numpy(variable)

    def __call__(self, w):
        return ops.cast(self.value, w.dtype)


class _OnOneScale(QuantProjection):
    """w <- scale * the nearest codes, with the scale of the step before."""

    def __init__(self, projection):
        super().__init__(projection.bits, projection.method, projection.axis)

    def project(self, y, scale=None):
        if scale is None:  # new float weights, which have none
            return super().project(y)
        if self.bits == 1:
            return scale, super().project(y)[1]
        codes = nearest_codes(y, scale, self.bits)
        return scale, ops.where(scale > 0, codes, ops.zeros_like(codes))


def _inference(call):
    @functools.wraps(call)
    def inference_call(*args, **kwargs):
        return call(*args, **(kwargs | {"training": False}))

    return inference_call
