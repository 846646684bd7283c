"""Shifts: what changes around a class, as a prompt that makes images and a caption that checks them."""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.yaml_files import read_yaml
from .tokens import PLACEHOLDER

SHIFTS_FILE = Path(__file__).resolve().parent / "shifts.yaml"
BASE = "base"  # the name of the entry without a shift, with which the others are compared


@dataclass(frozen=True)
class Shift:
    """One shift. `caption` is None for the base, which shows the class as it is."""

    name: str
    prompt: str
    caption: str | None = None
    group: str = ""

    @property
    def slug(self):
        """The name as that of a folder."""
        return self.name.replace(" ", "_")


def load_shifts(path=SHIFTS_FILE):
    """Shifts of a YAML file (default: the 23 of ImageNet* and the base), a list of name, prompt, [caption, group].

    >>> len(load_shifts())
    24
    """
    try:
        shifts = [Shift(**entry) for entry in read_yaml(path, "file of shifts", "see src/interfaces/shifts.yaml", list)]
    except TypeError as error:
        raise UserError(
            f"{path} is not a list of shifts, each with name, prompt, and at most caption and group"
        ) from error
    for shift in shifts:
        if not all(isinstance(text, str) for text in (shift.name, shift.prompt, shift.caption or "", shift.group)):
            raise UserError(f"a shift of {path} is not made of texts: {shift}; put quotes around them")
        if PLACEHOLDER not in shift.prompt:
            raise UserError(f'the prompt "{shift.prompt}" in {path} has no {PLACEHOLDER}; put it where the class goes')
        if not shift.slug or shift.slug.startswith(".") or "/" in shift.slug or "\\" in shift.slug:
            raise UserError(f'the name "{shift.name}" in {path} cannot be a folder\'s; use letters and spaces')
    if not shifts:
        raise UserError(f"{path} has no shifts; give at least one")
    by_folder = {}
    for shift in shifts:
        # As file systems that do not tell cases or composed accents apart see it.
        folder = unicodedata.normalize("NFC", shift.slug).casefold()
        other = by_folder.setdefault(folder, shift)
        if other is not shift:
            raise UserError(f'the shifts "{other.name}" and "{shift.name}" of {path} share a folder; rename one')
    return shifts
