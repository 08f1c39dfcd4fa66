"""The grid of each input: 256 codes, on which the inputs of training lie."""

import numpy as np

from keras_bcgd.export import arguments
from keras_bcgd.export import arithmetic
from keras_bcgd.export import trained_values

# Inputs so near to a code are on it, in steps: float32 is not nearer.
_ON_GRID = 0.01
_CODES = 256
# The smallest difference between two inputs may be so many steps.
_MOST_STEPS = 8
# Of more inputs so many are looked at.
_MOST_INPUTS = 2**22


def choose(graph, ranges, data, names):
    """The `Grid` of each input.

    Args:
        graph: `node.Graph`.
        ranges: List of `(low, high)` of the 256 codes, one for each input.
            `None`: the grid of a QuantIdentity that alone reads it; else that
            on which `data` lie, images divided by 255 say; else their range.
        data: List of arrays, one for each input, or `None`.
        names: List of strings, the inputs.

    Returns:
        List of `arithmetic.Grid`.

    Raises:
        ValueError: If there is nothing to choose one by.
    """
    parts = [None] * len(names) if data is None else data
    found = [
        _of_range_or_layer(graph, node, one)
        for node, one in zip(graph.inputs, ranges, strict=True)
    ]
    arguments.check_has_range(found, data, names)
    return [
        _of_data(part) if grid is None else grid
        for grid, part in zip(found, parts, strict=True)
    ]


def _of_range_or_layer(graph, node, input_range):
    """The `Grid` that an argument or a QuantIdentity gives, or `None`."""
    if input_range is not None:
        return arithmetic.input_grid(*input_range)
    quantizer = _first_quantizer(graph, node)
    if quantizer is None:
        return None
    return trained_values.read_output(quantizer).grid


def _of_data(data):
    grid = arithmetic.input_grid(*arguments.range_of(data))
    some = _some(data)
    if not share_between_codes(grid, some):
        return grid
    return _grid_of(some) or grid


def _some(data):
    """The inputs in a row; of very many, some drawn at random."""
    data = data.reshape(-1)
    if data.size <= _MOST_INPUTS:
        return data
    rng = np.random.default_rng(0)
    return data[rng.integers(0, data.size, _MOST_INPUTS)]


def _first_quantizer(graph, node):
    """The QuantIdentity that alone reads an input, or `None`."""
    readers = _readers(graph, node)
    if len(readers) == 1 and readers[0].kind == "reshape":
        readers = _readers(graph, readers[0])
    if len(readers) != 1 or readers[0].kind != "affine" or readers[0].norm:
        return None
    quantizer = readers[0].quantizer
    if quantizer is None or quantizer.kind != "identity":
        return None
    return quantizer


def _readers(graph, source):
    return [node for node in graph.nodes if source in node.inputs]


def _grid_of(data):
    """A grid with 0 on which all data lie, or `None`.

    Its steps are parts of theirs, so that 256 codes are just enough: sums of
    products become finer by as much.
    """
    values = np.unique(np.append(np.float64(data), 0.0))
    if len(values) > _CODES or len(values) < 2:
        return None
    low, high = values[0], values[-1]
    smallest = np.diff(values).min()
    for parts in range(1, _MOST_STEPS + 1):
        steps = round((high - low) * parts / smallest)
        if steps >= _CODES:
            break
        steps *= (_CODES - 1) // steps
        scale = (high - low) / steps
        below = round(-low / scale)
        # What is left of the codes goes to both sides, or above 0.
        below += (_CODES - 1 - steps) // 2 if below else 0
        grid = arithmetic.Grid(scale, arithmetic.INT8_MIN + below)
        if not share_between_codes(grid, values):
            return grid
    return None


def share_between_codes(grid, data):
    """The share of inputs that lie between two codes of the input."""
    steps = (np.float64(data) - grid.offset) / grid.scale
    inside = grid.covers(data)
    return np.mean(inside & (np.abs(steps - np.round(steps)) > _ON_GRID))


def reason(graph, node, grid, data, name=None):
    """Why the inputs of a file are not those of the model, or `None`.

    Args:
        graph: `node.Graph`.
        node: `Node`, one of its inputs.
        grid: `Grid` of that input.
        data: Array of it.
        name: String, if there are several inputs. Defaults to `None`.
    """
    quantizer = _first_quantizer(graph, node)
    if (
        quantizer is not None
        and trained_values.read_output(quantizer).grid == grid
    ):
        return None  # training rounded them alike
    share = share_between_codes(grid, _some(data))
    if not share:
        return None
    of_input = f" for '{name}'" if name else ""
    return (
        f"{share:.2%} of the inputs in `representative_data`{of_input} lie "
        f"between two of the file's 256 codes, {grid.scale:.4g} apart, and are "
        "rounded, not in training: give an `input_range` that has them on "
        "codes, or begin the model with a QuantIdentity"
    )
