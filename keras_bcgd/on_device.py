"""fit_on_device: training that does not wait for Python and NumPy.

The data lie on the device. For each batch the host draws only what is random,
some kilobytes; the compiled step makes the batch from that, and one call of it
does many steps, in a loop that is compiled as well.
"""

import keras
import numpy as np
from keras import ops

from keras_bcgd import backend
from keras_bcgd.utils.checks import check_count
from keras_bcgd.utils.checks import check_model

# What `fit` takes and this does not: `draws` says it all.
_OF_DRAWS = (
    "x",
    "y",
    "batch_size",
    "class_weight",
    "sample_weight",
    "shuffle",
    "steps_per_epoch",
    "validation_split",
)


def fit_on_device(
    model, arrays, draws, make_batch, steps_per_execution=1, **kwargs
):
    """`model.fit`, with the data and their augmentation on the device.

    For small networks on a GPU, which otherwise wait for their batches. The
    weights, the optimizer's state and the logs of an epoch are those that
    `fit` reaches with the same batches, and the saved model is the same:
    training may go on by either.

    The progress bar and the methods `on_train_batch_*` of callbacks count
    calls of `steps_per_execution` steps; what they see is the state after the
    last of these. Where that does not divide the steps of an epoch the last
    call is shorter, and on JAX (on TensorFlow with `jit_compile`) compiled by
    itself. Every call of `fit_on_device` compiles the step anew. On a CPU
    leave `steps_per_execution` at 1 with JAX: convolutions in a loop are
    computed by slow code there.

    Args:
        model: `keras.Model`, compiled, with `steps_per_execution=1`.
        arrays: Array or structure of arrays, the whole data, moved to the
            device in the types they have.
        draws: `keras.utils.PyDataset` that knows its number of batches. Its
            item i is what batch i is made of: a structure of NumPy arrays or
            numbers, of the same shapes in all batches. Indices, for example,
            and the corners of crops.
        make_batch: Function of `arrays` and one item of `draws`, both as
            tensors, that returns `(x, y)` or `(x, y, sample_weight)`. A part
            of the compiled step: it uses `keras.ops` (or the backend's
            operations) only.
        steps_per_execution: Int, the steps in one call of the compiled
            function. Defaults to `1`.
        **kwargs: Other arguments of `fit`: `epochs`, `callbacks`,
            `validation_data` and so on. On JAX, `validation_data` that are
            arrays are moved to the device as well, once.

    Returns:
        `keras.callbacks.History`, as `fit` does.

    Raises:
        ValueError: If an argument is not one of the above, or the training is
            distributed over several devices.

    Example:

    ```python
    class Draws(keras.utils.PyDataset):
        def __len__(self):
            return len(x_train) // 32

        def __getitem__(self, index):
            rng = np.random.default_rng(index)
            chosen = rng.choice(len(x_train), 32, replace=False)
            return {"chosen": chosen, "flip": rng.random((32, 1, 1, 1)) < 0.5}


    def make_batch(arrays, draws):
        images, labels = arrays
        x = keras.ops.take(images, draws["chosen"], axis=0)
        x = keras.ops.where(draws["flip"], keras.ops.flip(x, axis=2), x)
        return x, keras.ops.take(labels, draws["chosen"], axis=0)


    keras_bcgd.fit_on_device(
        model,
        (x_train, y_train),
        Draws(),
        make_batch,
        steps_per_execution=2,
        epochs=2,
        verbose=0,
    )
    ```
    """
    _check(model, draws, steps_per_execution, kwargs)
    arrays = _tensors(arrays)
    calls = _Calls(draws, steps_per_execution)
    _build(model, make_batch(arrays, _tensors(draws[0])))
    if backend.on_tensorflow():
        train_step = _stateful(model, arrays, backend.fused(make_batch))
    else:
        # Arrays that a compiled function closes over become literals in it.
        calls.arrays = arrays
        kwargs = _with_validation_on_device(kwargs)
        train_step = _stateless(model, make_batch)
    # An attribute of the object, not of its class: no file holds it.
    model.train_step = train_step
    model.make_train_function(force=True)
    try:
        return model.fit(calls, shuffle=False, **kwargs)
    finally:
        del model.train_step
        model.make_train_function(force=True)


def _stateful(model, arrays, make_batch):
    """TensorFlow's `train_step`: the state is in the variables."""
    step = model.train_step

    def train_step(data):
        (draws,) = data

        def one_step(i, unused):
            step(make_batch(arrays, _rows(draws, i)))
            return unused

        count = ops.shape(keras.tree.flatten(draws)[0])[0]
        ops.fori_loop(0, count, one_step, 0)
        return model.get_metrics_result()

    return train_step


def _stateless(model, make_batch):
    """JAX's `train_step`: the state goes in and comes out."""
    step = model.train_step

    def train_step(state, data):
        arrays, draws = data

        def one_step(state, drawn):
            logs, state = step(state, make_batch(arrays, drawn))
            return state, logs

        state, logs = ops.scan(one_step, state, draws)
        return _rows(logs, -1), state

    return train_step


class _Calls(keras.utils.PyDataset):
    """The draws of several steps at a time, stacked.

    Args:
        draws: See `fit_on_device`.
        steps: Int, the steps of one call.

    Attributes:
        arrays: What stands beside the draws in each item; `None`: nothing.
    """

    def __init__(self, draws, steps):
        super().__init__()
        self.draws, self.steps = draws, steps
        self.arrays = None

    def __len__(self):
        return -(-self.draws.num_batches // self.steps)

    def __getitem__(self, index):
        end = min((index + 1) * self.steps, self.draws.num_batches)
        found = [self.draws[i] for i in range(index * self.steps, end)]
        stacked = keras.tree.map_structure(_stack, *found)
        if self.arrays is None:
            return (stacked,)
        return self.arrays, stacked

    def on_epoch_begin(self):
        self.draws.on_epoch_begin()

    def on_epoch_end(self):
        self.draws.on_epoch_end()


class _Placed(keras.utils.PyDataset):
    """Arrays cut into batches, which lie on the device."""

    def __init__(self, arrays, batch_size):
        super().__init__()
        count = len(keras.tree.flatten(arrays)[0])
        starts = range(0, count, batch_size)
        self.batches = [
            _tensors(_rows(arrays, slice(start, start + batch_size)))
            for start in starts
        ]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def _with_validation_on_device(arguments):
    """The arguments of `fit`: arrays would be copied anew after each epoch."""
    data = arguments.get("validation_data")
    parts = keras.tree.flatten(data)
    if not isinstance(data, tuple) or not all(map(_is_array, parts)):
        return arguments
    placed = dict(arguments)
    batch_size = placed.pop("validation_batch_size", None) or 32
    return placed | {"validation_data": _Placed(data, batch_size)}


def _stack(*parts):
    shapes = {np.shape(part) for part in parts}
    if len(shapes) > 1:
        raise ValueError(
            "`draws` must give arrays of the same shapes for each batch: leave "
            "out what does not fill one. "
            f"Received: shapes {', '.join(map(str, sorted(shapes)))}"
        )
    return np.stack(parts)


def _is_array(x):
    return isinstance(x, np.ndarray) or ops.is_tensor(x)


def _rows(structure, index):
    return keras.tree.map_structure(lambda array: array[index], structure)


def _tensors(structure):
    return keras.tree.map_structure(ops.convert_to_tensor, structure)


def _spec(x):
    return keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype))


def _build(model, batch):
    """Makes what `fit` makes of the first batch: here it never sees one."""
    if not isinstance(batch, tuple) or len(batch) not in (2, 3):
        raise ValueError(
            "`make_batch` must return a tuple (x, y) or (x, y, sample_weight). "
            f"Received: {type(batch).__name__}"
        )
    x, y, sample_weight = (*batch, None)[:3]
    if not all(layer.built for layer in model.layers) or not model.built:
        model(x)
    y_pred = keras.tree.map_structure(
        lambda spec: ops.zeros(spec.shape, spec.dtype),
        model.compute_output_spec(keras.tree.map_structure(_spec, x)),
    )
    model.compute_loss(x, y, y_pred, sample_weight)
    # `fit` resets the metrics before each epoch.
    model.compute_metrics(x, y, y_pred, sample_weight)
    model.optimizer.build(model.trainable_variables)


def _check(model, draws, steps_per_execution, kwargs):
    check_model(model)
    check_count("steps_per_execution", steps_per_execution)
    if not getattr(model, "compiled", False):
        raise ValueError(
            "`model` must be compiled, with an optimizer and a loss. "
            f"Received: model={model!r}"
        )
    if model.steps_per_execution != 1:
        raise ValueError(
            "`model` must be compiled with steps_per_execution=1: give that "
            "argument to `fit_on_device`. "
            f"Received: steps_per_execution={model.steps_per_execution!r}"
        )
    if not isinstance(draws, keras.utils.PyDataset) or not draws.num_batches:
        raise ValueError(
            "`draws` must be a keras.utils.PyDataset of at least one batch, "
            f"whose number is known. Received: draws={draws!r}"
        )
    for name in _OF_DRAWS:
        if name in kwargs:
            raise ValueError(
                f"fit_on_device does not accept `{name}`: `draws` and "
                "`make_batch` decide what the batches are. "
                f"Received: {name}={kwargs[name]!r}"
            )
    strategy = getattr(model, "distribute_strategy", None)
    replicas = getattr(strategy, "num_replicas_in_sync", 1)
    if keras.distribution.distribution() is not None or replicas > 1:
        raise ValueError(
            "fit_on_device trains on one device: use `fit` where the training "
            "is distributed."
        )
