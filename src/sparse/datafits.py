"""Losses of linear scores: value, residual, curvature, accuracy and the best intercept without weights."""

import torch
from torch.nn import functional as F


class Multinomial:
    """Cross-entropy of softmax(scores); every class has a row of weights, also where there are two.

    Args:
        y: (n,) int64 classes 0..K-1, on the device.
        weights: (n,) float64, summing to 1, on the device.
    """

    def __init__(self, y, weights, classes):
        self.y, self.weights, self.outputs = y, weights, classes

    def fit_rows(self, scores, rows):
        """For a slice of rows and their scores (rows, K), which are overwritten.

        Returns:
            The weighted loss (0-d float64), its gradient by the scores (rows, K), its mean second derivative by each
            score (K,) float64 and the number of rows that are right (0-d).
        """
        y, weights = self.y[rows], self.weights[rows]
        right = (scores.argmax(1) == y).sum()
        log_p = F.log_softmax(scores, dim=1)
        loss = -(log_p.gather(1, y[:, None]).squeeze(1).double() @ weights)
        p, weights = log_p.exp_(), weights[:, None].to(scores.dtype)
        torch.mul(p, weights, out=scores)
        curvature = (scores.sum(0) - (scores * p).sum(0)).double()
        scores.scatter_add_(1, y[:, None], -weights)
        return loss, scores, curvature, right

    def accuracy(self, right):
        """The share of rows that are right, from the sum over all rows of what `fit_rows` counts."""
        return right / len(self.y)

    def null_bias(self):
        """The best intercept without weights, (K,) float64: log class shares, centred."""
        shares = torch.zeros(self.outputs, dtype=torch.float64, device=self.y.device)
        shares.index_add_(0, self.y, self.weights)
        return shares.log() - shares.log().mean()


class Gaussian:
    """Half the squared error, summed over the m outputs: `1/2 |y - scores|^2`.

    Args:
        y: (n, m) float64, on the device.
        weights: (n,) float64, summing to 1, on the device.
    """

    def __init__(self, y, weights):
        self.y, self.weights, self.outputs = y, weights, y.shape[1]

    def fit_rows(self, scores, rows):
        """As `Multinomial.fit_rows`; instead of the number of right rows, minus the unweighted squared error."""
        weights = self.weights[rows]
        residual = scores.sub_(self.y[rows].to(scores.dtype))
        errors = residual.double().square().sum(1)
        curvature = weights.sum().expand(self.outputs)
        return errors @ weights / 2, residual.mul_(weights[:, None].to(scores.dtype)), curvature, -errors.sum()

    def accuracy(self, score):
        """R^2 over all outputs."""
        return 1 + score / float((self.y - self.y.mean(0)).square().sum())

    def null_bias(self):
        """The best intercept without weights, (m,) float64: the mean."""
        return self.weights @ self.y
