"""Which images to label next: a list of some of a pool without labels, and the list read back once it has labels.

The list is a CSV `path,label,class,slice,score`: `label` is empty, to be filled in; `class` is what the model takes the
image for, `slice` the confirmed failure that chose it, and `score` its decision value there, flagged at or below 0.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.image_tables import read_csv
from ..data.names import clean_name
from ..runtime.english import nearest, some
from ..runtime.errors import UserError
from ..runtime.files import without_apostrophe, write_csv
from .choosing import choose_by_slice, shared_budget

COLUMNS = ("path", "label", "class", "slice", "score")


@dataclass(frozen=True)
class Chosen:
    """An image to be labelled; see the columns of the list."""

    path: Path
    guess: str
    slice: str
    score: float


def choose_to_label(paths, guesses, values, slices, budget, share="errors"):
    """The images that look hardest to the failures of the class that each is guessed to be.

    Args:
        paths: list of N.
        guesses: int (N,), the classes that the model predicts.
        values: (N, S), decision values of the slices of these, by rank.
        slices: list of `confirmation.Slice`, which share the budget.
        budget: int.
        share: see `choosing.shared_budget`.

    Returns:
        list of `Chosen`, a slice after another, hardest first; fewer than the budget where classes have no more.

    Raises:
        UserError: the pool is smaller than the budget.
    """
    if len(paths) < budget:
        raise UserError(f"the pool has {len(paths)} images, fewer than the budget of {budget}: label them all, or less")
    taken = choose_by_slice(slices, shared_budget(slices, budget, share), guesses, values)
    return [
        Chosen(Path(paths[i]), one.class_name, one.id, float(values[i, one.rank - 1]))
        for one in slices
        for i in taken[one.id].tolist()
    ]


def write_to_label(path, chosen):
    """Write the list of `Chosen`; paths are relative to its folder where they lie in it."""
    rows = [[_below(one.path, path), "", one.guess, one.slice, f"{one.score:.6f}"] for one in chosen]
    write_csv(path, COLUMNS, rows, for_people=True)


def _below(path, table):
    path, folder = Path(path).absolute(), Path(table).absolute().parent
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


@dataclass(frozen=True)
class Labelled:
    """What came back of the list.

    Attributes:
        paths: list of n absolute paths, of the images that have a label.
        labels: int (n,), class numbers.
        guesses, slices: lists of n strings, "" where the list has them no more.
        without: how many images have no label.
    """

    paths: list
    labels: np.ndarray
    guesses: list
    slices: list
    without: int


def read_labelled(path, class_names):
    """The list with its labels filled in: `Labelled`.

    Args:
        path: of a CSV with the columns path and label; those of the list that are missing say nothing.
        class_names: list of K strings.

    Raises:
        UserError: no such file or columns, no label at all, a label that is no class, an image that is missing or there
            twice.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--labelled {path} does not exist; give the CSV that --pool wrote, with its labels")
    columns, lines, _ = read_csv(path)
    if not {"path", "label"} <= set(columns):
        raise UserError(f"{path} has the columns {some(columns) or '(none)'}, but must have path and label")
    known = {clean_name(name): c for c, name in enumerate(class_names)}
    rows, paths, labels, seen = [], [], [], set()
    for i, (cell, word) in enumerate(zip(columns["path"], columns["label"], strict=True)):
        word = clean_name(without_apostrophe(word))
        if not word:
            continue
        if word not in known:
            hint = nearest(word, known, f"the classes are {some(known)}")
            raise UserError(f"{path} line {lines[i]}: label is {word[:80]!r}, which is no class; {hint}")
        image = path.absolute().parent / without_apostrophe(cell.strip())
        if not image.is_file():
            raise UserError(f"{path} line {lines[i]}: the image {image} does not exist; correct the path")
        if image in seen:
            raise UserError(f"{path} line {lines[i]}: {image} is there twice; give each image one label")
        seen.add(image)
        rows.append(i)
        paths.append(image)
        labels.append(known[word])
    if not rows:
        raise UserError(f"{path} has no label yet: fill the column label with {some(known)}")
    guesses, slices = (
        [without_apostrophe(columns[name][i]) if name in columns else "" for i in rows] for name in ("class", "slice")
    )
    return Labelled(paths, np.array(labels), guesses, slices, len(lines) - len(rows))
