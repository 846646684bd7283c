"""Elastic-net penalties: value, optimality and the coordinate descent that minimises a quadratic plus the penalty.

Coefficients are (classes, d + 1) float64 arrays: the last column is the intercept, which is not penalised.
"""

import numpy as np

from ..runtime.compiling import compiled

COLUMN_STEPS = 20
"""At most so many proximal steps within a feature's column of weights."""


class ElasticNet:
    """`lam * (alpha |W|_1 + (1 - alpha) / 2 |W|_2^2)`: each weight for itself."""

    def __init__(self, alpha):
        self.alpha = alpha

    def value(self, coef, lam):
        """The penalty, a float."""
        weight = coef[:, :-1]
        return float(lam * (self.alpha * self._norms(weight).sum() + (1 - self.alpha) / 2 * (weight**2).sum()))

    def feature_strength(self, gradient):
        """(d,): a feature without weight stays without where this is at most lam * alpha (`gradient` (classes, d))."""
        return np.abs(gradient).max(axis=0)

    def violations(self, coef, gradient, lam):
        """(d + 1,) float64: per feature, and for the intercept, how far the optimality conditions are missed.

        That is the distance of -gradient to the subdifferential of the penalty, the largest over the classes.
        """
        weight, gradient = coef[:, :-1], gradient + 0.0
        gradient[:, :-1] += lam * (1 - self.alpha) * weight
        intercept = np.abs(gradient[:, -1]).max()
        return np.append(self._weight_violations(weight, gradient[:, :-1], lam * self.alpha), intercept)

    def _norms(self, weight):
        return np.abs(weight)

    def _weight_violations(self, weight, gradient, l1):
        at_zero = np.maximum(np.abs(gradient) - l1, 0)
        return np.where(weight == 0, at_zero, np.abs(gradient + l1 * np.sign(weight))).max(axis=0)

    def minimize_model(self, coef, gradient, model, lam, tolerance, max_sweeps):
        """Minimise `<gradient, V - coef> + 1/2 |V - coef|_B^2 + penalty(V)` over V, by coordinate descent.

        Args:
            coef, gradient: (classes, p + 1) float64, of some features and the intercept.
            model: B, a `CurvatureModel` of the same features.
            tolerance: where no step of a sweep changes the gradient by more, it stops.

        Returns:
            V, (classes, p + 1).
        """
        l1, l2 = np.full(coef.shape[1], lam * self.alpha), np.full(coef.shape[1], lam * (1 - self.alpha))
        l1[-1] = l2[-1] = 0
        new = coef.copy(order="C")
        self._descend(
            new,
            np.ascontiguousarray(gradient),
            model.gram,
            model.scale,
            model.factors,
            model.signs,
            l1,
            l2,
            tolerance,
            max_sweeps,
        )
        return new

    @staticmethod
    @compiled(fastmath=True)
    def _descend(coef, gradient, gram, scale, factors, signs, l1, l2, tolerance, max_sweeps):
        classes, p = coef.shape
        moved = np.zeros((classes, p))  # (V - coef) @ gram
        low_rank = np.zeros(len(signs))  # <factor_i, V - coef>
        only_active = False
        for _ in range(max_sweeps):
            largest = 0.0
            for c in range(classes):
                for j in range(p):
                    old = coef[c, j]
                    if only_active and old == 0.0:
                        continue
                    slope = gradient[c, j] + scale[c] * moved[c, j]
                    bend = scale[c] * gram[j, j]
                    for i in range(len(signs)):
                        factor = factors[c, j, i]
                        slope += signs[i] * factor * low_rank[i]
                        bend += signs[i] * factor * factor
                    if bend <= 0.0:
                        continue  # a constant feature
                    target = bend * old - slope
                    new = 0.0
                    if target > l1[j]:
                        new = (target - l1[j]) / (bend + l2[j])
                    elif target < -l1[j]:
                        new = (target + l1[j]) / (bend + l2[j])
                    step = new - old
                    if step != 0.0:
                        coef[c, j] = new
                        largest = max(largest, abs(step) * bend)
                        for k in range(p):
                            moved[c, k] += step * gram[j, k]
                        for i in range(len(signs)):
                            low_rank[i] += step * factors[c, j, i]
            if largest <= tolerance and not only_active:
                break
            only_active = largest > tolerance


class GroupElasticNet(ElasticNet):
    """`lam * (alpha sum_j |W[:, j]|_2 + (1 - alpha) / 2 |W|_2^2)`: a feature serves all classes or none.

    No factor sqrt(classes) on the norms.
    """

    def feature_strength(self, gradient):
        return np.linalg.norm(gradient, axis=0)

    def _norms(self, weight):
        return np.linalg.norm(weight, axis=0)

    def _weight_violations(self, weight, gradient, l1):
        norms = self._norms(weight)
        unit = weight / np.where(norms > 0, norms, 1)
        at_zero = np.maximum(np.linalg.norm(gradient, axis=0) - l1, 0)
        return np.where(norms == 0, at_zero, np.linalg.norm(gradient + l1 * unit, axis=0))

    @staticmethod
    @compiled(fastmath=True)
    def _descend(coef, gradient, gram, scale, factors, signs, l1, l2, tolerance, max_sweeps):
        # Each feature's column of weights is minimised nearly exactly before anything else moves: its curvature is a
        # diagonal plus the few factors, so that proximal steps within it cost next to nothing beside the one update
        # of `moved` after them.
        classes, p = coef.shape
        moved = np.zeros((classes, p))
        low_rank = np.zeros(len(signs))
        bends = np.zeros(p)  # upper bounds of the curvature
        for j in range(p):
            bends[j] = scale.max() * gram[j, j]
            for i in range(len(signs)):
                if signs[i] > 0:
                    for c in range(classes):
                        bends[j] += signs[i] * factors[c, j, i] ** 2
        target, slope, new = np.zeros(classes), np.zeros(classes), np.zeros(classes)
        along = np.zeros(len(signs))
        only_active = False
        for _ in range(max_sweeps):
            largest = 0.0
            for j in range(p):
                bend = bends[j]
                if bend <= 0.0 or (only_active and not np.any(coef[:, j] != 0.0)):
                    continue
                for c in range(classes):
                    slope[c] = gradient[c, j] + scale[c] * moved[c, j]
                    new[c] = coef[c, j]
                    for i in range(len(signs)):
                        slope[c] += signs[i] * factors[c, j, i] * low_rank[i]
                first = 0.0
                for _turn in range(COLUMN_STEPS):
                    for i in range(len(signs)):
                        along[i] = 0.0
                        for c in range(classes):
                            along[i] += factors[c, j, i] * (new[c] - coef[c, j])
                    norm = 0.0
                    for c in range(classes):
                        rise = slope[c] + scale[c] * gram[j, j] * (new[c] - coef[c, j])
                        for i in range(len(signs)):
                            rise += signs[i] * factors[c, j, i] * along[i]
                        target[c] = bend * new[c] - rise
                        norm += target[c] ** 2
                    norm = np.sqrt(norm)
                    shrink = (1 - l1[j] / norm) / (bend + l2[j]) if norm > l1[j] else 0.0
                    change = 0.0
                    for c in range(classes):
                        change = max(change, abs(shrink * target[c] - new[c]) * bend)
                        new[c] = shrink * target[c]
                    first = max(first, change)
                    if change <= 0.1 * max(first, tolerance):
                        break
                largest = max(largest, first)
                for c in range(classes):
                    step = new[c] - coef[c, j]
                    if step != 0.0:
                        coef[c, j] = new[c]
                        for k in range(p):
                            moved[c, k] += step * gram[j, k]
                        for i in range(len(signs)):
                            low_rank[i] += step * factors[c, j, i]
            if largest <= tolerance and not only_active:
                break
            only_active = largest > tolerance
