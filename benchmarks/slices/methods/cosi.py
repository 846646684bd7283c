"""FACTS' slicing step without its amplified model (CoSi; Yenamandra et al., ICCV 2023).

A mixture a class of 36 components: a diagonal Gaussian of the embedding times a full Gaussian of the model's logits
with weight 25. Components with the lowest probability of the true class come first; scores leave the logits out.
"""

import numpy as np

from . import Slice
from ._mixture import DiagonalGaussians, FullGaussians, fit_mixture, from_confusion, log_odds
from ._tools import Coordinates

TITLE = "CoSi, without amplified model"


def fit(find, components=36):
    coordinates = Coordinates(find.embeddings)
    scale = coordinates(find.embeddings).std()
    rng = np.random.default_rng([find.seed, 8])
    logits = np.log(find.probs.astype(float) + 1e-6)
    logits -= logits.mean(1, keepdims=True)
    slices = []
    for label in range(find.num_classes):
        members = find.labels == label
        if members.sum() <= components:
            continue
        gaussians = DiagonalGaussians(coordinates(find.embeddings[members]) / scale, reg=1e-3)
        outputs = FullGaussians(logits[members], weight=25, reg=1e-3)
        probs = find.probs[members].astype(float)
        start = from_confusion(np.ones((len(probs), 1)), probs, components, rng)
        log_weights, shares = fit_mixture([gaussians, outputs], start, tolerance=1e-7)
        right = shares.T @ probs[:, label] / (shares.sum(0) + 1e-12)
        # A component that holds less than one image is no slice.
        order = [k for k in np.argsort(right, kind="stable") if shares[:, k].sum() >= 1]
        slices += [Slice(label, _score(coordinates, scale, gaussians, log_weights, k)) for k in order]
    return slices


def _score(coordinates, scale, gaussians, log_weights, component):
    return lambda z: log_odds(log_weights + gaussians.log_density(coordinates(z) / scale), component)
