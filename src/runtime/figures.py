"""Figures for people: matplotlib, from arrays. They need no display; a notebook shows them where they end a cell."""

import io
from pathlib import Path

from matplotlib.figure import Figure as _Figure

from .errors import UserError
from .files import atomic_path

FORMATS = (".png", ".pdf", ".svg")
RIGHT, WRONG = "#2f6f9f", "#b5482a"  # blue and rust: apart in grey and for the colour-blind, too


class Figure(_Figure):
    """A matplotlib figure that notebooks show without pyplot, its global state and its windows."""

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def save_figure(figure, filename):
    """Write a figure, atomically; the ending of the name chooses the format. Raises `UserError` for another ending."""
    ending = Path(filename).suffix.lower()
    if ending not in FORMATS:
        raise UserError(f"cannot save a figure as {filename}: the name must end in {', '.join(FORMATS)}")
    with atomic_path(filename) as temporary:
        figure.savefig(temporary, format=ending[1:])


def plain_text(text):
    """A class name may hold dollars, which matplotlib would read as mathematics."""
    return text.replace("$", r"\$")
