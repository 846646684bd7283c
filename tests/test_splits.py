from dataclasses import replace

import numpy as np
import pytest
import torch
from failure_directions.config_parsing import load_dataset_config
from failure_directions.data.beton_writer import write_beton
from failure_directions.data.betons import open_beton
from failure_directions.data.image_sources import ImageArrays
from failure_directions.data.index_files import save_index_file
from failure_directions.data.splits import Split, open_splits
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


def test_a_split_knows_whether_its_beton_has_the_attribute(config, scenes_folder, tmp_path, pixels):
    assert open_splits(config(), scenes_folder)["train"].has_spurious
    write_beton(tmp_path / "plain.beton", replace(pixels, spurious=None), workers=1)
    assert not Split("train", open_beton(tmp_path / "plain.beton"), np.arange(3)).has_spurious


def test_extra_images_are_opened_where_they_are_asked_for_and_there(config, scenes_folder, index_file):
    path = index_file(train=np.arange(400), val=np.arange(9), extra=np.arange(5))
    assert open_splits(config(), scenes_folder, path).keys() == {"train", "val", "test"}
    splits = open_splits(config(), scenes_folder, path, extra=True)
    assert (len(splits["extra"]), splits["extra"].beton.path.name) == (5, "scenes_unlabeled.beton")
    with pytest.raises(UserError, match="has extra_indices, of an unlabeled_beton, but the config names none"):
        open_splits(config("unlabeled_beton=null"), scenes_folder, path, extra=True)
    path = index_file(train=np.arange(400), val=np.arange(9))
    assert "extra" not in open_splits(config(), scenes_folder, path, extra=True)


def test_conditions_are_as_many_as_the_config_says_and_0_or_1(config, scenes_folder, tmp_path, pixels):
    class Conditions(ImageArrays):
        def __getitem__(self, i):
            return self.images[i], self.labels[i], None

    labels = np.stack([pixels.labels == k for k in range(3)], axis=1).astype(np.float32)
    write_beton(tmp_path / "three.beton", Conditions(pixels.images, labels, ["a", "b", "c"]), workers=1)
    betons = [f"{split}_beton=three.beton" for split in ("train", "test")]

    def open_with(*overrides):
        index = tmp_path / "index.pt"
        save_index_file(index, {"train_indices": np.arange(60), "val_indices": np.arange(60, 90)})
        changed = config(*betons, "val_beton=null", "class_names=null", *overrides)
        return open_splits(changed, tmp_path, index)

    with pytest.raises(UserError, match="has 3 labels an image; set bce: true"):
        open_with("num_classes=3")
    with pytest.raises(UserError, match="has 3 labels an image, but with bce the config's num_classes asks for 4"):
        open_with("num_classes=4", "bce=true")
    with pytest.raises(UserError, match="train and test share 60"):  # all else is well
        open_with("num_classes=3", "bce=true")
    write_beton(tmp_path / "three.beton", Conditions(pixels.images, 2 * labels, ["a", "b", "c"]), workers=1)
    with pytest.raises(UserError, match="labels other than 0 and 1"):
        open_with("num_classes=3", "bce=true")
