"""Which training labels look wrong? Ours.

Being hard is no sign of it: a model that has learned its training set by heart is right on every wrong label, and the
images on the hard side of a class may be its rare, rightly labelled ones. A wrong label shows elsewhere: the image
looks like another class, and like those images of it that the model calls something else.
"""

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

CHUNK = 1 << 16  # images at a time: a million of them by a thousand classes would be 8 GB


def looks_like(latents, val_latents, val_labels):
    """The class that each embedding looks like, int64 (N,): linear discriminant analysis, fitted on validation.

    Args:
        latents: float (N, d). val_latents: (M, d); val_labels: int (M,), which are trusted.
    """
    present, counts = np.unique(val_labels, return_counts=True)
    members = np.isin(val_labels, present[counts > 1])
    if len(np.unique(val_labels[members])) < 2:
        return np.full(len(latents), present[counts.argmax()])
    # Shrinkage keeps the covariance invertible where there are fewer images than dimensions.
    analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    analysis.fit(val_latents[members], val_labels[members])
    parts = [analysis.predict(latents[start : start + CHUNK]) for start in range(0, len(latents), CHUNK)]
    return np.concatenate(parts).astype(np.int64)
