"""Interventions: what a result says to change in the next training. Functions of arrays.

The paper's (Jain et al. 2023) are loss weights, images added from a pool, and generated images; leaving out suspected
label noise is ours. All act within each class that has a direction, so that every way of choosing images is compared on
the same classes.
"""

import numpy as np

from ..runtime.errors import UserError

CHOICES = ("svm", "confidence", "random", "minority")
SCHEMES = ("x2", "balanced", "soft")
CAPTIONS = ("hard", "easy", "neutral")
"""What chooses images, how training images are weighted, and the captions that images are generated from."""


def hardness(entry, by, minority=None, seed=0):
    """How hard each example of a split looks, float64 (N,): the higher, the sooner it is chosen; NaN is never chosen.

    Args:
        entry: a split of a result (docs/formats.md), with arrays: classes, decision_values, confs, spuriouses.
        by: "svm", minus the decision value; "confidence", minus the probability of the true class; "random"; or
            "minority", a random order of the minority (of classes that have one; else of the class).
        minority: for "minority", a set of values of `spurious` for each class.
    """
    classes = entry["classes"]
    if by not in CHOICES:
        raise UserError(f"there is no choice by {by!r}; choose one of {', '.join(CHOICES)}")
    if by == "svm":
        values = -entry["decision_values"].astype(np.float64)
    elif by == "confidence":
        values = -entry["confs"].astype(np.float64)
    else:
        values = np.random.default_rng(seed).random(len(classes))
        if by == "minority":
            has_one = np.array([len(values) > 0 for values in minority])[classes]
            values[has_one & ~in_minority(entry, minority)] = np.nan
    return np.where(_has_direction(entry), values, np.nan)


def flagged(entry, by, minority=None, seed=0):
    """(N,) bool: the examples whose weight changes.

    By "svm" a decision value of 0 or less, by "confidence" a probability of the true class of .5 or less, by "minority"
    the minority, and at "random" as many of each class as the SVM flags. See `hardness` for the arguments.
    """
    by_svm = _has_direction(entry) & (entry["decision_values"] <= 0)
    if by == "random":
        order, counts = hardness(entry, by, seed=seed), np.bincount(entry["classes"][by_svm])
        chosen = choose(order, entry["classes"], dict(enumerate(counts.tolist())))
        return np.isin(np.arange(len(order)), chosen)
    if by == "minority":
        return _has_direction(entry) & in_minority(entry, minority)
    if by == "confidence":
        return _has_direction(entry) & (entry["confs"] <= 0.5)
    if by == "svm":
        return by_svm
    raise UserError(f"there is no choice by {by!r}; choose one of {', '.join(CHOICES)}")


def in_minority(entry, minority):
    """(N,) bool: examples whose `spurious` is one of the values in the set of their class. Needs `spuriouses`."""
    classes, spurious = entry["classes"], entry["spuriouses"]
    found = np.zeros(len(classes), dtype=bool)
    for c, values in enumerate(minority):
        found |= (classes == c) & np.isin(spurious, list(values))
    return found


def _has_direction(entry):
    return ~np.isnan(entry["decision_values"])


# ---- loss weights ---------------------------------------------------------------------------------------------------


def x2_weights(is_flagged, factor=2.0):
    """(N,) weights: `factor` where flagged, else 1."""
    return np.where(is_flagged, float(factor), 1.0)


def balanced_weights(classes, is_flagged):
    """(N,) weights that let the flagged and the other examples of a class count alike: class size / (2 x group size).

    A class in which all or none are flagged keeps weights of 1.
    """
    weights = np.ones(len(classes))
    for c in np.unique(classes[is_flagged]):
        members = classes == c
        size, hard = members.sum(), (members & is_flagged).sum()
        if hard < size:
            weights[members & is_flagged] = size / (2 * hard)
            weights[members & ~is_flagged] = size / (2 * (size - hard))
    return weights


def soft_weights(classes, values):
    """(N,) weights that grow with hardness: (largest value of the class - value) / its mean over the class.

    Args:
        values: (N,) decision values or confidences, low where hard; a class with NaN, or with equal values, keeps 1.
    """
    weights = np.ones(len(classes))
    for c in np.unique(classes):
        members = classes == c
        distance = values[members].max() - values[members]
        if distance.mean() > 0:  # NaN is not
            weights[members] = distance / distance.mean()
    return weights


# ---- images ---------------------------------------------------------------------------------------------------------


def choose(values, classes, per_class):
    """Positions of the `per_class` examples of each class with the highest `values`, class by class, highest first.

    Args:
        values: (N,) from `hardness`; NaN is never chosen.
        per_class: int, or dict class -> int. Where fewer can be chosen, all of them are.
    """
    chosen = [np.array([], dtype=np.int64)]
    for c in np.unique(classes):
        members = np.flatnonzero((classes == c) & ~np.isnan(values))
        count = per_class.get(int(c), 0) if isinstance(per_class, dict) else per_class
        chosen.append(members[np.argsort(-values[members], kind="stable")[:count]])
    return np.concatenate(chosen)


def suspected_noise(entry, by="svm"):
    """(N,) bool: training examples whose label looks wrong. Ours.

    By "svm": the embedding looks like another class (see `label_noise`), and lies on the hard side of that class's
    direction. By "confidence": the base model gives the label a probability of .5 or less, which finds nothing where it
    has learned the training set by heart.
    """
    if by == "confidence":
        return flagged(entry, by)
    return _has_direction(entry) & (entry["looks_like"] != entry["classes"]) & (entry["looks_like_values"] <= 0)


# ---- by slice -------------------------------------------------------------------------------------------------------

SHARES = ("errors", "equal")
"""How slices share a budget: by their numbers of errors (size x error rate), or equally."""


def shared_budget(slices, budget, how="errors"):
    """How many images each slice gets, dict id -> int, `budget` in all.

    Args:
        slices: list of `confirmation.Slice`.
        budget: int, 0 or more.
        how: one of `SHARES`.

    Returns:
        dict: whole parts first, then one each to the largest remainders, the first of equals. Slices without an error
        in the confirm part share equally where none has one.
    """
    if how not in SHARES:
        raise UserError(f"there is no share by {how!r}; choose one of {', '.join(SHARES)}")
    errors = np.array([one.size * one.error_rate if how == "errors" and one.size else 0.0 for one in slices])
    weights = errors if errors.any() else np.ones(len(slices))
    parts = budget * weights / weights.sum() if len(slices) else weights
    counts = np.floor(parts + 1e-9).astype(int)
    left = budget - counts.sum() if len(slices) else 0
    counts[np.argsort(-(parts - counts), kind="stable")[:left]] += 1
    return {one.id: int(count) for one, count in zip(slices, counts, strict=True)}


def choose_by_slice(slices, counts, classes, slice_values):
    """Positions of images for each slice, hardest first; an image is chosen once, by the first slice that takes it.

    Args:
        slices: list of `confirmation.Slice`, which choose in turn, an image each.
        counts: dict id -> int.
        classes: int (N,).
        slice_values: (N, S), decision values of the slices of each image's class, by rank.

    Returns:
        dict id -> int64 (k,), fewer than its count where the class has no more.
    """
    orders = {}
    for one in slices:
        members = np.flatnonzero(classes == one.class_index)
        values = slice_values[members, one.rank - 1]
        orders[one.id] = iter(members[np.argsort(values, kind="stable")][: np.isfinite(values).sum()].tolist())
    chosen, taken = {one.id: [] for one in slices}, set()
    waiting = [one.id for one in slices if counts[one.id]]
    while waiting:
        for name in list(waiting):
            position = next((at for at in orders[name] if at not in taken), None)
            if position is not None:
                taken.add(position)
                chosen[name].append(position)
            if position is None or len(chosen[name]) == counts[name]:
                waiting.remove(name)
    return {name: np.array(positions, dtype=np.int64) for name, positions in chosen.items()}


def class_shares(slices, classes, budget, how="errors"):
    """How many images each class gets where something else than the slices chooses: as many as its slices get.

    Args:
        slices: list of `confirmation.Slice`; those of other classes are left out.
        classes: class numbers, that share equally where none has a slice.
        budget, how: as in `shared_budget`.

    Returns:
        dict class -> int, `budget` in all.
    """
    slices = [one for one in slices if one.class_index in set(classes)]
    counts = dict.fromkeys(classes, 0)
    if not slices:
        whole, left = divmod(budget, len(counts))
        return {c: whole + (i < left) for i, c in enumerate(counts)}
    shares = shared_budget(slices, budget, how)
    for one in slices:
        counts[one.class_index] += shares[one.id]
    return counts


def suspected_by_slice(slices, looks_like, classes, slice_values):
    """(N,) bool: training examples that look like an image of another class which one of its slices flags.

    As `suspected_noise` by "svm", with slices in place of that class's direction.

    Args:
        slices: list of `confirmation.Slice`.
        looks_like, classes: int (N,).
        slice_values: (N, S), of the slices of the class that each looks like, by rank.
    """
    return (looks_like != classes) & in_slices(slices, looks_like, slice_values)


def in_slices(slices, classes, slice_values):
    """(N,) bool: images that one of the slices flags. See `choose_by_slice` for the arguments."""
    found = np.zeros(len(classes), dtype=bool)
    for one in slices:
        found |= (classes == one.class_index) & (slice_values[:, one.rank - 1] <= 0)
    return found
