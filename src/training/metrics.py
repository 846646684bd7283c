"""Accuracy and AUROC, overall and per class; scikit-learn does the rest."""

import warnings

import numpy as np
from sklearn.metrics import roc_auc_score


def class_accuracies(correct, labels, num_classes):
    """(num_classes,) share of `correct` (N bools) in each class of `labels` (N ints); NaN for an absent class."""
    sizes = np.bincount(labels, minlength=num_classes)
    with np.errstate(invalid="ignore"):
        return np.bincount(labels, weights=correct, minlength=num_classes) / np.where(sizes, sizes, np.nan)


def aurocs(probabilities, labels):
    """(k,) area under the ROC curve of each condition; NaN where a condition is always or never present.

    Args:
        probabilities, labels: (N, k) arrays.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of the NaN
        return np.array(
            [
                roc_auc_score(present, scores) if 0 < present.sum() < len(present) else np.nan
                for present, scores in zip(labels.T, probabilities.T, strict=True)
            ]
        )


def best_f1_threshold(probabilities, present):
    """The threshold of 0.01, 0.02, ..., 0.99 with the best F1 score; the first of equals.

    Args:
        probabilities: (N,) of the condition.
        present: (N,) bool, whether it is there.
    """
    thresholds = np.arange(1, 100) / 100
    flagged = probabilities[:, None] > thresholds
    hits = (flagged & present[:, None]).sum(0)
    f1 = 2 * hits / np.maximum(flagged.sum(0) + present.sum(), 1)
    return float(thresholds[f1.argmax()])
