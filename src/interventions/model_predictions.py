"""A model's predictions, from wherever people have them, for the images that another model's failures were found in."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.image_tables import read_table
from ..directions.results import read_result
from ..runtime.english import some
from ..runtime.errors import UserError
from .comparison import load_run
from .next_model import ALL, REST


@dataclass(frozen=True)
class Matched:
    """What a model says of some images of a result's split.

    Attributes:
        positions: int (n,) in the split, ascending.
        preds: int (n,), in the result's class numbers; -1 for a class that it does not have.
        groups: (n,) of str, or None.
        found: dict name -> positions of the images of the model's own confirmed slices; None where none were sought.
    """

    positions: np.ndarray
    preds: np.ndarray
    groups: np.ndarray | None = None
    found: dict | None = None


def match_predictions(source, result, split, image_root=None):
    """`Matched` of a model's predictions and a result's split.

    Args:
        source: a table with predictions (docs/your_own_model.md), a result of the model (OUT.pt), whose confirm split
            is taken, or a folder of a run of failure-directions train.
        result: `Result`.
        split: name of the split.
        image_root: folder that a table's paths are relative to.

    Raises:
        UserError: no predictions, no image in common, an image that is there twice, or labels that differ.
    """
    path, entry = Path(source), result.splits[split]
    if path.is_dir():
        return _of_run(path, entry)
    if path.suffix == ".pt":
        return _of_result(path, result, entry)
    table = read_table(source, image_root)
    _check_predicted(table)
    keys, known = table.texts, (entry.metadata or {}).get("text")
    if table.texts is None:
        keys, known = table.paths, entry.paths
    if known is None:
        raise UserError(
            f"{source} names images, but the result does not know its images' "
            f"{'files' if table.texts is None else 'texts'}; give a run of failure-directions train or a result of the "
            "new model"
        )
    rows, positions = _in_common(keys, known, source, files=table.texts is None)
    names = _numbers_of(table.class_names, result.class_names)
    _check_labels(names[table.labels[rows]], entry.classes[positions], source, result.class_names)
    groups = None if table.group is None else table.group[rows]
    return Matched(positions, names[table.preds[rows]], groups)


def _of_run(path, entry):
    runs = load_run(path)
    if len(runs) > 1:
        raise UserError(f"{path} has {len(runs)} runs, with the seeds {some(map(str, runs))}; give the folder of one")
    test = next(iter(runs.values()))
    if not np.array_equal(test["indices"], entry.indices) or not np.array_equal(test["labels"], entry.classes):
        raise UserError(f"{path} was tested on other images than those of the result; train and distil on the same")
    return Matched(np.arange(len(entry)), test["preds"])


def _of_result(path, result, entry):
    other = read_result(path)
    if other.found is None:
        raise UserError(f"{path} is of an earlier version, which sought no slices; make it again")
    of = other.splits[other.found.confirm]
    by_file = entry.paths is not None and of.paths is not None
    keys, known = (of.paths, entry.paths) if by_file else (of.indices.tolist(), entry.indices.tolist())
    rows, positions = _in_common(keys, known, path, files=by_file)
    names = _numbers_of(other.class_names, result.class_names)
    _check_labels(names[of.classes[rows]], entry.classes[positions], path, result.class_names)
    place = dict(zip(rows.tolist(), positions.tolist(), strict=True))
    found = {
        one.id: np.array([place[row] for row in one.members.tolist() if row in place], dtype=np.int64)
        for one in other.found.confirmed
    }
    found = {name: members for name, members in found.items() if len(members)}
    return Matched(positions, names[of.preds[rows]], found=found)


def _in_common(keys, known, source, files, other="the result"):
    """Rows of `keys` and positions in `known` of what is in both, by position; files by their place, else by name."""
    for cut in (_whole, _name) if files else (_whole,):
        ours, theirs = [cut(key) for key in known], [cut(key) for key in keys]
        common = set(ours) & set(theirs)
        if common:
            break
    else:
        raise UserError(
            f"{source} has none of the images that {other} confirmed failures in; give predictions for these (their "
            "paths are in the CSV of each split beside a result)"
        )
    for where, names in ((source, theirs), (other, ours)):
        twice = [name for name, count in Counter(names).items() if count > 1 and name in common]
        if twice:
            raise UserError(f"{where} has {some(map(str, twice), 2)} more than once; give each image one prediction")
    row = {key: i for i, key in enumerate(theirs)}
    positions = [i for i, key in enumerate(ours) if key in common]
    return np.array([row[ours[i]] for i in positions]), np.array(positions)


def _whole(key):
    return str(Path(key).absolute().resolve()) if isinstance(key, str) and "\n" not in key else key


def _name(key):
    return Path(key).name


def _numbers_of(names, known):
    """int (K,): the number in `known` of each name, -1 where it has none."""
    number = {name: c for c, name in enumerate(known)}
    return np.array([number.get(name, -1) for name in names])


def _check_labels(labels, expected, source, names, other="the result"):
    differ = np.flatnonzero(labels != expected)
    if len(differ):
        raise UserError(
            f"{source} labels {len(differ)} of the images otherwise than {other} (one is "
            f"{names[expected[differ[0]]]!r} there); compare models on the same labels"
        )


def read_slices(source, image_root=None):
    """Groups of images from a table's column `slice`: the table, and dict name -> int (k,) rows.

    Several names in a cell are joined by |; an empty cell is in none.

    Raises:
        UserError: no predictions, or no such column.
    """
    table = read_table(source, image_root)
    _check_predicted(table)
    if "slice" not in table.metadata:
        raise UserError(f"{source} has no column slice; name each image's failures in it, or give --svm OUT.pt")
    slices = {}
    for i, cell in enumerate(table.metadata["slice"]):
        for name in filter(None, (part.strip() for part in str(cell or "").split("|"))):
            slices.setdefault(name, []).append(i)
    for name in {REST, ALL} & set(slices):
        raise UserError(f"{source} calls a slice {name}, which is the table's own word; rename it")
    return table, {name: np.array(rows) for name, rows in sorted(slices.items())}


def match_tables(old, new):
    """What a second table predicts for the images of a first.

    Args:
        old, new: `ImageTable`.

    Returns:
        (rows, preds): int (n,) rows of `old` that are in both, ascending, and predictions in its class numbers, -1 for
        a class that it does not have.

    Raises:
        UserError: as `match_predictions`.
    """
    _check_predicted(new)
    if (old.texts is None) != (new.texts is None):
        raise UserError(f"one of {old.name} and {new.name} has texts and the other has images; compare the same")
    files = old.texts is None
    keys, known = (new.paths, old.paths) if files else (new.texts, old.texts)
    rows, positions = _in_common(keys, known, new.name, files, f"{old.name}")
    names = _numbers_of(new.class_names, old.class_names)
    _check_labels(names[new.labels[rows]], old.labels[positions], new.name, old.class_names, old.name)
    return positions, names[new.preds[rows]]


def _check_predicted(table):
    if table.has_conditions:
        raise UserError(
            f"{table.name} has several labels an image; give a table with one, of the condition in question"
        )
    if table.preds is None:
        raise UserError(f"{table.name} has neither pred nor prob_ columns: add the model's predictions")
