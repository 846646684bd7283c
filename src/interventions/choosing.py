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
