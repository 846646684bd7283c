"""The ceiling: a linear discriminant that is told which images of find are in the planted slices."""

import numpy as np

from . import Slice
from ._tools import Coordinates, projection

TITLE = "probe that knows"
KNOWS_SLICES = True


def fit(find, slices):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    coordinates = Coordinates(find.embeddings)
    points = coordinates(find.embeddings)
    found = []
    for number in np.unique(slices[slices >= 0]):
        label = int(find.labels[slices == number][0])
        members = find.labels == label
        fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(
            points[members], slices[members] == number
        )
        found.append(Slice(label, projection(coordinates, fitted.coef_[0])))
    return found
