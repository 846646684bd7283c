"""The field's last-layer methods, against closed forms, scikit-learn and what their papers promise."""

import numpy as np
import pytest
from failure_directions.interventions.last_layer import Layer, afr, dfr, fit_layer, group_dro, jtt, l1_logistic
from failure_directions.runtime.errors import UserError
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression


def cued(seed=0, n=1200, rare=0.05):
    """Two classes; coordinate 0 tells them softly, coordinate 1 is a strong cue that misleads in the rare groups."""
    rng = np.random.default_rng(seed)
    labels, odd = rng.integers(0, 2, n), rng.random(n) < rare
    x = rng.normal(size=(n, 6))
    x[:, 0] += 1.5 * (2 * labels - 1)
    x[:, 1] += 3.0 * (2 * (labels ^ odd) - 1)
    return x, labels, odd


@pytest.fixture(scope="module")
def base():
    x, labels, _ = cued(1)
    return fit_layer(x, labels, np.ones(len(x)), 2, 1e-3)


def worst_group(layer, seed=2):
    x, labels, odd = cued(seed, n=20_000, rare=0.5)
    right = layer.predict(x) == labels
    return min(right[(labels == c) & (odd == o)].mean() for c in (0, 1) for o in (False, True))


def test_the_layer_is_scikit_learns_with_weights():
    x, labels, _ = cued()
    weights = np.random.default_rng(3).random(len(x))
    ours = fit_layer(x, labels, weights, 2, 0.01, steps=2000)
    # Two rows that share a penalty come to halves of the one row of the binary model, and to its penalty by halves.
    theirs = LogisticRegression(C=1 / (0.01 * weights.sum()), tol=1e-10, max_iter=5000)
    theirs.fit(x, labels, sample_weight=weights)
    np.testing.assert_allclose(ours.weight[1] - ours.weight[0], theirs.coef_[0], atol=2e-3)


def test_a_strong_penalty_keeps_the_base(base):
    x, labels, _ = cued()
    kept = afr(x, labels, base, gamma=4, penalty=1e6)
    np.testing.assert_allclose(kept.weight, base.weight, atol=1e-5)
    np.testing.assert_allclose(kept.bias, base.bias, atol=1e-5)


def test_afr_at_gamma_0_weighs_classes_alike(base):
    x, labels, _ = cued()
    rows = np.concatenate([np.flatnonzero(labels == 0)[:300], np.flatnonzero(labels == 1)[:60]])
    x, labels = x[rows], labels[rows]
    weights = np.where(labels == 0, 1 / 300, 1 / 60)
    expected = fit_layer(x, labels, weights, 2, 0.1, base)
    np.testing.assert_allclose(afr(x, labels, base, 0, 0.1).weight, expected.weight, atol=1e-8)


def test_jtt_at_factor_1_is_the_layer_alone():
    x, labels, odd = cued()
    plain = fit_layer(x, labels, np.ones(len(x)), 2, 0.1)
    np.testing.assert_allclose(jtt(x, labels, odd, 2, 1, 0.1).weight, plain.weight, atol=1e-8)


def test_l1_is_at_its_optimum_and_sparse():
    x, labels, _ = cued(n=300)
    layer = l1_logistic(x, labels, 2, 0.05, steps=5000, tolerance=1e-10)
    gradient = (softmax(layer.logits(x), axis=1) - np.eye(2)[labels]).T @ x / len(x)
    zero = layer.weight == 0
    assert zero.any()
    assert (np.abs(gradient[zero]) <= 0.05 + 1e-6).all()
    np.testing.assert_allclose(gradient[~zero], -0.05 * np.sign(layer.weight[~zero]), atol=1e-6)


@pytest.mark.parametrize("method", ["afr", "jtt", "dfr", "dro"])
def test_each_helps_the_worst_group(base, method):
    x, labels, odd = cued(4)
    groups = labels + 2 * odd
    layer = {
        "afr": lambda: afr(x, labels, base, 6, 1e-3),
        "jtt": lambda: jtt(x, labels, base.predict(x) != labels, 2, 10, 1e-3),
        "dfr": lambda: dfr(x, labels, groups, 2, 0.01),
        "dro": lambda: group_dro(x, labels, groups, base, 0.1, 1e-3),
    }[method]()
    assert worst_group(layer) > worst_group(base) + 0.05


def test_group_dro_lowers_the_highest_loss(base):
    x, labels, odd = cued(5)
    groups = labels + 2 * odd

    def highest(layer):
        losses = -log_softmax(layer.logits(x), axis=1)[np.arange(len(x)), labels]
        return max(losses[groups == g].mean() for g in range(4))

    assert highest(group_dro(x, labels, groups, base, 0.1, 0)) < 0.7 * highest(base)


def test_dfr_refuses_a_group_that_is_too_small():
    x, labels, _ = cued(n=200)
    groups = labels.copy()
    groups[:4] = 2
    with pytest.raises(UserError, match="4 held-out images, too few for DFR"):
        dfr(x, labels, groups, 2, 0.01)


def test_dfr_gives_a_layer_for_the_features_as_they_are():
    x, labels, odd = cued()
    groups = labels + 2 * odd
    moved = dfr(x * [1, 10, 1, 1, 0.1, 1] + 5, labels, groups, 2, 0.01)
    plain = dfr(x, labels, groups, 2, 0.01)
    np.testing.assert_allclose(moved.logits(x * [1, 10, 1, 1, 0.1, 1] + 5), plain.logits(x), atol=1e-6)


def test_a_layer_predicts():
    layer = Layer(np.eye(2), np.array([0.0, 1.0]))
    assert layer.predict(np.array([[2.0, 0.0], [0.5, 0.0]])).tolist() == [0, 1]
