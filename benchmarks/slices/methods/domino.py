"""Domino's error-aware mixture (Eyuboglu et al., ICLR 2022), mixed over the classes or one a class.

Mixed: 25 components over all classes; a diagonal Gaussian of 128 principal coordinates times the label and the soft
prediction, both weighing 10; slices by the largest gap between label and prediction. Each goes to the class that it
holds most of. Per class: 10 components with predictions alone. Scores leave the predictions out.
"""

import numpy as np

from . import Slice
from ._mixture import Categorical, DiagonalGaussians, fit_mixture, from_confusion, log_odds
from ._tools import Coordinates

TITLE = "Domino"
VARIANTS = {"mixed": {}, "per_class": {"per_class": True}}
WEIGHT = 10


def fit(find, per_class=False):
    coordinates = Coordinates(find.embeddings)
    # Domino's Gaussians see principal coordinates at the scale of the embedding: unit mean variance here.
    scale = coordinates(find.embeddings).std()
    rng = np.random.default_rng([find.seed, 7])
    if not per_class:
        return _slices(find, np.ones(len(find.labels), bool), coordinates, scale, 25, rng)
    groups = [find.labels == label for label in range(find.num_classes)]
    return [s for group in groups if group.sum() > 10 for s in _slices(find, group, coordinates, scale, 10, rng)]


def _slices(find, members, coordinates, scale, components, rng):
    labels, probs = np.eye(find.num_classes)[find.labels[members]], find.probs[members].astype(float)
    gaussians = DiagonalGaussians(coordinates(find.embeddings[members]) / scale)
    label, prediction = Categorical(labels, WEIGHT), Categorical(probs, WEIGHT)
    start = from_confusion(labels, probs, components, rng)
    log_weights, _ = fit_mixture([gaussians, label, prediction], start)
    gaps = np.abs(label.probs - prediction.probs).max(1)

    def score(component, of_class):
        def by_embedding(embeddings):
            rows = np.broadcast_to(np.eye(find.num_classes)[of_class], (len(embeddings), find.num_classes))
            joint = log_weights + gaussians.log_density(coordinates(embeddings) / scale) + label.log_density(rows)
            return log_odds(joint, component)

        return by_embedding

    found = [(k, int(label.probs[k].argmax())) for k in np.argsort(-gaps, kind="stable")]
    return [Slice(of_class, score(k, of_class)) for k, of_class in found]
