"""Names as people type them: of classes, splits, columns."""

import unicodedata
from collections import defaultdict

from ..runtime.english import plain_name, some

SPLIT_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "find": "val",
    "test": "test",
    "confirm": "test",
}
"""Splits by the names that they go under, casefolded: failures are found in val and confirmed in test."""


def clean_name(text):
    """A name without blanks around it, its accents composed (NFC): on a Mac, file names have them apart."""
    return unicodedata.normalize("NFC", str(text)).strip()


def alike(names, what):
    """Sentences (a list, of one or none) on names that differ only by case, underscores or blanks."""
    groups = defaultdict(list)
    for name in names:
        groups[plain_name(name)].append(name)
    doubles = [" and ".join(sorted(group)) for group in groups.values() if len(group) > 1]
    return [f"{what} {some(doubles)} differ only by case, underscores or blanks"] if doubles else []
