"""The same test for every method: which of its guesses hold on images that did not find them?

Methods have no test of their own, or each another one; with one test for all their claims can be compared.
In each class a guess flags the tenth of the confirm images that it scores highest, without those of the guesses before;
a one-sided hypergeometric test of the errors among them; Benjamini-Hochberg over all guesses of all classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

FLAGGED_SHARE, LEVEL = 0.1, 0.1


@dataclass(frozen=True)
class Tested:
    """Guesses of one class, one after the other, on labelled images.

    Attributes:
        p: float (guesses,). cuts: float (guesses,), the score from which an image is flagged.
    """

    p: np.ndarray
    cuts: np.ndarray


def tested(scores, wrong):
    """`Tested` of `scores` (guesses, n) and `wrong` bool (n,), images of one class."""
    free = np.ones(len(wrong), bool)
    flagged_count = max(1, round(FLAGGED_SHARE * len(wrong)))
    p, cuts = [], []
    for score in scores:
        rows = np.flatnonzero(free)
        flagged = rows[np.argsort(-score[rows], kind="stable")[:flagged_count]]
        p.append(stats.hypergeom.sf(wrong[flagged].sum() - 1, len(rows), wrong[rows].sum(), len(flagged)))
        cuts.append(score[flagged].min() if len(flagged) else np.inf)
        free[flagged] = False
    return Tested(np.array(p), np.array(cuts))


def claimed(p_values, level=LEVEL):
    """bool (m,): claims by Benjamini and Hochberg's procedure, of which about `level` may be false."""
    p_values = np.asarray(p_values, dtype=float)
    return stats.false_discovery_control(p_values) <= level if len(p_values) else np.zeros(0, bool)


def worse_than_rest(scores, cuts, wrong):
    """bool (guesses,): is the error rate of the flagged images above the rest's? On images of one class, never seen.

    Args as in `tested`, with its `cuts`; images of earlier guesses are in neither. A guess that flags none is not.
    """
    free, worse = np.ones(len(wrong), bool), []
    for score, cut in zip(scores, cuts, strict=True):
        flagged = free & (score >= cut)
        rest = free & ~flagged
        worse.append(bool(flagged.any() and rest.any() and wrong[flagged].mean() > wrong[rest].mean()))
        free &= ~flagged
    return np.array(worse, dtype=bool)


def finds(scores, members, first=50):
    """Does a guess find a planted slice: are its images at least min(.5, 3 x its share) of the `first`?

    Args:
        scores: float (n,). members: bool (n,).
    """
    among = members[np.argsort(-scores, kind="stable")[:first]].mean()
    return bool(among >= min(0.5, 3 * members.mean()) - 1e-9)
