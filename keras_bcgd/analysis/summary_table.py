"""SummaryTable: how what `summary` found is shown."""

import numpy as np

from keras_bcgd.utils import tables

_BARS = "▁▂▃▄▅▆▇█"


class SummaryTable(tables.Table):
    """What `summary` found; printed, or shown in a notebook, it is a table.

    In the table W and A are the bits of weights and activations, 32 for float;
    "step" is the scale of the codes, or the alpha of a staircase; large numbers
    are rounded: 36.9k, 2.36M. `rows` and `totals` have the exact ones.

    Attributes:
        rows: List of dicts, one for each layer: `layer`, `kind`, `calls`,
            `weight_bits`, `activation_bits`, `weights`, `float32_bytes`,
            `int8_bytes`, `int4_bytes`, `table_bytes` (as indices into tables,
            with the operator that expands them), `packed_bytes`, `macs` (of
            one sample), `alpha`, `scale` (smallest and largest), `codes` (a
            dict from codes to shares), `dead`, `channels`, `saturated`.
            `None` where a layer has no such number.
        totals: Dict: `weights`, `float32_bytes`, `int8_bytes`, `int4_bytes`
            and `table_bytes` (with those of int8 where a layer has none),
            `packed_bytes`, `other_numbers` (biases, normalization, alphas),
            `macs`, `macs_by_bits` (a dict: `"4W4A"`, ...) and `not_counted`,
            the layers whose operations are not known.

    Example:

    ```python
    table = keras_bcgd.summary(model, x_train)
    print(table)
    print(table.totals["packed_bytes"], [row["dead"] for row in table.rows])
    ```
    """

    def __init__(self, rows, totals, show_flash=False):
        self.totals = totals
        columns = _FIRST_COLUMNS | (_FLASH_COLUMNS if show_flash else _COLUMNS)
        if any(row["dead"] is not None for row in rows):
            columns |= _DATA_COLUMNS
        total = dict.fromkeys(_KEYS) | totals | {"layer": "total", "kind": ""}
        cells = [list(columns)]
        for row in (*rows, total):
            cells.append([show(row) for show in columns.values()])
        super().__init__(rows, cells, _notes(totals), left=2)


def _kind(row):
    calls = row["calls"]
    return row["kind"] if calls in (None, 1) else f"{row['kind']} x{calls}"


def _number(key):
    return lambda row: "-" if row[key] is None else _short(row[key])


def _short(number):
    """9,999, then 10k, 999k, 1M, 999M, 1G."""
    if number < 10_000:
        return f"{number:,}"
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number / 1e3:.3g}k"


def _bits(key):
    return lambda row: "-" if row[key] is None else str(row[key])


def _step(row):
    if row["alpha"] is not None:
        return f"{row['alpha']:.3g}"
    if row["scale"] is None:
        return "-"
    low, high = row["scale"]
    return f"{low:.3g}" if low == high else f"{low:.2g}..{high:.2g}"


def _codes(row):
    """Shares in % of up to 3 codes; of more a picture, from -K to K."""
    if row["codes"] is None:
        return "-"
    shares = np.array(list(row["codes"].values()))
    if len(shares) <= 3:
        return "/".join(f"{100 * share:.0f}" for share in shares) + " %"
    if len(shares) > 15:
        shares = np.array([part.sum() for part in np.array_split(shares, 15)])
    heights = np.ceil(shares / shares.max() * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)


def _dead(row):
    return "-" if row["dead"] is None else f"{row['dead']}/{row['channels']}"


def _saturated(row):
    return (
        "-" if row["saturated"] is None else f"{100 * row['saturated']:.1f} %"
    )


_FIRST_COLUMNS = {
    "layer": lambda row: row["layer"],
    "kind": _kind,
    "W": _bits("weight_bits"),
    "A": _bits("activation_bits"),
    "weights": _number("weights"),
    "packed B": _number("packed_bytes"),
}
_COLUMNS = {
    "MACs": _number("macs"),
    "step": _step,
    "codes -K..K": _codes,
}
_FLASH_COLUMNS = {
    "int4 B": _number("int4_bytes"),
    "tables B": _number("table_bytes"),
    "MACs": _number("macs"),
}
_DATA_COLUMNS = {"dead": _dead, "saturated": _saturated}
_KEYS = (
    "calls",
    "weight_bits",
    "activation_bits",
    "alpha",
    "scale",
    "codes",
    "dead",
    "channels",
    "saturated",
)


def _notes(totals):
    parts = [
        f"{macs:,} {name}" for name, macs in totals["macs_by_bits"].items()
    ]
    notes = [
        f"Bytes of weights: {totals['float32_bytes']:,} as float32, "
        f"{totals['int8_bytes']:,} as int8, {totals['packed_bytes']:,} packed",
        f"In a file, as int8 elsewhere: {totals['int4_bytes']:,} as int4 where "
        f"they fit, {totals['table_bytes']:,} in tables where that is smaller",
        f"MACs: {', '.join(parts) or 'none'}",
    ]
    if totals["not_counted"]:
        names = ", ".join(f"'{name}'" for name in totals["not_counted"])
        notes.append(f"MACs not counted, of kinds that are not known: {names}")
    notes.append(
        f"Besides: {totals['other_numbers']:,} numbers of biases, "
        "normalization and alphas"
    )
    return notes
