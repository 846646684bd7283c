"""This project's method: several directions a class (src/directions)."""

import numpy as np

from . import Slice

TITLE = "failure directions"


def fit(find):
    from failure_directions.directions.class_fit import Preprocess
    from failure_directions.directions.slices import class_generator, find_class_slices
    from failure_directions.svm_utils import whitening

    preprocess = Preprocess(*whitening(find.embeddings), True)
    slices = []
    for label in np.unique(find.labels).tolist():
        rows = np.flatnonzero(find.labels == label)
        x = np.asarray(preprocess(find.embeddings[rows]), dtype=np.float64)
        found = find_class_slices(
            x, find.wrong[rows], find.probs[rows], find.preds[rows], rng=class_generator(find.seed, label)
        )
        slices += [Slice(label, _hardness(preprocess, one)) for one in found]
    return slices


def _hardness(preprocess, found):
    return lambda embeddings: -found.score(np.asarray(preprocess(embeddings), dtype=np.float64))
