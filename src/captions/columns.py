"""What metadata columns say of images: "camera is A", "age >= 62", and pairs of the former."""

import datetime
import itertools
from dataclasses import dataclass

import numpy as np

MOST_VALUES = 50  # of a column of categories
MISSING = frozenset({"", "nan", "none", "null", "na", "n/a"})
PAIRED = 30  # single statements that are tried in pairs


@dataclass(frozen=True)
class Column:
    """A column that says something.

    Attributes:
        name: of the column.
        values: numbers float (N,), NaN where missing; or categories, str (N,), "" where missing.
        is_date: the numbers are days.
    """

    name: str
    values: np.ndarray
    is_date: bool = False

    @property
    def is_number(self):
        return self.values.dtype.kind == "f"


def read_columns(metadata, preds, right):
    """The columns that can be asked, and sentences on those that cannot.

    Args:
        metadata: dict of name -> N values.
        preds: (N,), predictions.
        right: bool (N,), where they are right.

    Returns:
        list of `Column`, list of sentences.
    """
    columns, notes = [], []
    for name, values in metadata.items():
        texts = np.array(["" if v is None or str(v).strip().lower() in MISSING else str(v).strip() for v in values])
        there = texts != ""
        distinct = np.unique(texts[there])
        if len(distinct) < 2:
            notes.append(f"column {name} says nothing: it is {'constant' if len(distinct) else 'empty'}")
            continue
        for copied, what in ((preds, "the prediction"), (right, "whether the prediction is right")):
            if there.all() and _same_parts(texts, copied):
                notes.append(f"column {name} is left out: it copies {what}, and would explain everything")
                break
        else:
            numbers, is_date = _numbers(texts, there)
            if numbers is not None and (is_date or len(distinct) > 2):
                columns.append(Column(name, numbers, is_date))
            elif len(distinct) > MOST_VALUES:
                notes.append(f"column {name} is left out: {len(distinct):,} different texts are no categories")
            else:
                columns.append(Column(name, texts))
    return columns, notes


def _same_parts(a, b):
    """Whether two columns part the rows alike."""
    a, b = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    pairs = len(np.unique(a.astype(np.int64) * (b.max() + 1) + b))
    return a.max() == b.max() and pairs == a.max() + 1


def _numbers(texts, there):
    """(numbers or None, whether they are days); texts that are numbers, or dates as 2024-01-31, are taken for them."""
    numbers = np.full(len(texts), np.nan)
    for kind, read in ((False, float), (True, lambda text: datetime.date.fromisoformat(text[:10]).toordinal())):
        try:
            numbers[there] = [read(text) for text in texts[there]]
        except ValueError:
            continue
        if np.isfinite(numbers[there]).all():
            return numbers, kind
    return None, False


def statements(columns, find, confirm, separation):
    """Statements on the images of a class.

    Args:
        columns: list of `Column`.
        find, confirm: positions of the class's images in the columns.
        separation: function of scores (n, S) of the find images -> (S,), which chooses the values to be paired.

    Returns:
        texts, scores (n, S) and (m, S). A text with {} takes the cut, see `said`.
    """
    texts, found, confirmed, values = [], [], [], []
    for column in columns:
        if column.is_number:
            # A missing number is the middle one: it speaks for neither end.
            known = column.values[find][np.isfinite(column.values[find])]
            if not len(known) or known.min() == known.max():
                continue
            filled = np.nan_to_num(column.values, nan=float(np.median(known)))
            for sign, compare in ((1, ">="), (-1, "<=")):
                texts.append(f"{column.name} {compare} {{{'date' if column.is_date else 'number'}}}")
                found.append(sign * filled[find])
                confirmed.append(sign * filled[confirm])
            continue
        for value in np.unique(column.values[find]):
            holds = column.values[find] == value
            if value and not holds.all():
                values.append((len(texts), column.name))
                texts.append(f"{column.name} is {value}".replace("{", "{{").replace("}", "}}"))
                found.append(holds.astype(float))
                confirmed.append((column.values[confirm] == value).astype(float))
    if not texts:
        return [], np.empty((len(find), 0)), np.empty((len(confirm), 0))
    found, confirmed = np.stack(found, axis=1), np.stack(confirmed, axis=1)
    if not values:
        return texts, found, confirmed
    single = separation(found[:, [i for i, _ in values]])
    best = [values[k] for k in np.argsort(-single, kind="stable")[:PAIRED]]
    pairs = [(i, j) for (i, a), (j, b) in itertools.combinations(best, 2) if a != b]
    pairs = [(i, j) for i, j in pairs if (found[:, i] * found[:, j]).any()]
    if pairs:
        first, second = np.array(pairs).T
        texts = [*texts, *(f"{texts[i]} and {texts[j]}" for i, j in pairs)]
        found = np.concatenate([found, found[:, first] * found[:, second]], axis=1)
        confirmed = np.concatenate([confirmed, confirmed[:, first] * confirmed[:, second]], axis=1)
    return texts, found, confirmed


def said(text, cut):
    """A statement with the cut of its number or date in it; "at most" statements have scores of turned sign."""
    value = -cut if "<= {" in text else cut
    if "{date}" in text:
        return text.format(date=datetime.date.fromordinal(round(value)).isoformat())
    return text.format(number=f"{value:g}")
