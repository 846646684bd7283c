"""Several failures of one class, found on its labelled images: plain arrays in, plain dataclasses out.

One linear classifier between a class's right and wrong images finds the union of its failures and tells none apart. How
the errors are *grouped* decides (the learner hardly matters), so that many groupings compete here:

1. the embedding is cut to the class's first principal coordinates;
2. k-means of the errors alone, for several k and seeds, gives candidate groups;
3. a candidate's direction is that of a shrunken linear discriminant between its errors and the class's other images;
4. its score is cross-fitted: every image is scored by a direction that has not seen it, so that the error rate of the
   region at the hard end is honest;
5. regions are taken greedily by a lower bound of their error rate. What is taken grows to where the errors thin out,
   and what looks for the same (images taken, or scores alike) drops out, so that a large failure does not fill every
   place; then its direction is fitted again on all images, with the errors of the grown region.

Measured while tuning, on one seed of photographs and on simulated errors: nearly every planted failure is among the
candidates; which of them to take is the hard part, and the fifth step is worth more than other groupings (mixtures,
hierarchical clustering of errors, clusters of all images) or learners.

A direction is a linear function of the preprocessed embedding (`class_fit.Preprocess`), so that images without labels,
captions and tomorrow's images can be scored. Negative is hard, as for the single SVM. Source: ours.
"""

import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy import linalg

COORDINATES = 256
SUBSET_FROM = 6
"""Where a matrix is so many times as large as what is asked for, LAPACK is asked for some eigenvectors, not for all."""
CLUSTERS = (5, 8, 12, 20)
KMEANS_SEEDS = 2
KMEANS_STARTS = 3
SMALLEST_CLUSTER = 6
SHRINKAGE = 0.7
FOLDS = 3
REGION_PER_ERROR = 1.5
LARGEST_SHARE = 0.4
LARGEST_GROWTH = 3
PRIOR_IMAGES = 10
DEVIATIONS_BELOW = 0.5
MOST_SLICES = 5
FREE_SHARE = 0.5
SAME_CORRELATION = 0.4


@dataclass(frozen=True)
class FoundSlice:
    """One failure of a class as found, before any test.

    Attributes:
        direction, intercept: float64 (d,) and the number in score = x @ direction + intercept, lowest = hardest. The
            cut that separates the region from the rest of the class is in the intercept: flagged where score <= 0.
        share: 0..1, the region's share of the class's images.
        members: int64, rows of `x` in the region, hardest first, by cross-fitted scores.
        errors: how many of them are wrong.
    """

    direction: np.ndarray
    intercept: float
    share: float
    members: np.ndarray
    errors: int

    def score(self, x):
        """Decision values (n,) of preprocessed embeddings `x` (n, d)."""
        return x @ self.direction + self.intercept


def class_generator(seed, class_index, purpose=""):
    """A random generator of one class's own: the same whatever other classes there are, and in whichever process."""
    return np.random.default_rng([seed, class_index, zlib.crc32(purpose.encode())])


def reason_to_skip(x, wrong):
    """Why no slice can be sought in a class.

    Args:
        x: (n, d), embeddings of its images.
        wrong: bool (n,), where the model errs.

    Returns:
        str: in words that follow "skipped: "; None where slices can be sought.
    """
    if len(x) == 0:
        return "it has no images to find on"
    if not wrong.any():
        return "the model is right on all of its images"
    if wrong.all():
        return "the model is wrong on all of its images"
    if wrong.sum() < 2 or (~wrong).sum() < 2:
        return f"it has {int(wrong.sum())} wrong and {int((~wrong).sum())} right images, 2 of each are needed"
    if np.ptp(x, axis=0).max() <= 1e-12:
        return "its embeddings are all the same"
    return None


def find_class_slices(x, wrong, probs=None, preds=None, directions="auto", rng=None):
    """The slices of one class, in the order in which they were taken. Source: ours, see above.

    Args:
        x: float64 (n, d), preprocessed embeddings of the class's images.
        wrong: bool (n,), where the model errs.
        probs, preds: (n, classes) and int (n,), the model's outputs, which may group errors and never score. None does
            yet: the predicted class beside the embedding in k-means changed nothing for the better.
        directions: "auto" (at most 5, fewer where no candidate's error rate exceeds the class's), or how many at most.
        rng: a `numpy.random.Generator` (`class_generator`); the answer depends on it and the arrays alone.

    Returns:
        list of `FoundSlice`, empty where `reason_to_skip` gives one.
    """
    wrong = np.asarray(wrong, dtype=bool)
    if reason_to_skip(x, wrong):
        return []
    rng = np.random.default_rng(0) if rng is None else rng
    most = MOST_SLICES if directions == "auto" else int(directions)
    coordinates = principal_coordinates(x)
    z = coordinates.z
    candidates = candidate_groups(z[wrong], rng)
    weights = np.zeros((len(candidates), len(z)))
    weights[:, wrong] = candidates
    scale = shrunken_variances(z)
    scores = cross_fitted_scores(z, weights, wrong, scale, folds(wrong, rng))
    taken = take_regions(scores, candidates.sum(axis=1), wrong, most, only_better=directions == "auto")
    return [_refitted(coordinates, weights[c], wrong, scale, scores[c], members) for c, members in taken]


@dataclass(frozen=True)
class Coordinates:
    """Images in their first principal coordinates.

    Attributes:
        z: float64 (n, k), coordinates, most variance first.
        values: (k,), the sums of their squares.
        mean: (d,), of the images.
        centred: (n, d), the images less their mean.
    """

    z: np.ndarray
    values: np.ndarray
    mean: np.ndarray
    centred: np.ndarray

    def direction(self, w):
        """The direction (d,) and the intercept in the embedding of a direction `w` (k,) in coordinates."""
        # The basis is centred.T @ z / values: made for the few directions that are asked for, not whole.
        direction = self.centred.T @ (self.z @ (w / self.values))
        return direction, -float(self.mean @ direction)


def principal_coordinates(x, most=COORDINATES):
    """The first principal coordinates of x (n, d), at most `most`, and only those with variance."""
    mean = x.mean(axis=0)
    centred = x - mean
    # The smaller of the two Gram matrices has the same spectrum.
    few = len(x) < x.shape[1]
    values, vectors = _largest_eigenpairs(centred @ centred.T if few else centred.T @ centred, most)
    keep = values > 1e-10 * values[0]
    values, vectors = values[keep], vectors[:, keep]
    return Coordinates(vectors * np.sqrt(values) if few else centred @ vectors, values, mean, centred)


def _largest_eigenpairs(matrix, most):
    """The `most` largest eigenvalues of a symmetric matrix, largest first, and their vectors in columns."""
    n = len(matrix)
    if n > SUBSET_FROM * most:
        values, vectors = linalg.eigh(matrix, subset_by_index=[n - most, n - 1], check_finite=False)
    else:
        values, vectors = np.linalg.eigh(matrix)
    return values[::-1][:most], np.ascontiguousarray(vectors[:, ::-1][:, :most])


def shrunken_variances(z, shrinkage=SHRINKAGE):
    """Variances (k,) of principal coordinates, which are uncorrelated, shrunk towards their mean."""
    variances = z.var(axis=0)
    return (1 - shrinkage) * variances + shrinkage * variances.mean()


def candidate_groups(z, rng, clusters=CLUSTERS, seeds=KMEANS_SEEDS, smallest=SMALLEST_CLUSTER):
    """Groups of a class's errors that may be failures, by k-means for several k; duplicates are dropped.

    Args:
        z: float64 (m, p), principal coordinates of the errors.
        rng: `numpy.random.Generator`.
        clusters: values of k, each lowered where there are fewer than k x `smallest` errors.
        seeds: runs for each k.
        smallest: errors of a group; smaller ones are dropped.

    Returns:
        float64 0/1 (candidates, m). The first is all errors together: what the single direction looks for.
    """
    groups = [np.ones((1, len(z)), dtype=bool)]
    counts = Counter(min(k, len(z) // smallest) for k in clusters)
    for k, times in counts.items():
        if k >= 2:
            labels = k_means(z, k, rng, runs=times * seeds)
            groups.append((labels[:, None] == np.arange(k)[:, None]).reshape(-1, len(z)))
    groups = np.concatenate(groups)
    groups = groups[(groups.sum(axis=1) >= smallest) | (np.arange(len(groups)) == 0)]
    first = {group.tobytes(): number for number, group in reversed(list(enumerate(np.packbits(groups, axis=1))))}
    return groups[sorted(first.values())].astype(np.float64)


def k_means(z, k, rng, runs=1, starts=KMEANS_STARTS, most_steps=50):
    """Lloyd's algorithm from k-means++ starts (Arthur and Vassilvitskii 2007); all starts move together.

    scikit-learn's `KMeans` spends a millisecond around each run, longer than a class's few errors take.

    Args:
        z: float64 (m, p).
        k: clusters, at most m.
        rng: `numpy.random.Generator`.
        runs: how many answers.
        starts: of each run, of which the one with the least inertia counts.
        most_steps: of each.

    Returns:
        int (runs, m), labels 0..k-1.
    """
    m, p = z.shape
    squares = np.einsum("ij,ij->i", z, z)

    def distances(centres):
        """Squared distances (starts, centres of each, m)."""
        products = (centres.reshape(-1, p) @ z.T).reshape(*centres.shape[:-1], m)
        return np.einsum("skp,skp->sk", centres, centres)[..., None] - 2 * products + squares

    # Drawn run by run, so that runs that move together are those that move alone.
    draws = [(rng.integers(m, size=starts), rng.random((k - 1, starts, 1))) for _ in range(runs)]
    firsts, later = zip(*draws, strict=True)
    centres = z[np.concatenate(firsts)][:, None]
    nearest = distances(centres)[:, 0].clip(0)
    for drawn in np.concatenate(later, axis=1):
        total = nearest.sum(axis=1, keepdims=True)
        chances = np.where(total > 0, nearest / np.where(total > 0, total, 1), 1 / m)
        picks = (chances.cumsum(axis=1) < drawn).sum(axis=1).clip(max=m - 1)
        added = z[picks][:, None]
        centres = np.concatenate([centres, added], axis=1)
        nearest = np.minimum(nearest, distances(added)[:, 0].clip(0))
    labels = None
    for _ in range(most_steps):
        to_centres = distances(centres)
        updated = to_centres.argmin(axis=1)
        if labels is not None and (updated == labels).all():
            break
        labels = updated
        inside = (labels[:, None] == np.arange(k)[:, None]).astype(np.float64)
        sizes = inside.sum(axis=2)[..., None]
        means = (inside.reshape(-1, m) @ z).reshape(-1, k, p)
        centres = np.where(sizes > 0, means / np.maximum(sizes, 1), centres)
    inertia = np.take_along_axis(to_centres, labels[:, None], axis=1).sum(axis=(1, 2)).reshape(runs, starts)
    return labels.reshape(runs, starts, m)[np.arange(runs), inertia.argmin(axis=1)]


def folds(wrong, rng, count=FOLDS):
    """A fold number (n,) for every image; wrong and right ones are each spread evenly."""
    fold = np.empty(len(wrong), dtype=np.int64)
    for kind in (wrong, ~wrong):
        rows = rng.permutation(np.flatnonzero(kind))
        fold[rows] = np.arange(len(rows)) % count
    return fold


def _directions(z, weights, mean, scale):
    """Discriminant directions (candidates, k): from each candidate's weighted mean to that of the class, hard to easy.

    z (m, k) and weights (candidates, m): of the images that any candidate holds. mean (k,): of the class; that of all
    other images in its place gives the same directions.
    """
    sizes = weights.sum(axis=1, keepdims=True)
    means = weights @ z / np.where(sizes > 0, sizes, 1)
    return np.where(sizes > 0, mean - means, 0) / scale


def cross_fitted_scores(z, weights, wrong, scale, fold):
    """Scores of images by directions that have not seen them.

    Each fold's are in deviations of its right images from their mean, so that folds compare.

    Args:
        z: (n, k), principal coordinates of the class's images.
        weights: (candidates, n), 1 for the errors of a candidate.
        wrong: bool (n,), where the model errs.
        scale: (k,), `shrunken_variances`.
        fold: int (n,), `folds`.

    Returns:
        float64 (candidates, n), lowest = hardest; 0 in a fold in which, or outside of which, all are wrong.
    """
    scores = np.zeros(weights.shape)
    for f in np.unique(fold):
        out = fold == f
        if wrong[~out].all() or wrong[out].all():
            continue
        seen = wrong & ~out  # candidates are groups of errors
        w = _directions(z[seen], weights[:, seen], z[~out].mean(axis=0), scale)
        scores[:, out] = _standardised(w @ z[out].T, wrong[out])
    return scores


def _standardised(scores, wrong):
    right = scores[:, ~wrong]
    deviation = right.std(axis=1, keepdims=True)
    return (scores - right.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1)


def take_regions(scores, sizes, wrong, most, only_better=True):
    """Candidates worth keeping, each with its region.

    A region is the hard end of a candidate's scores, 1.5 times as many images as it has errors. Greedily, the highest
    lower bound of the error rate among images not yet taken goes first (the rate, shrunken towards the class's, less
    half a deviation), and its region grows (`grown_length`). Candidates then drop out that have fewer than half of
    their region free, or whose scores correlate with the taken one's.

    Args:
        scores: (candidates, n), lowest = hardest.
        sizes: (candidates,), errors of each.
        wrong: bool (n,), where the model errs.
        most: candidates to keep.
        only_better: stop where no rate exceeds the class's.

    Returns:
        list of (candidate, rows of its region, hardest first), in the order in which they were taken.
    """
    n, base = len(wrong), wrong.mean()
    largest = max(1, int(LARGEST_SHARE * n))
    lengths = np.clip(np.round(REGION_PER_ERROR * sizes).astype(int), SMALLEST_CLUSTER, None).clip(max=largest)
    order = np.argsort(scores, axis=1, kind="stable")
    inside = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(inside, order, np.arange(n) < lengths[:, None], axis=1)
    unit = scores - scores.mean(axis=1, keepdims=True)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    taken = np.zeros(n, dtype=bool)
    running = np.ones(len(scores), dtype=bool)
    kept = []
    while len(kept) < most:
        free = inside & ~taken
        count = free.sum(axis=1)
        rates = ((free & wrong).sum(axis=1) + PRIOR_IMAGES * base) / (count + PRIOR_IMAGES)
        running &= (count >= FREE_SHARE * lengths) & (count > 0)
        if only_better:
            running &= rates > base
        if not running.any():
            break
        bounds = rates - DEVIATIONS_BELOW * np.sqrt(rates * (1 - rates) / (count + PRIOR_IMAGES))
        best = int(np.where(running, bounds, -np.inf).argmax())
        most_grown = min(largest, LARGEST_GROWTH * lengths[best])
        rows = order[best, : grown_length(wrong[order[best]], lengths[best], most_grown, base, rates[best])]
        kept.append((best, rows))
        taken[rows] = True
        running &= unit @ unit[best] <= SAME_CORRELATION
        running[best] = False
    return kept


def grown_length(wrong, shortest, longest, base, rate):
    """How far a region reaches: the length, within bounds, that best splits `wrong` into two error rates.

    The likeliest step from `rate` down to `base` is where the errors in excess of the rate halfway between them are
    most.

    Args:
        wrong: bool (n,), hardest first.
        shortest, longest: the bounds, in images.
        base: 0..1, error rate of the class.
        rate: 0..1, that of the region.

    Returns:
        int: images.
    """
    excess = np.cumsum(wrong - (base + rate) / 2)
    return shortest + int(excess[shortest - 1 : longest].argmax())


def _refitted(coordinates, weights, wrong, scale, scores, members):
    """The candidate's direction fitted on all images, with the cut of its cross-fitted region.

    The errors of the candidate, and those of its region, which no direction had seen that put them there, weigh alike.
    """
    z = coordinates.z
    grown = np.zeros(len(z))
    grown[members] = wrong[members]
    weights = weights / weights.sum() + grown / max(grown.sum(), 1)
    w = _directions(z, weights[None], z.mean(axis=0), scale)[0]
    right = (z @ w)[~wrong]
    direction, intercept = coordinates.direction(w)
    deviation = right.std() or 1.0
    cut = scores[members[-1]]
    return FoundSlice(
        direction / deviation,
        (intercept - right.mean()) / deviation - cut,
        len(members) / len(z),
        members,
        int(wrong[members].sum()),
    )
