"""Where images come from before they are a beton: CIFAR, a folder, a manifest.

Every source has `len(source)`, `source[i] -> (image uint8 (H, W, 3), label, spurious or None)` and `class_names`.
"""

import csv
import os
import re
import urllib.error
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from ..runtime.english import some
from ..runtime.errors import UserError
from . import SPLITS
from .images import IMAGE_SUFFIXES, read_image

# Columns that manifests of generate_images.py have beside path and label; they are not read.
GENERATED = ("class", "prompt", "seed", "similarity", "object", "shift")


@dataclass(frozen=True)
class ImageFiles:
    """Image files with labels (N ints, or an (N, k) float32 array for BCE) and, maybe, `spurious` (N ints)."""

    paths: list
    labels: np.ndarray
    class_names: list
    spurious: np.ndarray | None = None

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        label = self.labels[i] if self.labels.ndim == 2 else int(self.labels[i])
        return read_image(self.paths[i]), label, None if self.spurious is None else int(self.spurious[i])

    def keep(self, positions):
        """The same source with only the examples at `positions`."""
        return replace(
            self,
            paths=[self.paths[i] for i in positions],
            labels=self.labels[positions],
            spurious=None if self.spurious is None else self.spurious[positions],
        )


@dataclass(frozen=True)
class ImageArrays:
    """Images in memory, uint8 (N, H, W, 3), with labels (N,) and, maybe, `spurious` (N,)."""

    images: np.ndarray
    labels: np.ndarray
    class_names: list
    spurious: np.ndarray | None = None

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], int(self.labels[i]), None if self.spurious is None else int(self.spurious[i])


def without_broken(source, workers=-1):
    """Read every image once; return the source without the unreadable ones, and their paths.

    Only image files can be broken: other sources come back as they are.
    """
    if not isinstance(source, ImageFiles):
        return source, []

    def is_readable(path):
        try:
            read_image(path)
        except UserError:
            return False
        return True

    bar = tqdm(source.paths, desc="checking images", unit="img", disable=None)
    readable = np.array(Parallel(workers, prefer="threads")(delayed(is_readable)(path) for path in bar), dtype=bool)
    return source.keep(np.flatnonzero(readable)), [source.paths[i] for i in np.flatnonzero(~readable)]


def cifar_sources(name, folder, download=False):
    """torchvision's CIFAR10 or CIFAR100 as {"train": ..., "test": ...}; torchvision checks the files' sums first."""
    from torchvision import datasets

    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    sources = {}
    for split in ("train", "test"):
        try:
            data = dataset(folder, train=split == "train", download=download)
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            raise UserError(
                f"{name} could not be downloaded ({getattr(error, 'reason', error)}); get {dataset.url} "
                f"on another machine and unpack it into {folder}"
            ) from None
        except RuntimeError:
            raise UserError(
                f"{name} is not (whole) in {folder}; add --download, or unpack {dataset.url} there"
            ) from None
        sources[split] = ImageArrays(data.data, np.array(data.targets), list(data.classes))
    return sources


def folder_sources(folder):
    """Images under `folder/SPLIT/CLASS/`, each split's in the order class, file name."""
    folder = Path(folder)
    splits = [split for split in SPLITS if (folder / split).is_dir()]
    if "train" not in splits:
        raise UserError(f"{folder} has no folder train/CLASS/ with images; lay images out as SPLIT/CLASS/FILE")
    class_names = sorted(entry.name for entry in (folder / "train").iterdir() if entry.is_dir())
    if not class_names:
        raise UserError(f"{folder / 'train'} has no class folders; lay images out as SPLIT/CLASS/FILE")
    sources = {split: class_folders(folder / split, class_names) for split in splits}
    empty = np.flatnonzero(np.bincount(sources["train"].labels, minlength=len(class_names)) == 0)
    if len(empty):
        raise _no_images(folder / "train" / class_names[empty[0]])
    return sources


def class_folders(folder, class_names):
    """Images under `folder/CLASS/`, in the order class, file name; a class may be without any."""
    paths, labels = [], []
    for entry in sorted(entry for entry in Path(folder).iterdir() if entry.is_dir()):
        if entry.name not in class_names:
            raise UserError(f"{entry} is none of the classes {some(class_names)}; rename or remove it")
        images = sorted(path for path in entry.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        paths += images
        labels += [class_names.index(entry.name)] * len(images)
    if not paths and any(path.suffix.lower() in IMAGE_SUFFIXES for path in Path(folder).iterdir()):
        raise UserError(f"{folder} has images, but not in class folders; move them to {folder}/CLASS/")
    if not paths:
        raise _no_images(folder)
    return ImageFiles(paths, np.array(labels), list(class_names))


def _no_images(folder):
    return UserError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}); add some or remove it")


def manifest_sources(manifest, image_root=None, class_names=None, bce=False):
    """Images listed in a CSV `path,label[,spurious][,split]`, in its order.

    Args:
        manifest: the CSV. `label` is a class index or name; with `bce`, the names present joined by `|`. `spurious` is
            an integer or a name (then numbered in alphabetical order). Without `split` all images are in train.
        image_root: folder that the paths are relative to and may not leave; by default the manifest's.
        class_names: order of the classes; by default alphabetical (or 0, 1, ... where labels are numbers).
    """
    manifest = Path(manifest)
    rows = _read_manifest(manifest)
    root = Path(image_root) if image_root else manifest.parent
    labels, class_names = _parse_labels(manifest, [row["label"] for row in rows], class_names, bce)
    spurious = None
    if "spurious" in rows[0]:
        spurious, _ = _parse_labels(manifest, [row["spurious"] for row in rows], None, False, "spurious")
    splits = np.array([row.get("split") or "train" for row in rows])
    for line, split in enumerate(splits.tolist(), start=2):
        if split not in SPLITS:
            raise UserError(f"manifest {manifest} line {line}: split is {split[:80]!r}, not one of {', '.join(SPLITS)}")
    paths = [_path_within(root, row["path"], manifest, line) for line, row in enumerate(rows, start=2)]
    if len(set(paths)) < len(paths):
        double = next(path for path in paths if paths.count(path) > 1)
        raise UserError(f"manifest {manifest} lists {double} twice; keep one line for each image")
    everything = ImageFiles(paths, labels, class_names, spurious)
    return {split: everything.keep(np.flatnonzero(splits == split)) for split in SPLITS if (splits == split).any()}


def _read_manifest(manifest):
    if not manifest.is_file():
        raise UserError(
            f"manifest {manifest} {'is a folder' if manifest.is_dir() else 'does not exist'}; check the path"
        )
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header = reader.fieldnames or []
            unknown = set(header) - {"path", "label", "spurious", "split", *GENERATED}
            if unknown or not {"path", "label"} <= set(header) or len(set(header)) < len(header):
                raise UserError(
                    f"manifest {manifest} has the columns {','.join(header)[:200] or '(none)'}, "
                    "but must have path,label[,spurious][,split]"
                )
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"manifest {manifest} is not a CSV in UTF-8 ({error}); save it as one") from None
    if not rows:
        raise UserError(f"manifest {manifest} lists no images")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"manifest {manifest} line {line} does not have {len(header)} values; mend the line")
    return rows


def _parse_labels(manifest, texts, class_names, bce, column="label"):
    """Labels as numbers (or, for BCE, 0/1 vectors), and the class names."""
    words = [text.split("|") if bce else [text] for text in texts]
    present = {word for entry in words for word in entry if word}
    if class_names is not None and len(set(class_names)) < len(class_names):
        raise UserError(f"--class-names lists a name twice: {some(class_names)}")
    if class_names is None:
        if not present:
            raise UserError(f"manifest {manifest}: no {column} is given in any line; fill the column {column}")
        numbers = {word for word in present if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", word)} if not bce else set()
        numeric = numbers == present
        odd = {word for word in numbers if not (numeric and word.isdecimal() and _below(word, len(texts) + 1000))}
        if odd:
            raise UserError(
                f"manifest {manifest}: {column} is {sorted(odd)[0][:80]!r} in some line, but must be a class number "
                "0, 1, 2, ... throughout, or a name throughout (then give --class-names for names that are numbers)"
            )
        class_names = [str(i) for i in range(max(map(int, present)) + 1)] if numeric else sorted(present)
    number = {name: i for i, name in enumerate(class_names)}
    # An index is accepted beside names: "3" means the class of that number unless a class is called so.
    number = {str(i): i for i in range(len(class_names))} | number
    for line, entry in enumerate(words, start=2):
        for word in entry:
            if word not in number and (word or not bce):
                raise UserError(
                    f"manifest {manifest} line {line}: {column} is {word[:80]!r}, but must be one of "
                    f"{some(class_names)}"
                )
    if not bce:
        return np.array([number[entry[0]] for entry in words]), class_names
    labels = np.zeros((len(words), len(class_names)), np.float32)
    for row, entry in zip(labels, words, strict=True):
        row[[number[word] for word in entry if word]] = 1
    return labels, class_names


def _below(digits, bound):
    """Whether a decimal number is below `bound`; Python refuses to read one of thousands of digits."""
    return len(digits) <= len(str(bound)) and int(digits) < bound


def _path_within(root, path, manifest, line):
    """`root / path`, refused where it would leave `root`."""
    inside = os.path.normpath(path)
    if os.path.isabs(inside) or inside.split(os.sep)[0] == os.pardir:
        raise UserError(f"manifest {manifest} line {line}: {path} lies outside {root}; give paths within --image-root")
    return root / inside


def group_classes(source, groups):
    """Merge classes into superclasses; `spurious` becomes the original class.

    Args:
        source: an `ImageFiles` or `ImageArrays` with int labels.
        groups: list of lists of class names; each class is in exactly one.
    """
    members = [name for group in groups for name in group]
    if sorted(members) != sorted(source.class_names):
        odd = sorted(set(members) ^ set(source.class_names)) or sorted({m for m in members if members.count(m) > 1})
        raise UserError(f"--group-classes must name every class once; look at {', '.join(odd)}")
    superclass = np.array([next(g for g, group in enumerate(groups) if name in group) for name in source.class_names])
    return replace(
        source,
        labels=superclass[source.labels],
        spurious=np.asarray(source.labels),
        class_names=["+".join(group) for group in groups],
    )
