import numpy as np
import pytest
import torch
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.index_files import save_index_file
from failure_directions.data.splits import open_splits
from failure_directions.runtime.errors import UserError


@pytest.fixture
def config(scenes_folder):
    def config(*overrides):
        return load_dataset_config(scenes_folder / "config.yaml", overrides)

    return config


@pytest.fixture
def index_file(tmp_path):
    def index_file(**splits):
        save_index_file(tmp_path / "index.pt", {f"{name}_indices": value for name, value in splits.items()})
        return tmp_path / "index.pt"

    return index_file


def test_without_an_index_file_each_split_is_its_whole_beton(config, scenes_folder):
    splits = open_splits(config(), scenes_folder, unlabeled=True)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 480,
        "val": 320,
        "test": 320,
        "unlabeled": 160,
    }


def test_indices_are_of_their_own_beton(config, scenes_folder, index_file):
    path = index_file(train=np.arange(400), val=np.arange(400, 480), unlabeled=np.arange(5))
    splits = open_splits(config("val_beton=null"), scenes_folder, path, unlabeled=True)
    assert splits["val"].beton.path == splits["train"].beton.path
    assert splits["unlabeled"].beton.path.name == "scenes_unlabeled.beton"
    assert np.array_equal(splits["val"].column("index"), np.arange(400, 480))


@pytest.mark.parametrize(
    ("overrides", "splits", "words"),
    [
        (["val_beton=null"], None, "no val_beton: say with --indices-file"),
        (["val_beton=null"], {"train": [1, 2]}, "has no val_indices"),
        (["val_beton=null"], {"train": [1, 2, 3], "val": [3, 4]}, "train and val share 1 examples .* 3"),
        (["val_beton=null"], {"val": [3, 4]}, "train and val share 2"),
        ([], {"train": [1, 480]}, "train_indices holds 480, but .* 0 to 479"),
        ([], {"train": [-1, 4]}, "train_indices holds -1"),
        ([], {"train": [4, 5, 4]}, "train_indices holds 4 more than once"),
        ([], {"train": []}, "train_indices is empty"),
        (["num_classes=7", "class_names=null"], None, "has the label 7, but the config's num_classes is 7"),
        (["test_beton=scenes_train.beton"], None, "train and test share 480"),
        (["test_beton=nowhere.beton"], None, "nowhere.beton does not exist"),
        (["bce=true"], None, "one label an image"),
    ],
)
def test_splits_that_cannot_be_are_refused(config, scenes_folder, index_file, overrides, splits, words):
    path = index_file(**splits) if splits else None
    with pytest.raises(UserError, match=words):
        open_splits(config(*overrides), scenes_folder, path)


def test_a_pool_that_is_not_there_is_said(config, scenes_folder):
    with pytest.raises(UserError, match="there is no unlabeled pool"):
        open_splits(config("unlabeled_beton=null"), scenes_folder, unlabeled=True)


def test_an_index_file_that_is_cut_short_is_named(config, scenes_folder, tmp_path):
    torch.save({"train_indices": torch.arange(3)}, tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes((tmp_path / "x.pt").read_bytes()[:100])
    with pytest.raises(UserError, match=r"index file .*x\.pt is truncated"):
        open_splits(config(), scenes_folder, tmp_path / "x.pt")
