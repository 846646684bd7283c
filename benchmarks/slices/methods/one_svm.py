"""One direction a class: the linear SVM between what the model gets right and wrong (Jain et al., ICLR 2023)."""

import numpy as np
from failure_directions.svm_utils import SVMFitter

from . import Slice

TITLE = "one SVM"


def fit(find):
    fitter = SVMFitter()
    fitter.set_preprocess(find.embeddings)
    fitter.fit(preds=find.preds, ys=find.labels, latents=find.embeddings)
    return [Slice(c, _hardness(fitter, c)) for c in np.unique(find.labels).tolist() if c not in fitter.skipped]


def _hardness(fitter, label):
    return lambda embeddings: -fitter.predict(ys=np.full(len(embeddings), label), latents=embeddings)[1]
