"""ImageNet (ILSVRC 2012) and ImageNet-C (Hendrycks and Dietterich, ICLR 2019), in folders.

ImageNet: `train/WNID/` and `val/WNID/`, as torchvision.datasets.ImageNet unpacks the official archives. ImageNet-C:
`CORRUPTION/SEVERITY/WNID/`, as its archives unpack, with the distorted photographs of ImageNet's val.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import functional

from ...runtime.errors import UserError
from ..class_folders import is_hidden, list_images
from ..image_sources import ImageFiles
from .files import check_present, official_path

ORIGIN = "https://image-net.org, unpacked by torchvision.datasets.ImageNet"
ORIGIN_C = "https://zenodo.org/records/2235448"
DISTORTED_EVERY = 5


def imagenet_sources(folder):
    """Train, and ImageNet's val as test. Labels are the 1,000 classes' numbers, also where some have no folder."""
    return {split: ImageFiles(*_photographs(folder, part)) for split, part in (("train", "train"), ("test", "val"))}


def imagenetc_sources(folder, distorted, corruptions=None, severity=3):
    """A minority of distorted photographs that train has none of: train, val and test, 224 x 224 as ImageNet-C is.

    ImageNet's val is halved: of each class the 1st, 3rd, ... photograph is val and the rest test. In each half every
    5th of a class comes from ImageNet-C, the corruptions taking turns. `spurious` is 0 where nothing is distorted, else
    the corruption's number from 1 on. The protocol is ours.

    Args:
        folder: ImageNet.
        distorted: ImageNet-C.
        corruptions: names of its folders; by default all that are there, in alphabetical order.
        severity: 1 to 5.
    """
    corruptions = _corruptions(distorted, corruptions, severity)
    paths, labels, class_names = _photographs(folder, "train")
    sources = {"train": _Cropped(paths, labels, class_names, np.zeros(len(paths), np.int64))}
    paths, labels, class_names = _photographs(folder, "val")
    place = np.concatenate([np.arange(count) for count in np.bincount(labels)])  # within the class
    for half, split in enumerate(("val", "test")):
        members = np.flatnonzero(place % 2 == half)
        drawn = place[members] // 2 % DISTORTED_EVERY == 0
        spurious = np.zeros(len(members), np.int64)
        spurious[drawn] = 1 + np.arange(drawn.sum()) % len(corruptions)
        chosen = [paths[i] for i in members]
        for i in np.flatnonzero(drawn):
            corruption = corruptions[spurious[i] - 1]
            chosen[i] = Path(distorted) / corruption / str(severity) / chosen[i].parent.name / chosen[i].name
        check_present([chosen[i] for i in np.flatnonzero(drawn)], Path(folder) / "val")
        sources[split] = _Cropped(chosen, labels[members], class_names, spurious)
    return sources


@dataclass(frozen=True)
class _Cropped(ImageFiles):
    """Photographs, cut as those of ImageNet-C are, which are left as they are."""

    def __getitem__(self, i):
        image, label, spurious = super().__getitem__(i)
        if spurious == 0:
            image = np.asarray(functional.center_crop(functional.resize(Image.fromarray(image), 256), 224))
        return image, label, spurious


def _corruptions(distorted, names, severity):
    distorted = Path(distorted)
    if not 1 <= severity <= 5:
        raise UserError(f"--severity {severity} is not between 1 and 5")
    if names is None:
        names = sorted(path.name for path in distorted.iterdir() if path.is_dir()) if distorted.is_dir() else []
    if not names:
        raise UserError(f"{distorted} has no folders CORRUPTION/{severity}/WNID; get them from {ORIGIN_C}")
    for name in names:
        if Path(name).name != name or not (distorted / name / str(severity)).is_dir():
            raise UserError(f"{distorted} has no folder {name}/{severity}; get it from {ORIGIN_C}")
    return names


def _photographs(folder, part):
    """Paths, labels and class names (WordNet numbers) of `folder/part/WNID/`, in the order class, file name."""
    from timm.data import ImageNetInfo  # seconds to import

    folder = official_path(folder, [part], ORIGIN)
    number = {wnid: i for i, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    entries = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    if not entries:
        raise UserError(f"{folder} has no folders WNID/ such as n01440764/; get them from {ORIGIN}")
    paths, labels = [], []
    for entry in entries:
        if entry.name not in number:
            raise UserError(f"{entry} is not named by one of ImageNet's 1,000 WordNet numbers; rename or remove it")
        images, _ = list_images(entry)
        if not images:
            raise UserError(f"{entry} holds no images; unpack its archive there")
        paths += images
        labels += [number[entry.name]] * len(images)
    return paths, np.array(labels), list(number)
