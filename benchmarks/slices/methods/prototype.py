"""Cross-fitted clusters of the errors, the first version of this project's method, kept to compare the present one.

Per class: k-means of the errors for k in 5, 8, 12, 20 and two seeds gives candidates; a shrunken linear discriminant
between a candidate's errors and what the model gets right, cross-fitted in three folds, gives its region; regions are
taken greedily by shrunken error rate. Ours.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from . import Slice
from ._tools import Coordinates, clusters, projection

TITLE = "prototype"
SMALLEST, FOLDS, SHRINKAGE, PRIOR, MOST = 6, 3, 0.9, 10, 5


def fit(find):
    coordinates = Coordinates(find.embeddings)
    points = coordinates(find.embeddings)
    slices = []
    for label in range(find.num_classes):
        members = find.labels == label
        directions = _directions(points[members], find.wrong[members], find.seed)
        slices += [Slice(label, projection(coordinates, direction)) for direction in directions]
    return slices


def _directions(points, wrong, seed):
    errors = np.flatnonzero(wrong)
    candidates = [
        errors[cluster == k]
        for start in (0, 1)
        for count in (5, 8, 12, 20)
        if count <= len(errors) // SMALLEST
        for cluster in [clusters(points[errors], count, 2 * seed + start, starts=3)[0]]
        for k in range(count)
    ]
    candidates = [rows for rows in candidates if len(rows) >= SMALLEST]
    if not candidates or wrong.all():
        return []
    scores = _cross_fitted(points, wrong, candidates, np.random.default_rng([seed, 9]))
    n, base = len(points), wrong.mean()
    most = max(SMALLEST, int(0.4 * n))
    sizes = [min(max(SMALLEST, round(1.5 * len(rows))), most) for rows in candidates]
    regions = [np.argsort(-score, kind="stable")[:size] for score, size in zip(scores, sizes, strict=True)]
    free, chosen = np.ones(n, bool), []
    while len(chosen) < MOST:
        rates = np.full(len(regions), -1.0)
        for i, region in enumerate(regions):
            left = region[free[region]]
            if len(left) >= len(region) / 2:
                rates[i] = (wrong[left].sum() + PRIOR * base) / (len(left) + PRIOR)
        best = int(rates.argmax())
        if rates[best] <= base:
            break
        free[regions[best]] = False
        chosen.append(candidates[best])
    return _discriminants(points, wrong, chosen) if chosen else []


def _cross_fitted(points, wrong, candidates, rng):
    """Scores (candidates, n), each image's by directions that have not seen it, in deviations of the right images."""
    fold = rng.permutation(len(points)) % FOLDS
    scores = np.empty((len(candidates), len(points)))
    for held_out in range(FOLDS):
        seen = fold != held_out
        kept = [rows[seen[rows]] for rows in candidates]
        if not seen[~wrong].any():
            return scores * 0
        directions = _discriminants(points, wrong, kept, seen)
        values = points @ np.array(directions).T
        right = values[seen & ~wrong]
        scores[:, ~seen] = ((values[~seen] - right.mean(0)) / (right.std(0) + 1e-12)).T
    return scores


def _discriminants(points, wrong, candidates, seen=None):
    """S^-1 (mean of a candidate's errors - mean of the right images), with one solve for all candidates."""
    seen = np.ones(len(points), bool) if seen is None else seen
    covariance = np.cov(points[seen].T)
    size = len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
    right = points[seen & ~wrong].mean(0)
    gaps = [points[rows].mean(0) - right if len(rows) else np.zeros(size) for rows in candidates]
    return list(cho_solve(cho_factor(shrunk), np.array(gaps).T).T)
