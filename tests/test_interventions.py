"""Choosing images and weighing them, and failure-directions intervene on a made-up result."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from failure_directions.commands import intervene as make_intervention
from failure_directions.data.index_files import load_index_file
from failure_directions.directions.confirmation import Claim, Slice
from failure_directions.directions.label_noise import looks_like
from failure_directions.directions.results import FoundSlices
from failure_directions.interventions.choosing import (
    balanced_weights,
    choose,
    class_shares,
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
    two, other = np.flatnonzero(val_labels < 2), np.flatnonzero(val_labels == 2)[:1]  # and one image of a third
    like = looks_like(train, val[np.r_[two, other]], val_labels[np.r_[two, other]])
    sure = bayes < 2
    assert (like[sure] == bayes[sure]).mean() > 0.98
    assert set(like) == {0, 1}


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


CLAIM = Claim(
    class_index=0,
    class_name="cat",
    size=3,
    rest=3,
    error_rate=0.5,
    rest_error_rate=0.5,
    difference=0.0,
    p_value=0.5,
    beyond_confidence_p=0.5,
    verdict="not confirmed",
    wrong_as=1,
    rest_wrong_as=1,
)


def found_of(*verdicts):
    """What a test of the single directions of the first classes gives, as it is stored."""
    directions = [
        vars(replace(CLAIM, class_index=c, class_name=CONFIG["class_names"][c], verdict=verdict))
        for c, verdict in enumerate(verdicts)
    ]
    found = FoundSlices(
        slices=[], skipped={}, find="val", confirm="test", fdr=0.1, seed=0, near_duplicates=0, shared_groups=0
    )
    stored = {name: value for name, value in vars(found).items() if value is not None}
    return stored | {"directions": directions}


def test_only_classes_with_a_confirmed_failure_change_unless_it_is_said(result, tmp_path, capsys):
    svm = result(found=found_of("not confirmed", "confirmed"))

    def left_out(*words):
        kept = load_index_file(make("filter", svm, tmp_path / "i.pt", *words))["train_indices"].tolist()
        return set(range(3, 16)) - set(kept)

    assert left_out() == {3 + 8}
    assert left_out("--classes", "cat") == {3 + 2, 3 + 4}
    assert left_out("--unconfirmed") == {3 + 2, 3 + 4, 3 + 8}
    nothing = result(found=found_of("not confirmed", "too few images"))
    capsys.readouterr()
    for words in (["filter"], ["weights"], ["add", "--per-class", "2"], ["weights", "--by", "slices"]):
        make(words[0], nothing, tmp_path / "j.pt", *words[1:])
        told = capsys.readouterr().out
        assert re.fullmatch(r"no failure in .* is confirmed, .* is not written: .*\n", told), told
        assert not (tmp_path / "j.pt").exists()


@pytest.fixture
def sliced(result):
    """A function that writes a result with confirmed slices cat-1 (30 errors) and cat-2 (10).

    Of cat, the first has its images at positions 1 and 4, hardest first, the second at 5.
    """
    values = torch.full((13, 2), torch.nan)
    values[:6, 0] = torch.tensor([1, -2, 3, 4, -1, 2.0])
    values[:6, 1] = torch.tensor([2, 3, 3, 4, 5, -3.0])
    like = torch.full((13, 2), torch.nan)  # as cats, of what looks like one at 0, 1 and 5 (cats), and 8 to 10
    like[[0, 1, 5, 8, 9, 10]] = torch.tensor([[1, 1], [-1, 1], [1, -1], [-1, 1], [1, 1], [2, -2.0]])
    one = Slice(
        **vars(replace(CLAIM, size=60, verdict="confirmed")),
        id="cat-1",
        rank=1,
        direction=np.ones(2),
        intercept=0.0,
        members=np.array([0]),
        found_members=np.array([0]),
        stability=0.5,
    )
    arrays = {name: torch.from_numpy(getattr(one, name)) for name in ("direction", "members", "found_members")}

    def write(verdicts=("confirmed", "confirmed"), **changes):
        two = replace(one, verdict=verdicts[0]), replace(one, id="cat-2", rank=2, size=20, verdict=verdicts[1])
        entry = entry_of(np.arange(13), 3)
        entry["looks_like"] = torch.tensor([0, 0, 1, 1, 2, 0, 1, 1, 0, 0, 0, 2, 1])
        splits = {f"{split}_metrics": {**entry, "slice_values": values} for split in ("train", "test", "unlabeled")}
        splits["train_metrics"] = splits["train_metrics"] | {"looks_like_slice_values": like}
        found = found_of("not confirmed") | {"slices": [vars(of) | arrays for of in two]}
        return result(**splits | {"found": found} | changes)

    return write


def test_failures_that_are_named_choose_in_place_of_the_single_direction(sliced, tmp_path, capsys):
    svm = sliced()
    for slices, doubled in ((("cat-1",), [1, 4]), (("cat-2",), [5]), (("cat-1", "cat-2"), [1, 4, 5])):
        vector = torch.load(make("weights", svm, tmp_path / "w.pt", "--slices", *slices), weights_only=True)
        assert (vector == 2).nonzero()[:, 0].tolist() == [3 + i for i in doubled]
    with pytest.raises(SystemExit):
        make("weights", svm, tmp_path / "w.pt", "--slices", "dog-1")
    assert "has no failure dog-1; it has cat-1, cat-2" in capsys.readouterr().err


def test_confirmed_failures_choose_where_none_is_named(sliced, tmp_path):
    def doubled(svm, *words):
        vector = torch.load(make("weights", svm, tmp_path / "w.pt", "--by", "slices", *words), weights_only=True)
        return (vector == 2).nonzero()[:, 0].tolist()

    assert doubled(sliced()) == [3 + 1, 3 + 4, 3 + 5]
    assert doubled(sliced(("not confirmed", "confirmed"))) == [3 + 5]
    assert doubled(sliced(("not confirmed", "confirmed")), "--unconfirmed") == [3 + 1, 3 + 4, 3 + 5]
    make("weights", sliced(), tmp_path / "none.pt", "--by", "slices", "--classes", "dog")
    assert not (tmp_path / "none.pt").exists()


def added(svm, out, *words):
    """Positions in the pool of the images that are added."""
    return (load_index_file(make("add", svm, out, *words))["train_indices"][13:] - 3).tolist()


def test_a_budget_is_shared_by_failures(sliced, tmp_path, capsys):
    """By errors 30 to 10: of four images cat-1 takes three, its lowest values 1, 4 and 0, and cat-2 its lowest, 5."""
    out = tmp_path / "i.pt"
    assert sorted(added(sliced(), out, "--budget", 4, "--by", "slices")) == [0, 1, 4, 5]
    assert "by failure: cat-1 3, cat-2 1" in capsys.readouterr().out
    assert added(sliced(), out, "--budget", 4, "--by", "slices", "--share", "equal") == [1, 4, 5, 0]
    # So many images a class are shared by its failures in the same way.
    assert added(sliced(), out, "--per-class", 4, "--by", "slices") == added(
        sliced(), out, "--budget", 4, "--by", "slices"
    )
    # What chooses without failures takes as many in the classes that have one, and none in others.
    assert set(added(sliced(), out, "--budget", 4, "--by", "random")) < set(range(6))
    assert sorted(added(sliced(), out, "--budget", 4, "--by", "confidence")) == [1, 2, 3, 4]
    # Without failures, classes share equally.
    assert class_shares([], [2, 0], 3) == {2: 2, 0: 1}


def test_the_filter_takes_what_looks_like_a_failure_of_another_class(sliced, tmp_path):
    """At 8 and 10, a dog and an owl that look like cats and that cat-1 and cat-2 flag; cats themselves stay."""

    def left_out(*words):
        kept = load_index_file(make("filter", sliced(), tmp_path / "i.pt", *words))["train_indices"].tolist()
        return sorted(i - 3 for i in set(range(3, 16)) - set(kept))

    assert left_out("--by", "slices") == [8, 10]
    assert left_out("--slices", "cat-2") == [10]


def test_failures_without_training_images_are_named(sliced, tmp_path, capsys):
    values = torch.full((13, 2), torch.nan)
    values[:6] = torch.tensor([[1.0, 1.0]] * 5 + [[-1.0, 1.0]])
    entry = {**entry_of(np.arange(13), 3), "slice_values": values, "looks_like_slice_values": values}
    vector = torch.load(make("weights", sliced(train_metrics=entry), tmp_path / "w.pt", "--by", "slices"))
    assert vector.tolist() == [1.0] * 8 + [2.0] + [1.0] * 7
    assert "no training image lies in cat-2: for it nothing changes" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        make("weights", sliced(train_metrics=entry), tmp_path / "x.pt", "--slices", "cat-2")
    assert stop.value.code == 2
    assert "no training image lies in cat-2" in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize(
    ("command", "changes", "words", "says"),
    [
        (
            "add",
            {"unlabeled_metrics": None},
            ["--per-class", "3"],
            "has no extra pool .* failure-directions distil --unlabeled",
        ),
        ("add", {"unlabeled_metrics": None}, ["--per-class", "3"], "no pool yet: .* index --set-apart-every"),
        ("weights", {"dataset_config": None, "format": 2}, [], "was not made from betons"),
        ("add", {}, ["--per-class", "0"], "--per-class 0 adds nothing"),
        ("add", {}, ["--budget", "0"], "--budget 0 adds nothing"),
        ("add", {}, [], "how many images to add; give --per-class K or --budget N"),
        ("add", {}, ["--budget", "14"], "10 images can be chosen by svm, fewer than --budget 14; give 10 or less"),
        ("weights", {}, ["--by", "slices"], "is of an earlier version, which sought no slices"),
        ("add", {}, ["--pool", ".", "--per-class", "3"], "--per-class does not go with --pool"),
        ("add", {}, ["--pool", ".", "--budget", "3"], "is to be a table with --pool: give a name that ends in .csv"),
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
