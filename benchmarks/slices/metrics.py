"""How well guesses find a planted slice, and how sure that is. Arrays in, numbers out; ours unless said.

A guess is an order of the images of one class, by a score. Images with the same score stand in random order: every
number here is the mean over these orders, in closed form.
"""

from dataclasses import dataclass

import numpy as np

PROTOCOLS = {"best of 5": 5, "best of 2": 2, "first": 1}  # how many of a class's guesses count, in a method's order
MEASURES = ("P@10", "P@50", "R-precision", "AP")


def expected_precision(scores, members, k):
    """Share of a slice among the `k` images with the highest scores.

    Args:
        scores: float (n,). members: bool (n,), the slice. k: int >= 1; all n images where there are fewer.

    Returns:
        float in 0..1, the mean over random orders of tied scores.
    """
    k = min(k, len(scores))
    cut = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, tied = scores > cut, scores == cut
    hits = members[above].sum() + (k - above.sum()) * members[tied].mean()
    return float(hits / k)


def expected_average_precision(scores, members):
    """Mean over the slice's images of the precision at their rank; the mean over random orders of tied scores.

    Args and result as in `expected_precision`. Within t tied images of which h are hits, an image at place i is a hit
    with probability h / t, and then (i - 1) (h - 1) / (t - 1) hits are expected among the tied ones before it.
    """
    _, group = np.unique(-scores, return_inverse=True)
    sizes = np.bincount(group)
    hits = np.bincount(group, weights=members)
    before, hits_before = np.cumsum(sizes) - sizes, np.cumsum(hits) - hits
    place = np.arange(len(scores)) - np.repeat(before, sizes)  # within the tied images, from 0
    t, h, h_before = (np.repeat(column, sizes) for column in (sizes, hits, hits_before))
    expected_hits = h_before + 1 + place * (h - 1) / np.maximum(t - 1, 1)
    return float((h / t * expected_hits / np.arange(1, len(scores) + 1)).sum() / members.sum())


def measured(scores, members):
    """`MEASURES` of one order, a dict of floats. R-precision is the precision among as many images as the slice has."""
    return {
        "P@10": expected_precision(scores, members, 10),
        "P@50": expected_precision(scores, members, 50),
        "R-precision": expected_precision(scores, members, int(members.sum())),
        "AP": expected_average_precision(scores, members),
    }


def best_guesses(guesses, members):
    """How well a class's guesses find one planted slice, under each protocol.

    Args:
        guesses: list of float (n,), scores of all scored images of the class, in the method's order. Without a guess
            the images stand in random order.
        members: bool (n,), the planted slice.

    Returns:
        dict (protocol, measure) -> float, the best over the guesses that count, each measure by itself.
    """
    each = [measured(scores, members) for scores in guesses[: max(PROTOCOLS.values())] or [np.zeros(len(members))]]
    return {
        (protocol, measure): max(one[measure] for one in each[:count])
        for protocol, count in PROTOCOLS.items()
        for measure in MEASURES
    }


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float

    def __str__(self):
        interval = "" if np.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.mean:.2f}{interval}"


def bootstrap(sums, counts, level=0.95, draws=10_000, seed=0):
    """Mean over slices, with a percentile interval that resamples base models, since slices of one model go together.

    Args:
        sums: float (m,), sum over a base model's slices. counts: int (m,), how many slices it has.

    Returns:
        `Estimate`; NaN without slices, and an interval of NaN from fewer than two base models.
    """
    sums, counts = np.asarray(sums, dtype=float), np.asarray(counts, dtype=float)
    if not counts.sum():
        return Estimate(np.nan, np.nan, np.nan)
    mean = float(sums.sum() / counts.sum())
    if (counts > 0).sum() < 2:
        return Estimate(mean, np.nan, np.nan)
    chosen = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    totals = counts[chosen].sum(1)
    means = sums[chosen].sum(1)[totals > 0] / totals[totals > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean, float(low), float(high))


def paired_difference(sums, other_sums, counts, **options):
    """`bootstrap` of the mean difference of two methods on the same slices of the same base models."""
    return bootstrap(np.asarray(sums, dtype=float) - np.asarray(other_sums, dtype=float), counts, **options)
