"""Images with several labels, or none, as ChestX-ray14 has them: each condition is analysed present and absent."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ConditionRows:
    """One row for each image and condition, so that what takes one label an image takes these.

    Attributes:
        images: int64 (N K,), the image of each row.
        labels, preds: int64 (N K,), numbers of `class_names`.
        class_names: 2 K names, each condition "present" and then "absent".
        probs: float32 (N K, 2 K), zero but for the row's own condition; or None.
    """

    images: np.ndarray
    labels: np.ndarray
    preds: np.ndarray
    class_names: list
    probs: np.ndarray | None


def condition_rows(labels, preds, names, probs=None):
    """Rows of conditions, of bool (N, K) labels and predictions; probs (N, K) are those of being present."""
    n, k = labels.shape
    images, conditions = np.repeat(np.arange(n), k), np.tile(np.arange(k), n)
    numbers = [2 * conditions + ~array.reshape(-1) for array in (labels, preds)]
    wide = None
    if probs is not None:
        wide = np.zeros((n * k, 2 * k), dtype=np.float32)
        rows, present = np.arange(n * k), np.asarray(probs, dtype=np.float32).reshape(-1)
        wide[rows, 2 * conditions], wide[rows, 2 * conditions + 1] = present, 1 - present
    class_names = [f"{name} {state}" for name in names for state in ("present", "absent")]
    return ConditionRows(images, *numbers, class_names, wide)


def halves(n, groups=None, seed=0):
    """ "val" or "test" for each of n images, half of each by seed; a group is never cut. (n,) of str."""
    units = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(units.max() + 1)
    # Groups in a random order, until half of the images are reached.
    sizes = np.bincount(units)[order]
    finding = np.empty(len(order), dtype=bool)
    finding[order] = np.cumsum(sizes) - sizes / 2 <= n / 2
    return np.where(finding[units], "val", "test")
