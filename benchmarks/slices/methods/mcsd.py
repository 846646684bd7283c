"""Manifold-compact slices (MCSD, arXiv 2501.19032): risk and coherence on a graph of neighbours, ours in detail.

In each class, weights w in 0..1 of a given sum maximise w' risk + w' A w / k, A the graph of the k nearest
neighbours; projected gradient. The risk of the images that are taken is then set to nothing. A new image's score is the
mean weight of its ten nearest.
"""

import numpy as np

from . import Slice
from ._tools import Coordinates, remembered

TITLE = "MCSD"


def fit(find, neighbours=10, share=0.05, slices_per_class=5, coherence=1.0):
    from scipy.sparse import csr_matrix
    from scipy.spatial import cKDTree

    coordinates = Coordinates(find.embeddings)
    points = coordinates(find.embeddings)
    true = find.probs[np.arange(len(find.labels)), find.labels].astype(float)
    slices = []
    for label in range(find.num_classes):
        members = np.flatnonzero(find.labels == label)
        if len(members) <= neighbours:
            continue
        tree = cKDTree(points[members])
        near = tree.query(points[members], neighbours + 1)[1][:, 1:]
        rows = np.repeat(np.arange(len(members)), neighbours)
        graph = csr_matrix((np.ones(len(rows)), (rows, near.ravel())), shape=(len(members), len(members)))
        graph = (graph + graph.T) / (2 * neighbours)
        neighbourhood = remembered(lambda z, tree=tree: tree.query(coordinates(z), neighbours))
        risk = 1 - true[members]
        for _ in range(slices_per_class):
            weights = _solve(risk, graph, max(5.0, share * len(members)), coherence)
            slices.append(Slice(label, _score(neighbourhood, weights)))
            risk = risk * (1 - weights)
    return slices


def _solve(risk, graph, budget, coherence, steps=200, rate=0.1):
    weights = _onto_budget(risk * budget / max(risk.sum(), 1e-12), budget)
    for _ in range(steps):
        weights = _onto_budget(weights + rate * (risk + 2 * coherence * (graph @ weights)), budget)
    return weights


def _onto_budget(weights, budget):
    """The nearest point with entries in 0..1 and sum `budget`, by bisection on the shift."""
    low, high = weights.min() - 1, weights.max()
    for _ in range(50):
        shift = (low + high) / 2
        low, high = (shift, high) if np.clip(weights - shift, 0, 1).sum() > budget else (low, shift)
    return np.clip(weights - shift, 0, 1)


def _score(neighbourhood, weights):
    def by_embedding(embeddings):
        distances, near = neighbourhood(embeddings)
        # Images without a neighbour in the slice are ordered by distance, below all others.
        return weights[near].mean(1) - 1e-6 * distances.mean(1)

    return by_embedding
