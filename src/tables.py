"""Tables for the terminal."""

from tabulate import tabulate


def format_table(header, rows, left=1):
    """Text of a table, its first `left` columns flush left; floats with three decimals, NaN and None as "-"."""
    return tabulate([[_cell(value) for value in row] for row in rows], header, disable_numparse=True,
                    colalign=["left"] * left + ["right"] * (len(header) - left))  # fmt: skip


def _cell(value):
    if value is None or (isinstance(value, float) and value != value):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
