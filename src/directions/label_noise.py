"""Which training labels look wrong? Ours.

Being hard is no sign of it: a model that has learned its training set by heart is right on every wrong label, and the
images on the hard side of a class may be its rare, rightly labelled ones. A wrong label shows elsewhere: the image
looks like another class, and like those images of it that the model calls something else.
"""

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

CHUNK_NUMBERS = 2**22  # scores worked on at a time: 32 MiB in float64


def looks_like(latents, val_latents, val_labels):
    """The class that each embedding looks like, int64 (N,): linear discriminant analysis, fitted on validation.

    Memory maps are read in parts; half precision is computed with in single.

    Args:
        latents: float (N, d).
        val_latents: (M, d).
        val_labels: int (M,), which are trusted.
    """
    present, counts = np.unique(val_labels, return_counts=True)
    if (counts > 1).sum() < 2:
        return np.full(len(latents), present[counts.argmax()])
    if counts.min() == 1:
        members = np.isin(val_labels, present[counts > 1])
        val_latents, val_labels = val_latents[members], val_labels[members]
    # Shrinkage keeps the covariance invertible where there are fewer images than dimensions.
    analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(_single(val_latents), val_labels)
    step = max(1, CHUNK_NUMBERS // max(len(present), val_latents.shape[1]))
    like = np.empty(len(latents), dtype=np.int64)
    for start in range(0, len(latents), step):
        like[start : start + step] = analysis.predict(_single(latents[start : start + step]))
    return like


def _single(latents):
    """Half precision as float32, where scikit-learn would make float64 of it; others as they are."""
    return latents.astype(np.float32) if latents.dtype == np.float16 else latents
