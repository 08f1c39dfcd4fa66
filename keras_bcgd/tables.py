"""Aligned columns of text for the reports."""


def columns(rows, left=1):
    """Lines of aligned cells.

    Args:
        rows: List of rows, each a list of strings of one length.
        left: Int, how many columns are aligned on their left; the others are
            on their right. Defaults to `1`.

    Returns:
        List of strings, one for each row.

    Example:

    >>> from keras_bcgd.tables import columns
    >>> columns([["layer", "bits"], ["a", "4"]])
    ['layer  bits', 'a         4']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
