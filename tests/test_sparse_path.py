import numpy as np
import pytest
import torch
from failure_directions.runtime.errors import UserError
from failure_directions.sparse.feature_chunks import FeatureChunks
from failure_directions.sparse.path import SparsePath, elastic_net_path
from sklearn.linear_model import ElasticNet, LogisticRegression, MultiTaskElasticNet


def features(n, d, classes, seed=0):
    """Correlated features after a ReLU, and labels that they tell something about."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    causes = rng.normal(size=(classes, 8))[y] + rng.normal(size=(n, 8))
    return np.maximum(causes @ rng.normal(size=(8, d)) + rng.normal(size=(n, d)), 0), y


def path_of(X, y, **settings):
    return elastic_net_path(X, y, **{"k": 5, "epsilon": 0.05, "device": "cpu"} | settings)


def layer(path, i):
    return path.weight[i].double().numpy(), path.bias[i].double().numpy()


def standardised(path, X):
    return (X - path.mean) / np.where(path.std > 0, path.std, 1)


def softmax(scores):
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def objective(Z, y, weight, bias, lam, alpha):
    p = softmax(Z @ weight.T + bias)[np.arange(len(y)), y]
    return -np.log(p).mean() + lam * (alpha * np.abs(weight).sum() + (1 - alpha) / 2 * (weight**2).sum())


def kkt(path, i, X, y, sample_weight=None):
    """The largest violation of layer i, written down from the textbook."""
    weight, bias = layer(path, i)
    lam, alpha = path.lambdas[i], path.settings["alpha"]
    w = np.ones(len(X)) if sample_weight is None else sample_weight
    Z = standardised(path, X)
    scores = Z @ weight.T + bias
    if path.settings["family"] == "multinomial":
        residual = softmax(scores) - np.eye(len(bias))[y]
    else:
        residual = scores - np.reshape(y, scores.shape)
    residual *= (w / w.sum())[:, None]
    worst = np.abs(residual.sum(axis=0)).max()
    gradient = residual.T @ Z + lam * (1 - alpha) * weight
    for j in range(Z.shape[1]):
        if path.settings["group"]:
            norm = np.linalg.norm(weight[:, j])
            if norm:
                worst = max(worst, np.linalg.norm(gradient[:, j] + lam * alpha * weight[:, j] / norm))
            else:
                worst = max(worst, np.linalg.norm(gradient[:, j]) - lam * alpha)
        else:
            for c in range(len(bias)):
                if weight[c, j]:
                    worst = max(worst, abs(gradient[c, j] + lam * alpha * np.sign(weight[c, j])))
                else:
                    worst = max(worst, abs(gradient[c, j]) - lam * alpha)
    return worst


@pytest.mark.parametrize(("n", "d", "classes", "alpha"), [(120, 10, 3, 0.9), (100, 30, 4, 0.5), (60, 80, 3, 0.99)])
def test_the_objective_and_support_are_those_of_scikit_learn(n, d, classes, alpha):
    X, y = features(n, d, classes)
    path = path_of(X, y, alpha=alpha, k=2, epsilon=0.2, do_zero=False, tol=1e-8)
    Z, lam = standardised(path, X), path.lambdas[1]
    theirs = LogisticRegression(
        l1_ratio=alpha, C=1 / (n * lam), solver="saga", tol=1e-8, max_iter=20_000, random_state=0
    ).fit(Z, y)
    weight, bias = layer(path, 1)
    ours, reference = (objective(Z, y, *wb, lam, alpha) for wb in [(weight, bias), (theirs.coef_, theirs.intercept_)])
    assert ours == pytest.approx(reference, rel=1e-6)
    assert np.array_equal(weight != 0, theirs.coef_ != 0)
    assert 0 < np.count_nonzero(weight) < weight.size


def test_two_classes_are_the_binary_model_split_over_two_rows():
    X, y = features(150, 12, 2)
    path = path_of(X, y, alpha=0.9, k=2, epsilon=0.1, do_zero=False, tol=1e-8)
    weight, bias = layer(path, 1)
    lam = path.lambdas[1]
    np.testing.assert_allclose(weight[0], -weight[1], atol=1e-5)
    # With w = 2 W[1], |W|_1 = |w|_1 and |W|_2^2 = |w|_2^2 / 2.
    l1, l2 = lam * 0.9, lam * 0.1 / 2
    theirs = LogisticRegression(
        l1_ratio=l1 / (l1 + l2), C=1 / (150 * (l1 + l2)), solver="saga", tol=1e-8, max_iter=20_000, random_state=0
    ).fit(standardised(path, X), y)
    np.testing.assert_allclose(weight[1] - weight[0], theirs.coef_[0], atol=1e-4)
    np.testing.assert_allclose(bias[1] - bias[0], theirs.intercept_[0], atol=1e-4)


def test_gaussian_paths_are_those_of_scikit_learn():
    X, y = features(100, 15, 3)
    targets = np.stack([X[:, 0] - X[:, 3] + y, 2 * X[:, 5] + y**2], axis=1)
    for group, target, reference in [(False, targets[:, 0], ElasticNet), (True, targets, MultiTaskElasticNet)]:
        path = path_of(X, target, alpha=0.8, family="gaussian", group=group, tol=1e-8)
        for i in (1, 3):
            theirs = reference(alpha=path.lambdas[i], l1_ratio=0.8, tol=1e-12, max_iter=100_000)
            theirs.fit(standardised(path, X), target)
            weight, bias = layer(path, i)
            np.testing.assert_allclose(weight, np.atleast_2d(theirs.coef_), atol=1e-5)
            np.testing.assert_allclose(bias, np.atleast_1d(theirs.intercept_), atol=1e-5)


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("family", ["multinomial", "gaussian"])
def test_every_layer_meets_the_optimality_conditions_as_it_says(family, group):
    X, y = features(150, 20, 4)
    weights = np.random.default_rng(1).uniform(0, 2, 150)
    target = y if family == "multinomial" else np.stack([X[:, 0] + y, -1.0 * y], axis=1)
    path = path_of(X, target, family=family, group=group, sample_weight=weights, k=8, epsilon=1e-2)
    assert len(path) == 9
    assert path.lambdas[-1] == 0
    for i in range(len(path)):
        assert kkt(path, i, X, target, weights) <= 1e-4 * path.lambdas[0]
        assert path.kkt[i] == pytest.approx(kkt(path, i, X, target, weights), abs=1e-6 * path.lambdas[0])
    assert path.converged.all()


@pytest.mark.parametrize("group", [False, True])
def test_the_path_begins_at_the_smallest_lambda_without_features(group):
    X, y = features(200, 15, 3)
    path = path_of(X, y, k=2, epsilon=0.98, group=group, do_zero=False)
    shares = np.bincount(y) / len(y)
    gradient = (shares - np.eye(3)[y]).T @ standardised(path, X) / len(y)
    largest = np.linalg.norm(gradient, axis=0).max() if group else np.abs(gradient).max()
    assert path.lambdas[0] == pytest.approx(largest / 0.99)
    assert not path.weight[0].any()
    assert path.weight[1].any()
    np.testing.assert_allclose(softmax(path.bias[:1].numpy())[0], shares, rtol=1e-5)


def test_lambda_max_of_a_ridge_is_that_of_a_thousandth_lasso():
    X, y = features(100, 10, 3)
    ridge, lasso = path_of(X, y, alpha=0.0, k=2), path_of(X, y, alpha=1.0, k=2)
    assert ridge.lambdas[0] == pytest.approx(1000 * lasso.lambdas[0])
    assert ridge.converged.all()


def test_grouped_features_serve_all_classes_or_none():
    X, y = features(200, 30, 4)
    used = path_of(X, y, group=True, do_zero=False).weight != 0
    assert torch.equal(used.any(1), used.all(1))
    assert 0 < int(used[2].any(0).sum()) < 30


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_read_from_disk_give_the_path_of_those_in_memory(tmp_path, dtype, monkeypatch):
    X, y = features(300, 12, 3)
    X = X.astype(dtype)
    monkeypatch.setattr("failure_directions.sparse.feature_chunks.CHUNK_BYTES", 70 * X.itemsize * 12)
    monkeypatch.setattr("failure_directions.sparse.rows.BLOCK_ELEMENTS", 50 * 12)
    chunks = FeatureChunks.write(tmp_path / "features", (X[i : i + 33] for i in range(0, 300, 33)), dtype=dtype)
    np.save(tmp_path / "X.npy", X)
    inside = path_of(X, y, val=(X[:50], y[:50]))
    for stored in (chunks, np.load(tmp_path / "X.npy", mmap_mode="r")):
        streamed = path_of(stored, y, val=(stored, y), memory_gb=0)
        np.testing.assert_allclose(streamed.lambdas, inside.lambdas, rtol=1e-6)
        np.testing.assert_allclose(streamed.weight, inside.weight, atol=2e-2)
        for mine, other in zip(streamed.metrics[:-1], inside.metrics[:-1], strict=True):
            assert mine["objective"] == pytest.approx(other["objective"], rel=1e-5)
            assert mine["acc_val"] == mine["acc_tr"]
        assert streamed.converged.all()


def test_a_weight_of_two_is_the_row_twice():
    X, y = features(120, 10, 3)
    weights = np.ones(120)
    weights[:40] = 2
    weights[40:50] = 0
    rows = np.repeat(np.arange(120), weights.astype(int))
    weighted, repeated = path_of(X, y, sample_weight=weights, tol=1e-7), path_of(X[rows], y[rows], tol=1e-7)
    np.testing.assert_allclose(weighted.std, repeated.std)
    np.testing.assert_allclose(weighted.weight[:-1], repeated.weight[:-1], atol=1e-4)
    np.testing.assert_allclose(weighted.bias[:-1], repeated.bias[:-1], atol=1e-4)


def test_the_linear_layer_gives_the_same_logits_on_raw_features():
    X, y = features(100, 10, 3)
    X[:, 4] = 7.0
    path = path_of(100 + X, y)
    weight, bias = layer(path, 3)
    linear = path.to_linear(3)
    with torch.no_grad():
        logits = linear.double()(torch.from_numpy(100 + X))
    np.testing.assert_allclose(logits, standardised(path, 100 + X) @ weight.T + bias, atol=1e-3)


def test_constant_features_have_no_weight_and_duplicates_do_no_harm():
    X, y = features(150, 10, 3)
    X[:, 2] = 0.1
    X[:, 7] = X[:, 1]
    for group in (False, True):
        path = path_of(X, y, group=group, val=(X, y))
        assert not path.weight[:, :, 2].any()
        assert path.weight.isfinite().all()
        assert path.std[2] == 0
        assert path.converged.all()
        assert all(row["acc_val"] == row["acc_tr"] for row in path.metrics)


def test_fewer_rows_than_features_and_separable_classes_still_converge():
    X, y = features(40, 100, 3)
    path = path_of(X, y)
    assert path.converged.all()
    assert path.metrics[-1]["acc_tr"] == 1.0


def test_a_feature_of_planted_meaning_is_the_first():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(400, 50)), np.arange(400) % 2
    X[:, 17] += 2 * y
    path = path_of(X, y, k=20, epsilon=0.5)
    first = next(i for i in range(len(path)) if path.weight[i].any())
    assert path.weight[first].any(0).nonzero().tolist() == [[17]]


def test_more_features_than_one_subproblem_takes_are_dealt_with_in_turns(monkeypatch):
    X, y = features(100, 40, 3)
    whole = path_of(X, y)
    monkeypatch.setattr("failure_directions.sparse.curvature.MAX_FEATURES", 15)
    monkeypatch.setattr("failure_directions.sparse.solver.MAX_FEATURES", 15)
    parts = path_of(X, y)
    assert parts.converged.all()
    for mine, other in zip(parts.metrics[:-1], whole.metrics[:-1], strict=True):
        assert mine["objective"] == pytest.approx(other["objective"], rel=1e-4)


def test_the_best_layer_is_chosen_by_validation_and_has_features():
    X, y = features(200, 30, 3)
    Xv, yv = features(200, 30, 3)
    rng = np.random.default_rng(0)
    path = path_of(X, y, k=10, epsilon=1e-3, val=(Xv, rng.permutation(yv)), test=(X, y))
    assert path.metrics[path.best]["acc_val"] == max(row["acc_val"] for row in path.metrics if row["nonzeros"])
    assert path.metrics[3]["acc_test"] == path.metrics[3]["acc_tr"]
    unvalidated = path_of(X, y, k=3)
    assert unvalidated.weight[unvalidated.best].any()


def test_a_path_comes_back_as_it_was_saved(tmp_path):
    X, y = features(80, 6, 3)
    path_of(X, y, k=6).save(tmp_path)
    path = path_of(X, y, val=(X, y), k=3)
    path.save(tmp_path)
    assert sorted(file.name for file in (tmp_path / "checkpoint").iterdir()) == [f"params{i}.pth" for i in range(4)]
    content = torch.load(tmp_path / "checkpoint" / "params2.pth", weights_only=True)
    assert {"lam", "weight", "bias", "loss", "metrics", "kkt"} <= set(content)
    again = SparsePath.load(tmp_path)
    assert torch.equal(again.weight, path.weight)
    assert torch.equal(again.bias, path.bias)
    assert again.metrics == path.metrics
    assert again.settings == path.settings
    for name in ("lambdas", "kkt", "converged", "mean", "std"):
        assert np.array_equal(getattr(again, name), getattr(path, name))
    (tmp_path / "checkpoint" / "params1.pth").unlink()
    with pytest.raises(UserError, match="params1"):
        SparsePath.load(tmp_path)


X, Y = features(30, 4, 3)
WITH_NAN = X.copy()
WITH_NAN[11, 2] = np.nan


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((X, Y + 1), {}, "label 0"),
        ((X, Y * 2), {}, "label 1, 3"),
        ((X, Y - 1), {}, "label -1 in row"),
        ((X, Y + 10**15), {}, "only 30 rows"),
        ((X, Y.astype(float)), {}, "whole numbers"),
        ((X, np.zeros(30, int)), {}, "one class only"),
        ((X, Y[:29]), {}, "29 entries for 30 rows"),
        ((X, Y[:, None]), {}, "shape"),
        ((WITH_NAN, Y), {}, "row 11 of X"),
        ((X, np.where(Y == 1, np.inf, Y)), {"family": "gaussian"}, "row .* of y"),
        ((X, np.ones(30)), {"family": "gaussian"}, "y is constant"),
        ((X[:0], Y[:0]), {}, "empty"),
        ((X[:, 0], Y), {}, "shape"),
        ((X.astype(int), Y), {}, "float16, float32 or float64"),
        ((np.ones((30, 4)), Y), {}, "all features are constant"),
        ((X, Y), {"alpha": 1.1}, "alpha is 1.1"),
        ((X, Y), {"alpha": float("nan")}, "alpha"),
        ((X, Y), {"k": 0}, "k is 0"),
        ((X, Y), {"epsilon": 1.0}, "epsilon is 1.0"),
        ((X, Y), {"tol": 0.0}, "tol"),
        ((X, Y), {"family": "poisson"}, "poisson"),
        ((X, Y), {"device": "tpu"}, "tpu"),
        ((X, Y), {"sample_weight": -np.ones(30)}, "negative in row 0"),
        ((X, Y), {"sample_weight": np.zeros(30)}, "all sample weights are 0"),
        ((X, Y), {"sample_weight": np.ones(29)}, "one weight a row"),
        ((X, Y), {"sample_weight": (Y > 0).astype(float)}, "class 0 have the sample weight 0"),
        ((X, Y), {"val": (X, Y + 1)}, "y of val has the label 3"),
        ((X, Y), {"test": (X[:, :3], Y)}, "3 features and X has 4"),
        ((X, Y), {"test": (WITH_NAN, Y)}, "row 11 of X of test"),
        ((X, Y), {"val": (X, Y[:3])}, "3 entries"),
    ],
)
def test_bad_input_is_told_in_one_sentence(arguments, settings, message):
    with pytest.raises(UserError, match=message):
        path_of(*arguments, **settings)


def test_chunks_know_their_statistics_and_give_rows(tmp_path, monkeypatch):
    X, _ = features(100, 5, 2)
    X[:, 3] = 0.3
    monkeypatch.setattr("failure_directions.sparse.feature_chunks.CHUNK_BYTES", 40 * 2 * 5)
    batches = [torch.from_numpy(X[:7]), X[7:60], X[60:]]
    chunks = FeatureChunks.write(tmp_path, batches, fingerprint="model a")
    stored = X.astype(np.float16)
    assert chunks.shape == (100, 5)
    assert chunks.dtype == np.float16
    assert len(list(chunks.chunks())) == 2
    assert np.array_equal(np.concatenate(list(chunks.chunks())), stored)
    np.testing.assert_allclose(chunks.mean, stored.astype(float).mean(0))
    np.testing.assert_allclose(chunks.std, stored.astype(float).std(0), atol=1e-12)
    assert chunks.std[3] == 0
    assert np.array_equal(chunks[50:70], stored[50:70])
    assert np.array_equal(chunks[::9], stored[::9])
    assert np.array_equal(chunks[[99, 0, -2]], stored[[99, 0, -2]])
    with pytest.raises(UserError, match=r"model a.*model b"):
        FeatureChunks.open(tmp_path, fingerprint="model b")


def test_chunks_that_are_incomplete_or_impossible_are_refused(tmp_path):
    def interrupted():
        yield np.ones((3, 2))
        raise KeyboardInterrupt

    FeatureChunks.write(tmp_path, [np.ones((3, 2))])
    with pytest.raises(KeyboardInterrupt):
        FeatureChunks.write(tmp_path, interrupted())
    with pytest.raises(UserError, match="no complete features"):
        FeatureChunks.open(tmp_path)
    for batches, message in [
        ([], "empty"),
        ([np.ones((2, 2)), np.ones((2, 3))], "3 features"),
        ([np.ones((2, 2)), np.full((2, 2), np.nan)], "row 2 .* NaN"),
        ([np.full((2, 2), 1e5)], "range of float16"),
    ]:
        with pytest.raises(UserError, match=message):
            FeatureChunks.write(tmp_path, batches)
    FeatureChunks.write(tmp_path, [np.ones((3, 2))])
    (tmp_path / "chunk_0000.npy").write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        FeatureChunks.open(tmp_path)
