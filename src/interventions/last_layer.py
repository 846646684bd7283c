"""What people use without group labels, or with them: the field's last-layer methods, on features that are kept.

Written from the papers' descriptions: AFR (Qiu et al. 2023), DFR (Kirichenko et al. 2023), JTT (Liu et al. 2021) and
group DRO (Sagawa et al. 2020), the last two on the last layer alone. All take features float64 (N, d) and labels int
(N,); which images these are is the caller's: for AFR and DFR, some that the network has not been trained on.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from ..runtime.errors import UserError

SUBSAMPLES = 10  # of DFR
LEAST_OF_GROUP = 5  # images that a group needs for DFR: a layer fitted on fewer says nothing


@dataclass(frozen=True)
class Layer:
    """A linear layer: logits are x @ weight.T + bias, of weight (K, d) and bias (K,)."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, x):
        """Logits (N, K) of features (N, d)."""
        return x @ self.weight.T + self.bias

    def predict(self, x):
        """Classes (N,) of features (N, d)."""
        return self.logits(x).argmax(axis=1)


def fit_layer(x, labels, weights, num_classes, penalty, around=None, steps=300):
    """Weighted multinomial logistic regression: sum_i weights_i loss_i / sum weights + penalty |layer - around|^2.

    Args:
        weights: (N,), 0 or more.
        penalty: of the squared distance to `around`; of the weight's square without it.
        around: `Layer`, which is also the start, or None.
        steps: the most of L-BFGS.

    Returns:
        `Layer`.
    """
    share = weights / weights.sum()
    there = np.zeros((num_classes, x.shape[1] + 1)) if around is None else np.c_[around.weight, around.bias]
    # A bias has no reason to be small, but one to stay where it was.
    strength = np.full_like(there, penalty)
    strength[:, -1] *= around is not None

    def loss(flat):
        both = flat.reshape(there.shape)
        logs = log_softmax(x @ both[:, :-1].T + both[:, -1], axis=1)
        moved = both - there
        value = -share @ logs[np.arange(len(x)), labels] + (strength * moved**2).sum()
        error = np.exp(logs)
        error[np.arange(len(x)), labels] -= 1
        error *= share[:, None]
        gradient = np.c_[error.T @ x, error.sum(axis=0)] + 2 * strength * moved
        return value, gradient.ravel()

    found = minimize(loss, there.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": steps})
    both = found.x.reshape(there.shape)
    return Layer(both[:, :-1], both[:, -1])


def afr(x, labels, base, gamma, penalty):
    """Automatic feature reweighting: the last layer again, on images weighted by how unsure the base model is of them.

    Weights are beta_y exp(-gamma p(true)), beta_y one over the class's number of images; the penalty is of the squared
    distance to the base's layer. Source: Qiu et al. (2023).

    Args:
        x, labels: of images that the base has not been trained on (in the paper, a held-out fifth).
        base: the base model's `Layer`.
        gamma: 0 or more.
        penalty: the paper's lambda.

    Returns:
        `Layer`.
    """
    true = softmax(base.logits(x), axis=1)[np.arange(len(x)), labels]
    per_class = np.bincount(labels, minlength=len(base.bias))
    weights = np.exp(-gamma * true) / per_class[labels]
    return fit_layer(x, labels, weights, len(base.bias), penalty, base)


def jtt(x, labels, is_error, num_classes, factor, penalty, base=None):
    """Just train twice, its second training on the last layer alone: errors of an early-stopped model count `factor`.

    Source: Liu et al. (2021), where the whole network is trained again.

    Args:
        is_error: bool (N,), of the early-stopped model on these, the training images.
        factor: the paper's lambda_up.
        base: `Layer` that is started from and kept near, or None.

    Returns:
        `Layer`.
    """
    return fit_layer(x, labels, np.where(is_error, float(factor), 1.0), num_classes, penalty, base)


def dfr(x, labels, groups, num_classes, penalty, seed=0, subsamples=SUBSAMPLES):
    """Deep feature reweighting: L1 logistic regressions on balanced subsamples of the groups, their mean.

    Features are brought to mean 0 and deviation 1 first. Source: Kirichenko et al. (2023).

    Args:
        x, labels: of images that the network has not been trained on.
        groups: int (N,): of each subsample every group gives as many images as the smallest has.
        penalty: of the L1 norm of the weights, beside the mean loss.
        seed: of the subsamples.

    Returns:
        `Layer`, for features as they were given.

    Raises:
        UserError: a group has fewer than 5 images.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if sizes.min() < LEAST_OF_GROUP:
        raise UserError(
            f"a group has {sizes.min()} held-out images, too few for DFR, which takes {LEAST_OF_GROUP}; give more "
            "images, or leave the group out"
        )
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    deviation = np.where(deviation == 0, 1, deviation)
    z, rng, layers = (x - mean) / deviation, np.random.default_rng(seed), []
    for _ in range(subsamples):
        rows = np.concatenate(
            [rng.choice(np.flatnonzero(group == g), sizes.min(), replace=False) for g in range(len(sizes))]
        )
        layers.append(l1_logistic(z[rows], labels[rows], num_classes, penalty))
    weight = np.mean([layer.weight for layer in layers], axis=0) / deviation
    return Layer(weight, np.mean([layer.bias for layer in layers], axis=0) - weight @ mean)


def l1_logistic(x, labels, num_classes, penalty, steps=300, tolerance=1e-5):
    """Multinomial logistic regression, mean loss + penalty |weight|_1, by FISTA (Beck and Teboulle 2009); a `Layer`."""
    n = len(x)
    data = np.c_[x, np.ones(n)]
    step = 2 * n / np.linalg.norm(data, 2) ** 2  # the softmax's curvature is at most 1/2
    shrink = np.full((num_classes, data.shape[1]), penalty * step)
    shrink[:, -1] = 0
    target = np.eye(num_classes)[labels]
    both = ahead = np.zeros((num_classes, data.shape[1]))
    speed = 1.0
    for _ in range(steps):
        gradient = (softmax(data @ ahead.T, axis=1) - target).T @ data / n
        moved = ahead - step * gradient
        after = np.sign(moved) * np.maximum(np.abs(moved) - shrink, 0)
        faster = (1 + (1 + 4 * speed**2) ** 0.5) / 2
        ahead = after + (speed - 1) / faster * (after - both)
        done = np.abs(after - both).max() < tolerance
        both, speed = after, faster
        if done:
            break
    return Layer(both[:, :-1], both[:, -1])


def group_dro(x, labels, groups, base, step, penalty, rate=0.1, steps=500):
    """Group DRO on the last layer: gradient steps on the groups' losses, weighted by an exponentiated ascent on them.

    Source: Sagawa et al. (2020), algorithm 1, on all images at once in place of a sample.

    Args:
        groups: int (N,).
        base: `Layer` that is started from; the penalty is of the squared distance to it.
        step: of the groups' weights, the paper's eta_q.
        rate: of the layer.
        steps: how many.

    Returns:
        `Layer`.
    """
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    start = np.c_[base.weight, base.bias]
    scale = 1 / max(1.0, float((x**2).sum(axis=1).mean()))  # so that one rate serves features of any size
    data, both, share = np.c_[x, np.ones(len(x))], start.copy(), np.full(len(sizes), 1 / len(sizes))
    for _ in range(steps):
        logs = log_softmax(data @ both.T, axis=1)
        losses = np.bincount(group, -logs[np.arange(len(x)), labels]) / sizes
        share = share * np.exp(step * (losses - losses.max()))
        share /= share.sum()
        error = np.exp(logs)
        error[np.arange(len(x)), labels] -= 1
        gradient = (error * (share / sizes)[group][:, None]).T @ data + 2 * penalty * (both - start)
        both = both - rate * len(sizes) * scale * gradient
    return Layer(both[:, :-1], both[:, -1])
