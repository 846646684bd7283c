"""Names as people type them: of classes, splits, columns."""

import unicodedata
from collections import defaultdict

from ..runtime.english import difference, plain_name, printed_name, some

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
    """Sentences (a list) on names that differ only by case, underscores or blanks, or that print alike."""
    plain, printed = defaultdict(list), defaultdict(list)
    for name in names:
        plain[plain_name(name)].append(name)
    for group in plain.values():
        printed[printed_name(group[0])].append(min(group))
    doubles = [" and ".join(sorted(group)) for group in plain.values() if len(group) > 1]
    notes = [f"{what} {some(doubles)} differ only by case, underscores or blanks"] if doubles else []
    for one, *others in (sorted(group) for group in printed.values()):
        notes += [f"{what} {one} and {other} look alike: they differ in {difference(one, other)}" for other in others]
    return notes
