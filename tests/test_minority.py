import itertools

import numpy as np
import pytest
from failure_directions.directions.minority import attribute_rates, minority_precision, minority_values, precision_at
from failure_directions.training.metrics import aurocs, best_f1_threshold, class_accuracies
from sklearn.metrics import f1_score, roc_auc_score

NAN = float("nan")


def test_the_minority_is_what_is_below_half_the_mean_frequency():
    labels = np.array([0] * 10 + [1] * 9 + [2] * 4)
    spurious = np.array([0] * 8 + [1] * 2 + [3] * 3 + [4] * 3 + [5] * 3 + [7] * 4)
    assert minority_values(labels, spurious, 4) == [{1}, set(), set(), set()]


def test_a_value_at_exactly_half_the_mean_frequency_is_no_minority():
    spurious = np.repeat([0, 1, 2], [3, 7, 8])  # the mean is 6
    assert minority_values(np.zeros(18, int), spurious, 1) == [set()]
    assert minority_values(np.zeros(17, int), spurious[1:], 1) == [{0}]  # 2 of a mean of 5.7


def test_the_minority_can_be_given():
    labels, spurious = np.zeros(4, int), np.arange(4)
    assert minority_values(labels, spurious, 2, given=3) == [{3}, {3}]
    assert minority_values(labels, spurious, 2, given=[1, 2]) == [{1, 2}, {1, 2}]
    assert minority_values(labels, spurious, 2, {"b": [0, 1]}, ["a", "b"]) == [set(), {0, 1}]


def test_rates_of_a_small_case_are_those_counted_by_hand():
    labels = np.array([0, 0, 0, 0, 0, 1])
    spurious = np.array([0, 0, 0, 1, 1, 0])
    flagged = np.array([True, False, False, True, True, False])
    rows = attribute_rates(labels, spurious, flagged, [{1}, set()])
    first, second, third = rows
    assert (first["base_rate"], first["share_of_flagged"], first["flagged_share"]) == (0.6, 1 / 3, 1 / 3)
    assert (second["base_rate"], second["share_of_flagged"], second["flagged_share"]) == (0.4, 2 / 3, 1.0)
    assert (second["minority"], second["count"], first["minority"]) == (1, 2, 0)
    assert np.isnan(third["share_of_flagged"])


def test_precision_takes_the_lowest_first_and_leaves_out_what_it_cannot_say():
    labels = np.array([0] * 6 + [1] * 3 + [2] * 3)
    spurious = np.array([1, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0])
    decision = np.array([-3, -2, -1, 1, 2, 3, NAN, NAN, NAN, 1, 2, 3])
    confs = np.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.1, 0.2, 0.3])
    rows = minority_precision(labels, spurious, decision, confs, [{1}, {1}, set()], top_k=(1, 3, 10))
    assert [(row["class"], row["k"], row["svm"], row["confidence"]) for row in rows] == [
        (0, 1, 1.0, 0.0),
        (0, 3, pytest.approx(2 / 3), 0.0),
    ]
    assert rows[0]["base_rate"] == pytest.approx(1 / 3)


def test_ties_give_the_mean_precision_over_their_orders():
    sought, values = np.array([1, 0, 0, 1, 0], bool), np.array([0.0, 1.0, 1.0, 1.0, 2.0])
    for k in range(1, 6):
        of_orders = [
            sought[[*order][:k]].mean()
            for order in itertools.permutations(range(5))
            if all(values[a] <= values[b] for a, b in itertools.pairwise(order))
        ]
        assert precision_at(k, sought, values) == pytest.approx(np.mean(of_orders))


def test_accuracies_and_aurocs_know_absent_classes():
    correct, labels = np.array([True, False, True, True]), np.array([0, 0, 2, 2])
    np.testing.assert_array_equal(class_accuracies(correct, labels, 4), [0.5, NAN, 1, NAN])
    rng = np.random.default_rng(0)
    scores, present = rng.random((50, 3)), rng.integers(0, 2, (50, 3))
    present[:, 2] = 1
    found = aurocs(scores, present)
    np.testing.assert_allclose(found[:2], [roc_auc_score(present[:, k], scores[:, k]) for k in (0, 1)])
    assert np.isnan(found[2])


def test_the_threshold_has_the_best_f1_of_the_hundredths():
    rng = np.random.default_rng(1)
    present = rng.random(300) < 0.3
    scores = np.clip(rng.normal(0.35 + 0.2 * present, 0.15), 0, 1)
    f1 = [f1_score(present, scores > t / 100) for t in range(1, 100)]
    assert best_f1_threshold(scores, present) == (np.argmax(f1) + 1) / 100


def test_a_probability_at_the_threshold_is_not_above_it():
    """.5 and .7 are thresholds themselves; from .5 on the absent one is out, at .7 the present one is, too."""
    assert best_f1_threshold(np.array([0.5, 0.7]), np.array([False, True])) == 0.5


def test_precision_is_told_at_the_numbers_of_the_document():
    members = np.zeros(120, int)
    rows = minority_precision(members, np.arange(120) % 2, np.arange(120.0), np.arange(120.0), [{1}])
    assert [row["k"] for row in rows] == [10, 20, 50, 100]
