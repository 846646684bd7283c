"""The idea of cleanlab Datalab's underperforming group: density clusters, of which the worst is reported.

DBSCAN by cosine distance in a class, its radius the median distance to the tenth neighbour; of the clusters with at
least 5 % of the class, the one with the lowest mean probability of the true class. Datalab looks at all classes at
once; here each class gets its worst cluster. k-means of 10 where the density knows a single cluster.
"""

import numpy as np

from . import Slice
from ._tools import Coordinates, clusters, nearness

TITLE = "underperforming group"


def fit(find, neighbours=10, least=0.05):
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    coordinates = Coordinates(find.embeddings)
    points = coordinates(find.embeddings)
    slices = []
    for label in range(find.num_classes):
        members = find.labels == label
        own, true = points[members], find.probs[members, label]
        if len(own) <= neighbours:
            continue
        distances, _ = NearestNeighbors(n_neighbors=neighbours + 1, metric="cosine").fit(own).kneighbors(own)
        radius = max(float(np.median(distances[:, -1])), 1e-6)
        cluster = DBSCAN(eps=radius, min_samples=neighbours, metric="cosine").fit_predict(own)
        large = [k for k in range(cluster.max() + 1) if (cluster == k).mean() >= least]
        if len(large) < 2:
            cluster, _ = clusters(own, 10, find.seed, starts=3)
            large = [k for k in range(cluster.max() + 1) if (cluster == k).mean() >= least]
        if large:
            worst = min(large, key=lambda k: true[cluster == k].mean())
            slices.append(Slice(label, nearness(coordinates, own[cluster == worst].mean(0))))
    return slices
