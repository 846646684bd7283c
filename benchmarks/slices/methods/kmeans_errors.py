"""Five clusters of a class's errors, the largest first; scored by nearness to the centre."""

import numpy as np

from . import Slice
from ._tools import Coordinates, clusters, nearness

TITLE = "k-means on errors"


def fit(find, count=5):
    coordinates = Coordinates(find.embeddings)
    points = coordinates(find.embeddings)
    slices = []
    for label in range(find.num_classes):
        errors = points[(find.labels == label) & find.wrong]
        if len(errors):
            cluster, centres = clusters(errors, count, find.seed)
            order = np.argsort(-np.bincount(cluster, minlength=len(centres)), kind="stable")
            slices += [Slice(label, nearness(coordinates, centres[k])) for k in order]
    return slices
