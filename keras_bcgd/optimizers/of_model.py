"""What a compiled model's BlendedOptimizer is, and the shadows it keeps."""

from keras_bcgd.optimizers.blended import BlendedOptimizer


def shadow(model, kernel):
    """The float weights y of a quantized kernel of a model in training.

    The same in all dtype policies, also where Keras has put a
    LossScaleOptimizer around the BlendedOptimizer.

    Args:
        model: `keras.Model`, compiled with a `BlendedOptimizer`.
        kernel: `keras.Variable`, the kernel of a quantized layer.

    Returns:
        `keras.Variable` of the same shape, updated in place by training.

    Raises:
        ValueError: If the model has no `BlendedOptimizer`, or that keeps no
            shadow for `kernel`: before the first step, for example.

    Example:

    ```python
    y = keras_bcgd.shadow(model, model.get_layer("conv1").kernel)
    ```
    """
    optimizer = blended_optimizer(model)
    if optimizer is None:
        raise ValueError(
            "`model` must be a keras.Model compiled with a BlendedOptimizer. "
            f"Received: model={model!r}, with "
            f"optimizer={getattr(model, 'optimizer', None)!r}"
        )
    return optimizer.shadow(kernel)


def blended_optimizer(model):
    """The `BlendedOptimizer` of a model, or `None`.

    Keras puts a LossScaleOptimizer around it in "mixed_float16".
    """
    optimizer = getattr(model, "optimizer", None)
    while not isinstance(optimizer, BlendedOptimizer) and optimizer is not None:
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return optimizer
