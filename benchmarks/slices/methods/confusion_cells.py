"""A slice for each wrong prediction of a class, the commonest first; scored by that prediction's probability."""

from dataclasses import dataclass

import numpy as np

from . import Slice

TITLE = "confusion cells"
USES_OUTPUTS = True


@dataclass(frozen=True)
class _Mistaken(Slice):
    score_embeddings: object = None
    prediction: int = 0

    def score(self, embeddings, probs=None, features=None):
        return probs[:, self.prediction].astype(float)


def fit(find):
    slices = []
    for label in range(find.num_classes):
        counts = np.bincount(find.preds[(find.labels == label) & find.wrong], minlength=find.num_classes)
        slices += [_Mistaken(label, prediction=int(p)) for p in np.argsort(-counts, kind="stable") if counts[p]]
    return slices
