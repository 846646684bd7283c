"""Shifts: what changes around a class, as a prompt that makes images and a caption that checks them."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from ..runtime.errors import UserError
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
        held = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        shifts = [Shift(**entry) for entry in held]
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"the file of shifts {path} does not exist; check the path") from None
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
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
    names = [shift.name for shift in shifts]
    if len(set(names)) < len(names) or not names:
        raise UserError(f"{path} has no shifts, or two with one name; give each its own")
    return shifts
