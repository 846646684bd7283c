"""This project's method: several directions a class, and the single one where its errors are too few for several."""

import numpy as np

from . import Slice, one_svm

TITLE = "failure directions"


def fit(find):
    from failure_directions.directions.class_fit import Preprocess
    from failure_directions.directions.slices import class_generator, find_class_slices
    from failure_directions.svm_utils import whitening

    preprocess = Preprocess(*whitening(find.embeddings), True)
    single = {one.label: one for one in one_svm.fit(find)}
    slices = []
    for label in np.unique(find.labels).tolist():
        rows = np.flatnonzero(find.labels == label)
        x = np.asarray(preprocess(find.embeddings[rows]), dtype=np.float64)
        found = find_class_slices(
            x, find.wrong[rows], find.probs[rows], find.preds[rows], rng=class_generator(find.seed, label)
        )
        slices += [Slice(label, _hardness(preprocess, one)) for one in found]
        if not found and label in single:
            slices.append(single[label])
    return slices


def _hardness(preprocess, found):
    return lambda embeddings: -found.score(np.asarray(preprocess(embeddings), dtype=np.float64))
