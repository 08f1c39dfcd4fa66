"""Aligned columns of text for the reports, and tables that notebooks show."""

import html
import importlib


def columns(rows, left=1):
    """Lines of aligned cells.

    Args:
        rows: List of rows, each a list of strings of one length.
        left: Int, how many columns are aligned on their left; the others are
            on their right. Defaults to `1`.

    Returns:
        List of strings, one for each row.

    Example:

    >>> from keras_bcgd.utils.tables import columns
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


class Table:
    """Numbers by rows, which print as text and show as HTML in a notebook.

    Args:
        rows: List of dicts, the numbers themselves.
        cells: List of lists of strings, what is shown; the first is the
            header.
        notes: List of strings, the lines below. Defaults to `()`.
        left: Int, how many columns are aligned on their left. Defaults to
            `1`.

    Example:

    >>> print(Table([{"bits": 4}], [["layer", "bits"], ["conv1", "4"]]))
    layer  bits
    conv1     4
    """

    def __init__(self, rows, cells, notes=(), left=1):
        self.rows = rows
        self.cells = cells
        self.notes = list(notes)
        self.left = left

    def __str__(self):
        return "\n".join([*columns(self.cells, self.left), *self.notes])

    def _repr_html_(self):
        header, *lines = self.cells
        parts = ["<table><thead>", self._html_row("th", header)]
        parts += ["</thead><tbody>"]
        parts += [self._html_row("td", line) for line in lines]
        parts += ["</tbody></table>"]
        parts += [f"<p>{html.escape(note)}</p>" for note in self.notes]
        return "".join(parts)

    def _html_row(self, tag, cells):
        parts = []
        for i, cell in enumerate(cells):
            side = "left" if i < self.left else "right"
            style = f'style="text-align: {side}; white-space: nowrap"'
            parts.append(f"<{tag} {style}>{html.escape(cell)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    def to_pandas(self):
        """The rows as a `pandas.DataFrame`.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ImportError(
                "`to_pandas` needs pandas: pip install pandas"
            ) from error
        return pandas.DataFrame(self.rows)
