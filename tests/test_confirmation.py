"""Confirmation: every test, interval and verdict against an independent reference, planted truth, and no truth."""

from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from failure_directions.directions import confirmation as c
from failure_directions.directions.slices import FoundSlice
from failure_directions.runtime.errors import UserError
from scipy import stats
from test_slices import planted_class

NAN = float("nan")


# ---- The theorems ---------------------------------------------------------------------------------------------------


def test_the_hypergeometric_p_is_that_of_fishers_exact_test_and_of_all_draws():
    wrong = np.arange(12) < 5
    flagged = np.isin(np.arange(12), [0, 1, 2, 8])
    table = [[3, 1], [2, 6]]
    p = c.hypergeometric_p(flagged, wrong)
    assert p == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
    draws = [sum(i < 5 for i in draw) >= 3 for draw in combinations(range(12), 4)]
    assert p == pytest.approx(np.mean(draws))


def test_without_errors_or_flagged_images_nothing_is_surprising():
    none = np.zeros(10, bool)
    assert c.hypergeometric_p(~none, none) == 1
    assert c.hypergeometric_p(none, np.arange(10) < 3) == 1


def test_groups_of_one_image_give_the_hypergeometric_test():
    rng = np.random.default_rng(0)
    wrong, flagged = rng.random(60) < 0.3, rng.random(60) < 0.3
    p = c.grouped_p(flagged, wrong, rng.permutation(60), rng)
    assert p == c.hypergeometric_p(flagged, wrong)


def test_groups_of_equal_images_give_the_test_of_one_image_each():
    """Patients of four equal images: the permutation of patients is that of single images."""
    flagged, wrong = np.arange(15) < 5, np.isin(np.arange(15), [0, 1, 2, 9])
    exact = c.hypergeometric_p(flagged, wrong)
    draws = 4000
    p = c.grouped_p(
        np.repeat(flagged, 4), np.repeat(wrong, 4), np.repeat(np.arange(15), 4), np.random.default_rng(0), draws
    )
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 1000))
    assert c.hypergeometric_p(np.repeat(flagged, 4), np.repeat(wrong, 4)) < exact / 3


def test_whole_patients_do_not_cry_wolf_where_single_images_do():
    """Patients of 5 to 8 images, each all flagged or not, each wrong or right as a whole, independently."""
    rng = np.random.default_rng(0)
    grouped, single = [], []
    for _ in range(60):
        sizes = rng.integers(5, 9, size=24)
        group = np.repeat(np.arange(24), sizes)
        flagged, wrong = (np.repeat(rng.random(24) < 0.35, sizes) for _ in range(2))
        grouped.append(c.grouped_p(flagged, wrong, group, rng, 199) <= 0.1)
        single.append(c.hypergeometric_p(flagged, wrong) <= 0.1)
    assert np.mean(grouped) <= 0.22  # a binomial of 60 at .1 is above that in 1 of 500
    assert np.mean(single) >= 0.25


def test_a_failure_within_every_patient_is_seen():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(40), 10)
    flagged = rng.random(400) < 0.15
    wrong = rng.random(400) < np.where(flagged, 0.6, 0.1)
    assert c.grouped_p(flagged, wrong, group, rng) <= 0.001


def test_one_group_says_nothing():
    wrong = np.arange(30) < 10
    assert c.grouped_p(wrong, wrong, np.zeros(30), np.random.default_rng(0)) == 1


def test_a_count_that_no_draw_reaches_has_the_smallest_p_that_the_draws_allow():
    """Twelve patients of three images, of which one half is flagged and wrong as a whole: one draw in 924."""
    flagged = np.arange(36) < 18
    p = c.grouped_p(flagged, flagged, np.repeat(np.arange(12), 3), np.random.default_rng(0), draws=9)
    assert p == 1 / 10


def test_benjamini_hochberg_is_statsmodels_and_the_step_up_by_hand():
    p = np.array([0.01, 0.04, 0.03, 0.5, 0.005, 0.2])
    # statsmodels 0.15.0: multipletests(p, method="fdr_bh")[1]
    np.testing.assert_allclose(c.benjamini_hochberg(p), [0.03, 0.06, 0.06, 0.5, 0.03, 0.24])
    ordered = np.sort(p)
    for level in (0.02, 0.05, 0.1, 0.3):
        passing = np.flatnonzero(ordered <= level * np.arange(1, 7) / 6)
        claims = passing[-1] + 1 if len(passing) else 0
        assert (c.benjamini_hochberg(p) <= level).sum() == claims
    assert len(c.benjamini_hochberg([])) == 0


@pytest.mark.parametrize(
    ("a", "n", "b", "m", "level", "low", "high"),
    [
        # Newcombe 1998, table II, method 10, and statsmodels 0.15.0, confint_proportions_2indep(method="newcomb").
        (56, 70, 48, 80, 0.95, 0.05243147240236498, 0.33387265403690614),
        (9, 10, 3, 10, 0.95, 0.1705227239345029, 0.809017973535488),
        (10, 10, 0, 20, 0.95, 0.6790860371419145, 1.0),
        (12, 40, 30, 300, 0.99, 0.04378487755309704, 0.4068446155239267),
    ],
)
def test_newcombes_interval_is_the_published_one(a, n, b, m, level, low, high):
    np.testing.assert_allclose(c.newcombe_interval(a / n, n, b / m, m, level), (low, high), rtol=1e-9)


def test_newcombes_interval_of_nothing_is_nan():
    assert np.isnan(c.newcombe_interval(NAN, 0, 0.3, 10)).all()


def test_wilsons_interval_is_scipys():
    reference = stats.binomtest(7, 30).proportion_ci(0.9, method="wilson")
    np.testing.assert_allclose(c.wilson_interval(7 / 30, 30, 0.9), reference)


def test_the_effective_size_is_the_number_of_images_or_of_groups_that_agree():
    rng = np.random.default_rng(0)
    assert c.effective_size(np.arange(20) < 3) == 20
    groups = np.repeat(np.arange(200), 5)
    agree = np.repeat(rng.random(200) < 0.3, 5)
    assert c.effective_size(agree, groups) == pytest.approx(200, rel=0.02)
    assert c.effective_size(rng.random(1000) < 0.3, groups) == pytest.approx(1000, rel=0.15)
    assert c.effective_size(np.zeros(1000, bool), groups) == pytest.approx(200)
    assert c.effective_size(np.arange(9) < 3, np.zeros(9)) == 1


def stratified(tables):
    """Flagged, wrong and strata of 2 x 2 tables [[flagged wrong, flagged right], [rest wrong, rest right]]."""
    cells = [(f, w, s) for s, t in enumerate(tables) for f in (0, 1) for w in (0, 1) for _ in range(t[1 - f][1 - w])]
    flagged, wrong, strata = np.array(cells).T
    return flagged == 1, wrong == 1, strata


def test_the_mantel_haenszel_test_is_statsmodels():
    tables = [[[8, 12], [15, 65]], [[5, 20], [10, 90]], [[9, 3], [20, 30]]]
    # statsmodels 0.15.0: norm.sf(sqrt(StratifiedTable(tables).test_null_odds(correction=True).statistic))
    assert c.mantel_haenszel_p(*stratified(tables)) == pytest.approx(0.0011900199597578791, rel=1e-9)


def test_the_mantel_haenszel_test_is_near_the_exact_one():
    tables = [[[8, 12], [15, 65]], [[5, 20], [10, 90]]]
    parts = [stats.hypergeom(sum(map(sum, t)), t[0][0] + t[1][0], sum(t[0])) for t in tables]
    sums = np.convolve(*[part.pmf(np.arange(60)) for part in parts])
    assert c.mantel_haenszel_p(*stratified(tables)) == pytest.approx(sums[13:].sum(), rel=0.25)


def test_of_groups_that_agree_the_variance_is_that_between_groups():
    rng = np.random.default_rng(0)
    groups, strata = np.repeat(np.arange(60), 6), np.tile(np.arange(3), 120)
    flagged = np.repeat(rng.random(60) < 0.3, 6)
    wrong = np.repeat(rng.random(60) < 0.3, 6) ^ (rng.random(360) < 0.1)
    parts, excess = np.zeros(60), 0.0
    for stratum in range(3):
        rows = np.flatnonzero(strata == stratum)
        away = (flagged[rows] - flagged[rows].mean()) * (wrong[rows] - wrong[rows].mean())
        excess += away.sum()
        np.add.at(parts, groups[rows], away)
    assert (parts**2).sum() > 2 * 360 * flagged.var() * wrong.var()  # than of images that know nothing of each other
    expected = stats.norm.sf((excess - 0.5) / np.sqrt((parts**2).sum()))
    assert c.mantel_haenszel_p(flagged, wrong, strata, groups) == pytest.approx(expected, rel=1e-9)


def test_what_confidence_explains_is_not_beyond_it_though_it_is_beyond_chance():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, size=4000)
    wrong = rng.random(4000) < 1 - confidence
    flagged = rng.random(4000) < np.where(confidence < 0.7, 0.4, 0.02)
    probs = np.column_stack([confidence, 1 - confidence])
    tenths = c.confidence_tenths(probs)
    np.testing.assert_array_equal(np.bincount(tenths), np.full(10, 400))
    assert c.hypergeometric_p(flagged, wrong) < 1e-6
    assert c.mantel_haenszel_p(flagged, wrong, tenths) > 0.01
    harder = rng.random(4000) < np.where(flagged, 0.9, 1 - confidence)
    assert c.mantel_haenszel_p(flagged, harder, tenths) < 1e-6


def test_no_stratum_can_tell_where_all_are_flagged_or_none_is_wrong():
    assert c.mantel_haenszel_p(np.ones(5, bool), np.arange(5) < 2, np.zeros(5)) == 1
    assert c.mantel_haenszel_p(np.arange(5) < 2, np.zeros(5, bool), np.zeros(5)) == 1


def test_equal_confidences_share_a_tenth():
    assert len(set(c.confidence_tenths(np.full((30, 2), 0.5)))) == 1


@pytest.mark.parametrize(("n", "k", "rate", "base"), [(60, 9, 0.5, 0.1), (200, 20, 0.3, 0.15), (12, 3, 0.9, 0.2)])
@pytest.mark.parametrize("level", [0.05, 0.001])
def test_power_is_the_sum_over_all_pairs_of_counts(n, k, rate, base, level):
    total = 0.0
    for a in range(k + 1):
        for b in range(n - k + 1):
            if stats.hypergeom.sf(a - 1, n, a + b, k) <= level:
                total += stats.binom.pmf(a, k, rate) * stats.binom.pmf(b, n - k, base)
    assert c.detection_power(n, k, rate, base, level) == pytest.approx(total, abs=1e-8)


def test_images_for_power_have_that_power_and_clearly_fewer_have_not():
    n = c.images_for_power(0.1, 0.4, 0.2, 0.01, power=0.8)
    assert c.detection_power(n, round(0.1 * n), 0.4, 0.2, 0.01) >= 0.8
    fewer = int(0.85 * n)
    assert c.detection_power(fewer, round(0.1 * fewer), 0.4, 0.2, 0.01) < 0.8
    assert c.images_for_power(0.1, 0.2, 0.2, 0.01) is None


def test_a_plan_for_power_agrees_with_simulated_experiments():
    plan = c.plan_power(3000, 10, 20, error_rate=0.1, slice_share=0.1, slice_error=0.5, purity=0.8)
    assert (plan.images_per_class, plan.flagged) == (300, 30)
    assert plan.flagged_error_rate == pytest.approx(0.8 * 0.5 + 0.2 * 0.1)
    # The class has as many images of the slice as are flagged: a fifth of them lies in the rest.
    assert plan.rest_error_rate == pytest.approx((6 * 0.5 + 264 * 0.1) / 270)
    rng = np.random.default_rng(0)
    a, b = rng.binomial(30, plan.flagged_error_rate, 4000), rng.binomial(270, plan.rest_error_rate, 4000)
    seen = stats.hypergeom.sf(a - 1, 300, a + b, 30) <= 0.1 / 20
    assert plan.power == pytest.approx(seen.mean(), abs=0.03)
    assert plan.images_needed < 3000
    powers = [c.plan_power(n, 10, 20, 0.1, 0.1, 0.5).power for n in (300, 1000, 3000)]
    assert all(few < many for few, many in pairwise(powers))


def test_a_plan_at_the_ends_of_what_is_possible():
    plan = c.plan_power(1, 1, 1, error_rate=0, slice_share=0.5, slice_error=1, purity=1)
    assert (plan.images_per_class, plan.flagged_error_rate, plan.rest_error_rate, plan.power) == (1, 1, 0, 0)
    assert c.plan_power(100, 1, 1, error_rate=0, slice_share=0.1, slice_error=1, purity=1).power == 1
    plan = c.plan_power(100, 1, 1, error_rate=1, slice_share=0.1, slice_error=0, purity=0)
    assert plan.rest_error_rate == pytest.approx(8 / 9)  # all ten of the slice are among the 90 of the rest


@pytest.mark.parametrize(
    "changed", [{"fdr": 0}, {"fdr": 1}, {"purity": 2}, {"slice_share": 0}, {"images": 0}, {"error_rate": -0.1}]
)
def test_a_plan_with_impossible_numbers_is_refused_by_name(changed):
    given = {"images": 100, "classes": 2, "slices": 4, "error_rate": 0.1, "slice_share": 0.1, "slice_error": 0.5}
    with pytest.raises(UserError, match=next(iter(changed))):
        c.plan_power(**{**given, **changed})


def test_overlap_is_the_share_of_common_hardest_images_with_the_nearest_of_the_others():
    scores = np.arange(20.0)
    others = np.stack([scores[::-1], np.r_[scores[10:], scores[:10]], np.r_[0, 1, 30, 31, scores[4:]]])
    orders = np.argsort(others, axis=1)
    assert c.overlap(scores, orders, 4) == 0.5
    assert c.overlap(scores, orders[:2], 4) == 0
    assert c.overlap(scores, [], 4) == 0
    assert c.overlap(scores, orders, 1) == 1
    assert c.overlap(scores, orders, 0) == 0


def test_the_cut_at_a_share_flags_that_share_and_never_separates_equal_scores():
    scores = np.array([5.0, 1, 2, 3, 4])
    assert c.share_cut(scores, 0.4) == 2.5
    assert (np.array([1.0, 2, 2, 3]) <= c.share_cut(np.array([1.0, 2, 2, 3]), 0.5)).sum() == 1
    assert not (np.zeros(9) <= c.share_cut(np.zeros(9), 0.3)).any()
    assert not (np.zeros(1) <= c.share_cut(np.zeros(1), 0.9)).any()
    assert (scores <= c.share_cut(scores, 1.0)).sum() == 4


# ---- The parts ------------------------------------------------------------------------------------------------------


def test_halves_share_every_class_evenly_and_depend_on_the_seed_alone():
    labels = np.repeat(np.arange(5), [10, 11, 1, 2, 40])
    find, confirm = c.split_in_halves(labels, seed=3)
    np.testing.assert_array_equal(np.sort(np.r_[find, confirm]), np.arange(64))
    counts = np.bincount(labels[find], minlength=5) - np.bincount(labels[confirm], minlength=5)
    assert np.abs(counts).max() <= 1
    np.testing.assert_array_equal(find, c.split_in_halves(labels, seed=3)[0])
    assert not np.array_equal(find, c.split_in_halves(labels, seed=4)[0])


def test_halves_never_cut_a_group_though_it_spans_classes():
    rng = np.random.default_rng(0)
    groups = rng.integers(60, size=900)
    labels = (groups + rng.integers(2, size=900)) % 4
    find, confirm = c.split_in_halves(labels, groups, seed=1)
    assert not set(groups[find]) & set(groups[confirm])
    share = np.bincount(labels[find]) / np.bincount(labels)
    assert np.abs(share - 0.5).max() < 0.1


def test_a_group_that_is_the_whole_class_goes_to_one_half():
    labels = np.repeat([0, 1], 20)
    groups = np.r_[np.zeros(20), np.arange(1, 21)]
    find, confirm = c.split_in_halves(labels, groups)
    assert {len(set(labels[part])) for part in (find, confirm)} == {1, 2}


def test_split_names_are_read_and_unknown_ones_refused():
    find, confirm = c.parts_of_split(["train", "val", "test", "find", "confirm"])
    np.testing.assert_array_equal(find, [1, 3])
    np.testing.assert_array_equal(confirm, [2, 4])
    with pytest.raises(UserError, match="unknown split name 'dev'"):
        c.parts_of_split(["val", "dev"])
    with pytest.raises(UserError, match="confirm or test"):
        c.parts_of_split(["train", "val"])


def test_near_duplicates_are_counted_in_blocks_as_all_at_once():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, 20)), rng.standard_normal((50, 20))
    y[:7] = 3 * x[10:17] + 1e-3 * rng.standard_normal((7, 20))
    assert c.near_duplicates(x, y) == c.near_duplicates(x, y, block=16) == 7


def test_where_all_images_look_alike_to_the_embedding_only_much_nearer_ones_are_duplicates():
    rng = np.random.default_rng(0)
    x, y = (10 + 0.05 * rng.standard_normal((60, 20)) for _ in range(2))
    assert np.min(x @ y.T / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))) > c.NEAR_DUPLICATE
    y[:4] = x[:4] * (1 + 1e-6 * rng.standard_normal((4, 20)))
    assert c.near_duplicates(x, y) == 4


# ---- From arrays to verdicts ----------------------------------------------------------------------------------------


def planted_data(n=2400, classes=2, seed=0, **kwargs):
    """Classes with two failures each; the first half of the rows finds, the second confirms."""
    parts = [planted_class(n // classes, seed=seed + k, **kwargs) for k in range(classes)]
    order = np.random.default_rng(seed).permutation(classes * (n // classes))
    x, wrong, failure = (np.concatenate(part)[order] for part in zip(*parts, strict=True))
    labels = np.repeat(np.arange(classes), n // classes)[order]
    preds = np.where(wrong, (labels + 1) % classes, labels)
    half = len(x) // 2
    return x, labels, preds, failure, np.arange(half), np.arange(half, len(x))


@pytest.fixture(scope="module")
def planted():
    return planted_data()


@pytest.fixture(scope="module")
def findings(planted):
    x, labels, preds, _, find, confirm = planted
    confidence = np.random.default_rng(1).uniform(0.5, 1, len(x))
    probs = np.column_stack([confidence, 1 - confidence])
    return c.find_and_confirm(x, labels, preds, find, confirm, class_names=["cat", "dog"], probs=probs)


@pytest.mark.parametrize(("size", "rest", "errors"), [(12, 108, 12), (30, 270, 30), (20, 20, 32), (8, 392, 200)])
def test_too_few_is_where_twice_the_error_rate_would_be_missed_more_often_than_seen(size, rest, errors):
    n, rate = size + rest, errors / (size + rest)
    twice = min(2 * rate, (1 + rate) / 2)  # of a class that is mostly wrong: halfway to 1
    a, b = np.arange(size + 1)[:, None], np.arange(rest + 1)
    chance = stats.binom.pmf(a, size, twice) * stats.binom.pmf(b, rest, rate)
    p = stats.hypergeom.sf(a - 1, n, a + b, size)
    levels = np.geomspace(1e-6, 0.9, 60)
    seen = np.array([chance[p <= level].sum() for level in levels])
    for level, power in zip(levels, seen, strict=True):
        if abs(power - 0.5) > 1e-6:
            tested = SimpleNamespace(size=size, rest=rest, error_rate=rate, rest_error_rate=rate)
            verdict, _ = c._unconfirmed(tested, (size, rest), level)
            assert verdict == (c.NOT_CONFIRMED if power > 0.5 else c.TOO_FEW)
    assert seen.min() < 0.5 < seen.max()


def test_every_planted_failure_is_confirmed(planted, findings):
    _, labels, _, failure, _, confirm = planted
    for label in (0, 1):
        for number in (0, 1):
            rates = [
                np.mean(failure[s.members] == number)
                for s in findings.confirmed
                if s.class_index == label and s.size > 9
            ]
            assert max(rates) >= 0.8
    assert findings.skipped == {}
    assert all((labels[s.members] == s.class_index).all() for s in findings.slices)
    assert all(np.isin(s.members, confirm).all() for s in findings.slices)


def test_what_a_slice_says_follows_from_its_members(planted, findings):
    x, labels, preds, _, _, confirm = planted
    wrong = preds != labels
    for s in findings.slices:
        earlier = [o for o in findings.slices if o.class_index == s.class_index and o.rank < s.rank]
        taken = np.concatenate([np.zeros(0, int), *[o.members for o in earlier]])
        tested = np.setdiff1d(confirm[labels[confirm] == s.class_index], taken)
        flagged = tested[s.score(x[tested]) <= 0]
        np.testing.assert_array_equal(np.sort(s.members), flagged)
        assert (np.diff(s.score(x[s.members])) >= 0).all()
        rest = np.setdiff1d(tested, flagged)
        assert (s.size, s.rest) == (len(flagged), len(rest))
        assert s.difference == pytest.approx(wrong[flagged].mean() - wrong[rest].mean())
        table = [[wrong[r].sum(), (~wrong[r]).sum()] for r in (flagged, rest)]
        assert s.p_value == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
        level = 1 - 0.05 * len(findings.confirmed) / len(findings.slices)
        expected = c.newcombe_interval(s.error_rate, s.size, s.rest_error_rate, s.rest, level)
        np.testing.assert_allclose(s.interval, expected)
        assert s.id == f"{s.class_name}-{s.rank}"
        assert s.wrong_as in ((1 - s.class_index), -1)
        assert s.verdict == ("confirmed" if s.q_value <= 0.1 else s.verdict)
        assert np.isfinite(s.beyond_confidence_q) == (s.verdict == "confirmed")
        assert 0 <= s.stability <= 1
    np.testing.assert_allclose(
        [s.q_value for s in findings.slices], c.benjamini_hochberg([s.p_value for s in findings.slices])
    )


def test_most_harm_comes_first(findings):
    harm = [s.size * s.difference for s in findings.slices]
    assert harm == sorted(harm, reverse=True)


def test_a_planted_failure_is_stable_over_the_halves(findings):
    assert max(s.stability for s in findings.confirmed) > 0.5


def test_two_processes_give_the_same_answer_as_one(planted, findings):
    x, labels, preds, _, find, confirm = planted
    again = c.find_and_confirm(x, labels, preds, find, confirm, class_names=["cat", "dog"], jobs=2)
    assert [s.id for s in again.slices] == [s.id for s in findings.slices]
    for a, b in zip(again.slices, findings.slices, strict=True):
        np.testing.assert_array_equal(a.direction, b.direction)
        np.testing.assert_array_equal(a.members, b.members)
        assert (a.p_value, a.q_value, a.verdict, a.stability) == (b.p_value, b.q_value, b.verdict, b.stability)


def test_masks_and_raw_embeddings_with_their_preprocessing_give_the_same_answer(planted, findings):
    x, labels, preds, _, find, confirm = planted
    masks = [np.isin(np.arange(len(x)), rows) for rows in (find, confirm)]
    again = c.find_and_confirm(4 * x, labels, preds, *masks, preprocess=lambda z: z / 4, stability=False)
    assert [s.p_value for s in again.slices] == [s.p_value for s in findings.slices]
    assert all(np.isnan(s.stability) for s in again.slices)
    assert all(np.isnan(s.beyond_confidence_q) for s in again.slices)


def test_errors_that_have_nothing_to_do_with_the_embedding_are_rarely_claimed():
    rng = np.random.default_rng(0)
    runs = 60
    claims = 0
    for _ in range(runs):
        x = rng.standard_normal((400, 24))
        labels = np.repeat([0, 1], 200)
        preds = np.where(rng.random(400) < 0.25, 1 - labels, labels)
        find, confirm = c.split_in_halves(labels, seed=int(rng.integers(1 << 30)))
        findings = c.find_and_confirm(x, labels, preds, find, confirm, directions=3, stability=False)
        assert findings.slices
        claims += bool(findings.confirmed)
    assert stats.binomtest(claims, runs, 0.1, alternative="greater").pvalue > 0.001


def test_too_few_images_are_told_from_what_is_not_confirmed():
    few = planted_data(n=160, base=0.1, rates=(0.1, 0.1))
    slices = c.find_and_confirm(*few[:3], *few[4:], directions=2).slices
    unclear = [s for s in slices if s.verdict == "too few images"]
    assert unclear
    for s in unclear:
        assert s.images_needed is None or s.images_needed > s.size + s.rest
    many = planted_data(n=6000, base=0.3, rates=(0.3, 0.3))
    slices = c.find_and_confirm(*many[:3], *many[4:], directions=2, stability=False).slices
    assert "not confirmed" in {s.verdict for s in slices}


def test_a_direction_that_is_zero_everywhere_flags_nothing():
    flat = FoundSlice(np.zeros(3), 0.0, 0.2, np.arange(4), 2)
    wrong = np.arange(20) < 5
    [(_, flagged, rest, p, beyond)] = c.confirm_class([flat], np.random.default_rng(0).standard_normal((20, 3)), wrong)
    assert not flagged.any()
    assert rest.all()
    assert p == 1
    assert np.isnan(beyond)


def test_images_that_an_earlier_slice_took_are_left_out():
    x = np.arange(20.0)[:, None]
    wrong = np.arange(20) < 4
    low = FoundSlice(np.ones(1), 0.0, 0.2, np.arange(4), 4)
    first, second = c.confirm_class([low, low], x, wrong)
    assert first[1].sum() == 4
    assert not second[1].any()
    np.testing.assert_array_equal(second[2], ~first[1])
    assert second[3] == 1


# ---- The paper's single directions -----------------------------------------------------------------------------------


def test_single_directions_are_tested_against_the_rest_of_their_class_as_one_family():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 3000)
    values = rng.standard_normal(3000)
    wrong = rng.random(3000) < np.where((labels < 2) & (values <= 0), 0.3, 0.2)
    preds = np.where(wrong, (labels + 1) % 5, labels)
    values[labels == 3] = np.nan  # has no direction
    claims = c.confirm_directions(values, labels, preds, class_names=list("abcde"), fdr=0.2)
    assert [claim.class_name for claim in claims] == list("abce")
    p = []
    for claim in claims:
        of_class = labels == claim.class_index
        flagged, rest = of_class & (values <= 0), of_class & (values > 0)
        table = [[wrong[rows].sum(), (~wrong[rows]).sum()] for rows in (flagged, rest)]
        p.append(stats.fisher_exact(table, alternative="greater").pvalue)
        assert (claim.size, claim.rest, claim.wrong_as) == (flagged.sum(), rest.sum(), (claim.class_index + 1) % 5)
        assert claim.difference == pytest.approx(wrong[flagged].mean() - wrong[rest].mean())
        assert np.isnan(claim.beyond_confidence_q)
    np.testing.assert_allclose([claim.p_value for claim in claims], p)
    q = stats.false_discovery_control(p)
    np.testing.assert_allclose([claim.q_value for claim in claims], q)
    assert [claim.verdict == "confirmed" for claim in claims] == (q <= 0.2).tolist()
    assert {claim.class_name for claim in claims if claim.verdict == "confirmed"} == {"a", "b"}


def test_a_single_direction_that_flags_none_or_all_of_its_class_says_nothing():
    labels, wrong = np.repeat([0, 1], 30), np.arange(60) % 3 == 0
    values = np.where(labels == 0, 0.0, 1.0)
    for claim in c.confirm_directions(values, labels, np.where(wrong, 2, labels)):
        assert (claim.p_value, claim.verdict, claim.images_needed) == (1, "too few images", None)
        assert np.isnan(claim.interval).all()
    assert c.confirm_directions(np.full(60, np.nan), labels, labels) == []


def test_single_directions_permute_whole_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 6)
    flagged, wrong = (np.repeat(rng.random(24) < share, 6) for share in (0.4, 0.35))
    values, labels = np.where(flagged, -1.0, 1.0), np.zeros(144, int)
    [single] = c.confirm_directions(values, labels, wrong.astype(int))
    [grouped] = c.confirm_directions(values, labels, wrong.astype(int), groups=groups)
    exact = c.hypergeometric_p(flagged[::6], wrong[::6])
    assert grouped.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 100))
    assert abs(np.log(single.p_value / exact)) > abs(np.log(grouped.p_value / exact))


# ---- Bad input ------------------------------------------------------------------------------------------------------


def test_classes_that_cannot_be_sought_are_skipped_with_the_reason_and_the_others_go_on():
    x, labels, preds, *_ = planted_data(n=1200)
    more = np.random.default_rng(0).standard_normal((42, 64))
    x = np.concatenate([x, more])
    # 2: all wrong, 3: all right, 4: one image, 5: one image in find and none in confirm.
    labels = np.r_[labels, np.full(20, 2), np.full(20, 3), 4, 5]
    preds = np.r_[preds, np.zeros(20, int), np.full(20, 3), 4, 0]
    find, confirm = np.arange(0, len(x), 2), np.arange(1, len(x), 2)
    findings = c.find_and_confirm(x, labels, preds, find, confirm, stability=False)
    assert set(findings.skipped) == {2, 3, 4, 5}
    assert "wrong on all" in findings.skipped[2]
    assert "right on all" in findings.skipped[3]
    assert {s.class_index for s in findings.slices} == {0, 1}


def test_a_confirm_part_without_errors_confirms_nothing(planted):
    x, labels, preds, _, find, confirm = planted
    preds = preds.copy()
    preds[confirm] = labels[confirm]
    slices = c.find_and_confirm(x, labels, preds, find, confirm).slices
    assert slices
    for s in slices:
        assert (s.verdict, s.p_value, s.images_needed, s.wrong_as) == ("too few images", 1, None, -1)


def test_a_class_without_images_in_confirm_has_too_few(planted):
    x, labels, preds, _, find, confirm = planted
    slices = c.find_and_confirm(x, labels, preds, find, confirm[labels[confirm] == 0]).slices
    lonely = [s for s in slices if s.class_index == 1]
    assert lonely
    for s in lonely:
        assert (s.size, s.p_value, s.verdict, s.images_needed) == (0, 1, "too few images", None)
        assert np.isnan(s.difference)


def test_duplicates_across_the_parts_are_counted(planted):
    x, labels, preds, _, find, confirm = planted
    copied = x.copy()
    rows = find[labels[find] == 0][:9]
    copied[confirm[labels[confirm] == 0][:9]] = x[rows]
    before = c.find_and_confirm(x, labels, preds, find, confirm, stability=False).near_duplicates
    after = c.find_and_confirm(copied, labels, preds, find, confirm, stability=False).near_duplicates
    assert after == before + 9


def test_groups_are_permuted_whole_and_those_in_both_parts_are_counted(planted):
    x, labels, preds, _, find, confirm = planted
    groups = np.arange(len(x)) // 3
    findings = c.find_and_confirm(x, labels, preds, find, confirm, groups=groups)
    assert findings.confirmed
    assert min(s.p_value for s in findings.slices) >= 1 / (c.PERMUTATIONS + 1)
    assert findings.shared_groups == 0
    halves = c.find_and_confirm(x, labels, preds, find, confirm, groups=groups % 7, stability=False)
    assert halves.shared_groups == 7


def test_one_group_in_confirm_has_too_few_images_whatever_their_number(planted):
    x, labels, preds, _, find, confirm = planted
    groups = np.where(np.isin(np.arange(len(x)), confirm), -1, np.arange(len(x)))
    for s in c.find_and_confirm(x, labels, preds, find, confirm, groups=groups, stability=False).slices:
        assert (s.p_value, s.verdict) == (1, "too few images")


def test_a_row_with_nan_is_named(planted):
    x, labels, preds, _, find, confirm = planted
    broken = x.copy()
    broken[confirm[5], 3] = np.nan
    with pytest.raises(UserError, match=f"row {confirm[5]} "):
        c.find_and_confirm(broken, labels, preds, find, confirm)


@pytest.mark.parametrize("fdr", [0, 1, -0.1, 1.5, NAN])
def test_an_fdr_outside_0_to_1_is_refused(planted, fdr):
    x, labels, preds, _, find, confirm = planted
    with pytest.raises(UserError, match="fdr"):
        c.find_and_confirm(x, labels, preds, find, confirm, fdr=fdr)


@pytest.mark.parametrize("directions", [0, -1, "all", 1.5])
def test_an_impossible_number_of_directions_is_refused(planted, directions):
    x, labels, preds, _, find, confirm = planted
    with pytest.raises(UserError, match="directions"):
        c.find_and_confirm(x, labels, preds, find, confirm, directions=directions)


def test_rows_in_both_parts_rows_out_of_range_and_wrong_lengths_are_refused(planted):
    x, labels, preds, _, find, confirm = planted
    with pytest.raises(UserError, match="both find and confirm"):
        c.find_and_confirm(x, labels, preds, find, np.r_[confirm, find[:2]])
    with pytest.raises(UserError, match="outside"):
        c.find_and_confirm(x, labels, preds, find, [len(x)])
    with pytest.raises(UserError, match="twice"):
        c.find_and_confirm(x, labels, preds, [1, 1], confirm)
    with pytest.raises(UserError, match="preds has"):
        c.find_and_confirm(x, labels, preds[:-1], find, confirm)
    with pytest.raises(UserError, match="labels must be"):
        c.find_and_confirm(x, labels - 1, preds, find, confirm)
