"""One input of a file, and what TFLM's interpreter computes of it."""

import dataclasses

import numpy as np

from keras_bcgd.tflite.runner import Input


@dataclasses.dataclass
class End:
    """An input or output of a file with its codes.

    Attributes:
        about: `tflite.runner.Input`, its name, type and grid.
        codes: Integer array, of a whole batch.
    """

    about: Input
    codes: np.ndarray


@dataclasses.dataclass
class Sample:
    """What goes in and what comes out, in the order of the file.

    Attributes:
        inputs: List of `End`.
        outputs: List of `End`.
    """

    inputs: list
    outputs: list


def make(runner, x=None):
    """A sample of a file.

    Args:
        runner: `TFLiteRunner` on TFLM.
        x: Array of real inputs, of which the first are taken; of several
            inputs a dict by their names. `None`: random codes, each time the
            same. Defaults to `None`.

    Returns:
        A `Sample`.

    Raises:
        ValueError: If `x` does not fit the inputs.
    """
    rng = np.random.default_rng(0)
    inputs = []
    for one in runner.inputs:
        if x is None:
            codes = _random(rng, one)
        else:
            codes = _given(runner, one, x)
        inputs.append(End(one, codes))
    codes = run(runner.interpreter, inputs, runner.outputs)
    return Sample(
        inputs, [End(*pair) for pair in zip(runner.outputs, codes, strict=True)]
    )


def run(interpreter, inputs, outputs):
    """The codes of the outputs.

    Args:
        interpreter: `tflite.micro.MicroInterpreter`.
        inputs: List of `End`.
        outputs: List of `tflite.runner.Output`.
    """
    for end in inputs:
        interpreter.set_tensor(end.about.index, end.codes)
    interpreter.invoke()
    return [np.array(interpreter.get_tensor(one.index)) for one in outputs]


def _random(rng, one):
    dtype = np.dtype(one.dtype)
    if dtype.itemsize > 2:
        # Sizes and indices: 0 is one of them.
        return np.zeros(one.shape, dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, one.shape, dtype)


def _given(runner, one, x):
    """The codes of the first of the inputs given; the last is repeated."""
    if len(runner.inputs) > 1:
        names = [other.name for other in runner.inputs]
        if not isinstance(x, dict) or any(name not in x for name in names):
            listed = ", ".join(f"'{name}'" for name in names)
            raise ValueError(
                "`x` must be a dict with an array for each of the inputs "
                f"{listed}. Received: {_described(x)}"
            )
        x = x[one.name]
    x = np.asarray(x)
    fits = x.ndim > 0 and len(x) and _places(x.shape) == _places(one.shape)
    if not fits:
        of_input = f" for the input '{one.name}'" * (len(runner.inputs) > 1)
        raise ValueError(
            "`x` must have the shape (samples, "
            f"{', '.join(map(str, one.shape[1:]))}){of_input}, with a sample. "
            f"Received: shape {x.shape}"
        )
    rows = np.minimum(np.arange(one.shape[0]), len(x) - 1)
    x = x[rows].reshape(one.shape)
    # What is not quantized has no scale.
    return one.quantize(x) if one.scale else x.astype(one.dtype)


def _places(shape):
    """The shape of a sample; (time, features) may be a map of height 1."""
    return [size for size in shape[1:] if size != 1]


def _described(x):
    if isinstance(x, dict):
        return ", ".join(f"'{name}'" for name in x) or "an empty dict"
    return type(x).__name__
