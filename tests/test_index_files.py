from pathlib import Path

import numpy as np
import pytest
import torch
from failure_directions.data.index_files import load_index_file, save_index_file, skew, split_indices, thin
from failure_directions.runtime.errors import UserError

SHIPPED = Path(__file__).resolve().parents[1] / "index_files"


def test_of_each_class_every_fifth_example_is_validation():
    labels = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0])  # class 0: 1 4 8 9 10 11, class 1: 0 2 3 5 6 7
    splits = split_indices(labels)
    assert splits["val_indices"].tolist() == [1, 11, 0, 7]
    assert splits["train_indices"].tolist() == [2, 3, 4, 5, 6, 8, 9, 10]


def test_a_part_set_apart_is_listed_by_class_and_the_rest_in_order():
    labels = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0])
    pool = split_indices(labels, set_apart_every=2)
    assert pool["unlabeled_indices"].tolist() == [4, 9, 2, 5]
    assert pool["train_indices"].tolist() == [3, 6, 8, 10]
    quarter = split_indices(labels, set_apart_every=4, set_apart_as="train")
    assert quarter["train_indices"].tolist() == [4, 2]
    assert quarter["unlabeled_indices"].tolist() == [3, 5, 6, 8, 9, 10]


def test_the_first_class_says_how_many_of_every_class_are_skewed():
    """Three of its minority; the second class has more of its own, the third its two kinds the other way about."""
    labels = np.repeat([0, 1, 2, 3], [12, 20, 15, 9])
    spurious = np.concatenate([[1, 1, 1], [0] * 9, [1] * 8, [0] * 12, [0] * 5, [1] * 10, [0] * 9])
    chosen = skew(labels, spurious, [(0, 1, 0), (1, 1, 0), (2, 0, 1)], 2)
    kinds = {
        (c, value): chosen[(labels[chosen] == c) & (spurious[chosen] == value)] for c in range(4) for value in (0, 1)
    }
    expected = {(0, 1): 3, (0, 0): 6, (1, 1): 3, (1, 0): 6, (2, 0): 3, (2, 1): 6, (3, 0): 0, (3, 1): 0}
    assert {kind: len(rows) for kind, rows in kinds.items()} == expected
    for (c, value), rows in kinds.items():  # those that come first
        assert rows.tolist() == np.flatnonzero((labels == c) & (spurious == value))[: len(rows)].tolist()


def test_thinning_keeps_the_first_of_every_n():
    groups = np.array([0, 1, 1, 1, 0, 1, 1])
    assert thin(np.array([6, 5, 4, 3, 2, 1, 0]), groups, {1: 2}).tolist() == [6, 4, 3, 1, 0]


@pytest.mark.parametrize(
    ("name", "train", "val", "unlabeled"),
    [
        ("cifar", 40_000, 10_000, None),
        ("cifar_with_unlabeled", 20_000, 10_000, 20_000),
        ("cifar_0.25_with_unlabeled", 10_000, 10_000, 30_000),
        ("cifar100", 40_000, 10_000, None),
        ("cifar100_with_unlabeled", 20_000, 10_000, 20_000),
        ("cifar_pairs", 11_000, 6_250, 12_500),
    ],
)
def test_shipped_index_files_have_the_sizes_they_should(name, train, val, unlabeled):
    splits = load_index_file(SHIPPED / f"{name}.pt")
    sizes = [len(splits.get(f"{split}_indices", [])) or None for split in ("train", "val", "unlabeled")]
    assert sizes == [train, val, unlabeled]
    everything = np.concatenate(list(splits.values()))
    assert len(np.unique(everything)) == len(everything)
    assert everything.min() >= 0
    assert everything.max() < 50_000


def test_the_cifar_files_begin_as_the_published_ones():
    assert load_index_file(SHIPPED / "cifar.pt")["val_indices"][:4].tolist() == [29, 93, 179, 220]
    quarter = load_index_file(SHIPPED / "cifar_0.25_with_unlabeled.pt")
    assert quarter["train_indices"][:4].tolist() == [30, 115, 185, 223]


def test_the_other_spelling_and_none_are_read(tmp_path):
    content = {
        "train_indices": torch.arange(3),
        "unlabelled_indices": torch.arange(2),
        "val_indices": None,
        "note": "x",
    }
    torch.save(content, tmp_path / "x.pt")
    splits = load_index_file(tmp_path / "x.pt")
    assert sorted(splits) == ["train_indices", "unlabeled_indices"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        ({"train": torch.arange(3)}, "has none of train_indices"),
        ({"train_indices": [1, 2]}, "train_indices is not a one-dimensional tensor of integers"),
        ({"val_indices": torch.zeros(3)}, "val_indices is not"),
        ({"val_indices": torch.zeros(2, 2, dtype=torch.int64)}, "val_indices is not"),
        ({"train_indices": np.arange(3)}, "failure-directions convert"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=words):
        load_index_file(tmp_path / "x.pt")


def test_a_published_file_of_arrays_is_converted(tmp_path):
    from failure_directions.commands import convert as convert_published

    torch.save({"train_indices": np.arange(5), "val_indices": None, "n": np.float64(3)}, tmp_path / "old.pt")
    convert_published.main([str(tmp_path / "old.pt"), str(tmp_path / "new.pt")])
    assert load_index_file(tmp_path / "new.pt")["train_indices"].tolist() == [0, 1, 2, 3, 4]


def test_a_published_svm_is_not_converted_but_its_refit_is_named(tmp_path, capsys):
    import pickle

    from failure_directions.commands import convert as convert_published
    from sklearn.svm import SVC

    (tmp_path / "svm.pkl").write_bytes(pickle.dumps(SVC()))
    with pytest.raises(SystemExit):
        convert_published.main([str(tmp_path / "svm.pkl"), str(tmp_path / "new.pt")])
    assert "failure-directions distil" in capsys.readouterr().err
    assert not (tmp_path / "new.pt").exists()


def test_the_script_makes_what_the_rule_says_and_round_trips(tmp_path, pixels, pixels_beton):
    from failure_directions.commands import index as make_index_files

    out = tmp_path / "x.pt"
    make_index_files.main(["--beton", str(pixels_beton), "--set-apart-every", "2", "--out", str(out)])
    expected = split_indices(pixels.labels, set_apart_every=2)
    found = load_index_file(out)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    save_index_file(out, {"train_indices": [3, 1]})
    assert load_index_file(out)["train_indices"].tolist() == [3, 1]


@pytest.mark.parametrize("words", [["--val-every", "1"], ["--set-apart-every", "1"], ["--val-every", "0"]])
def test_the_script_makes_no_empty_part(tmp_path, pixels_beton, words):
    from failure_directions.commands import index as make_index_files

    with pytest.raises(SystemExit) as stop:
        make_index_files.main(["--beton", str(pixels_beton), "--out", str(tmp_path / "x.pt"), *words])
    assert stop.value.code == 2
    assert not (tmp_path / "x.pt").exists()


def test_the_script_thins_a_group_in_train_and_less_in_the_rest(tmp_path, pixels, pixels_beton):
    from failure_directions.commands import index as make_index_files

    out = tmp_path / "x.pt"
    words = ["--split-by", "spurious", "--thin", "1", "--keep-train", "10", "--keep-rest", "3"]
    make_index_files.main(["--beton", str(pixels_beton), *words, "--out", str(out)])
    splits = load_index_file(out)
    counts = {key: np.bincount(pixels.spurious[value]).tolist() for key, value in splits.items()}
    assert counts == {"train_indices": [36, 4], "val_indices": [9, 3]}
