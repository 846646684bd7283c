"""Tables for the terminal."""

from tabulate import tabulate


def format_table(header, rows, left=1):
    """Text of a table; floats with three decimals, NaN and None as "-".

    Flush left are the first `left` columns and those without a name, which hold remarks.
    """
    alignment = ["left" if i < left or not name else "right" for i, name in enumerate(header)]
    cells = [[_cell(value) for value in row] for row in rows]
    return tabulate(cells, header, disable_numparse=True, colalign=alignment)


def _cell(value):
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
