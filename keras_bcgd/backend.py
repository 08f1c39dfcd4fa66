"""The few places where the backends differ: the rest of the package asks here.

TensorFlow is imported only where it already is the Keras backend.
"""

import contextlib

import keras
from keras import ops


def _tensorflow():
    import tensorflow as tf

    return tf


def on_tensorflow():
    """Returns whether TensorFlow is the Keras backend."""
    return keras.backend.backend() == "tensorflow"


def eager_scope():
    """A context in which variables are created and assigned at once.

    `fit` builds an optimizer while it traces the first step; on TensorFlow an
    assignment made there would become a part of the step.
    """
    if on_tensorflow():
        return _tensorflow().init_scope()
    return contextlib.nullcontext()


def num_replicas():
    """The number of replicas whose gradients are summed by the optimizer."""
    if not on_tensorflow():
        return 1
    return _tensorflow().distribute.get_strategy().num_replicas_in_sync


def assign_on_each_replica(variables, values):
    """Assigns to each replica's copy of a variable that replica's value.

    `variable.assign` inside a replica averages the copies over all replicas:
    an all-reduce of every kernel at every step, and a rounding of values that
    must stay on their grid. Every replica computes the same values, so a local
    assignment keeps the copies identical.

    Args:
        variables: List of `keras.Variable`.
        values: List of tensors, one for each variable.
    """
    if on_tensorflow() and num_replicas() > 1:
        tf = _tensorflow()
        if not tf.distribute.in_cross_replica_context():
            native = [variable.value for variable in variables]
            tf.distribute.get_replica_context().merge_call(
                _update_each, args=(native, values)
            )
            return
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _update_each(strategy, variables, values):
    for variable, value in zip(variables, values, strict=True):
        strategy.extended.update(
            variable,
            lambda copy, new_value: copy.assign(new_value),
            args=(value,),
            group=False,
        )


def accumulation_dtype(dtype):
    """The type in which long cumulative sums of `dtype` are to be taken.

    TensorFlow's cumulative sum adds one element after another: in float32 it
    stagnates after some millions of them. JAX sums in a tree.
    """
    return "float64" if on_tensorflow() else dtype


def machine_epsilon(dtype):
    """The distance from 1 to the next larger number of a float dtype."""
    bits = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
    return 2.0 ** -bits[keras.backend.standardize_dtype(dtype)]


def read(variable):
    """The value of a variable now, as a tensor.

    `keras.ops.convert_to_tensor` hands a TensorFlow variable back as it is:
    what is read then depends on when it is used.
    """
    if on_tensorflow():
        return _tensorflow().convert_to_tensor(variable.value)
    return ops.convert_to_tensor(variable)


def is_traced(tensor):
    """Whether `tensor` stands for values of a step that is being compiled."""
    if on_tensorflow():
        return not _tensorflow().executing_eagerly()
    if keras.backend.backend() != "jax":
        return False
    import jax

    return isinstance(tensor, jax.core.Tracer)


def cond(predicate, if_true, if_false):
    """`keras.ops.cond`, decided by Python where the predicate is known.

    Outside a traced step JAX would compile both branches anew in every call.

    Args:
        predicate: Boolean scalar tensor.
        if_true: Function without arguments.
        if_false: Function without arguments, with results alike.
    """
    try:
        known = bool(predicate)
    except TypeError:  # traced: no value yet
        return ops.cond(predicate, if_true, if_false)
    return if_true() if known else if_false()


def fused(function):
    """`function`, compiled into few loops over memory where that pays.

    Keras compiles a training step with XLA on GPUs, not on CPUs: there a chain
    of elementwise operations reads and writes its tensors once for each of
    them, and costs many times what the ReLU costs.

    Args:
        function: Function of tensors, without side effects.

    Returns:
        A function of the same arguments.
    """
    if not on_tensorflow():
        return function
    tf = _tensorflow()
    compiled = tf.function(
        function, jit_compile=True, autograph=False, reduce_retracing=True
    )

    def call(*args):
        # Eagerly, each new shape would be compiled anew.
        return function(*args) if tf.executing_eagerly() else compiled(*args)

    return call
