"""Input columns that the one step of an integer input is too coarse for."""

import numpy as np

# Fewer steps in a standard deviation, and rounding is felt in accuracy.
_FEWEST_STEPS = 4.0
_NAMED = 8
# Of more inputs so many are looked at, roughly.
_MOST_INPUTS = 2**22


def coarse_columns(deviations, scale):
    """The columns that vary by fewer than four steps.

    Args:
        deviations: Array of the standard deviation of each column.
        scale: Float, the step of the input.

    Returns:
        List of ints; what does not vary at all is not among them.
    """
    is_coarse = (deviations > 0) & (deviations < _FEWEST_STEPS * scale)
    return [int(i) for i in np.flatnonzero(is_coarse)]


def describe(columns):
    """`"2, 5 and 7"`, or so."""
    named = [str(i) for i in columns[:_NAMED]]
    if len(columns) > _NAMED:
        named.append(f"{len(columns) - _NAMED} more")
    *others, last = named
    return f"{', '.join(others)} and {last}" if others else last


def check_normalization(layer, slope, scale):
    """Refuses a Normalization whose columns the input makes constant.

    Args:
        layer: The Keras layer.
        slope: Array, one over the standard deviation of each column.
        scale: Float, the step of the input.

    Raises:
        ValueError: If there are such columns; names them.
    """
    columns = coarse_columns(1 / np.abs(slope), scale)
    if columns:
        raise ValueError(
            f"The input has one step for all columns, {scale:.4g}, which is "
            f"too coarse for the columns {describe(columns)} that "
            f"'{layer.name}' normalizes: they vary by less than four such "
            "steps. Let the app normalize: export the layers behind it, "
            "keras.Sequential(model.layers[1:]) say, with normalized "
            "`representative_data`. (A QuantIdentity as the first of them "
            "trains with the 8 bits of that input.)"
        )


def reason(data, grid, name=None):
    """Why a file is not exact for such data, or `None`.

    Args:
        data: Array of inputs.
        grid: `arithmetic.Grid` of the input.
        name: String, if there are several inputs. Defaults to `None`.
    """
    rows = data.reshape(-1, data.shape[-1])
    rows = rows[:: max(1, rows.size // _MOST_INPUTS)]
    columns = coarse_columns(rows.std(axis=0, dtype=np.float64), grid.scale)
    if not columns:
        return None
    of_input = f" '{name}'" if name else ""
    return (
        f"the columns {describe(columns)} of the input{of_input} vary by less "
        f"than four of its steps, {grid.scale:.4g}: normalize the columns "
        "before the model"
    )
