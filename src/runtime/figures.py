"""Figures for people: matplotlib, from arrays. They need no display; a notebook shows them where they end a cell."""

import io

from matplotlib.figure import Figure as _Figure

RIGHT, WRONG = "#2f6f9f", "#b5482a"  # blue and rust: apart in grey and for the colour-blind, too


class Figure(_Figure):
    """A matplotlib figure that notebooks show without pyplot, its global state and its windows."""

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def plain_text(text):
    """A class name may hold dollars, which matplotlib would read as mathematics."""
    return text.replace("$", r"\$")
