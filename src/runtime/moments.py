"""Mean and deviation of more rows than memory holds, in one pass."""

import numpy as np


class Moments:
    """Mean and standard deviation per coordinate, float64, of rows that come in batches (Chan, Golub and LeVeque 1983).

    Everything is relative to the first row, which keeps large means from swallowing small deviations and makes the
    deviation of a constant coordinate exactly 0.

        moments = Moments()
        for batch in batches:
            moments.update(batch)
        moments.mean, moments.std()

    Attributes:
        weight: the sum of the rows' weights so far; their number where they have none.
    """

    def __init__(self):
        self.weight, self._origin, self._mean, self._squares = 0, None, 0.0, 0.0

    def update(self, batch, weights=None):
        """Add the rows of `batch` (n, d), numbers of any type, with `weights` (n,), 0 or more, or 1 each."""
        total = len(batch) if weights is None else float(np.sum(weights, dtype=np.float64))
        if total == 0:
            return
        x = np.array(batch, dtype=np.float64)
        if self._origin is None:
            self._origin = x[0].copy()
        x -= self._origin
        mean = x.mean(axis=0) if weights is None else np.asarray(weights, np.float64) @ x / total
        x -= mean
        squares = np.einsum("nd,nd->d", x, x) if weights is None else np.asarray(weights, np.float64) @ x**2
        delta, both = mean - self._mean, self.weight + total
        self._squares = self._squares + (squares + delta**2 * self.weight * total / both)
        self._mean = self._mean + delta * total / both
        self.weight = both

    @property
    def mean(self):
        """(d,)"""
        return self._origin + self._mean

    def std(self, ddof=0):
        """(d,), the squares divided by the weight less `ddof`: 0 for the population's, 1 for the sample's."""
        return np.sqrt(self._squares / (self.weight - ddof))
