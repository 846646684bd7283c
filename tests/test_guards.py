"""Guards over what a person brings: each speaks where it must, and is silent where all is well."""

import numpy as np
import pytest
from failure_directions.data import guards
from failure_directions.data.probabilities import check_probabilities
from failure_directions.models.label_names import match_labels
from failure_directions.models.linear_head import out_of_fold
from failure_directions.runtime.errors import UserError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NAMES = ["ant", "bee", "cow", "dog"]


def outputs(accuracy, n=400, classes=4, seed=0):
    """Labels and probabilities of a model that is right on about `accuracy` of the images."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    chosen = np.where(rng.random(n) < accuracy, labels, rng.integers(classes, size=n))
    probs = np.full((n, classes), 0.1 / (classes - 1), dtype=np.float32)
    probs[np.arange(n), chosen] = 0.9
    return labels, probs


def test_columns_in_another_order_are_found_and_named():
    labels, probs = outputs(0.8)
    told = guards.column_order(probs[:, [1, 0, 2, 3]], labels, NAMES)
    assert "column 0 (ant) predicts bee" in told
    assert "column 1 (bee) predicts ant" in told
    assert "cow" not in told


@pytest.mark.parametrize("accuracy", [1.0, 0.8, 0.3, 0.0])
def test_columns_in_order_are_not_suspected(accuracy):
    labels, probs = outputs(accuracy)
    assert guards.column_order(probs, labels, NAMES) is None


def test_a_model_that_confuses_two_classes_is_not_taken_for_one_in_another_order():
    labels, probs = outputs(0.9)
    probs[labels == 0] = probs[labels == 1][0]
    assert guards.column_order(probs, labels, NAMES) is None


def test_the_order_of_a_thousand_outputs_with_images_of_four_is_judged_by_these():
    labels, probs = outputs(0.8)
    wide = np.zeros((len(probs), 1000), dtype=np.float32)
    wide[:, [10, 20, 30, 40]] = probs
    names = [str(i) for i in range(1000)]
    assert guards.column_order(wide, np.array([10, 20, 30, 40])[labels], names) is None
    assert guards.column_order(wide, np.array([20, 10, 30, 40])[labels], names) is not None


def test_less_than_chance_is_told_and_chance_is_not():
    labels = np.arange(400) % 4
    assert "less than by chance" in guards.below_chance(labels, (labels + 1) % 4, 4)
    assert guards.below_chance(labels, np.random.default_rng(0).integers(4, size=400), 4) is None


def test_accuracy_near_one_asks_for_unseen_images():
    labels = np.arange(400) % 4
    preds = labels.copy()
    preds[0] = 3
    assert "99.75%" in guards.training_rows(labels, preds)
    preds[:20] = 3
    assert guards.training_rows(labels, preds) is None


def test_row_counts_that_differ_are_all_told():
    with pytest.raises(UserError, match=r"labels 3, embeddings 4"):
        guards.check_rows(labels=[0, 1, 2], preds=None, embeddings=np.zeros((4, 2)))
    guards.check_rows(labels=[0, 1], preds=[0, 1])


def test_rows_with_nan_are_told_by_number():
    array = np.zeros((50_000, 2))
    array[[7, 40_000], [0, 1]] = np.nan, np.inf
    with pytest.raises(UserError, match=r"2 row\(s\) of the embeddings .*7, 40000"):
        guards.check_finite(array)


def test_embeddings_of_another_length_or_kind_are_refused():
    with pytest.raises(UserError, match="have 3 rows, and the table 4"):
        guards.check_embeddings(np.zeros((3, 2)), 4)
    with pytest.raises(UserError, match="one row an image"):
        guards.check_embeddings(np.zeros(4), 4)


@pytest.mark.parametrize(
    ("row", "words"),
    [([0.5, 0.6], "sum to 1.1"), ([np.nan, 1], "NaN"), ([-3.2, 4.2], "not logits")],
)
def test_what_is_no_probability_is_told_with_its_row(row, words):
    probs = np.full((10, 2), 0.5)
    probs[6] = row
    with pytest.raises(UserError, match=f"row 6.*{words}|{words}.*row 6"):
        check_probabilities(probs)


def test_conditions_need_not_sum_to_one():
    check_probabilities(np.array([[0.9, 0.8], [0.0, 0.1]]), sum_to_one=False)


def test_a_class_in_test_alone_is_named():
    split = np.array(["val", "val", "test", "test"])
    assert "cow" in guards.classes_in_test_alone(np.array([0, 1, 0, 2]), split, NAMES)
    assert guards.classes_in_test_alone(np.array([0, 1, 0, 1]), split, NAMES) is None


def test_a_group_that_is_everything_is_refused_where_halves_are_needed():
    with pytest.raises(UserError, match=r"one group \(p\)"):
        guards.check_groups(["p", "p"], None)
    guards.check_groups(["p", "q"], None)
    guards.check_groups(["p", "p"], ["val", "test"])


def test_classes_with_too_few_wrong_images_are_told_how_many_would_do():
    labels = np.repeat([0, 1], 100)
    wrong = np.zeros(200, dtype=bool)
    wrong[:50] = wrong[100:103] = True
    told = guards.too_few_images(labels, wrong, None, NAMES)
    assert "bee (about 400 images)" in told  # 3 in 100, and 12 are needed
    assert "ant" not in told


# ---- Labels to outputs ------------------------------------------------------------------------------------------


def test_labels_match_exactly_loosely_by_synonym_and_by_synset():
    labels = ["tench, Tinca tinca", "Golden Retriever", "tabby", "t-shirt"]
    aliases = [("n01440764",), (), (), ()]
    match = match_labels(["tabby", "golden_retriever", "tench"], 4, labels, aliases)
    assert match.outputs.tolist() == [2, 1, 0]
    assert match.names == ["tench", "golden_retriever", "tabby", "t-shirt"]
    assert match_labels(["n01440764", "T shirt"], 4, labels, aliases).outputs.tolist() == [0, 3]
    assert "golden_retriever = 1 Golden Retriever" in match.how


def test_imagenet_s_two_cranes_are_told_apart_by_full_name_only():
    labels = ["crane, bird", "crane, machine"]
    with pytest.raises(UserError, match="0 crane, bird and 1 crane, machine"):
        match_labels(["crane"], 2, labels)


def test_a_class_that_is_no_output_stops_with_both():
    with pytest.raises(UserError, match=r"the class hors is none of .*horse, cow.*did you mean horse"):
        match_labels(["hors"], 2, ["horse", "cow"])


def test_outputs_without_names_are_taken_in_order_and_said_so():
    match = match_labels(["a", "b"], 2)
    assert match.outputs.tolist() == [0, 1]
    assert "in the order a, b" in match.how
    with pytest.raises(UserError, match=r"3 outputs without names, and the data 2 classes \(a, b\)"):
        match_labels(["a", "b"], 3)


def test_numbers_are_outputs():
    assert match_labels(["7", "3"], 10, [f"thing {i}" for i in "abcdefghij"]).outputs.tolist() == [7, 3]
    with pytest.raises(UserError, match="count from 0"):
        match_labels(["1", "12"], 10)


# ---- Predictions out of fold ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    return rng.normal(size=(300, 8)) + np.eye(3, 8)[labels] * 2, labels


def test_out_of_fold_probabilities_are_scikit_learns(blobs):
    x, y = blobs
    reference = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200)),
        x,
        y,
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
        method="predict_proba",
    )
    np.testing.assert_allclose(out_of_fold(x, y, 3), reference, atol=1e-5)


def test_no_image_helps_to_predict_its_own_group():
    """Pairs of equal images with random labels: a classifier that saw the twin would be right on the other."""
    rng = np.random.default_rng(0)
    x, y = np.repeat(rng.normal(size=(150, 200)) * 10, 2, axis=0), np.repeat(rng.integers(2, size=150), 2)
    alone = (out_of_fold(x, y, 2).argmax(axis=1) == y).mean()
    grouped = (out_of_fold(x, y, 2, groups=np.repeat(np.arange(150), 2)).argmax(axis=1) == y).mean()
    assert alone > 0.75
    assert grouped < 0.62


def test_one_class_or_one_image_of_a_class_is_refused(blobs):
    x, y = blobs
    with pytest.raises(UserError, match="at least two classes"):
        out_of_fold(x, np.zeros(300, dtype=int), 1)
    with pytest.raises(UserError, match="a single image"):
        out_of_fold(x, np.where(np.arange(300) == 5, 3, y), 4)


def test_embeddings_in_another_order_than_the_labels_are_told():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 80)
    embeddings = rng.normal(size=(5, 16))[labels] + rng.normal(size=(400, 16))
    assert guards.row_order(embeddings, labels) is None
    assert "row i of the embeddings" in guards.row_order(rng.permutation(embeddings), labels)
    assert guards.row_order(embeddings, np.zeros(400, int)) is None  # one class: nothing can be told
