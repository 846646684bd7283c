"""A linear classifier on embeddings, for images that no model has seen: predictions of it that are honest.

Multinomial logistic regression on coordinates of unit deviation. Every image is predicted by a classifier that was
fitted without it, and without any of its group.
"""

import warnings

import numpy as np

from ..runtime.english import some
from ..runtime.errors import UserError

STRENGTH = 0.01  # scikit-learn's C: hundreds of coordinates of unit deviation need a strong penalty


def out_of_fold(embeddings, labels, classes, groups=None, folds=5, seed=0, most_steps=200):
    """Probabilities (N, classes), float32: each row by a classifier fitted on the other folds.

    Args:
        embeddings: (N, d).
        labels: int (N,), below `classes`.
        groups: (N,), no group is cut by the folds; or None.

    Raises:
        UserError: a class has fewer images (or groups) than there are folds need, which is 2.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    labels = np.asarray(labels)
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        raise UserError("all images have one label: without a model, at least two classes are needed to learn one")
    if (few := present[counts < 2]).size:
        raise UserError(
            f"class(es) {some(few)} have a single image: without a model, predictions need at least 2 images a class"
        )
    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    if groups is not None:
        units = len(np.unique(groups))
        if units < 2:
            raise UserError("all images are one group: no classifier can be fitted without any of its group")
        folds = min(folds, units)
    probs = np.zeros((len(labels), classes), dtype=np.float32)
    parts = splitter(min(folds, int(counts.max())), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer images than there are folds
        for rest, out in parts.split(np.zeros(len(labels)), labels, groups):
            probs[out] = fit_predict(embeddings, labels, rest, out, classes, most_steps)
    return probs


def fit_predict(embeddings, labels, rest, out, classes, most_steps=200):
    """Probabilities (len(out), classes), float32, of the rows `out` by a classifier fitted on the rows `rest`.

    A class that is not among `rest` has probability 0.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x, y = np.asarray(embeddings[rest], dtype=np.float64), labels[rest]
    probs = np.zeros((len(out), classes), dtype=np.float32)
    if len(np.unique(y)) < 2:
        probs[:, y[0]] = 1
        return probs
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation[deviation == 0] = 1
    head = LogisticRegression(C=STRENGTH, max_iter=most_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near the optimum is near enough
        head.fit((x - mean) / deviation, y)
    probs[:, head.classes_] = head.predict_proba((np.asarray(embeddings[out], dtype=np.float64) - mean) / deviation)
    return probs
