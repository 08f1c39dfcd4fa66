"""AveragePooling2D that averages fewer values at the border, as other layers.

With `padding="same"` Keras leaves out what lies outside of the map: a window
at the border is a smaller one. Each region of the output whose windows have one
size is a pooling of its own, of a crop; together they are the whole.
"""

import dataclasses

import keras


@dataclasses.dataclass
class Run:
    """Outputs along one axis whose windows have one size.

    Attributes:
        start: Int, where the first window begins.
        stop: Int, where the last one ends.
        window: Int, how many values each has.
    """

    start: int
    stop: int
    window: int


def runs(size, window, stride):
    """The outputs of `padding="same"` along one axis.

    Args:
        size: Int, how many values there are.
        window: Int, how many a window sees at most.
        stride: Int.

    Returns:
        List of `Run`, in order; of one, no window is smaller.
    """
    count = -(-size // stride)
    before = max((count - 1) * stride + window - size, 0) // 2
    found = []
    for index in range(count):
        start = max(index * stride - before, 0)
        stop = min(index * stride - before + window, size)
        last = found[-1] if found else None
        if (
            last is not None
            and last.window == stop - start
            and start == last.stop - last.window + stride
        ):
            last.stop = stop
        else:
            found.append(Run(start, stop, stop - start))
    return found


def has_parts(layer):
    """Whether a built AveragePooling2D averages fewer values at a border."""
    if type(layer) is not keras.layers.AveragePooling2D:
        return False
    if layer.padding != "same" or layer.data_format != "channels_last":
        return False
    sizes = tuple(layer.input.shape)[1:3]
    if None in sizes:
        return False
    axes = zip(sizes, layer.pool_size, layer.strides, strict=True)
    return any(
        run.window < window
        for size, window, stride in axes
        for run in runs(size, window, stride)
    )


def parts_of(layer):
    """The layers that do what an AveragePooling2D with a border does.

    Args:
        layer: A layer for which `has_parts` is true.

    Returns:
        List of `(layer, sources)`, as the parts of a `layers.Composite`.
    """
    height, width = tuple(layer.input.shape)[1:3]
    rows, columns = (
        runs(*axis)
        for axis in zip(
            (height, width), layer.pool_size, layer.strides, strict=True
        )
    )
    parts, regions = [], []
    for i, row in enumerate(rows):
        ends = []
        for j, column in enumerate(columns):
            name = f"{layer.name}_{i}_{j}"
            if len(rows) == len(columns) == 1:
                name = layer.name
            source = _cropped(parts, (height, width), (row, column), name)
            pool = keras.layers.AveragePooling2D(
                (row.window, column.window),
                layer.strides,
                data_format="channels_last",
                name=name,
            )
            parts.append((pool, [source]))
            ends.append(len(parts))
        name = layer.name if len(rows) == 1 else f"{layer.name}_{i}"
        regions.append(_joined(parts, ends, 2, name))
    _joined(parts, regions, 1, layer.name)
    return parts


def _cropped(parts, size, region, name):
    """Appends a crop to a region; the number of what it gives."""
    amounts = tuple(
        (run.start, whole - run.stop)
        for run, whole in zip(region, size, strict=True)
    )
    if amounts == ((0, 0), (0, 0)):
        return 0
    crop = keras.layers.Cropping2D(
        amounts, data_format="channels_last", name=f"{name}_crop"
    )
    parts.append((crop, [0]))
    return len(parts)


def _joined(parts, ends, axis, name):
    """Appends a Concatenate of several parts; the number of what it gives."""
    if len(ends) > 1:
        parts.append((keras.layers.Concatenate(axis, name=name), ends))
        return len(parts)
    return ends[0]
