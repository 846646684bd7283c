"""From image sources to a folder of betons with a config to start from: what the script and the notebook call."""

from pathlib import Path

import numpy as np

from ..runtime.english import some
from ..runtime.errors import UserError
from ..runtime.files import atomic_path, check_writable, write_csv, written_together
from ..runtime.moments import Moments
from ..runtime.yaml_files import dump_yaml
from . import SPLITS
from .beton_writer import ImageOptions, write_beton
from .betons import open_beton
from .image_sources import without_broken
from .scenes import TRUTH_COLUMNS, make_split, truth_rows

_SAMPLE = 2000  # images that mean and deviation are measured on


def leave_out_broken(sources, folder, name, workers=-1, image_options=None):
    """The same sources without images that can't be read, or not be stored as the options say.

    These are printed and listed, with the reason, in `NAME_SPLIT_left_out.csv`.
    """
    usable = {}
    for split, source in sources.items():
        usable[split], broken = without_broken(source, workers, (image_options or ImageOptions()).misfit)
        if broken:
            write_csv(Path(folder) / f"{name}_{split}_left_out.csv", ["path", "reason"], broken, for_people=True)
            print(f"left out {len(broken)} images of {split}: {some(path for path, _ in broken)}")
        if len(usable[split]) == 0:
            raise UserError(f"no image of {split} can be used: {broken[0][1]}")
    return usable


def write_splits(sources, folder, name, image_options=None, workers=-1):
    """Write one beton a split, `folder/NAME_SPLIT.beton`: all of them, or after an error none.

    Args:
        sources: dict split -> image source (see `image_sources`).

    Returns:
        dict split -> number of examples written.
    """
    folder = Path(folder)
    check_writable(folder / f"{name}.yaml")
    with written_together():
        for split, source in sources.items():
            write_beton(folder / f"{name}_{split}.beton", source, image_options or ImageOptions(), workers)
    return {split: len(source) for split, source in sources.items()}


def write_scenes(setting, folder, name="scenes", image_options=None, workers=-1):
    """Draw a `SceneSetting` into betons, with the truth of every image in `NAME_SPLIT.csv` beside them."""
    splits = {split: make_split(setting, split) for split in SPLITS if getattr(setting, split)}
    with written_together():
        written = write_splits(splits, folder, name, image_options, workers=workers)
        for split, source in splits.items():
            write_csv(Path(folder) / f"{name}_{split}.csv", TRUTH_COLUMNS, truth_rows(source))
    return written


def write_starter_config(sources, folder, name):
    """Write `folder/NAME.yaml`, a dataset config for the betons that `write_splits` left there, to be edited.

    Mean and deviation are measured on up to 2,000 training images. Needs the splits train and test (or val).
    """
    train = sources["train"]
    beton = open_beton(Path(folder) / f"{name}_train.beton")
    mean, std = _pixel_statistics(train)
    sides = np.stack(beton.image_sizes)
    constant, small = bool((sides == sides[0, 0]).all()), int(sides.max()) <= 64
    config = {
        "train_beton": f"{name}_train.beton",
        "test_beton": f"{name}_{'test' if 'test' in sources else 'val'}.beton",
        **{f"{split}_beton": f"{name}_{split}.beton" for split in ("val", "unlabeled") if split in sources},
        "imgsz": int(sides[0, 0]) if constant else (32 if small else 224),
        "arch": "resnet18",
        "arch_type": "cifar_resnet" if small else "resnet",
        "num_classes": len(train.class_names),
        "class_names": list(train.class_names),
        "mean": np.round(mean, 1).tolist(),
        "std": np.round(std, 1).tolist(),
        "train_img_decoder": "simple" if constant else "random_resized_crop",
        "val_img_decoder": "simple" if constant else "center_crop_256",
        "train_aug": "cifar_train_aug" if small else "imagenet_train_aug",
        "batch_size": min(512, max(1, len(beton) // 8)),
        **({"bce": True} if beton.column("label").ndim == 2 else {}),
        "training": {"epochs": 30, "lr": 0.1, "lr_scheduler": {"type": "cyclic", "lr_peak_epoch": 5}},
    }
    path = Path(folder) / f"{name}.yaml"
    with atomic_path(path) as temporary:
        temporary.write_text(
            "# Made for the betons beside it, with mean and std of their training images: a start, to be edited.\n"
            + dump_yaml(config, default_flow_style=None, width=110),
            encoding="utf-8",
        )
    return path


def _pixel_statistics(source):
    """Mean and deviation of each channel, over up to `_SAMPLE` images."""
    moments = Moments()
    for i in np.unique(np.linspace(0, len(source) - 1, _SAMPLE).astype(int)):
        moments.update(source[int(i)][0].reshape(-1, 3))
    return moments.mean, np.maximum(moments.std(), 1)  # at least one grey level: a loader divides by it
