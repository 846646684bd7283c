"""Twenty clusters of a class's images, the highest error rate first; scored by nearness to the centre."""

from . import Slice
from ._tools import Coordinates, clusters, error_rate, nearness

TITLE = "k-means 20 on all"


def fit(find, count=20):
    coordinates = Coordinates(find.embeddings)
    points = coordinates(find.embeddings)
    slices = []
    for label in range(find.num_classes):
        members = find.labels == label
        if members.any():
            cluster, centres = clusters(points[members], count, find.seed, starts=3)
            rates = [error_rate(find.wrong[members][cluster == k]) for k in range(len(centres))]
            order = sorted(range(len(centres)), key=lambda k: -rates[k])
            slices += [Slice(label, nearness(coordinates, centres[k])) for k in order[:5]]
    return slices
