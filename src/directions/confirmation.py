"""Is a slice that was found a failure? Asked of images that did not find it: each function one theorem.

A slice (`slices.FoundSlice`) flags images by their embedding alone, so that under the hypothesis "in this class, errors
have nothing to do with the slice" the errors among the flagged are a draw without replacement from the class's: the
hypergeometric distribution, whatever the embedding, the model and the way in which the slice was found. Three things
are left to the Benjamini-Hochberg procedure over all slices of all classes: it is proven for independent tests and for
positively dependent ones; slices of one class share their images, which is neither, so that what stands for its level
here are the null models of `benchmarks/null_models.py`.

Plain arrays in, plain dataclasses out; nothing here reads a file.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from scipy import special, stats
from threadpoolctl import threadpool_limits

from ..runtime.errors import UserError
from .slices import class_generator, find_class_slices, reason_to_skip

CONFIRMED, NOT_CONFIRMED, TOO_FEW = VERDICTS = ("confirmed", "not confirmed", "too few images")
FIND_NAMES, CONFIRM_NAMES = ("find", "val"), ("confirm", "test")
CONFIDENCE_STRATA = 10
PERMUTATIONS, ENOUGH_EXCEEDANCES = 9_999, 100
NEAR_DUPLICATE, MUCH_NEARER = 0.95, 0.04
POWER_NEEDED = 0.5
MOST_IMAGES = 1_000_000
BATCH_IMAGES = 4096


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That flagged images of a class are wrong more often than its rest, and what the confirm part says to it.

    Attributes:
        class_index, class_name: of its class.
        size, rest: images flagged, and images of the class neither flagged nor taken by an earlier slice.
        error_rate, rest_error_rate, difference: 0..1, of flagged and rest, NaN where one has no image.
        interval: (low, high) of the difference, Newcombe's; NaN as the difference.
        p_value, q_value: one-sided, and its Benjamini-Hochberg adjustment over the family.
        beyond_confidence_p, beyond_confidence_q: the same within tenths of the model's confidence, q over confirmed
            claims; NaN without probabilities.
        verdict: "confirmed", "not confirmed" or "too few images".
        images_needed: confirm images of the class that would do where there are too few, None for the other verdicts
            and where no number would.
        wrong_as, rest_wrong_as: the commonest wrong prediction (a class index) among flagged and rest, -1 for none.
    """

    class_index: int
    class_name: str
    size: int
    rest: int
    error_rate: float
    rest_error_rate: float
    difference: float
    interval: tuple[float, float] = (float("nan"), float("nan"))
    p_value: float
    q_value: float = float("nan")
    beyond_confidence_p: float
    beyond_confidence_q: float = float("nan")
    verdict: str = ""
    images_needed: int | None = None
    wrong_as: int
    rest_wrong_as: int


@dataclass(frozen=True, kw_only=True)
class Slice(Claim):
    """One failure of a class with its verdict; its family are all slices of all classes.

    Attributes:
        id: class name and rank.
        rank: within the class, from 1, in the order fixed in find.
        direction, intercept: float64 (d,) and the number in score = x @ direction + intercept on preprocessed
            embeddings; flagged where the score is <= 0.
        members: int64, row numbers of the arrays as given, flagged in the confirm part and not by an earlier slice of
            the class, hardest first.
        found_members: the same of the find part, by cross-fitted scores.
        stability: the share of its images that a slice found on the swapped halves has too (`overlap`); NaN if not
            asked.
    """

    id: str
    rank: int
    direction: np.ndarray = field(repr=False)
    intercept: float
    members: np.ndarray = field(repr=False)
    found_members: np.ndarray = field(repr=False)
    stability: float

    @property
    def harm(self):
        """Errors beyond those that as many images of the rest would have."""
        return self.size * self.difference if self.size else 0.0

    def score(self, x):
        """Decision values (n,) of preprocessed embeddings x (n, d); flagged where <= 0."""
        return x @ self.direction + self.intercept


@dataclass(frozen=True)
class Findings:
    """What `find_and_confirm` gives.

    Attributes:
        slices: list of `Slice`, most harm first.
        skipped: class index -> why no slice was sought in it.
        near_duplicates: images of the confirm part that have a near-duplicate of their class in the find part.
        shared_groups: groups with images in both parts.
    """

    slices: list[Slice]
    skipped: dict[int, str]
    near_duplicates: int
    shared_groups: int

    @property
    def confirmed(self):
        """The slices whose verdict is "confirmed"."""
        return [s for s in self.slices if s.verdict == CONFIRMED]


# ---- The parts ------------------------------------------------------------------------------------------------------


def parts_of_split(split):
    """The rows of a column of split names: find or val; confirm or test; train is in neither.

    Args:
        split: (n,) of names.

    Returns:
        (find, confirm): int64, ascending.

    Raises:
        UserError: another name, or no row of one of the parts.
    """
    split = np.asarray(split).astype(str)
    known = ("train", *FIND_NAMES, *CONFIRM_NAMES)
    if unknown := sorted(set(np.unique(split)) - set(known)):
        raise UserError(f"unknown split name {str(unknown[0])!r}: name each row one of {', '.join(known)}")
    find, confirm = (np.flatnonzero(np.isin(split, names)) for names in (FIND_NAMES, CONFIRM_NAMES))
    for rows, names in ((find, FIND_NAMES), (confirm, CONFIRM_NAMES)):
        if not len(rows):
            raise UserError(
                f"the split names no row {' or '.join(names)}: name some, or give no split to halve at random"
            )
    return find, confirm


def split_in_halves(labels, groups=None, seed=0):
    """Halve each class at random.

    Args:
        labels: int (n,).
        groups: (n,) of anything comparable (patients, videos, bursts), never cut; they go, largest first and in random
            order among equals, to the half that leaves the classes more even.
        seed: of the halves.

    Returns:
        (find, confirm): rows, int64, ascending; of an odd class without groups, find has one more.
    """
    labels = np.asarray(labels)
    to_find = np.zeros(len(labels), dtype=bool)
    if groups is None:
        for c in np.unique(labels):
            rows = class_generator(seed, int(c), "halves").permutation(np.flatnonzero(labels == c))
            to_find[rows[: (len(rows) + 1) // 2]] = True
    else:
        _, group = np.unique(np.asarray(groups), return_inverse=True)
        _, label = np.unique(labels, return_inverse=True)
        order = np.argsort(group, kind="stable")
        members = np.split(order, np.cumsum(np.bincount(group))[:-1])
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(len(members))
        surplus = np.zeros(label.max(initial=0) + 1, dtype=np.int64)  # images in find less those in confirm
        for g in sorted(shuffled, key=lambda g: -len(members[g])):
            classes, counts = np.unique(label[members[g]], return_counts=True)
            # Where the classes do not tell, as of a group that is a whole class, both halves get their share of images.
            lean = int(counts @ surplus[classes]) or int(surplus.sum())
            into_find = lean < 0 or (lean == 0 and rng.random() < 0.5)
            surplus[classes] += counts if into_find else -counts
            to_find[members[g]] = into_find
    return np.flatnonzero(to_find), np.flatnonzero(~to_find)


def near_duplicates(x_find, x_confirm, threshold=NEAR_DUPLICATE, block=1024):
    """How many images of the confirm part have a near-duplicate in the find part.

    A cosine of at least `threshold`, and far nearer than images of the class are to each other: 1 - cosine below
    `MUCH_NEARER` times the upper quartile of what it is between rows of `x_find` and their nearest others. Without the
    second, an embedding that tells little of an image would make duplicates of all. Source: ours.

    Args:
        x_find, x_confirm: float (n, d) and (m, d), embeddings of one class's images.
        threshold: least cosine.
        block: rows that are compared at a time, `block` by `block` similarities.

    Returns:
        int: of the m rows of `x_confirm`.
    """
    # Single precision is 1e-6 off, the limits are no finer.
    x_find, x_confirm = (
        (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)).astype(np.float32)
        for x in (x_find, x_confirm)
    )
    nearest = _nearest_cosines(x_confirm, x_find, block)
    close = nearest >= threshold
    if not close.any() or len(x_find) < 2:
        return int(close.sum())
    usual = np.quantile(1 - _nearest_cosines(x_find, x_find, block, others=True), 0.75)
    return int((close & (1 - nearest <= max(MUCH_NEARER * usual, 2e-6))).sum())


def _nearest_cosines(x, among, block, others=False):
    """The highest cosine (n,) of each row of x with a row of `among`, both of length 1; `others`: but for itself."""
    highest = np.full(len(x), -1, dtype=x.dtype)
    for i in range(0, len(x), block):
        for j in range(0, len(among), block):
            similar = x[i : i + block] @ among[j : j + block].T
            if others and i == j:
                np.fill_diagonal(similar, -1)
            highest[i : i + block] = np.maximum(highest[i : i + block], similar.max(axis=1))
    return highest


# ---- The theorems ---------------------------------------------------------------------------------------------------


def hypergeometric_p(flagged, wrong):
    """P(at least so many errors among the flagged), if they were drawn from these images: Fisher's exact test.

    Args:
        flagged, wrong: bool (n,).

    Returns:
        float: the one-sided p-value.
    """
    return float(stats.hypergeom.sf((flagged & wrong).sum() - 1, len(wrong), wrong.sum(), flagged.sum()))


def grouped_p(flagged, wrong, groups, rng, draws=PERMUTATIONS):
    """The same where images of one group (patient, video) are not independent: whole groups are permuted.

    The errors of each group are kept together and in their order (turned round by a random offset), and the groups' are
    laid in random order over the images, sorted by group; groups change places only with groups of about their size
    (the same power of two), so that few are laid across two. Exact for groups of one size that are exchangeable and
    stationary within; for groups of one image it is the hypergeometric test, and that is what is returned.
    Draws stop after 100 that reach the observed count (Besag and Clifford 1991: still a p-value). One group says
    nothing: 1.

    Args:
        flagged, wrong: bool (n,).
        groups: (n,) of anything comparable.
        rng: `numpy.random.Generator`.
        draws: the most permutations; no p is below 1 / (draws + 1).

    Returns:
        float: the one-sided p-value.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) == 1 and len(wrong) > 1:
        return 1.0
    if sizes.max(initial=1) == 1:
        return hypergeometric_p(flagged, wrong)
    observed = (flagged & wrong).sum()
    # Images sorted by size stratum, then group, then as given.
    stratum = np.floor(np.log2(sizes)).astype(int)
    order = np.lexsort((group, stratum[group]))
    flagged, wrong = flagged[order], wrong[order]
    by_stratum = np.lexsort((np.arange(len(sizes)), stratum))
    sizes, stratum = sizes[by_stratum], stratum[by_stratum]
    first = np.cumsum(sizes) - sizes
    places = np.flatnonzero(flagged)
    reached = drawn = 0
    block = max(1, min(500, 2_000_000 // len(wrong)))
    while drawn < draws:
        count = min(block, draws - drawn)
        keys = stratum + rng.random((count, len(sizes)))
        laid = np.argsort(keys, axis=1)
        lengths = sizes[laid]
        starts = np.cumsum(lengths, axis=1) - lengths
        slot = np.repeat(np.arange(count * len(sizes)), lengths.ravel()).reshape(count, -1)[:, places]
        offset = rng.integers(0, lengths)
        inner = (places - starts.ravel()[slot] + offset.ravel()[slot]) % lengths.ravel()[slot]
        hits = wrong[first[laid].ravel()[slot] + inner].sum(axis=1) >= observed
        if reached + hits.sum() >= ENOUGH_EXCEEDANCES:
            last = int(np.flatnonzero(np.cumsum(hits) == ENOUGH_EXCEEDANCES - reached)[0])
            return ENOUGH_EXCEEDANCES / (drawn + last + 1)
        reached += int(hits.sum())
        drawn += count
    return (reached + 1) / (draws + 1)


def benjamini_hochberg(p):
    """Adjusted p-values of one family (Benjamini and Hochberg 1995): claims at q <= level have that false share.

    Args:
        p: (n,), p-values.

    Returns:
        float64 (n,), the q-values in the same order.
    """
    p = np.asarray(p, dtype=np.float64)
    return stats.false_discovery_control(p) if len(p) else p


def wilson_interval(rate, n, level):
    """Wilson's score interval of a proportion (Wilson 1927), without continuity correction.

    Args:
        rate: 0..1, the proportion seen.
        n: trials, which may be an effective number.
        level: of confidence, 0.95 say.

    Returns:
        (low, high), within 0..1.
    """
    z2 = special.ndtri((1 - level) / 2) ** 2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def newcombe_interval(rate1, n1, rate2, n2, level=0.95):
    """Newcombe's hybrid score interval (1998, method 10) of rate1 - rate2, without continuity correction.

    Args:
        rate1, rate2: 0..1, two proportions.
        n1, n2: the trials that each was seen in, which may be effective numbers.
        level: of confidence.

    Returns:
        (low, high), NaN where there is no trial of one.
    """
    if not (n1 and n2):
        return float("nan"), float("nan")
    low1, high1 = wilson_interval(rate1, n1, level)
    low2, high2 = wilson_interval(rate2, n2, level)
    difference = rate1 - rate2
    return (
        float(difference - np.hypot(rate1 - low1, high2 - rate2)),
        float(difference + np.hypot(high1 - rate1, rate2 - low2)),
    )


def effective_size(wrong, groups=None):
    """How many independent images tell as much about an error rate as these (n,): n over the design effect.

    The design effect is the variance of the rate between groups over that of independent images, at least 1; where all
    or none are wrong, that of groups that agree within (Kish 1965).

    Args:
        wrong: bool (n,).
        groups: (n,) of anything comparable, or None: each image is its own.

    Returns:
        float: n without groups, 1 for a single group.
    """
    n = len(wrong)
    if groups is None or n == 0:
        return float(n)
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) == 1:
        return 1.0
    rate = wrong.mean()
    if rate in (0, 1):
        return n / float(max(1, (sizes**2).sum() / n))
    residuals = np.bincount(group, wrong, len(sizes)) - rate * sizes
    between = len(sizes) / (len(sizes) - 1) * (residuals**2).sum() / n
    return n / float(max(1, between / (rate * (1 - rate))))


def mantel_haenszel_p(flagged, wrong, strata, groups=None):
    """One-sided Cochran-Mantel-Haenszel test: are flagged images more often wrong within the strata?

    Normal approximation with continuity correction.

    Args:
        flagged, wrong: bool (n,).
        strata: (n,), the stratum of each image.
        groups: (n,) of anything comparable, or None; with them the variance is that between groups where it is larger.

    Returns:
        float: the p-value, 1 where no stratum can tell.
    """
    _, stratum, n = np.unique(strata, return_inverse=True, return_counts=True)
    k, errors = (np.bincount(stratum, what, len(n)) for what in (flagged, wrong))
    excess = (flagged & wrong).sum() - (k * errors / n).sum()
    several = n > 1
    variance = (k * (n - k) * errors * (n - errors))[several] / (n**2 * (n - 1.0))[several]
    variance = variance.sum()
    if groups is not None:
        _, group = np.unique(groups, return_inverse=True)
        parts = (flagged - (k / n)[stratum]) * (wrong - (errors / n)[stratum])
        variance = max(variance, (np.bincount(group, parts) ** 2).sum())
    if variance <= 0:
        return 1.0
    return float(stats.norm.sf((excess - 0.5) / np.sqrt(variance)))


def confidence_tenths(probs, strata=CONFIDENCE_STRATA):
    """In which tenth of these images each lies by the model's confidence, its maximum probability.

    Args:
        probs: (n, classes).
        strata: how many, ten.

    Returns:
        int (n,), 0 the least confident; equal confidences share a stratum.
    """
    confidence = np.asarray(probs).max(axis=1)
    below = np.searchsorted(np.sort(confidence), confidence, side="left")
    return below * strata // max(1, len(confidence))


def detection_power(images, flagged, flagged_rate, rest_rate, level):
    """Chance that the hypergeometric test of `flagged` of `images` has p <= level, with errors binomial in both parts.

    Exact: a sum over the errors among the flagged and in all (those within 7 deviations; the others weigh < 1e-9).

    Args:
        images, flagged: how many, and how many of them are flagged.
        flagged_rate, rest_rate: 0..1, error rates of the flagged and of the others.
        level: of the test.

    Returns:
        float: 0..1; 0 where nothing or everything is flagged.
    """
    flagged, rest = int(flagged), int(images - flagged)
    if flagged < 1 or rest < 1 or level <= 0:
        return 0.0

    def window(mean, variance, most):
        half = 7 * np.sqrt(variance) + 4
        return np.arange(max(0, int(mean - half)), min(most, int(mean + half) + 1) + 1)

    means = flagged * flagged_rate, rest * rest_rate
    variances = means[0] * (1 - flagged_rate), means[1] * (1 - rest_rate)
    a = window(means[0], variances[0], flagged)
    total = window(sum(means), sum(variances), images)[:, None]
    other = total - a
    possible = (other >= 0) & (other <= rest)
    other = np.where(possible, other, 0)
    # The ways to see these counts give both distributions; scipy's take a millisecond for each total.
    ways = _log_choose(flagged, a) + _log_choose(rest, other)
    tail = np.where(possible, np.exp(ways - _log_choose(images, total)), 0)[:, ::-1].cumsum(axis=1)[:, ::-1]
    chance = ways + _log_power(flagged_rate, a, flagged) + _log_power(rest_rate, other, rest)
    return float(min(1.0, np.exp(chance[possible & (tail <= level)]).sum()))


def _log_choose(n, k):
    return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)


def _log_power(rate, successes, n):
    return special.xlogy(successes, rate) + special.xlog1py(n - successes, -rate)


def images_for_power(share, flagged_rate, rest_rate, level, power=POWER_NEEDED):
    """About how many images of a class give `detection_power` >= `power` when `share` of them is flagged.

    To 10 %: exact power is a sawtooth in the number of images.

    Args:
        share: 0..1, of the class that is flagged.
        flagged_rate, rest_rate: 0..1, error rates of the flagged and of the others.
        level: of the test.
        power: 0..1, chance to see it.

    Returns:
        int, or None where a million images would not do.
    """

    def enough(images):
        flagged = max(1, round(share * images))
        return detection_power(images, flagged, flagged_rate, rest_rate, level) >= power

    if flagged_rate <= rest_rate:
        return None
    # The normal approximation is a start; exact power brackets it.
    rate = share * flagged_rate + (1 - share) * rest_rate
    deviations = stats.norm.isf(level) + stats.norm.ppf(power)
    variance = rate * (1 - rate) / (share * (1 - share))
    high = max(2, int(1.1 * deviations**2 * variance / (flagged_rate - rest_rate) ** 2))
    while not enough(high):
        high = int(1.3 * high) + 1
        if high > MOST_IMAGES:
            return None
    # Down by tenths: the start is near, so that this takes fewer steps than halving.
    while high > 2 and enough(int(high / 1.1)):
        high = int(high / 1.1)
    return high


@dataclass(frozen=True)
class PowerPlan:
    """What a number of labelled images can show.

    Attributes:
        power: chance to confirm one slice.
        images_per_class, flagged: confirm images of a class, and those of them that the slice flags.
        flagged_error_rate, rest_error_rate: 0..1, of the flagged and of the others.
        images_needed: confirm images in all for a power of .8, None where a million a class would not do.
    """

    power: float
    images_per_class: int
    flagged: int
    flagged_error_rate: float
    rest_error_rate: float
    images_needed: int | None


def plan_power(images, classes, slices, error_rate, slice_share, slice_error, purity=0.8, fdr=0.1):
    """Power to confirm one true slice (exact, see `detection_power`).

    Args:
        images: confirm images in all.
        classes: how many, of equal size.
        slices: how many are tested in all; a slice confirmed alone needs p <= fdr / slices.
        error_rate: 0..1, the model's outside of the slice.
        slice_share: 0..1, the slice's share of its class; as many images are flagged.
        slice_error: 0..1, the model's error rate inside the slice.
        purity: 0..1, the share of the flagged that is of the slice.
        fdr: level of the Benjamini-Hochberg procedure.

    Returns:
        `PowerPlan`.

    Raises:
        UserError: a share outside 0..1, or a number below 1.
    """
    _check_fraction("fdr", fdr)
    for name, value in (("error_rate", error_rate), ("slice_error", slice_error), ("purity", purity)):
        if not 0 <= value <= 1:
            raise UserError(f"{name} is {value}: give a share between 0 and 1")
    _check_fraction("slice_share", slice_share)
    for name, value in (("images", images), ("classes", classes), ("slices", slices)):
        if value < 1:
            raise UserError(f"{name} is {value}: give a number of at least 1")
    flagged_rate = purity * slice_error + (1 - purity) * error_rate
    missed = min(1.0, (1 - purity) * slice_share / (1 - slice_share))
    rest_rate = missed * slice_error + (1 - missed) * error_rate
    per_class = int(images // classes)
    flagged = max(1, round(slice_share * per_class))
    needed = images_for_power(slice_share, flagged_rate, rest_rate, fdr / slices, power=0.8)
    return PowerPlan(
        detection_power(per_class, flagged, flagged_rate, rest_rate, fdr / slices),
        per_class,
        flagged,
        flagged_rate,
        rest_rate,
        None if needed is None else needed * classes,
    )


def overlap(scores, orders, count):
    """Of the `count` hardest images by `scores`, the share that is among the `count` first of one of `orders`.

    Args:
        scores: (n,), lowest is hardest.
        orders: int (k, n), row numbers, hardest first, of which the best counts.
        count: images.

    Returns:
        float: 0..1, by chance about count / n; 0 where there are no orders.
    """
    if not len(orders) or count < 1:
        return 0.0
    hardest = np.zeros(len(scores), dtype=bool)
    hardest[np.argsort(scores, kind="stable")[:count]] = True
    return float(hardest[orders[:, :count]].mean(axis=1).max())


def share_cut(scores, share):
    """The value halfway between the hardest `share` of the scores and the rest: flagged is what lies at or below.

    At least one image is flagged and one is not. Equal scores are not separated: fewer are flagged, or none where all
    are equal.

    Args:
        scores: (n,), lowest is hardest.
        share: 0..1.

    Returns:
        float: 0 where there is no score.
    """
    ordered = np.sort(scores)
    count = min(max(1, round(share * len(ordered))), len(ordered) - 1)
    while count > 0 and not ordered[count - 1] < ordered[count]:
        count -= 1
    if count < 1:
        return float(ordered[0] - 1) if len(ordered) else 0.0
    return float((ordered[count - 1] + ordered[count]) / 2)


# ---- One class, and all -------------------------------------------------------------------------------------------


def confirm_class(found, x, wrong, groups=None, probs=None, rng=None):
    """Test one class's slices, in their order, on its images of the confirm part.

    What is flagged is the region's share in find of the scores here, not what lies below its cut there: on the tuning
    seed both see as much (p <= .01 in .43 of the slices, the mean of eight settings), and a share holds where the score
    of all images has moved between the parts. Whatever is flagged, labels have no part in it.

    Args:
        found: list of `FoundSlice`.
        x: float64 (n, d), preprocessed embeddings of the class's confirm images.
        wrong: bool (n,), where the model errs.
        groups: (n,), or None; whole groups are permuted.
        probs: (n, classes), or None.
        rng: `numpy.random.Generator`, needed with `groups`.

    Returns:
        list of (intercept, flagged, rest, p, p beyond confidence): the intercept that flags the share which the region
        had in find, bool (n,) twice, and the p-values, the second NaN without `probs`.
    """
    available = np.ones(len(x), dtype=bool)
    tests = []
    for s in found:
        scores = s.score(x)
        cut = share_cut(scores, s.share)
        flagged = (scores <= cut) & available
        rest = available & ~flagged
        tests.append((float(s.intercept - cut), flagged, rest, *_p_values(flagged, rest, wrong, groups, probs, rng)))
        available = rest
    return tests


def _p_values(flagged, rest, wrong, groups, probs, rng):
    """p of flagged against rest, bool (n,) each, and p within tenths of confidence (NaN without `probs`)."""
    if not (flagged.any() and rest.any()):
        return 1.0, float("nan")
    of = flagged | rest
    f, w, g = flagged[of], wrong[of], None if groups is None else groups[of]
    p = hypergeometric_p(f, w) if g is None else grouped_p(f, w, g, rng)
    beyond = float("nan") if probs is None else mantel_haenszel_p(f, w, confidence_tenths(probs[of]), g)
    return p, beyond


def _counted(flagged, rest, wrong, preds, groups):
    """What a `Claim` counts, as its fields, and the effective sizes of flagged and rest."""
    rates = [float(wrong[rows].mean()) if rows.any() else float("nan") for rows in (flagged, rest)]
    counted = {
        "size": int(flagged.sum()),
        "rest": int(rest.sum()),
        "error_rate": rates[0],
        "rest_error_rate": rates[1],
        "difference": rates[0] - rates[1],
        "wrong_as": _commonest(preds[flagged & wrong]),
        "rest_wrong_as": _commonest(preds[rest & wrong]),
    }
    return counted, [effective_size(wrong[rows], None if groups is None else groups[rows]) for rows in (flagged, rest)]


def confirm_directions(values, labels, preds, *, class_names=None, groups=None, probs=None, fdr=0.1, seed=0):
    """Test the single direction of each class on images that it was not fitted on: a family of its own.

    Args:
        values: float (n,), decision values of these images in their class's direction, flagged where <= 0; NaN in
            classes without one, of which nothing is said.
        labels, preds: int (n,).
        class_names, groups, probs, fdr: as in `find_and_confirm`.
        seed: of the permutations of groups.

    Returns:
        list of `Claim`, by class. A direction that flags none or all of a class has too few images.

    Raises:
        UserError: labels or predictions that are no class indices, or an fdr outside (0, 1).
    """
    _check_fraction("fdr", fdr)
    labels, preds = (_integers(numbers, name) for numbers, name in ((labels, "labels"), (preds, "preds")))
    groups = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    tested = []
    for c, rows in _by_label(labels, np.flatnonzero(~np.isnan(values))).items():
        flagged, wrong = values[rows] <= 0, preds[rows] != c
        of_class = [None if of is None else of[rows] for of in (groups, probs)]
        p, beyond = _p_values(flagged, ~flagged, wrong, *of_class, class_generator(seed, c, "direction"))
        counted, sizes = _counted(flagged, ~flagged, wrong, preds[rows], of_class[0])
        name = str(c) if class_names is None else str(class_names[c])
        tested.append((Claim(class_index=c, class_name=name, **counted, p_value=p, beyond_confidence_p=beyond), sizes))
    return _verdicts(tested, fdr)


def find_and_confirm(
    x,
    labels,
    preds,
    find,
    confirm,
    *,
    class_names=None,
    groups=None,
    probs=None,
    directions="auto",
    fdr=0.1,
    seed=0,
    preprocess=None,
    stability=True,
    jobs=1,
):
    """Find several failures per class on the `find` rows and confirm them on the `confirm` rows.

    Source: ours; the tests are those of the functions above.

    Args:
        x: float (N, d), preprocessed embeddings, or raw ones (a memory map, say) with `preprocess`.
        labels, preds: int (N,).
        find, confirm: row numbers or bool (N,), disjoint.
        class_names: names by class index; without them the index is the name.
        groups: (N,) of anything comparable; whole groups are permuted in the tests.
        probs: float (N, classes), for "beyond confidence".
        directions: "auto", or how many slices a class may have.
        fdr: level of the Benjamini-Hochberg procedure.
        seed: of the search and of the permutations.
        preprocess: `class_fit.Preprocess`, called on one class at a time, or None.
        stability: find on the swapped parts too (twice the time).
        jobs: processes over classes; the answer does not depend on it.

    Returns:
        `Findings`.

    Raises:
        UserError: arrays that disagree, a row in both parts, embeddings that hold NaN or infinity, or an fdr outside
            (0, 1).
    """
    labels, preds = (_integers(values, name) for values, name in ((labels, "labels"), (preds, "preds")))
    arrays = {"labels": labels, "preds": preds, "groups": groups, "probs": probs}
    for name, values in arrays.items():
        if values is not None and len(values) != len(x):
            raise UserError(f"{name} has {len(values)} rows and the embeddings have {len(x)}: give one for each image")
    _check_fraction("fdr", fdr)
    _check_directions(directions)
    groups = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    find, confirm = _rows(find, len(x), "find"), _rows(confirm, len(x), "confirm")
    if len(both := np.intersect1d(find, confirm)):
        raise UserError(
            f"row {both[0]} is in both find and confirm ({len(both)} are): a slice is tested on other images"
        )
    shared = 0 if groups is None else len(np.intersect1d(groups[find], groups[confirm]))

    by_class = [_by_label(labels, rows) for rows in (find, confirm)]

    def batches():
        """Classes that travel to a worker together, so that a small one costs no round of its own."""
        batch, size = [], 0
        for c in sorted(set().union(*by_class)):
            parts = [rows.get(c, np.zeros(0, dtype=np.int64)) for rows in by_class]
            data = []
            for rows in parts:
                z = np.asarray(x[rows])
                if len(bad := np.flatnonzero(~np.isfinite(z).all(axis=1))):
                    raise UserError(
                        f"row {rows[bad[0]]} of the embeddings holds NaN or infinity: leave it out or mend it"
                    )
                outputs = None if probs is None else np.asarray(probs[rows], dtype=np.float64)
                data.append((z, preds[rows] != c, outputs, preds[rows], None if groups is None else groups[rows]))
            batch.append((c, parts, data))
            size += sum(map(len, parts))
            if size >= BATCH_IMAGES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    jobs = min(effective_n_jobs(jobs), max(1, len(set().union(*by_class))))  # no more than there is work for
    work = Parallel(jobs, pre_dispatch="n_jobs", batch_size=1, return_as="generator")(
        delayed(_find_and_confirm_classes)(batch, preprocess, directions, seed, stability) for batch in batches()
    )
    tested, skipped, duplicates = [], {}, 0
    for c, slices, reason, near in chain.from_iterable(work):
        duplicates += near
        if reason:
            skipped[c] = reason
        name = str(c) if class_names is None else str(class_names[c])
        tested += [(replace(s, class_name=name, id=f"{name}-{s.rank}"), sizes) for s, sizes in slices]
    slices = _verdicts(tested, fdr)
    slices.sort(key=lambda s: (np.inf if np.isnan(s.harm) else -s.harm, s.class_index, s.rank))
    return Findings(slices, skipped, duplicates, shared)


def _by_label(labels, rows):
    """Rows of each class among `rows`, ascending: a dict."""
    order = np.sort(rows)[np.argsort(labels[np.sort(rows)], kind="stable")]
    classes, first = np.unique(labels[order], return_index=True)
    return {int(c): part for c, part in zip(classes, np.split(order, first)[1:], strict=True)}


def _find_and_confirm_classes(batch, preprocess, directions, seed, stability):
    """`_find_and_confirm_class` over a list of classes: the work of one process, with BLAS on one thread.

    Small classes gain nothing by a second thread, and the sums of the linear algebra hang on the number of threads.
    """
    results = []
    with threadpool_limits(1, user_api="blas"):
        for c, parts, data in batch:
            data = [(_float64(z, preprocess), *others) for z, *others in data]
            results.append(_find_and_confirm_class(c, parts, data, directions, seed, stability))
    return results


def _float64(z, preprocess):
    z = np.asarray(z, dtype=np.float64)
    return preprocess(z) if preprocess is not None else z


def _find_and_confirm_class(c, parts, data, directions, seed, stability):
    """One class: (c, list of (slice without its family's values, effective sizes), reason to skip, near-duplicates)."""
    (x, wrong, probs, preds, _), (x2, wrong2, probs2, preds2, groups2) = data
    near = near_duplicates(x, x2) if len(x) and len(x2) else 0
    if reason := reason_to_skip(x, wrong):
        return c, [], reason, near
    found = find_class_slices(x, wrong, probs, preds, directions, class_generator(seed, c, "find"))
    if not found:
        return c, [], "no group of its errors lies together", near
    tests = confirm_class(found, x2, wrong2, groups2, probs2, class_generator(seed, c, "confirm"))
    swapped = None
    if stability:
        swapped = find_class_slices(x2, wrong2, probs2, preds2, directions, class_generator(seed, c, "swapped"))
        both = np.concatenate([x, x2])
        swapped = np.array([np.argsort(s.score(both), kind="stable") for s in swapped])
    slices = []
    for rank, (s, (intercept, flagged, rest, p, beyond)) in enumerate(zip(found, tests, strict=True), start=1):
        hardest = np.flatnonzero(flagged)[np.argsort(s.score(x2[flagged]), kind="stable")]
        stable = float("nan")
        if swapped is not None:
            stable = overlap(s.score(both), swapped, round(s.share * len(both)))
        counted, sizes = _counted(flagged, rest, wrong2, preds2, groups2)
        result = Slice(
            id="",
            class_index=c,
            class_name="",
            rank=rank,
            direction=s.direction,
            intercept=intercept,
            members=parts[1][hardest],
            found_members=parts[0][s.members],
            **counted,
            p_value=p,
            beyond_confidence_p=beyond,
            stability=stable,
        )
        slices.append((result, sizes))
    return c, slices, None, near


def _verdicts(tested, fdr):
    """Fill in what depends on the whole family: q-values, intervals, verdicts.

    Args:
        tested: pairs of a `Claim` and its effective sizes.
    """
    q = benjamini_hochberg([s.p_value for s, _ in tested])
    confirmed = q <= fdr
    level = 1 - 0.05 * max(1, int(confirmed.sum())) / max(1, len(tested))
    beyond = np.full(len(tested), np.nan)
    known = np.array([np.isfinite(s.beyond_confidence_p) for s, _ in tested], dtype=bool)
    chosen = np.flatnonzero(confirmed & known)
    beyond[chosen] = benjamini_hochberg([tested[i][0].beyond_confidence_p for i in chosen])
    slices = []
    for i, (s, sizes) in enumerate(tested):
        verdict, needed = (CONFIRMED, None) if confirmed[i] else _unconfirmed(s, sizes, fdr / len(tested))
        slices.append(
            replace(
                s,
                q_value=float(q[i]),
                interval=newcombe_interval(s.error_rate, sizes[0], s.rest_error_rate, sizes[1], level),
                beyond_confidence_q=float(beyond[i]),
                verdict=verdict,
                images_needed=needed,
            )
        )
    return slices


def _unconfirmed(s, sizes, level):
    """Verdict of a slice with q > fdr and, for too few images, how many of its class would do.

    Args:
        s: `Slice`.
        sizes: of flagged and rest, effective ones: images of one group count for fewer.
        level: of the test of one slice among all.
    """
    if not (s.size and s.rest):
        return TOO_FEW, None
    images = s.size + s.rest
    rate = (s.size * s.error_rate + s.rest * s.rest_error_rate) / images
    twice = min(2 * rate, (1 + rate) / 2)
    flagged, effective = round(sizes[0]), round(sizes[0]) + round(sizes[1])
    if detection_power(effective, flagged, twice, rate, level) >= POWER_NEEDED:
        return NOT_CONFIRMED, None
    # About how many: to two digits, which classes share, so that a thousand of them ask a few times only.
    needed = _images_needed(round(s.size / images, 2) or s.size / images, round(twice, 2), round(rate, 2), level)
    return TOO_FEW, None if needed is None else max(images + 1, round(needed * images / effective))


@lru_cache(4096)
def _images_needed(share, flagged_rate, rest_rate, level):
    return images_for_power(share, flagged_rate, rest_rate, level)


def _commonest(predictions):
    """The commonest of these class indices, the smallest of equals, -1 for none."""
    return int(np.bincount(predictions).argmax()) if len(predictions) else -1


# ---- Checks ---------------------------------------------------------------------------------------------------------


def _check_fraction(name, value):
    if not 0 < value < 1:
        raise UserError(f"{name} is {value}: give a number between 0 and 1, both excluded")


def _check_directions(directions):
    if directions != "auto" and not (isinstance(directions, int | np.integer) and directions >= 1):
        raise UserError(f"directions is {directions!r}: give auto, or how many slices a class may have")


def _integers(values, name):
    values = np.asarray(values)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer) or (len(values) and values.min() < 0):
        raise UserError(f"{name} must be one class index (0, 1, ...) for each image")
    return values


def _rows(rows, n, name):
    """Row numbers from row numbers or a mask."""
    rows = np.asarray(rows)
    if rows.dtype == bool:
        if len(rows) != n:
            raise UserError(
                f"the mask {name} has {len(rows)} rows and the embeddings have {n}: give one for each image"
            )
        return np.flatnonzero(rows)
    rows = rows.astype(np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= n):
        raise UserError(f"{name} names rows outside the {n} of the embeddings")
    if len(np.unique(rows)) < len(rows):
        raise UserError(f"{name} names a row twice: give each image once")
    return rows
