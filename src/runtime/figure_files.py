"""Figures as files. Without matplotlib: the figure brings it."""

from pathlib import Path

from .errors import UserError
from .files import atomic_path

FORMATS = (".png", ".pdf", ".svg")


def save_figure(figure, filename):
    """Write a figure of matplotlib, atomically; the ending of the name chooses the format.

    Raises:
        UserError: the name ends in no format that is known.
    """
    ending = Path(filename).suffix.lower()
    if ending not in FORMATS:
        raise UserError(f"cannot save a figure as {filename}: the name must end in {', '.join(FORMATS)}")
    with atomic_path(filename) as temporary:
        figure.savefig(temporary, format=ending[1:])
