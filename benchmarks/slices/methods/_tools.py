"""What several methods share."""

import numpy as np
from scipy.linalg import eigh


class Coordinates:
    """Principal coordinates of whitened, normalised embeddings.

    Each coordinate is standardised, every image divided by its norm, the mean taken off, and the result turned to its
    principal axes. Fitted on (n, d) embeddings; call it on (m, d) for (m, min(d, n - 1, dimensions)) float64. Those of
    the array that it was last called with are kept, since a class's slices score the same images.
    """

    def __init__(self, embeddings, dimensions=128):
        embeddings = embeddings.astype(np.float64)
        self._mean, self._std = embeddings.mean(0), embeddings.std(0)
        self._std[self._std == 0] = 1
        normal = self._normalised(embeddings)
        self._centre = normal.mean(0)
        normal -= self._centre
        kept = min(dimensions, normal.shape[1], max(1, len(normal) - 1))
        size = normal.shape[1]
        _, axes = eigh(normal.T @ normal, subset_by_index=[size - kept, size - 1])
        self._axes = axes[:, ::-1]
        self._turned = remembered(lambda z: (self._normalised(z.astype(np.float64)) - self._centre) @ self._axes)

    def _normalised(self, embeddings):
        white = (embeddings - self._mean) / self._std
        return white / np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-12)

    def __call__(self, embeddings):
        return self._turned(embeddings)


def clusters(points, count, seed, starts=10):
    """k-means: int (n,) cluster numbers and (count, d) centres."""
    from sklearn.cluster import KMeans

    fitted = KMeans(min(count, len(points)), n_init=starts, random_state=seed).fit(points)
    return fitted.labels_, fitted.cluster_centers_


def nearness(coordinates, centre):
    """A score: minus the distance to `centre` in the coordinates."""
    return lambda embeddings: -np.linalg.norm(coordinates(embeddings) - centre, axis=1)


def projection(coordinates, direction):
    """A score: along `direction` in the coordinates."""
    return lambda embeddings: coordinates(embeddings) @ direction


def remembered(function):
    """`function` of one array, which keeps its value for the array that it was last called with."""
    last = [None, None]

    def call(array):
        if last[0] is not array:
            last[:] = array, function(array)
        return last[1]

    return call


def error_rate(wrong, weights=None):
    """Weighted share of errors, 0 without images."""
    weights = np.ones(len(wrong)) if weights is None else weights
    return float((weights * wrong).sum() / max(weights.sum(), 1e-12))
