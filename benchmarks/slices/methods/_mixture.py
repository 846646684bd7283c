"""Mixtures of Gaussians times categorical variables, fitted by expectation maximisation."""

import numpy as np
from scipy.special import logsumexp

SMALL = 1e-6


class DiagonalGaussians:
    """A diagonal Gaussian in each component."""

    def __init__(self, points, reg=1e-6):
        self.points, self.reg = points, reg

    def maximise(self, shares):
        total = shares.sum(0)[:, None] + SMALL
        self.means = shares.T @ self.points / total
        self.variances = np.maximum(shares.T @ self.points**2 / total - self.means**2, 0) + self.reg

    def log_density(self, points=None):
        points = self.points if points is None else points
        precision = 1 / self.variances
        squares = points**2 @ precision.T - 2 * points @ (self.means * precision).T + (self.means**2 * precision).sum(1)
        return -0.5 * (squares + np.log(2 * np.pi * self.variances).sum(1))


class FullGaussians:
    """A Gaussian with its own covariance matrix in each component, its log density times `weight`."""

    def __init__(self, points, weight=1.0, reg=1e-3):
        self.points, self.weight, self.reg = points, weight, reg

    def maximise(self, shares):
        total = shares.sum(0) + SMALL
        self.means = shares.T @ self.points / total[:, None]
        self.covariances = []
        for k, mean in enumerate(self.means):
            centred = self.points - mean
            covariance = (shares[:, k, None] * centred).T @ centred / total[k]
            self.covariances.append(covariance + self.reg * np.eye(len(mean)))

    def log_density(self, points=None):
        points = self.points if points is None else points
        columns = []
        for mean, covariance in zip(self.means, self.covariances, strict=True):
            centred = points - mean
            squares = np.einsum("nd,nd->n", centred, np.linalg.solve(covariance, centred.T).T)
            columns.append(-0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1]))
        return self.weight * np.stack(columns, 1)


class Categorical:
    """A distribution over k values in each component, of rows (n, k) that sum to 1; its log times `weight`."""

    def __init__(self, rows, weight=1.0):
        self.rows, self.weight = rows, weight

    def maximise(self, shares):
        self.probs = shares.T @ self.rows + SMALL
        self.probs /= self.probs.sum(1, keepdims=True)

    def log_density(self, rows=None):
        return self.weight * ((self.rows if rows is None else rows) @ np.log(self.probs).T)


def fit_mixture(variables, shares, steps=100, tolerance=1e-3):
    """Expectation maximisation from the responsibilities `shares` (n, components).

    Args:
        variables: list of the classes above; independent within a component. They keep what is fitted.

    Returns:
        log weights (components,), responsibilities (n, components).
    """
    last = -np.inf
    for _ in range(steps):
        log_weights = np.log(shares.mean(0) + 1e-12)
        for variable in variables:
            variable.maximise(shares)
        joint = log_weights + sum(variable.log_density() for variable in variables)
        likelihood = logsumexp(joint, axis=1, keepdims=True)
        shares = np.exp(joint - likelihood)
        if abs(likelihood.mean() - last) < tolerance:
            break
        last = likelihood.mean()
    return log_weights, shares


def from_confusion(labels_rows, probs, components, rng):
    """Responsibilities to start with: each component gets a cell of the confusion matrix, and some chance.

    Args:
        labels_rows: float (n, k), one-hot labels. probs: float (n, k). components: int. rng: a generator.
    """
    cells = (labels_rows[:, :, None] * probs[:, None, :]).reshape(len(probs), -1)
    present = np.argsort(-cells.sum(0), kind="stable")
    present = present[cells.sum(0)[present] > 0]
    shares = cells[:, present[np.arange(components) % len(present)]]
    shares = shares + rng.random(shares.shape) * (shares.mean() + SMALL)
    return shares / shares.sum(1, keepdims=True)


def log_odds(joint, component):
    """log of a component's posterior against all others', (n,): orders as the posterior does, without its ties at 1."""
    return joint[:, component] - logsumexp(np.delete(joint, component, axis=1), axis=1)
