"""George's first step (Sohoni et al., NeurIPS 2020): clusters of each class in the base model's own features.

The number of clusters, 2 to 10, has the best silhouette; the highest error rate comes first.
"""

from dataclasses import dataclass

import numpy as np

from . import Slice
from ._tools import Coordinates, clusters, error_rate

TITLE = "George"
USES_OUTPUTS = True


@dataclass(frozen=True)
class _InFeatures(Slice):
    def score(self, embeddings, probs=None, features=None):
        return self.score_embeddings(features)


def fit(find):
    from sklearn.metrics import silhouette_score

    slices = []
    for label in range(find.num_classes):
        members = find.labels == label
        if members.sum() < 20:
            continue
        coordinates = Coordinates(find.features[members], dimensions=20)
        points = coordinates(find.features[members])
        tried = [clusters(points, count, find.seed, starts=3) for count in range(2, 11)]
        scores = [silhouette_score(points, cluster, sample_size=1000, random_state=find.seed) for cluster, _ in tried]
        cluster, centres = tried[int(np.argmax(scores))]
        rates = [error_rate(find.wrong[members][cluster == k]) for k in range(len(centres))]
        for k in sorted(range(len(centres)), key=lambda k: -rates[k]):
            slices.append(_InFeatures(label, _near(coordinates, centres[k])))
    return slices


def _near(coordinates, centre):
    return lambda features: -np.linalg.norm(coordinates(features) - centre, axis=1)
