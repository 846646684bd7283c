"""The directions against scikit-learn's plain loop, closed forms and planted truths."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from failure_directions.directions import class_fit, primal_svm
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.pt_files import save_pt
from failure_directions.svm_utils import SVMFitter, svm_metrics, whitening
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import SVC

D = 24


def make_problem(examples=(120, 80, 101), d=D, shift=1.0, seed=0):
    """Labels, predictions, raw latents (with uneven scales and means) and each class's planted unit direction."""
    rng = np.random.default_rng(seed)
    ys = rng.permutation(np.repeat(np.arange(len(examples)), examples))
    right = rng.random(len(ys)) < 0.65
    directions = rng.standard_normal((len(examples), d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    latents = rng.standard_normal((len(ys), d)) + np.where(right, shift, -shift)[:, None] * directions[ys]
    preds = np.where(right, ys, (ys + 1) % len(examples))
    return ys, preds, latents, directions


def fitted(problem, whiten=True, **kwargs):
    ys, preds, latents, _ = problem
    fitter = SVMFitter(**kwargs)
    fitter.set_preprocess(latents if whiten else None)
    fitter.fit(preds=preds, ys=ys, latents=latents)
    return fitter


def plain_loop(z, right, balanced=True, cv=2, candidates=class_fit.SEARCHED_C):
    """scikit-learn as its documentation would have it: (chosen C, score, fitted SVC)."""
    svcs = [SVC(kernel="linear", class_weight="balanced" if balanced else None, C=C) for C in candidates]
    scores = [cross_val_score(svc, z, right, scoring="balanced_accuracy", cv=cv).mean() for svc in svcs]
    best = int(np.argmax(scores))
    return candidates[best], scores[best], svcs[best].fit(z, right)


def dual_objective(z, right, direction, multipliers):
    """What the SVM maximises: sum of the multipliers minus half the squared norm of the direction."""
    return np.abs(multipliers).sum() - direction @ direction / 2


@pytest.mark.parametrize("cv", [2, 3, 7])
def test_folds_are_those_of_scikit_learn(cv):
    rng = np.random.default_rng(cv)
    for n in (2 * cv, 2 * cv + 1, 50, 101):
        for share in (0.2, 0.5, 0.9):
            right = np.r_[[True] * cv, [False] * cv, rng.random(n - 2 * cv) < share]
            right = rng.permutation(right)
            for ours, theirs in zip(
                class_fit.stratified_folds(right, cv), StratifiedKFold(cv).split(right, right), strict=True
            ):
                np.testing.assert_array_equal(ours[0], theirs[0])
                np.testing.assert_array_equal(ours[1], theirs[1])


# ---- the SVM ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("balanced", "cv", "seed"), [(True, 2, 0), (True, 2, 1), (False, 2, 0), (True, 5, 2), (True, 9, 3)]
)
def test_scores_chosen_C_and_decision_values_are_those_of_the_plain_scikit_learn_loop(balanced, cv, seed):
    problem = ys, preds, latents, _ = make_problem(shift=0.5, seed=seed)
    fitter = fitted(problem, balanced=balanced, cv=cv)
    z = fitter.preprocess(latents)
    _, values = fitter.predict(ys=ys, latents=latents)
    for c in range(3):
        members = ys == c
        C, score, svc = plain_loop(z[members], (preds == ys)[members].astype(int), balanced, cv)
        reference = svc.decision_function(z[members])
        assert fitter.C[c] == C
        assert fitter.cv_scores[c] == score
        assert np.abs(values[members] - reference).max() <= 1e-2 * reference.std()


def test_a_version_of_scikit_learn_that_is_not_known_gives_the_same_answer(monkeypatch):
    problem = ys, _, latents, _ = make_problem(shift=0.5, seed=4)
    known = fitted(problem)
    monkeypatch.setattr(class_fit.sklearn, "__version__", "2.0.0")
    made = []
    monkeypatch.setattr(class_fit, "SVC", lambda **options: made.append(options["kernel"]) or SVC(**options))
    unknown = fitted(problem)
    assert set(made) == {"precomputed"}
    np.testing.assert_array_equal(unknown.C, known.C)
    np.testing.assert_array_equal(unknown.cv_scores, known.cv_scores)
    _, expected = known.predict(ys=ys, latents=latents)
    _, values = unknown.predict(ys=ys, latents=latents)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


def test_without_search_C_is_1_and_its_score_is_still_reported():
    problem = ys, preds, latents, _ = make_problem()
    fitter = fitted(problem, split_and_search=False)
    z = fitter.preprocess(latents)
    for c in range(3):
        _, score, svc = plain_loop(z[ys == c], (preds == ys)[ys == c].astype(int), candidates=(1.0,))
        assert fitter.C[c] == 1
        assert fitter.cv_scores[c] == score
        assert fitter.coef[c] == pytest.approx(svc.coef_[0], abs=1e-3)


def test_the_seven_powers_of_ten_of_the_paper_are_searched():
    np.testing.assert_allclose(class_fit.SEARCHED_C, 10.0 ** np.arange(-6, 1))


@pytest.mark.parametrize("C", class_fit.SEARCHED_C)
@pytest.mark.parametrize("balanced", [True, False])
def test_the_low_level_solver_is_what_SVC_calls(C, balanced):
    latents = make_problem((150,), shift=0.5)[2]
    right = np.random.default_rng(1).random(150) < 0.7
    z = latents / np.linalg.norm(latents, axis=1, keepdims=True)
    weights = class_fit.class_weights(right, balanced)
    multipliers, intercept = class_fit.solve_dual(z @ z.T, right, C, weights)
    svc = SVC(kernel="linear", C=C, class_weight="balanced" if balanced else None).fit(z, right)
    direction = z.T @ multipliers
    np.testing.assert_allclose(direction, svc.coef_[0], rtol=0, atol=1e-3 * np.linalg.norm(direction))
    assert intercept == pytest.approx(svc.intercept_[0], abs=1e-3)
    # The dual objective, the solver's own measure, is no worse than that of SVC.
    reference = dual_objective(z, right, svc.coef_[0], svc.dual_coef_)
    assert dual_objective(z, right, direction, multipliers) >= reference - 1e-9 * abs(reference)


def test_at_a_small_C_every_multiplier_sits_at_its_bound_but_the_intercept_need_not_be_the_midpoint():
    """The closed form of `class_fit`'s docstring: right about the direction, silent about the intercept."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((90, 30))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    off_midpoint = 0
    for C in (1e-6, 1e-5, 1e-4, 1e-3):
        right = rng.random(90) < 0.7
        weights = class_fit.class_weights(right, balanced=True)
        multipliers, intercept = class_fit.solve_dual(z @ z.T, right, C, weights)
        bounds = C * np.where(right, weights[1], -weights[0])
        np.testing.assert_allclose(multipliers, bounds, rtol=1e-9)
        f = z @ z.T @ bounds
        low, high = -1 - f[~right].min(), 1 - f[right].max()
        assert low - 1e-3 <= intercept <= high + 1e-3
        off_midpoint += abs(intercept - (low + high) / 2) > 0.1
    assert off_midpoint


def test_a_class_too_large_for_a_gram_matrix_gets_the_same_answer(monkeypatch):
    problem = make_problem()
    reference = fitted(problem)
    monkeypatch.setattr(class_fit, "GRAM_LIMIT", 90)
    fitter = fitted(problem)
    np.testing.assert_array_equal(fitter.C, reference.C)
    np.testing.assert_allclose(fitter.cv_scores, reference.cv_scores)
    np.testing.assert_allclose(fitter.coef, reference.coef, atol=0.02 * np.abs(reference.coef).max())


def objective(z, right, weights, direction, intercept):
    """What libsvm minimises, by its definition."""
    losses = np.clip(1 - np.where(right, 1, -1) * (z @ direction + intercept), 0, None)
    return direction @ direction / 2 + weights @ losses


@pytest.mark.parametrize("C", class_fit.SEARCHED_C)
@pytest.mark.parametrize(("n", "d", "shift"), [(300, 24, 0.3), (60, 90, 0.3), (150, 8, 4.0)])
def test_the_primal_solver_reaches_libsvm_s_objective_and_says_how_near_it_is(n, d, shift, C):
    rng = np.random.default_rng(n)
    right = rng.random(n) < 0.7
    z = rng.standard_normal((n, d)) + np.where(right, shift, -shift)[:, None] * np.eye(d)[0]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    weights = C * class_fit.class_weights(right, True)[right.astype(int)]
    direction, (low, high), gap = primal_svm.solve_primal(z, right, weights, tolerance=1e-7)
    svc = SVC(kernel="linear", C=C, class_weight="balanced", tol=1e-9).fit(z, right)
    reference = objective(z, right, weights, svc.coef_[0], svc.intercept_[0])
    for intercept in (low, (low + high) / 2, high):
        assert objective(z, right, weights, direction, intercept) <= reference * (1 + 2e-7)
    assert gap <= 1e-7
    assert low - 1e-3 <= svc.intercept_[0] <= high + 1e-3


def test_best_intercepts_are_the_ends_of_the_flat_part_of_the_loss():
    rng = np.random.default_rng(0)
    for case in range(20):
        right = rng.permutation(np.arange(12) < 7)
        values = rng.standard_normal(12) * (0.1 if case % 2 else 1)
        weights = class_fit.class_weights(right, case % 4 < 2)[right.astype(int)]
        low, high = primal_svm.best_intercepts(values, right, weights)
        # Straight between the hinges' beginnings: the best is at one of them, and the loss is flat from low to high.
        places = np.sort(np.where(right, 1, -1) - values)
        losses = [objective(values[:, None], right, weights, np.ones(1), place) for place in places]
        best = places[np.flatnonzero(np.isclose(losses, min(losses), rtol=1e-12))]
        assert (low, high) == (best[0], best[-1])


@pytest.mark.parametrize("solver", class_fit.SOLVERS)
def test_in_the_middle_of_the_interval_a_small_C_tells_right_from_wrong(solver):
    problem = make_problem((300, 300), shift=0.6)
    ys, preds, latents, _ = problem
    fitter = fitted(problem, intercept="middle", solver=solver)
    z, right = fitter.preprocess(latents)[ys == 0], (preds == ys)[ys == 0]
    end, middle = (class_fit.fit_svm(z, right, (1e-6,), solver=solver, intercept=rule) for rule in class_fit.INTERCEPTS)
    assert end.cv_score < 0.6 < middle.cv_score
    ((direction, intercept),) = middle.layers
    values = (z @ direction)[:, 0]
    low, high = -1 - values[~right].min(), 1 - values[right].max()
    assert intercept == pytest.approx((low + high) / 2)
    assert fitter.C[0] < 1


def test_unknown_solvers_and_intercepts_are_refused():
    for option in ("solver", "intercept"):
        with pytest.raises(UserError, match=f"unknown {option} 'fast'; choose one of"):
            SVMFitter(**{option: "fast"})


@pytest.mark.parametrize("method", ["SVM", "MLP"])
def test_a_planted_direction_is_recovered_and_hard_images_are_negative(method):
    ys, preds, latents, directions = make_problem((600, 600), shift=1.5)
    fitter = fitted((ys, preds, latents, None), method=method, do_normalize=False)
    mask, values = fitter.predict(ys=ys, latents=latents)
    right = preds == ys
    assert values[right].mean() > 0 > values[~right].mean()
    np.testing.assert_array_equal(mask, values > 0)
    assert np.mean(mask == right) > 0.85
    assert not fitter.no_consistent_failure.any()
    if method == "SVM":
        planted = directions * fitter.std  # in whitened coordinates a shift is divided by std, a normal multiplied
        cosine = np.sum(fitter.coef * planted, axis=1) / np.linalg.norm(fitter.coef, axis=1)
        assert (cosine / np.linalg.norm(planted, axis=1) > 0.85).all()


def test_errors_at_random_have_scores_around_one_half_and_may_be_no_consistent_failure():
    fitter = fitted(make_problem([60] * 20, shift=0))
    assert abs(fitter.cv_scores.mean() - 0.5) < 0.1
    assert 0 < fitter.no_consistent_failure.sum() < 20
    # Exactly .5, what a coin has, is none; a class that was skipped says nothing.
    fitter.cv_scores[:4] = 0.5, np.nextafter(0.5, 1), 0.49, np.nan
    assert fitter.no_consistent_failure[:4].tolist() == [True, False, True, False]


def test_two_processes_give_the_answer_of_one():
    problem = make_problem([40] * 11)
    one, two = fitted(problem), fitted(problem, jobs=2)
    np.testing.assert_array_equal(one.C, two.C)
    np.testing.assert_array_equal(one.cv_scores, two.cv_scores)
    np.testing.assert_allclose(one.coef, two.coef, rtol=1e-9, atol=1e-12)


def test_tensors_and_arrays_and_float_widths_are_the_same_to_the_fitter():
    ys, preds, latents, _ = make_problem()
    latents = latents.astype(np.float16)
    reference = fitted((ys, preds, latents.astype(np.float64), None))
    for form in (latents, torch.from_numpy(latents), torch.from_numpy(latents).float()):
        fitter = fitted((torch.from_numpy(ys), torch.from_numpy(preds).int(), form, None))
        np.testing.assert_array_equal(fitter.coef, reference.coef)
        np.testing.assert_array_equal(
            fitter.predict(ys=torch.from_numpy(ys), latents=form)[1],
            reference.predict(ys=ys, latents=latents.astype(np.float64))[1],
        )


# ---- whitening and normalising ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_whitening_is_the_mean_and_sample_deviation_of_numpy_from_a_memory_map_in_chunks(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("failure_directions.svm_utils.CHUNK_NUMBERS", 37 * 5)
    rng = np.random.default_rng(0)
    latents = (rng.standard_normal((500, 5)) * [1, 2, 0.5, 3, 1] + [0, 100, -50, 7, 1]).astype(dtype)
    np.save(tmp_path / "latents.npy", latents)
    mean, std = whitening(np.load(tmp_path / "latents.npy", mmap_mode="r"))
    np.testing.assert_allclose(mean, latents.astype(np.float64).mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(std, latents.astype(np.float64).std(axis=0, ddof=1), rtol=1e-10)


def test_a_memory_mapped_float16_file_fits_and_predicts_as_its_array_does(tmp_path, monkeypatch):
    ys, preds, latents, _ = make_problem()
    latents = latents.astype(np.float16)
    np.save(tmp_path / "latents.npy", latents)
    mapped = np.load(tmp_path / "latents.npy", mmap_mode="r")
    reference, fitter = fitted((ys, preds, latents, None)), fitted((ys, preds, mapped, None))
    monkeypatch.setattr("failure_directions.svm_utils.CHUNK_NUMBERS", 50 * D)
    np.testing.assert_array_equal(fitter.coef, reference.coef)
    chunked = fitter.predict(ys=ys, latents=mapped)[1]
    monkeypatch.undo()
    np.testing.assert_allclose(chunked, reference.predict(ys=ys, latents=latents)[1], rtol=1e-12)


def test_whitening_a_large_memory_map_takes_little_memory(tmp_path):
    latents = np.lib.format.open_memmap(tmp_path / "big.npy", mode="w+", dtype=np.float16, shape=(200_000, 256))
    latents[::3] = 1
    tracemalloc.start()
    whitening(latents)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < latents.size * 8 / 3  # a third of one float64 copy


def test_a_constant_coordinate_is_centred_and_divides_by_one():
    latents = np.random.default_rng(0).standard_normal((1000, 3))
    latents[:, 1] = 0.1
    fitter = SVMFitter(do_normalize=False)
    fitter.set_preprocess(latents)
    assert fitter.std[1] == 1
    np.testing.assert_array_equal(fitter.preprocess(latents)[:, 1], 0)


def test_preprocess_whitens_then_normalises_and_leaves_zero_vectors_zero():
    latents = np.random.default_rng(0).standard_normal((50, 4)) * 3 + 1
    fitter = SVMFitter()
    fitter.set_preprocess(latents)
    z = (latents - latents.mean(axis=0)) / latents.std(axis=0, ddof=1)
    np.testing.assert_allclose(fitter.preprocess(latents), z / np.linalg.norm(z, axis=1, keepdims=True))
    np.testing.assert_allclose(fitter.preprocess(latents[3]), fitter.preprocess(latents)[3])
    np.testing.assert_array_equal(fitter.preprocess(fitter.mean), 0)
    fitter.set_preprocess()
    norms = np.linalg.norm(latents, axis=1, keepdims=True)
    np.testing.assert_allclose(fitter.preprocess(torch.from_numpy(latents)), latents / norms)


def test_preprocess_does_not_write_into_its_argument():
    latents = np.ones((3, 2))
    SVMFitter().preprocess(latents)
    np.testing.assert_array_equal(latents, 1)


# ---- skipped classes and metrics -------------------------------------------------------------------------------------


def test_classes_that_cannot_be_fitted_are_skipped_with_a_reason_and_left_out_of_the_metrics():
    rng = np.random.default_rng(0)
    ys = np.array([0] * 40 + [1] * 12 + [2] * 9 + [3] * 8 + [4] * 7)
    preds = ys.copy()
    preds[:15] = 5
    preds[52:61] = 0  # class 2: only errors
    preds[61] = 0  # class 3: one error
    preds[70:76] = 0  # class 4: one right
    latents = rng.standard_normal((len(ys), 6))
    fitter = SVMFitter()
    scores = fitter.fit(preds=preds, ys=ys, latents=latents, num_classes=7)
    assert fitter.skipped == {
        1: "no errors among 12 validation images",
        2: "only errors among 9 validation images",
        3: "1 error, fewer than cv = 2",
        4: "1 correct prediction, fewer than cv = 2",
        5: "no validation images",
        6: "no validation images",
    }
    assert scores.shape == (7,)
    assert np.isnan(scores[1:]).all()
    assert np.isnan(fitter.coef[1:]).all()
    assert np.isfinite(fitter.coef[0]).all()
    assert not fitter.no_consistent_failure[1:].any()
    mask, values, metrics = fitter.predict(ys=ys, latents=latents, preds=preds, compute_metrics=True)
    assert np.isnan(values[40:]).all()
    assert (mask[40:] == 1).all()
    assert metrics["confusion_matrix"].sum() == 40
    assert metrics["accuracy"] == np.mean((values > 0)[:40] == (preds == ys)[:40])
    np.testing.assert_array_equal(np.isnan(metrics["indiv_accs"]), [False] + [True] * 6)


SAME_EVERYWHERE = "one decision value for all of its validation images: right and wrong ones look alike"


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_a_decision_value_that_is_the_same_everywhere_flags_nothing(normalize, scale):
    """Class 0: images all alike; 1: each right one has a wrong one at its place; 2: a direction, barely there."""
    rng = np.random.default_rng(0)
    ys, wrong = np.repeat([0, 1, 2], 40), np.tile([False, True], 60)
    latents = rng.standard_normal((120, 8))
    latents[:40] = latents[0]
    latents[40:80] = np.repeat(latents[40:60], 2, axis=0)
    latents[80:] = latents[80] + 1e-3 * latents[80:] + 5e-3 * wrong[80:, None]
    fitter = SVMFitter(do_normalize=normalize)
    scores = fitter.fit(preds=np.where(wrong, 3, ys), ys=ys, latents=scale * latents, num_classes=3 + 1)
    assert fitter.skipped == {0: SAME_EVERYWHERE, 1: SAME_EVERYWHERE, 3: "no validation images"}
    assert np.isnan(scores[:2]).all()
    mask, values = fitter.predict(ys=ys, latents=scale * latents)
    assert (mask[:80] == 1).all()
    assert np.isnan(values[:80]).all()
    np.testing.assert_array_equal(mask[80:] == 0, wrong[80:])


def test_an_mlp_that_sees_images_all_alike_flags_nothing():
    fitter = SVMFitter(method="MLP", svm_args={"first_layer": False})
    fitter.fit(preds=np.arange(20) % 2, ys=np.zeros(20, int), latents=np.full((20, 3), 0.7))
    assert fitter.skipped[0] == SAME_EVERYWHERE


def test_metrics_are_those_of_scikit_learn():
    problem = ys, preds, latents, _ = make_problem(shift=0.3)
    mask, values, metrics = fitted(problem).predict(ys=ys, latents=latents, preds=preds, compute_metrics=True)
    right = (preds == ys).astype(int)
    np.testing.assert_array_equal(metrics["ytrue"], right)
    np.testing.assert_array_equal(metrics["ypred"], mask)
    np.testing.assert_array_equal(metrics["decision_values"], values)
    np.testing.assert_array_equal(metrics["confusion_matrix"], confusion_matrix(right, mask))
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(right, mask))
    assert metrics["accuracy"] == pytest.approx(np.mean(right == mask))
    for c in range(3):
        assert metrics["indiv_accs"][c] == pytest.approx(np.mean((right == mask)[ys == c]))


def test_metrics_of_one_kind_of_example_or_none_come_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = svm_metrics(np.array([True, True]), np.array([1.0, -1.0]), np.array([0, 0]), 2)
        assert metrics["balanced_accuracy"] == 0.5
        nothing = svm_metrics(np.array([True]), np.array([np.nan]), np.array([0]), 2)
    assert np.isnan([nothing["accuracy"], nothing["balanced_accuracy"], *nothing["indiv_accs"]]).all()
    np.testing.assert_array_equal(nothing["confusion_matrix"], 0)


def test_a_decision_value_of_zero_is_flagged():
    metrics = svm_metrics(np.array([True, True]), np.array([0.0, 0.5]), np.array([0, 0]), 1)
    np.testing.assert_array_equal(metrics["ypred"], [0, 1])


def test_predict_takes_no_examples():
    fitter = fitted(make_problem())
    mask, values = fitter.predict(ys=np.zeros(0, int), latents=np.zeros((0, D)))
    assert mask.shape == values.shape == (0,)


# ---- the MLP ---------------------------------------------------------------------------------------------------------


def test_an_mlp_without_a_hidden_layer_is_balanced_logistic_regression():
    problem = ys, preds, latents, _ = make_problem()
    fitter = fitted(problem, method="MLP", svm_args={"first_layer": False})
    z = fitter.preprocess(latents)
    values = fitter.predict(ys=ys, latents=latents)[1]
    for c in range(3):
        x, right = z[ys == c], (preds == ys)[ys == c]
        reference = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-8).fit(x, right).decision_function(x)
        np.testing.assert_allclose(values[ys == c], reference, atol=0.02 * reference.std())


def test_an_mlp_reports_its_score_on_held_out_folds_and_is_seeded():
    problem = ys, preds, latents, _ = make_problem(shift=0.8)
    fitter = fitted(problem, method="MLP", svm_args={"hidden_layer_size": 8})
    again = fitted(problem, method="MLP", svm_args={"hidden_layer_size": 8})
    np.testing.assert_array_equal(fitter.cv_scores, again.cv_scores)
    assert fitter.coef is None
    assert np.isnan(fitter.C).all()
    z, right = fitter.preprocess(latents)[ys == 0], (preds == ys)[ys == 0]
    scores = []
    for train, test in StratifiedKFold(2).split(right, right):
        part = SVMFitter(method="MLP", svm_args={"hidden_layer_size": 8}, do_normalize=False)
        part.fit(preds=np.where(right, 0, 1)[train], ys=np.zeros(len(train), int), latents=z[train])
        mask, _ = part.predict(ys=np.zeros(len(test), int), latents=z[test])
        scores.append(balanced_accuracy_score(right[test], mask))
    assert fitter.cv_scores[0] == pytest.approx(np.mean(scores))


def test_the_balanced_mlp_flags_more_of_a_rare_failure():
    ys, preds, latents, _ = make_problem((400,), shift=0.4)
    rng = np.random.default_rng(0)
    preds = np.where(rng.random(400) < 0.9, 0, 1)
    flagged = [
        np.sum(
            fitted((ys, preds, latents, None), method="MLP", balanced=balanced).predict(ys=ys, latents=latents)[0] == 0
        )
        for balanced in (True, False)
    ]
    assert flagged[0] > flagged[1]


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"balanced": False, "split_and_search": False, "do_normalize": False, "cv": 3}, {"method": "MLP"}],
)
def test_a_loaded_fitter_predicts_as_the_exported_one(tmp_path, whiten, kwargs):
    ys, preds, latents, _ = make_problem((60, 50, 40))
    preds = np.where(ys == 1, 1, preds)  # class 1 is skipped
    fitter = fitted((ys, preds, latents, None), whiten=whiten, **kwargs)
    fitter.export(tmp_path / "model.pt")
    loaded = SVMFitter.load(tmp_path / "model.pt")
    for ours, theirs in zip(
        fitter.predict(ys=ys, latents=latents), loaded.predict(ys=ys, latents=latents), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(loaded.cv_scores, fitter.cv_scores)
    np.testing.assert_array_equal(loaded.C, fitter.C)
    np.testing.assert_array_equal(loaded.preprocess(latents), fitter.preprocess(latents))
    assert loaded.skipped == fitter.skipped == {1: "no errors among 50 validation images"}
    for name in ("method", "balanced", "split_and_search", "do_normalize", "cv"):
        assert getattr(loaded, name) == getattr(fitter, name)


def test_an_exported_file_holds_the_directions_under_their_names(tmp_path):
    fitter = fitted(make_problem())
    fitter.export(tmp_path / "model.pt")
    contents = torch.load(tmp_path / "model.pt", weights_only=True)
    assert contents["coef"].shape == (3, D)
    assert contents["intercept"].shape == contents["C"].shape == contents["cv_scores"].shape == (3,)
    assert contents["mean"].shape == contents["std"].shape == (D,)
    assert (contents["method"], contents["normalize"], contents["cv"], contents["skipped"]) == ("SVM", True, 2, {})


@pytest.mark.parametrize("contents", [{"coef": torch.zeros(2, 3), "method": "SVM"}, [1, 2], {"state_dict": {}}])
def test_a_file_of_another_kind_is_refused_naming_what_it_lacks(tmp_path, contents):
    save_pt(contents, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"not an SVM model: it lacks .*cv_scores.*intercept"):
        SVMFitter.load(tmp_path / "other.pt")


def test_a_file_whose_shapes_disagree_is_refused(tmp_path):
    fitted(make_problem()).export(tmp_path / "model.pt")
    contents = torch.load(tmp_path / "model.pt", weights_only=True)
    save_pt(contents | {"coef": contents["coef"][:, :5]}, tmp_path / "model.pt")
    with pytest.raises(UserError, match="damaged"):
        SVMFitter.load(tmp_path / "model.pt")


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "tree"}, "unknown method 'tree'; choose one of SVM, MLP"),
        ({"cv": 1}, "cv = 1 is not a number of folds"),
        ({"cv": 2.5}, "cv = 2.5 is not a number of folds"),
        ({"jobs": 0}, "jobs = 0"),
        ({"svm_args": {"depth": 3}}, "unknown svm_args depth"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(kwargs, message):
    with pytest.raises(UserError, match=message):
        SVMFitter(**kwargs)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_latents_with_nan_or_infinity_are_refused_with_the_number_of_rows(bad):
    ys, preds, latents, _ = make_problem()
    fitter = fitted((ys, preds, latents.copy(), None))
    latents[[3, 7]] = bad
    for call in (
        lambda: SVMFitter().set_preprocess(latents),
        lambda: SVMFitter().fit(preds=preds, ys=ys, latents=latents),
        lambda: fitter.predict(ys=ys, latents=latents),
    ):
        with pytest.raises(UserError, match=f"2 of {len(ys)} rows of .*latents hold nan or infinity"):
            call()


def test_shapes_that_disagree_are_refused():
    ys, preds, latents, _ = make_problem()
    fitter = fitted((ys, preds, latents, None))
    with pytest.raises(UserError, match=r"disagree \(latents 300, ys 301, preds 301\)"):
        SVMFitter().fit(preds=preds, ys=ys, latents=latents[1:])
    with pytest.raises(UserError, match=r"disagree \(latents 301, ys 300\)"):
        fitter.predict(ys=ys[1:], latents=latents)
    with pytest.raises(UserError, match=r"disagree \(preds 300, ys 301\)"):
        fitter.predict(ys=ys, latents=latents, preds=preds[1:], compute_metrics=True)
    for call in (
        lambda: fitter.predict(ys=ys, latents=latents[:, 1:]),
        lambda: fitter.fit(preds=preds, ys=ys, latents=latents[:, 1:]),
        lambda: fitter.preprocess(latents[:, 1:]),
    ):
        with pytest.raises(UserError, match="23 coordinates where the SVM was prepared for 24"):
            call()
    with pytest.raises(UserError, match=r"shape \(examples, d\)"):
        SVMFitter().fit(preds=preds, ys=ys, latents=latents[:, 0])
    with pytest.raises(UserError, match="preds are float64"):
        SVMFitter().fit(preds=latents, ys=ys, latents=latents)


def test_labels_out_of_range_are_refused():
    ys, preds, latents, _ = make_problem()
    fitter = fitted((ys, preds, latents, None))
    with pytest.raises(UserError, match=r"label 2 is outside 0\.\.1"):
        SVMFitter().fit(preds=preds, ys=ys, latents=latents, num_classes=2)
    with pytest.raises(UserError, match=r"label -1 is outside 0\.\.2"):
        SVMFitter().fit(preds=preds, ys=np.where(ys == 0, -1, ys), latents=latents)
    with pytest.raises(UserError, match=r"label 5 is outside 0\.\.2"):
        fitter.predict(ys=ys + 3 * (ys == 2), latents=latents)


def test_predicting_or_exporting_before_fitting_is_refused(tmp_path):
    for call in (
        lambda: SVMFitter().predict(ys=[0], latents=[[1.0]]),
        lambda: SVMFitter().export(tmp_path / "model.pt"),
        lambda: SVMFitter().no_consistent_failure,
    ):
        with pytest.raises(UserError, match="not fitted; call fit"):
            call()


def test_metrics_without_predictions_fitting_nothing_and_whitening_one_row_are_refused():
    ys, preds, latents, _ = make_problem()
    with pytest.raises(UserError, match="give preds="):
        fitted((ys, preds, latents, None)).predict(ys=ys, latents=latents, compute_metrics=True)
    with pytest.raises(UserError, match="no validation examples"):
        SVMFitter().fit(preds=preds[:0], ys=ys[:0], latents=latents[:0])
    with pytest.raises(UserError, match="at least 2 training latents, got 1"):
        SVMFitter().set_preprocess(latents[:1])
