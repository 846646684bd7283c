"""Choosing images and weighing them, and failure-directions intervene on a made-up result."""

import re

import numpy as np
import pytest
import torch
from failure_directions.commands import intervene as make_intervention
from failure_directions.data.index_files import load_index_file
from failure_directions.directions.label_noise import looks_like
from failure_directions.interventions.choosing import (
    balanced_weights,
    choose,
    flagged,
    hardness,
    soft_weights,
    suspected_noise,
    x2_weights,
)
from failure_directions.runtime.errors import UserError
from failure_directions.runtime.pt_files import save_pt

CLASSES = np.repeat([0, 1, 2], [6, 4, 3])
ENTRY = {
    "classes": CLASSES,
    "decision_values": np.array([-2, 3, -1, 1, 0, 2, 4, 1, -1, 2, np.nan, np.nan, np.nan]),
    "confs": np.array([0.9, 0.1, 0.5, 0.6, 0.2, 0.7, 0.3, 0.8, 0.95, 0.4, 0.1, 0.2, 0.3], np.float32),
    "preds": np.array([0, 1, 1, 0, 2, 0, 0, 1, 0, 1, 2, 0, 2]),
    "looks_like": np.array([0, 0, 1, 1, 2, 0, 1, 1, 2, 1, 1, 2, 1]),
    "looks_like_values": np.array([-2, 3, -1, 1, 0, 2, np.nan, 1, -1, 2, -3, np.nan, -1]),
    "spuriouses": np.array([1, 0, 0, 1, 0, 0, 5, 5, 5, 5, 1, 0, 0]),
}
MINORITY = [{1}, set(), {1}]  # class 1 has none, class 2 no direction


def test_the_lowest_decision_values_and_confidences_are_chosen_first():
    assert choose(hardness(ENTRY, "svm"), CLASSES, 2).tolist() == [0, 2, 8, 7]
    assert choose(hardness(ENTRY, "confidence"), CLASSES, 2).tolist() == [1, 4, 6, 9]


def test_the_minority_is_all_that_the_truth_chooses_where_there_is_one():
    chosen = choose(hardness(ENTRY, "minority", MINORITY), CLASSES, 3)
    assert sorted(chosen[:2]) == [0, 3]  # of class 0 there are two
    assert len(chosen) == 5  # and three of class 1, which has no minority
    assert set(CLASSES[chosen[2:]]) == {1}


def test_chance_chooses_every_image_alike_and_by_its_seed():
    counts = np.zeros(13)
    for seed in range(2000):
        counts[choose(hardness(ENTRY, "random", seed=seed), CLASSES, 2)] += 1
    np.testing.assert_allclose(counts / 2000, np.repeat([2 / 6, 2 / 4, 0], [6, 4, 3]), atol=0.05)
    first, again = (choose(hardness(ENTRY, "random", seed=7), CLASSES, 3) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_class_without_direction_is_never_chosen_nor_flagged():
    for by in ("svm", "confidence", "random", "minority"):
        assert not (CLASSES[choose(hardness(ENTRY, by, MINORITY), CLASSES, 9)] == 2).any()
        assert not flagged(ENTRY, by, MINORITY)[CLASSES == 2].any()


def test_flags_are_those_of_the_definition():
    assert np.flatnonzero(flagged(ENTRY, "svm")).tolist() == [0, 2, 4, 8]
    assert np.flatnonzero(flagged(ENTRY, "confidence")).tolist() == [1, 2, 4, 6, 9]
    assert np.flatnonzero(flagged(ENTRY, "minority", MINORITY)).tolist() == [0, 3]
    at_random = flagged(ENTRY, "random", seed=3)
    assert np.bincount(CLASSES[at_random], minlength=3).tolist() == [3, 1, 0]  # as many as the SVM flags


def test_weights_are_those_of_the_definition():
    is_flagged = flagged(ENTRY, "svm")
    assert x2_weights(is_flagged, 3)[[0, 1]].tolist() == [3, 1]
    balanced = balanced_weights(CLASSES, is_flagged)
    for c in (0, 1):
        groups = [balanced[np.isin(CLASSES, c) & (is_flagged == group)].sum() for group in (True, False)]
        assert groups == pytest.approx([np.isin(CLASSES, c).sum() / 2] * 2)  # both groups weigh the same
    assert (balanced[CLASSES == 2] == 1).all()
    soft = soft_weights(CLASSES, ENTRY["decision_values"])
    distance = 3 - ENTRY["decision_values"][:6]
    np.testing.assert_allclose(soft[:6], distance / distance.mean())
    assert soft[6] == 0  # the easiest of its class
    assert (soft[CLASSES == 2] == 1).all()


def test_a_class_that_is_flagged_as_a_whole_keeps_its_weights():
    assert (balanced_weights(np.zeros(4, int), np.ones(4, bool)) == 1).all()
    assert (soft_weights(np.zeros(4, int), np.full(4, 2.0)) == 1).all()


def test_labels_are_suspected_of_images_on_the_hard_side_of_the_class_that_they_look_like():
    assert np.flatnonzero(suspected_noise(ENTRY)).tolist() == [2, 4, 8]
    assert np.flatnonzero(suspected_noise(ENTRY, "confidence")).tolist() == [1, 2, 4, 6, 9]


def test_an_embedding_looks_like_the_class_that_the_bayes_rule_says():
    """Gaussians with a common covariance: linear discriminant analysis is the Bayes rule."""
    rng = np.random.default_rng(0)
    means, mix = rng.normal(size=(3, 6)) * 2, rng.normal(size=(6, 6))

    def sample(n):
        labels = rng.integers(0, 3, n)
        return means[labels] + rng.normal(size=(n, 6)) @ mix, labels

    (val, val_labels), (train, _) = sample(4000), sample(300)
    precision = np.linalg.inv(mix.T @ mix)
    bayes = np.argmax(train @ precision @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, precision, means), axis=1)
    assert (looks_like(train, val, val_labels) == bayes).mean() > 0.98
    assert set(looks_like(train, val, np.zeros(4000, int))) == {0}  # one class: nothing looks like another


def test_an_unknown_choice_is_named():
    with pytest.raises(UserError, match="no choice by 'oracle'; choose one of svm, confidence, random, minority"):
        hardness(ENTRY, "oracle")


# ---- the script -----------------------------------------------------------------------------------------------------


CONFIG = {
    "train_beton": "t.beton",
    "test_beton": "t.beton",
    "imgsz": 32,
    "arch": "resnet18",
    "arch_type": "resnet",
    "num_classes": 3,
    "class_names": ["cat", "dog", "owl"],
}


def entry_of(order, start):
    """The entry with its examples in another order, as tensors; `start` is the first index in the beton."""
    columns = {key: torch.from_numpy(np.ascontiguousarray(value[order])) for key, value in ENTRY.items()}
    right = (columns["preds"] == columns["classes"]).long()
    return {
        **columns,
        "ytrue": right,
        "ypred": (columns["decision_values"] > 0).long(),
        "indices": torch.arange(start, start + len(order)),
        "skipped_classes": {"2": "no errors"},
    }


@pytest.fixture
def result(tmp_path):
    """A function that writes a result: `own_pool` says whether the pool has a beton of its own."""

    def write(own_pool=False, **changes):
        order = np.arange(13)
        content = {
            "args": {"root": str(tmp_path)},
            "dataset_config": {**CONFIG, "unlabeled_beton": "u.beton" if own_pool else None},
            "svm_config": {"embedding": "latent"},
            "class_names": ["cat", "dog", "owl"],
            "cv_scores": torch.tensor([0.8, 0.7, torch.nan]),
            "train_labels_digest": "abc",
            "train_metrics": entry_of(order, 3),
            "val_metrics": entry_of(order, 20),
            "test_metrics": entry_of(order, 0),
            "unlabeled_metrics": entry_of(order[::-1], 0 if own_pool else 40),
        }
        save_pt({key: value for key, value in (content | changes).items() if value is not None}, tmp_path / "svm.pt")
        return tmp_path / "svm.pt"

    return write


def make(command, svm, out, *words):
    make_intervention.main([command, "--svm", str(svm), "--out", str(out), *map(str, words)])
    return out


def test_weights_fall_on_the_indices_of_the_training_images(result, tmp_path):
    vector = torch.load(make("weights", result(), tmp_path / "w.pt", "--scheme", "x2"), weights_only=True)
    assert vector.tolist() == [1, 1, 1, 2, 1, 2, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1]


def test_images_of_a_pool_in_the_train_beton_move_to_train(result, tmp_path, capsys):
    index = load_index_file(make("add", result(), tmp_path / "i.pt", "--per-class", 5))
    assert len(index["train_indices"]) == 13 + 5 + 4
    added = index["train_indices"][13:]
    # The pool is the entry backwards: its position i is the entry's 12 - i.
    assert added[:2].tolist() == [40 + 12 - 0, 40 + 12 - 2]
    assert sorted([*added, *index["unlabeled_indices"]]) == list(range(40, 53))
    assert index["val_indices"].tolist() == list(range(20, 33))
    assert index["train_labels_digest"] == "abc"
    assert "fewer than 5, all that can be chosen: dog (4), owl (0)" in capsys.readouterr().out


def test_images_of_a_pool_in_its_own_beton_are_extra(result, tmp_path):
    index = load_index_file(make("add", result(own_pool=True), tmp_path / "i.pt", "--per-class", 1))
    assert index["train_indices"].tolist() == list(range(3, 16))
    assert index["extra_indices"].tolist() == [12 - 0, 12 - 8]


def test_a_second_choice_keeps_the_images_of_the_first(result, tmp_path):
    svm = result(own_pool=True, extra_indices=torch.tensor([50, 51]))
    index = load_index_file(make("add", svm, tmp_path / "i.pt", "--per-class", 1))
    assert index["extra_indices"].tolist() == [50, 51, 12 - 0, 12 - 8]
    assert load_index_file(make("filter", svm, tmp_path / "j.pt"))["extra_indices"].tolist() == [50, 51]


def test_the_filter_takes_suspects_of_the_chosen_classes_away(result, tmp_path):
    index = load_index_file(make("filter", result(), tmp_path / "i.pt"))
    assert sorted(set(range(3, 16)) - set(index["train_indices"].tolist())) == [3 + 2, 3 + 4, 3 + 8]
    index = load_index_file(make("filter", result(), tmp_path / "i.pt", "--classes", "dog"))
    assert sorted(set(range(3, 16)) - set(index["train_indices"].tolist())) == [3 + 8]


def test_the_minority_among_the_chosen_is_counted(result, tmp_path, capsys):
    make(
        "add",
        result(dataset_config={**CONFIG, "minority": {"cat": 1}}),
        tmp_path / "i.pt",
        "--per-class",
        2,
        "--by",
        "svm",
    )
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["cat"] == ["6", "2", "1"]  # the two lowest are of values 1 and 0
    assert rows["owl"] == ["3", "0", "0", "no", "direction"]


@pytest.mark.parametrize(
    ("command", "changes", "words", "says"),
    [
        ("add", {"unlabeled_metrics": None}, ["--per-class", "3"], "has no extra pool .* train_svms.py --unlabeled"),
        ("add", {}, ["--per-class", "0"], "--per-class 0 adds nothing"),
        ("add", {}, ["--per-class", "2", "--classes", "owl"], "no image of the pool in .* can be chosen"),
        ("add", {}, ["--per-class", "2", "--classes", "eel"], "has no class 'eel'"),
        ("weights", {}, ["--factor", "-1"], "--factor -1.0 is no weight"),
        ("weights", {}, ["--factor", "nan"], "--factor nan is no weight"),
        ("weights", {}, ["--factor", "1e300"], r"--factor 1e\+300 is no weight"),
        ("add", {}, ["--per-class", "2", "--seed", "-1"], "--seed -1 is below 0"),
        ("weights", {}, ["--scheme", "soft", "--by", "random"], "--scheme soft needs an order"),
        ("weights", {"train_metrics": None}, [], "has no training split"),
        ("weights", {"class_names": None}, [], "is not an SVM result: it lacks class_names"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(result, tmp_path, capsys, command, changes, words, says):
    with pytest.raises(SystemExit) as stop:
        make(command, result(**changes), tmp_path / "out.pt", *words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(says, error), error
    assert not (tmp_path / "out.pt").exists()


def test_a_minority_that_nobody_knows_cannot_be_chosen(result, tmp_path, capsys):
    entries = {
        f"{split}_metrics": {key: value for key, value in entry_of(np.arange(13), 3).items() if key != "spuriouses"}
        for split in ("train", "unlabeled")
    }
    with pytest.raises(SystemExit):
        make("weights", result(**entries), tmp_path / "w.pt", "--by", "minority")
    assert "have no field `spurious`" in capsys.readouterr().err


def test_the_result_is_not_overwritten(result, capsys):
    with pytest.raises(SystemExit):
        make("filter", result(), result())
    assert "is the result itself" in capsys.readouterr().err
