"""From image sources to a folder of betons with a config to start from: what the script and the notebook call."""

from pathlib import Path

import numpy as np

from ..config_parsing import described_config
from ..runtime.devices import resolve_device
from ..runtime.english import some
from ..runtime.errors import UserError
from ..runtime.files import atomic_path, check_writable, write_csv, written_together
from ..runtime.moments import Moments
from . import SPLITS
from .beton_tables import is_table, table_beside, write_beton_table
from .beton_writer import ImageOptions, write_beton
from .betons import open_beton
from .image_sources import ImageFiles, without_broken
from .scenes import TRUTH_COLUMNS, make_split, truth_rows

_SAMPLE = 2000  # images that mean and deviation are measured on
_CPU_SIDE = 64  # pixels of the images that a CPU trains on
_FOR_A_CPU = """\
# There was no GPU: the model is small enough for a CPU. A better one, on a GPU in minutes, on a CPU in hours:
# imgsz: 224, arch: resnet18, arch_type: pretrained_resnet, training.lr: 0.01 (its weights are downloaded).
"""


def leave_out_broken(sources, folder, name, workers=-1, image_options=None):
    """The same sources without images that can't be read, or not be stored as the options say.

    These are printed and listed, with the reason, in `NAME_SPLIT_left_out.csv`.

    Args:
        sources: dict split -> image source (see `image_sources`).
        folder, name: of the betons that are to be written, and so of the lists.
        workers: processes; -1 for one a core.
        image_options: `ImageOptions`, how the images are to be stored.

    Returns:
        dict split -> image source.

    Raises:
        UserError: no image of a split can be used.
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

    Of image files also `NAME_SPLIT.csv`, which says which file each image is (see `beton_tables`).

    Args:
        sources: dict split -> image source (see `image_sources`).
        folder, name: of the betons.
        image_options: `ImageOptions`, how the images are stored.
        workers: processes; -1 for one a core.

    Returns:
        dict split -> number of examples written.

    Raises:
        UserError: an image can't be read, or a file can't be written.
    """
    folder = Path(folder)
    check_writable(folder / f"{name}.yaml")
    betons = {split: folder / f"{name}_{split}.beton" for split in sources}
    # A table of an earlier beton would speak of other images.
    old = [path for path in map(table_beside, betons.values()) if is_table(path)]
    with written_together(old=old):
        for split, source in sources.items():
            write_beton(betons[split], source, image_options or ImageOptions(), workers)
            if isinstance(source, ImageFiles):
                write_beton_table(betons[split], source)
    return {split: len(source) for split, source in sources.items()}


def write_scenes(setting, folder, name="scenes", image_options=None, workers=-1):
    """Draw a `SceneSetting` into betons, with the truth of every image in `NAME_SPLIT.csv` beside them.

    Args:
        setting: `SceneSetting`.
        folder, name: of the betons.
        image_options: `ImageOptions`, how the images are stored.
        workers: processes; -1 for one a core.

    Returns:
        dict split -> number of examples written.
    """
    splits = {split: make_split(setting, split) for split in SPLITS if getattr(setting, split)}
    with written_together():
        written = write_splits(splits, folder, name, image_options, workers=workers)
        for split, source in splits.items():
            write_csv(Path(folder) / f"{name}_{split}.csv", TRUTH_COLUMNS, truth_rows(source))
    return written


def write_starter_config(sources, folder, name, has_gpu=None):
    """Write `folder/NAME.yaml`, a dataset config for the betons that `write_splits` left there, to be edited.

    Mean and deviation, on the scale 0..255, are measured on up to 2,000 training images. Without a GPU the model is one
    that a CPU trains in minutes, on images of at most 64 pixels.

    Args:
        sources: dict split -> image source; train and test (or val) among them.
        folder, name: as `write_splits` had them.
        has_gpu: by default as this machine is.

    Returns:
        `Path` of the config.
    """
    has_gpu = resolve_device().type == "cuda" if has_gpu is None else has_gpu
    train = sources["train"]
    beton = open_beton(Path(folder) / f"{name}_train.beton")
    mean, std = _pixel_statistics(train)
    sides, thin = np.stack(beton.image_sizes), not has_gpu
    constant, small = bool((sides == sides[0, 0]).all()), int(sides.max()) <= _CPU_SIDE
    as_they_are = constant and (small or not thin)
    config = {
        "train_beton": f"{name}_train.beton",
        "test_beton": f"{name}_{'test' if 'test' in sources else 'val'}.beton",
        **{f"{split}_beton": f"{name}_{split}.beton" for split in ("val", "unlabeled") if split in sources},
        "imgsz": int(sides[0, 0]) if as_they_are else (32 if small else _CPU_SIDE if thin else 224),
        "arch": "resnet10thin" if thin else "resnet18",
        "arch_type": "cifar_resnet" if small or thin else "resnet",
        "num_classes": len(train.class_names),
        "class_names": list(train.class_names),
        "mean": np.round(mean, 1).tolist(),
        "std": np.round(std, 1).tolist(),
        "train_img_decoder": "simple" if as_they_are else "random_resized_crop",
        "val_img_decoder": "simple" if as_they_are else "center_crop_256",
        "train_aug": "cifar_train_aug" if small else "imagenet_train_aug",
        "batch_size": min(256 if thin else 512, max(1, len(beton) // 8)),
        **({"bce": True} if beton.column("label").ndim == 2 else {}),
        "training": {"epochs": 30, "lr": 0.2 if thin else 0.1, "lr_scheduler": {"type": "cyclic", "lr_peak_epoch": 5}},
    }
    path = Path(folder) / f"{name}.yaml"
    with atomic_path(path) as temporary:
        temporary.write_text(
            "# Made for the betons beside it, with mean and std of their training images: a start, to be edited.\n"
            + (_FOR_A_CPU if thin else "")
            + described_config(config),
            encoding="utf-8",
        )
    return path


def _pixel_statistics(source):
    """Mean and deviation of each channel, over up to `_SAMPLE` images."""
    moments = Moments()
    for i in np.unique(np.linspace(0, len(source) - 1, _SAMPLE).astype(int)):
        moments.update(source[int(i)][0].reshape(-1, 3))
    return moments.mean, np.maximum(moments.std(), 1)  # at least one grey level: a loader divides by it
