"""Partial least squares between a class's embeddings and its errors, a slice a component (after DIM, CVPR 2024)."""

import numpy as np

from . import Slice
from ._tools import Coordinates, projection

TITLE = "partial least squares"


def fit(find, components=5):
    from sklearn.cross_decomposition import PLSRegression

    coordinates = Coordinates(find.embeddings)
    points = coordinates(find.embeddings)
    slices = []
    for label in range(find.num_classes):
        members = find.labels == label
        wrong = find.wrong[members].astype(float)
        if 0 < wrong.sum() < len(wrong):
            fitted = PLSRegression(min(components, len(wrong) - 1), scale=False).fit(points[members], wrong)
            signs = np.sign(fitted.y_loadings_[0])
            slices += [Slice(label, projection(coordinates, w)) for w in (fitted.x_rotations_ * signs).T]
    return slices
