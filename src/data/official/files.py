"""What the readers of official files share: finding a file, reading a list, and checking what it says."""

import csv
import os
from pathlib import Path

import numpy as np

from ...runtime.errors import UserError
from .. import SPLITS

SPLIT_NUMBERS = {"0": 0, "1": 1, "2": 2}  # how official lists write train, val and test


def official_path(folder, names, origin):
    """The first of `names` that is in `folder`; `UserError` naming the first of them and `origin`, where it is got."""
    for name in names:
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise UserError(f"{folder} has no {names[0]}; get it from {origin}")


def read_lines(path):
    """Lines of a text file as lists of words, blank lines left out."""
    try:
        return [words for words in map(str.split, path.read_text(encoding="utf-8").splitlines()) if words]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file; get it again") from None


def read_table(path, columns):
    """Rows of an official CSV as dicts, which must have these columns among others."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            rows, lines = [], []
            for row in reader:
                rows.append(row)
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a CSV in UTF-8 ({error}); get it again") from None
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}; get the official file again")
    for line, row in zip(lines, rows, strict=True):
        if any(row[column] is None for column in columns):
            raise UserError(f"{path} line {line} is cut off; get the file again")
    if not rows:
        raise UserError(f"{path} lists no images; get it again")
    return rows


def codes(path, what, words, known):
    """Words as numbers, (N,) int64, by a dict word -> number; `UserError` names the first word that is not in it."""
    try:
        return np.array([known[word] for word in words], dtype=np.int64)
    except KeyError as error:
        raise UserError(
            f"{path}: {what} is {error.args[0]!r} somewhere, but must be one of {', '.join(known)}; get the file again"
        ) from None


def listed_images(folder, names, listing):
    """Paths of the images that `listing` names within `folder`: each once, none outside, all there."""
    if len(set(names)) < len(names):
        raise UserError(f"{listing} names an image twice; get the file again")
    for name in names:
        inside = os.path.normpath(name)
        if os.path.isabs(inside) or inside.split(os.sep)[0] == os.pardir:
            raise UserError(f"{listing} names {name}, which lies outside {folder}; get the official file again")
    paths = [Path(folder) / name for name in names]
    check_present(paths, listing)
    return paths


def check_present(paths, listing):
    """Raise `UserError` where images that `listing` names are not there."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing):,} of the images that {listing} names are not there, such as {missing[0]}; "
            "unpack the whole archive"
        )


def by_split(everything, numbers):
    """The official splits of images.

    Args:
        everything: an `ImageFiles` of N.
        numbers: int (N,), 0 for train, 1 for val and 2 for test (`SPLIT_NUMBERS`).

    Returns:
        dict split -> `ImageFiles`.

    Raises:
        UserError: as `check_classes`.
    """
    sources = {split: everything.keep(np.flatnonzero(numbers == number)) for number, split in enumerate(SPLITS[:3])}
    check_classes(sources)
    return sources


def check_classes(sources):
    """Raise `UserError` where a split has no example of a class (for BCE: none with a condition)."""
    for split, source in sources.items():
        labels = source.labels
        counts = labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(source.class_names))
        for name, count in zip(source.class_names, counts, strict=True):
            if count == 0:
                raise UserError(f"{split} has no image of {name}; the files are not whole, get them again")
