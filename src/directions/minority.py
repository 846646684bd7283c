"""Does the direction find the minority? Statistics of a known attribute, `spurious`, within each class."""

import numpy as np

from ..runtime.errors import UserError

TOP_K = (10, 20, 50, 100)


def minority_values(labels, spurious, num_classes, given=None, class_names=None):
    """The minority's values of `spurious` in each class.

    Args:
        labels, spurious: (N,) ints of the training images.
        given: what the config's `minority` says: a value or list of values for every class, or a dict from class name
            to such; None for the rule: values below half the mean frequency among the class's values.

    Returns:
        list of `num_classes` sets.
    """
    if isinstance(given, dict):
        return [set(np.atleast_1d(given.get(name, [])).tolist()) for name in class_names]
    if given is not None:
        return [set(np.atleast_1d(given).tolist()) for _ in range(num_classes)]
    minority = []
    for c in range(num_classes):
        values, counts = np.unique(spurious[labels == c], return_counts=True)
        minority.append(set(values[counts < counts.mean() / 2].tolist()) if len(values) else set())
    return minority


def check_spurious(splits):
    """Raise `UserError` unless every split's beton has the field `spurious`, one integer an example."""
    for split in splits.values():
        split.beton.require("spurious")
        values = split.beton.column("spurious")
        if values.ndim != 1 or not np.array_equal(values, values.astype(np.int64)):
            raise UserError(f"the spurious field of {split.beton.path} is not an integer; write the beton again")


def attribute_rates(labels, spurious, flagged, minority):
    """Of each class and value of `spurious`: base rate, share among the flagged, share of the value that is flagged.

    Args:
        labels, spurious: (N,) ints.
        flagged: (N,) bools.
        minority: from `minority_values`.

    Returns:
        list of dicts with class, value, minority (0/1), count, base_rate, share_of_flagged, flagged_share; shares of
        nothing are NaN.
    """
    rows = []
    for c, values in enumerate(minority):
        members = labels == c
        for value in np.unique(spurious[members]).tolist():
            has_value = members & (spurious == value)
            hits = int((has_value & flagged).sum())
            rows.append(
                {
                    "class": c,
                    "value": value,
                    "minority": int(value in values),
                    "count": int(has_value.sum()),
                    "base_rate": _share(has_value.sum(), members.sum()),
                    "share_of_flagged": _share(hits, (members & flagged).sum()),
                    "flagged_share": _share(hits, has_value.sum()),
                }
            )
    return rows


def minority_precision(labels, spurious, decision_values, confs, minority, top_k=TOP_K):
    """Precision of the minority among the K lowest of each class, by decision value and by confidence.

    Args:
        decision_values: (N,) of the SVM; a class without any (all NaN) is left out, as is one without a minority here.
        confs: (N,) base model's probability of the true label.

    Returns:
        list of dicts with class, k, svm, confidence, base_rate; a K above the class's size is left out.
    """
    rows = []
    for c, values in enumerate(minority):
        members = np.flatnonzero(labels == c)
        if not values or not len(members) or np.isnan(decision_values[members]).any():
            continue
        in_minority = np.isin(spurious[members], list(values))
        if not in_minority.any():
            continue
        rows += [
            {
                "class": c,
                "k": k,
                "svm": precision_at(k, in_minority, decision_values[members]),
                "confidence": precision_at(k, in_minority, confs[members]),
                "base_rate": float(in_minority.mean()),
            }
            for k in top_k
            if k <= len(members)
        ]
    return rows


def precision_at(k, sought, values):
    """Share of what is sought among the `k` examples with the lowest values, whatever the order of the file.

    Examples with the same value come in any order: the share is the expected one over these orders.

    Args:
        k: 1 to n.
        sought: (n,) bool.
        values: (n,), without NaN.
    """
    last = np.partition(values, k - 1)[k - 1]
    before, tied = values < last, values == last
    return float((sought[before].sum() + (k - before.sum()) * sought[tied].mean()) / k)


def _share(part, whole):
    return float(part / whole) if whole else float("nan")
