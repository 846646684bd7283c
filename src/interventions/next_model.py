"""Is the next model better where the last one failed? Two models on the same images, slice by slice.

Arrays in, plain rows out; the only files here are the table that `save_rows` writes and `load_rows` reads.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from scipy import stats

from ..directions.confirmation import benjamini_hochberg, hypergeometric_p, wilson_interval
from ..runtime.errors import UserError
from ..runtime.files import read_rows, write_rows

REST, ALL = "rest", "all"
FIXED, PERSISTS, WORSE, NEW, BETTER, UNCLEAR = "fixed", "persists", "worse", "new", "better", "no clear change"
VERDICTS = (FIXED, PERSISTS, WORSE, NEW, BETTER, UNCLEAR)
CONFIDENCE = 0.95
SAME_FAILURE = 0.5  # share of a new slice's images in the old ones from which on it is the old failure


@dataclass(frozen=True)
class ModelRow:
    """Both models on some of the images.

    Attributes:
        name: id of a slice, "rest" (images in no confirmed slice) or "all".
        images: how many.
        error_before, error_after: 0..1; before is NaN for a new failure whose images the old model has not seen.
        became_right, became_wrong: images that only the old, and only the new model has wrong.
        difference: of the error rates, after - before: below 0 is better.
        low, high: its 95 % interval, Newcombe's for paired proportions.
        p_value, q_value: McNemar's exact test, two-sided, and its Benjamini-Hochberg adjustment over the table.
        verdict: a slice is "fixed" (clearly fewer errors, and no longer confirmed against the rest of its class),
            "worse" or "persists", or "new", of the new model alone; rest and all are "better", "worse", or neither.
    """

    name: str
    images: int
    error_before: float
    error_after: float
    became_right: int
    became_wrong: int
    difference: float
    low: float
    high: float
    p_value: float
    q_value: float
    verdict: str


def mcnemar_p(one, other):
    """McNemar's exact test, two-sided: were `one` and `other` discordant images drawn with a chance of 1/2 each?

    Args:
        one, other: how many images only the one, and only the other model has wrong.

    Returns:
        float: 1 where no image is discordant.
    """
    return float(min(1.0, 2 * stats.binom.cdf(min(one, other), one + other, 0.5)))


def paired_newcombe_interval(both, first, second, neither, level=CONFIDENCE):
    """Interval of the difference of two paired proportions, (both + second - both - first) / n.

    Source: Newcombe (1998), Statistics in Medicine 17, 2635, method 10: score intervals of both proportions, joined by
    their correlation, which is corrected for continuity where it is positive.

    Args:
        both, first, second, neither: counts, which may be effective numbers, of what happened in both of a pair, in the
            first or in the second alone, or in neither.
        level: of confidence.

    Returns:
        (low, high), NaN where there is no pair.
    """
    n = both + first + second + neither
    if not n:
        return float("nan"), float("nan")
    rates = ((both + first) / n, (both + second) / n)
    (low1, high1), (low2, high2) = (wilson_interval(rate, n, level) for rate in rates)
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    excess = both * neither - first * second
    if excess > 0:
        excess = max(0.0, excess - n / 2)
    phi = excess / product**0.5 if product else 0.0

    def distance(a, b):
        return max(0.0, a * a - 2 * phi * a * b + b * b) ** 0.5

    difference = (second - first) / n
    return (
        float(difference - distance(rates[1] - low2, high1 - rates[0])),
        float(difference + distance(high2 - rates[1], rates[0] - low1)),
    )


def compare_models(slices, labels, before, after, groups=None, fdr=0.1):
    """Rows of each slice, of the rest and of all images.

    Args:
        slices: dict name -> int (k,), the positions of its images; an image may be in none or several.
        labels: int (N,), true classes.
        before, after: bool (N,), where the old and where the new model is wrong.
        groups: (N,) of anything comparable, or None; with them whole groups are counted as better or worse.
        fdr: level of the Benjamini-Hochberg procedure.

    Returns:
        list of `ModelRow`.

    Raises:
        UserError: there is no image.
    """
    if not len(labels):
        raise UserError("there are no images to compare two models on; give predictions for images that both have seen")
    in_any = np.zeros(len(labels), dtype=bool)
    for members in slices.values():
        in_any[members] = True
    parts = {**slices, REST: np.flatnonzero(~in_any), ALL: np.arange(len(labels))}
    rows = [_counted(name, before[of], after[of], None if groups is None else groups[of]) for name, of in parts.items()]
    q = benjamini_hochberg([row.p_value for row in rows])
    failing = benjamini_hochberg([_still_fails_p(of, in_any, labels, after) for of in slices.values()]) <= fdr
    failing = [*failing, None, None]
    return [
        replace(row, q_value=float(q_value), verdict=_verdict(row, q_value <= fdr, fails))
        for row, q_value, fails in zip(rows, q, failing, strict=True)
    ]


def _counted(name, before, after, groups):
    """A row without what depends on the table; bool (n,) errors."""
    n = len(before)
    right, wrong = int((before & ~after).sum()), int((~before & after).sum())
    both, neither = int((before & after).sum()), int((~before & ~after).sum())
    change = after.astype(float) - before
    p, weight = mcnemar_p(right, wrong), 1.0
    if groups is not None and n:
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        of_group = np.bincount(group, change)
        p = mcnemar_p(int((of_group < 0).sum()), int((of_group > 0).sum()))
        # Images of a group change together: the design effect (Kish 1965) of the mean change.
        around = change - change.mean()
        spread = (around**2).sum()
        effect = (np.bincount(group, around) ** 2).sum() / spread if spread else (sizes**2).sum() / n
        weight = 1 / max(1.0, n if len(sizes) == 1 else effect)
    counts = [weight * count for count in (both, right, wrong, neither)]
    rates = [float(errors.mean()) if n else float("nan") for errors in (before, after)]
    interval = paired_newcombe_interval(*counts)
    return ModelRow(name, n, *rates, right, wrong, rates[1] - rates[0], *interval, p, float("nan"), "")


def _still_fails_p(members, in_any, labels, after):
    """p that the new model is as often wrong on a slice's images as on the rest of their class."""
    flagged = np.isin(np.arange(len(labels)), members)
    of = flagged | (np.isin(labels, labels[members]) & ~in_any)
    if not flagged.any():
        return 1.0
    return hypergeometric_p(flagged[of], after[of])


def _verdict(row, is_clear, fails):
    """What is said of a row, of which `fails` tells whether a slice is still confirmed: None for what is no slice."""
    if is_clear and row.became_wrong > row.became_right:
        return WORSE
    better = is_clear and row.became_right > row.became_wrong
    if fails is None:
        return BETTER if better else UNCLEAR
    return FIXED if better and not fails else PERSISTS


def new_failures(candidates, old, before, after):
    """Rows of the new model's slices that are none of the old.

    Args:
        candidates: dict name -> int (k,), positions of the images of the new model's confirmed slices.
        old: list of int (k,), those of the old model's.
        before, after: bool (N,), where each model is wrong.

    Returns:
        list of `ModelRow` with the verdict "new": slices of which less than half lies in the old ones. Their images
        were chosen for the new model's errors, so that no test against the old model is made.
    """
    known = np.unique(np.concatenate([np.array([], np.int64), *old]))
    rows = []
    for name, members in candidates.items():
        if np.isin(members, known).mean() < SAME_FAILURE:
            row = _counted(name, before[members], after[members], None)
            rows.append(replace(row, low=np.nan, high=np.nan, p_value=np.nan, verdict=NEW))
    return rows


def save_rows(path, rows):
    """Write rows as CSV, a column a field."""
    write_rows(path, ModelRow, rows)


def load_rows(path):
    """The list of `ModelRow` that `save_rows` wrote.

    Raises:
        UserError: the file is missing, or is another.
    """
    path = Path(path)
    again = "make it with failure-directions compare --predictions"
    if not path.is_file():
        raise UserError(f"comparison {path} does not exist; {again}")
    try:
        rows = read_rows(path, ModelRow)
    except ValueError:
        rows = []
    if not rows or any(row.verdict not in VERDICTS for row in rows):
        raise UserError(f"{path} is no comparison of two models; {again}")
    return rows


def is_of_models(path):
    """Whether a file begins as `save_rows` writes it, and not as the comparison of runs does."""
    if not Path(path).is_file():  # a pipe or a device would be waited for
        return False
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.readline().strip() == ",".join(field.name for field in fields(ModelRow))
    except (OSError, UnicodeDecodeError):
        return False
