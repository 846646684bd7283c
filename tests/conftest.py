"""Small data that the tests share: drawn once a session, trained on once a session."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from failure_directions.data.beton_sets import write_scenes
from failure_directions.data.beton_writer import write_beton
from failure_directions.data.image_sources import ImageArrays
from failure_directions.data.scenes import Plant, SceneSetting
from hypothesis import settings

# Loaded here, so that --hypothesis-profile, which comes later, has the last word.
settings.register_profile("campaign", max_examples=20_000, database=None, deadline=None)
settings.register_profile("suite", max_examples=100, derandomize=True, database=None, deadline=None)
settings.load_profile("suite")

PLANT = Plant.parse("correlation:circle:colour=red:0.9")


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory):
    """Scenes betons with one planted correlation, and a config for them: config.yaml."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(SceneSetting((PLANT,), train=60, val=40, test=40, unlabeled=20), folder, workers=1)
    (folder / "config.yaml").write_text(yaml.safe_dump(SCENES_CONFIG))
    return folder


SCENES_CONFIG = {
    "train_beton": "scenes_train.beton",
    "val_beton": "scenes_val.beton",
    "test_beton": "scenes_test.beton",
    "unlabeled_beton": "scenes_unlabeled.beton",
    "imgsz": 32,
    "arch": "resnet10thin",
    "arch_type": "cifar_resnet",
    "num_classes": 8,
    "class_names": list(SceneSetting().classes),
    "mean": [127.0, 127.0, 127.0],
    "std": [60.0, 60.0, 60.0],
    "batch_size": 64,
    "train_aug": "cifar_train_aug",
    "training": {"epochs": 8, "lr": 0.2, "lr_scheduler": {"type": "cyclic", "lr_peak_epoch": 2}},
}


@pytest.fixture(scope="session")
def trained_run(scenes_folder):
    """A run of ffcv_main.py on the small scenes."""
    from failure_directions.commands import train as ffcv_main

    config = str(scenes_folder / "config.yaml")
    runs = scenes_folder / "runs"
    ffcv_main.main(["-c", config, "--root", str(scenes_folder), "--runs", str(runs), "--exp-name", "small"])
    return runs / "small" / "version_0"


@pytest.fixture(scope="session")
def pixels():
    """90 random images, 16 x 16, in three classes, with a `spurious` number."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (90, 16, 16, 3), dtype=np.uint8)
    return ImageArrays(images, np.arange(90) % 3, ["a", "b", "c"], np.arange(90) % 2)


@pytest.fixture(scope="session")
def pixels_beton(pixels, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pixels") / "pixels.beton"
    write_beton(path, pixels, workers=2)
    return path
