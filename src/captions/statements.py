"""Which statements hold of a slice: learned on the images that found it, tested on the images that confirmed it.

A statement is a number an image, higher where it holds more. It is trusted where two things are so on confirm images:
it tells the slice from the rest of its class, and the images for which it holds, flagged or not, are more often wrong
than those for which it does not. The second bites: a score and a slice of one embedding go together anyway.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..directions.confirmation import hypergeometric_p

NAMES, GOES_WITH, NOTHING = "names it", "goes with it", "no words found"
LEAST_AUROC = 0.70  # the lower end of the interval of what separates
SAME = 0.9  # correlation from which statements are one
MOST = 5  # statements tested a slice
POOL = 50  # statements looked through for groups
SHOWN = 8  # images a side that speak against a statement


@dataclass(frozen=True, kw_only=True)
class Held:
    """A statement about a slice. Positions are columns of the scores.

    Attributes:
        column: which statement stands for its group.
        separation: AUROC of slice against the class's rest in find.
        cut: from which score on the statement holds, fixed in find.
        auroc, low, high: the same in confirm with its 95 % interval.
        holds: confirm images of the class for which it holds.
        error_rate, rest_error_rate: of those and of all others of the class; NaN where there is none.
        p_value: one-sided, that the first is no higher; NaN where an earlier statement failed, so that it wasn't asked.
        verdict: `NAMES`, `GOES_WITH` or `NOTHING`.
        holds_elsewhere: rows of confirm, at most `SHOWN`: of the class's rest, where it holds, highest score first.
        fails_inside: the same of the slice, where it does not hold, lowest score first.
    """

    column: int
    separation: float
    cut: float
    auroc: float
    low: float
    high: float
    holds: int
    error_rate: float
    rest_error_rate: float
    p_value: float
    verdict: str
    holds_elsewhere: tuple
    fails_inside: tuple


def separations(scores, members):
    """AUROCs (S,) of scores (n, S) for members bool (n,), ties counting half; 0.5 where one side is empty."""
    inside, outside = int(members.sum()), int((~members).sum())
    if not inside or not outside:
        return np.full(scores.shape[1], 0.5)
    ranks = stats.rankdata(scores, axis=0)
    return (ranks[members].sum(axis=0) - inside * (inside + 1) / 2) / (inside * outside)


def auroc_interval(scores, members, level=0.95):
    """(AUROC, low, high) of one statement: DeLong's variance, at least that of Hanley and McNeil, on the logit scale.

    DeLong, DeLong and Clarke-Pearson, Biometrics 1988; Hanley and McNeil, Radiology 1982. The second keeps the interval
    open where the sides do not overlap at all. (0.5, 0, 1) where one side is empty.
    """
    inside, outside = scores[members], scores[~members]
    m, n = len(inside), len(outside)
    if not m or not n:
        return 0.5, 0.0, 1.0
    above = _share_below(outside, inside)
    below = 1 - _share_below(inside, outside)
    auroc = float(above.mean())
    a = float(np.clip(auroc, 1 / (2 * m * n + 1), 1 - 1 / (2 * m * n + 1)))
    delong = sum(part.var(ddof=1) / len(part) for part in (above, below) if len(part) > 1)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    hanley = (a * (1 - a) + (m - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (m * n)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(max(delong, hanley)) / (a * (1 - a))
    low, high = 1 / (1 + np.exp(-(np.log(a / (1 - a)) + np.array([-half, half]))))
    return auroc, float(low), float(high)


def _share_below(scores, at):
    """The share of scores below each of `at`, ties counting half."""
    scores = np.sort(scores)
    return (np.searchsorted(scores, at) + np.searchsorted(scores, at, side="right")) / (2 * len(scores))


def best_cut(scores, members):
    """The score from which a statement best tells members from others: the highest cut of highest balanced accuracy."""
    values = np.unique(scores)[::-1]
    place = np.searchsorted(-values, -scores)
    inside = np.bincount(place[members], minlength=len(values)).cumsum() / max(1, members.sum())
    outside = np.bincount(place[~members], minlength=len(values)).cumsum() / max(1, (~members).sum())
    return float(values[np.argmax(inside - outside)])


def held_statements(find, find_members, confirm, confirm_members, wrong, texts, level, most=MOST):
    """The statements that best separate a slice in find, tested in confirm: list of `Held`, in that order.

    They are tested in the order of find, each at the full level, until one fails: so the chance that any of a slice's
    is falsely said to carry errors stays below the level.

    Args:
        find, confirm: float (n, S) and (m, S), finite scores of the images of the slice's class.
        find_members, confirm_members: bool (n,) and (m,), the images of the slice.
        wrong: bool (m,), where the model errs.
        texts: S strings; of near-equal statements the shortest stands for all.
        level: of the tests of errors.
        most: statements tested.
    """
    if not find.shape[1]:
        return []
    separation = separations(find, find_members)
    tested, asked = [], True
    for column in _distinct(find, separation, texts, most):
        cut = best_cut(find[:, column], find_members)
        auroc, low, high = auroc_interval(confirm[:, column], confirm_members)
        holds = confirm[:, column] >= cut
        rates = [float(wrong[rows].mean()) if rows.any() else float("nan") for rows in (holds, ~holds)]
        p = float(hypergeometric_p(holds, wrong)) if asked and holds.any() and not holds.all() else float("nan")
        separates = low >= LEAST_AUROC
        asked = asked and p <= level
        verdict = NAMES if separates and asked else GOES_WITH if separates else NOTHING
        tested.append(
            Held(
                column=int(column),
                separation=float(separation[column]),
                cut=cut,
                auroc=auroc,
                low=low,
                high=high,
                holds=int(holds.sum()),
                error_rate=rates[0],
                rest_error_rate=rates[1],
                p_value=p,
                verdict=verdict,
                holds_elsewhere=_first(holds & ~confirm_members, -confirm[:, column]),
                fails_inside=_first(~holds & confirm_members, confirm[:, column]),
            )
        )
    return tested


def _first(rows, order):
    """At most `SHOWN` of the rows that a mask chooses, by rising order."""
    rows = np.flatnonzero(rows)
    return tuple(rows[np.argsort(order[rows], kind="stable")[:SHOWN]].tolist())


def _distinct(scores, separation, texts, most):
    """Columns by falling separation, near-equal ones once: the shortest text stands for its group."""
    order = [i for i in np.argsort(-separation, kind="stable")[:POOL] if separation[i] > 0.5]
    z = scores[:, order] - scores[:, order].mean(axis=0)
    z = z / np.maximum(np.linalg.norm(z, axis=0), 1e-12)
    alike = z.T @ z > SAME
    chosen, left = [], np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if left[i]:
            group = np.flatnonzero(alike[i] & left)
            left[group] = left[i] = False
            chosen.append(order[min({i, *group.tolist()}, key=lambda j: (len(texts[order[j]]), j))])
        if len(chosen) == most:
            break
    return chosen
