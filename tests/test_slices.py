"""Several directions of one class: planted failures are found, and the pieces agree with independent references."""

import numpy as np
import pytest
from failure_directions.directions import slices
from failure_directions.directions.class_fit import Preprocess, fit_svm
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA


def planted_class(n=1500, d=64, shares=(0.1, 0.1), rates=(0.7, 0.6), base=0.05, groups=8, spread=0.9, seed=0):
    """A class of Gaussian clusters, of which the first few are failures: embeddings, errors, failure number or -1."""
    rng = np.random.default_rng(seed)
    means = spread * rng.standard_normal((groups, d))
    rest = (1 - sum(shares)) / (groups - len(shares))
    cluster = rng.choice(groups, size=n, p=[*shares, *[rest] * (groups - len(shares))])
    x = means[cluster] + rng.standard_normal((n, d))
    x = Preprocess(x.mean(axis=0), x.std(axis=0), True)(x)
    rate = np.array([*rates, *[base] * (groups - len(shares))])[cluster]
    return x, rng.random(n) < rate, np.where(cluster < len(shares), cluster, -1)


def precision(values, hit, k=50):
    return hit[np.argsort(values)[:k]].mean()


def test_two_failures_of_one_class_are_told_apart_where_one_svm_finds_their_union():
    x, wrong, failure = planted_class(n=3000)
    fresh = slice(1500, None)
    found = slices.find_class_slices(x[:1500], wrong[:1500], rng=slices.class_generator(0, 3))
    (direction, intercept), *_ = fit_svm(x[:1500], ~wrong[:1500]).layers
    svm = (x[fresh] @ direction + intercept)[:, 0]
    for number in (0, 1):
        hit = failure[fresh] == number
        assert max(precision(s.score(x[fresh]), hit) for s in found[:2]) >= 0.95
        assert precision(svm, hit) < 0.8


def test_a_failure_is_found_where_few_images_err():
    x, wrong, failure = planted_class(n=600, shares=(0.1,), rates=(0.5,), base=0.03, seed=1)
    found = slices.find_class_slices(x[:300], wrong[:300], rng=np.random.default_rng(0))
    assert wrong[:300].sum() < 40
    assert max(precision(s.score(x[300:]), failure[300:] == 0, 20) for s in found) >= 0.9


def test_scores_are_linear_in_the_embedding_and_the_cut_is_in_the_intercept():
    x, wrong, _ = planted_class()
    for s in slices.find_class_slices(x, wrong):
        assert s.direction.shape == (64,)
        np.testing.assert_allclose(s.score(x), x @ s.direction + s.intercept)
        flagged = s.score(x) <= 0
        assert 0 < flagged.mean() < 0.5
        # Hardest lowest, and about as many as in the region of the cross-fitted scores.
        assert wrong[flagged].mean() > wrong[~flagged].mean()
        assert s.share == pytest.approx(flagged.mean(), abs=0.1)
        assert s.errors == wrong[s.members].sum()


def test_the_answer_depends_on_the_arrays_and_the_generator_alone():
    x, wrong, _ = planted_class()
    first, again = (slices.find_class_slices(x, wrong, rng=slices.class_generator(5, 2)) for _ in range(2))
    assert len(first) == len(again)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.direction, b.direction)
        np.testing.assert_array_equal(a.members, b.members)


def test_generators_of_classes_seeds_and_purposes_differ():
    numbers = {slices.class_generator(s, c, p).random() for s in (0, 1) for c in (0, 1) for p in ("find", "halves")}
    assert len(numbers) == 8


def test_directions_limits_how_many_are_found():
    x, wrong, _ = planted_class(shares=(0.1, 0.1, 0.1), rates=(0.7, 0.6, 0.5))
    assert len(slices.find_class_slices(x, wrong, directions=1)) == 1
    assert len(slices.find_class_slices(x, wrong, directions=2)) == 2
    assert 2 <= len(slices.find_class_slices(x, wrong)) <= 5


def test_the_models_outputs_never_move_a_score():
    x, wrong, _ = planted_class()
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), len(x))
    plain = slices.find_class_slices(x, wrong, rng=slices.class_generator(0, 0))
    given = slices.find_class_slices(x, wrong, probs, probs.argmax(axis=1), rng=slices.class_generator(0, 0))
    for a, b in zip(plain, given, strict=True):
        np.testing.assert_allclose(a.score(x), b.score(x))


# ---- The pieces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(200, 30), (40, 100), (300, 80)])
def test_principal_coordinates_are_those_of_scikit_learn_for_more_and_for_fewer_images_than_coordinates(shape):
    x = np.random.default_rng(0).standard_normal(shape) * np.linspace(1, 3, shape[1])
    ours = slices.principal_coordinates(x, 10)
    reference = PCA(10, svd_solver="full").fit_transform(x)
    z = ours.z
    np.testing.assert_allclose(z * np.sign((z * reference).sum(axis=0)), reference, atol=1e-8)
    direction, intercept = ours.direction(np.arange(10.0))
    np.testing.assert_allclose(x @ direction + intercept, z @ np.arange(10.0), atol=1e-8)


def test_k_means_is_as_good_as_scikit_learns():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((300, 6)) + 4 * rng.standard_normal((5, 6))[rng.integers(5, size=300)]
    [labels] = slices.k_means(z, 5, rng, starts=10)
    inertia = sum(((z[labels == k] - z[labels == k].mean(axis=0)) ** 2).sum() for k in range(5))
    assert inertia <= 1.001 * KMeans(5, n_init=10, random_state=0).fit(z).inertia_


def test_starts_of_k_means_are_spread_by_squared_distance():
    """Eight places, three apart: from one start a cluster at each, where starts by chance alone would miss some."""
    places = 3.0 * np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
    z = np.repeat(places, 20, axis=0) + 1e-3 * np.random.default_rng(0).standard_normal((160, 3))
    labels = slices.k_means(z, 8, np.random.default_rng(0), runs=50, starts=1)
    found = [len({tuple(run[20 * k : 20 * k + 20]) for k in range(8)}) == 8 == len(set(run)) for run in labels]
    assert np.mean(found) > 0.9


def test_k_means_of_equal_points_ends():
    [labels] = slices.k_means(np.zeros((10, 3)), 3, np.random.default_rng(0))
    assert set(labels) == {0}


def test_runs_of_k_means_that_move_together_are_those_that_move_alone():
    z = np.random.default_rng(1).standard_normal((80, 6))
    rng = np.random.default_rng(0)
    alone = [slices.k_means(z, 6, rng)[0] for _ in range(3)]
    np.testing.assert_array_equal(slices.k_means(z, 6, np.random.default_rng(0), runs=3), alone)
    assert (alone[0] != alone[1]).any()


def test_groups_are_kept_once_in_the_order_in_which_they_were_found():
    z = np.repeat(np.eye(3), 12, axis=0)
    groups = slices.candidate_groups(z, np.random.default_rng(0), clusters=(3,), seeds=4)
    assert groups[0].all()
    assert sorted(map(tuple, groups[1:])) == sorted(map(tuple, np.repeat(np.eye(3), 12, axis=1)))


def test_an_image_is_scored_by_directions_that_have_not_seen_it():
    rng = np.random.default_rng(0)
    z, wrong = rng.standard_normal((200, 150)), rng.random(200) < 0.3
    weights = wrong[None].astype(float)
    scale = slices.shrunken_variances(z)
    scores = slices.cross_fitted_scores(z, weights, wrong, scale, slices.folds(wrong, rng))[0]
    # On noise in many coordinates, directions that had seen the images would tell them apart.
    worst = np.argsort(scores)[:60]
    assert wrong[worst].mean() < 0.45
    seen = z @ (z.mean(axis=0) - z[wrong].mean(axis=0))
    assert wrong[np.argsort(seen)[:60]].mean() > 0.6


def test_the_direction_of_a_group_is_the_discriminant_against_all_other_images():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((50, 4))
    group = (np.arange(50) < 12).astype(float)
    scale = np.array([1.0, 2, 3, 4])
    plain = (z[12:].mean(axis=0) - z[:12].mean(axis=0)) / scale
    ours = slices._directions(z, group[None], z.mean(axis=0), scale)[0]
    np.testing.assert_allclose(ours / np.linalg.norm(ours), plain / np.linalg.norm(plain))


def test_a_region_grows_to_where_the_errors_thin_out():
    wrong = np.r_[np.ones(30), np.zeros(5), np.ones(5), np.zeros(100)].astype(bool)
    assert slices.grown_length(wrong, 10, 140, 0.1, 0.9) == 30
    assert slices.grown_length(wrong, 10, 20, 0.1, 0.9) == 20
    assert slices.grown_length(wrong, 50, 140, 0.1, 0.9) == 50


def test_what_seeks_the_same_drops_out_and_the_other_failure_is_taken():
    rng = np.random.default_rng(0)
    n = 300
    wrong = np.r_[np.ones(30), np.ones(20), np.zeros(250)].astype(bool)
    first = np.where(np.arange(n) < 30, -3, 0) + 0.1 * rng.standard_normal(n)
    second = np.where((np.arange(n) >= 30) & (np.arange(n) < 50), -3, 0) + 0.1 * rng.standard_normal(n)
    scores = np.stack([first, first + 0.01 * rng.standard_normal(n), second])
    taken = slices.take_regions(scores, np.array([20.0, 12, 14]), wrong, 5)
    assert [c for c, _ in taken] == [0, 2]
    assert set(taken[0][1]) == set(range(30))


def test_images_that_were_taken_are_not_taken_again():
    """Two candidates flag the same errors, by scores that are else unlike: the second has nothing left."""
    rng = np.random.default_rng(0)
    wrong = np.arange(300) < 30
    scores = rng.uniform(-1, 1, (1, 300)) - 1.5 * wrong
    scores = np.concatenate([scores, np.where(wrong, -2, -scores)])
    assert np.corrcoef(scores)[0, 1] < slices.SAME_CORRELATION
    taken = slices.take_regions(scores, np.array([20.0, 20]), wrong, 5)
    assert len(taken) == 1


def test_the_first_region_is_that_of_the_highest_lower_bound():
    """Regions of 12 and 90 images of 400, disjoint, with any numbers of errors: which is first?"""
    n, small, large = 400, 12, 90
    order = np.arange(n)
    scores = np.stack([order, (order - small) % n]).astype(float)
    firsts = []
    for few in range(4, small + 1):
        for many in range(20, large + 1, 2):
            wrong = np.zeros(n, bool)
            wrong[:few] = wrong[small : small + many] = wrong[-40:] = True
            counts, errors = np.array([small, large]), np.array([few, many])
            rates = (errors + slices.PRIOR_IMAGES * wrong.mean()) / (counts + slices.PRIOR_IMAGES)
            bounds = rates - slices.DEVIATIONS_BELOW * np.sqrt(rates * (1 - rates) / (counts + slices.PRIOR_IMAGES))
            (first, _), *_ = slices.take_regions(scores, counts / slices.REGION_PER_ERROR, wrong, 1, only_better=False)
            assert first == bounds.argmax()
            firsts.append(first)
    assert 20 < sum(firsts) < len(firsts) - 20


# ---- Classes that give nothing to find ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (np.zeros(20, bool), "right on all"),
        (np.ones(20, bool), "wrong on all"),
        (np.arange(20) < 1, "1 wrong and 19 right"),
        (np.zeros(0, bool), "no images"),
        (np.arange(1) < 1, "wrong on all"),
    ],
)
def test_a_class_that_cannot_be_split_is_skipped_with_the_reason(wrong, reason):
    x = np.random.default_rng(0).standard_normal((len(wrong), 5))
    assert reason in slices.reason_to_skip(x, wrong)
    assert slices.find_class_slices(x, wrong) == []


def test_identical_images_are_skipped_with_the_reason():
    x, wrong = np.ones((30, 5)), np.arange(30) < 10
    assert "all the same" in slices.reason_to_skip(x, wrong)
    assert slices.find_class_slices(x, wrong) == []


def test_fewer_errors_than_a_cluster_give_at_most_the_single_direction():
    x, _, _ = planted_class(n=200)
    wrong = np.zeros(200, bool)
    wrong[np.argsort(x[:, 0])[:4]] = True
    found = slices.find_class_slices(x, wrong, directions=3)
    assert len(found) == 1
    assert np.isfinite(found[0].direction).all()


def test_more_coordinates_than_images_and_duplicated_images_give_finite_directions():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 300))
    x[20:] = x[:20]
    wrong = np.arange(40) % 20 < 8
    for s in slices.find_class_slices(x, wrong, directions=2):
        assert np.isfinite(s.direction).all()
        assert np.isfinite(s.intercept)
