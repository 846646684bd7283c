"""One lambda: a proximal quasi-Newton method whose steps cost one pass over the features each.

The loss is modelled by a quadratic (see `CurvatureModel`); the quadratic plus penalty is minimised by coordinate
descent, which never touches the features; one pass over the features gives loss and gradient at the new point. Low-rank
quasi-Newton curvature within coordinate descent is from Scheinberg and Tang, "Practical inexact proximal quasi-Newton
method with global complexity analysis" (2016); the Gram matrix as its base is ours. The loss does not depend on lambda,
so what was learnt at one lambda serves the next.

On the device there is nothing larger than rows x features and rows x classes of one block and classes x features; on
the CPU there is the Gram matrix of the features in use and some arrays of classes x features.
"""

from dataclasses import dataclass

import numpy as np
import torch

from .curvature import MAX_FEATURES, CurvatureModel, Gram

INNER_TOLERANCE = 0.1
"""Of the present violation: how well the quadratic is minimised."""

MAX_SWEEPS = 100
"""Of coordinate descent, for one quadratic."""

PATIENCE = 50
"""Passes for `aim`; after them `required` is enough."""

MAX_PASSES = 1000

TIGHTEN, RELAX = 2.0, 0.97
"""What a refused and an accepted step do to the scale of the curvature, which never falls below 1."""


@dataclass
class Evaluation:
    """What one pass gives at one point: gradient (classes, d + 1) with the intercept last, curvature (classes,)."""

    loss: float
    gradient: np.ndarray
    curvature: np.ndarray
    accuracy: float


def evaluate(rows, datafit, coef, dtype, with_gradient=True):
    """One pass over the rows at `coef` (classes, d + 1): products in `dtype`, sums over blocks in float64."""
    device = rows.device
    weight = torch.from_numpy(coef[:, :-1]).to(device, dtype)
    bias = torch.from_numpy(coef[:, -1]).to(device, dtype)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    score = torch.zeros((), dtype=torch.float64, device=device)
    gradient = torch.zeros(coef.shape, dtype=torch.float64, device=device)
    curvature = torch.zeros(len(coef), dtype=torch.float64, device=device)
    for where, block in rows.blocks(dtype, width=len(coef)):
        scores = torch.addmm(bias, block, weight.T)
        block_loss, residual, block_curvature, block_score = datafit.fit_rows(scores, where)
        loss += block_loss
        score += block_score
        if with_gradient:
            gradient[:, :-1] += residual.T @ block
            gradient[:, -1] += residual.sum(0, dtype=torch.float64)
            curvature += block_curvature
    return Evaluation(float(loss), gradient.cpu().numpy(), curvature.cpu().numpy(), datafit.accuracy(float(score)))


class Solver:
    """Minimises mean loss + penalty, for one lambda after the other.

    Args:
        rows: `StandardizedRows`.
        datafit: `Multinomial` or `Gaussian`.
        penalty: `ElasticNet` or `GroupElasticNet`.
    """

    def __init__(self, rows, datafit, penalty):
        self.rows, self.datafit, self.penalty = rows, datafit, penalty
        self.curvature = CurvatureModel(Gram(rows, datafit.weights))
        self._caution = 1.0
        self.passes = 0

    def solve(self, coef, at, lam, previous_lam, aim, required):
        """Coefficients (classes, d + 1) whose largest violation is at most `aim`, or `required` where that takes long.

        Args:
            coef: (classes, d + 1) float64, the start.
            at: its `Evaluation`.
            previous_lam: the lambda whose solution `coef` is.
        """
        objective = at.loss + self.penalty.value(coef, lam)
        # The strong rule (Tibshirani et al. 2012). What it leaves out wrongly shows as a violation after the next pass.
        strength = self.penalty.feature_strength(at.gradient[:, :-1])
        likely = strength >= self.penalty.alpha * (2 * lam - previous_lam)
        for step_count in range(MAX_PASSES):
            violations = self.penalty.violations(coef, at.gradient, lam)
            worst = violations.max()
            if worst <= aim or (worst <= required and step_count >= PATIENCE):
                break
            likely |= (violations[:-1] > 0) | coef[:, :-1].any(axis=0)
            new = self._minimize_model(coef, at, lam, _strongest(likely, violations), INNER_TOLERANCE * worst)
            there = evaluate(self.rows, self.datafit, new, self.rows.dtype)
            self.passes += 1
            new_objective = there.loss + self.penalty.value(new, lam)
            step, change = new - coef, there.gradient - at.gradient
            if self._accept(new_objective - objective, at.loss, step, change):
                coef, at, objective = new, there, new_objective
                self._caution = max(1.0, RELAX * self._caution)
            else:
                # Too long a step: not taken, but it teaches the model how the loss bends that way.
                self._caution *= TIGHTEN
            self.curvature.remember(step, change)
        return coef

    def _minimize_model(self, coef, at, lam, features, tolerance):
        self.curvature.restrict(features)
        self.curvature.update(self._caution * at.curvature)
        columns = np.append(features, -1)
        new = coef.copy()
        new[:, columns] = self.penalty.minimize_model(
            coef[:, columns], at.gradient[:, columns], self.curvature, lam, tolerance, MAX_SWEEPS
        )
        return new

    def _accept(self, increase, loss, step, change):
        """Whether a step lowered the objective; where that drowns in rounding, whether the model bent enough."""
        rounding = 4 * torch.finfo(self.rows.dtype).eps * abs(loss)
        if abs(increase) > rounding:
            return increase < 0
        return np.vdot(step, change) <= 1.5 * self.curvature.bend(step)


def _strongest(likely, violations):
    """The features to work on: those that are likely, and if they are too many, those that are violated most."""
    features = np.flatnonzero(likely)
    if len(features) > MAX_FEATURES:
        features = np.sort(features[np.argpartition(-violations[features], MAX_FEATURES)[:MAX_FEATURES]])
    return features
