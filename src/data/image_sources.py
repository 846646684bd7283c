"""Where images come from before they are a beton: CIFAR, a folder, a manifest.

Every source has `len(source)`, `source[i] -> (image uint8 (H, W, 3), label, spurious or None)` and `class_names`.
"""

import difflib
import os
import re
import urllib.error
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs
from tqdm import tqdm

from ..runtime.english import nearest, some
from ..runtime.errors import UserError
from . import SPLITS
from .class_folders import read_class_folders
from .image_tables import read_csv
from .images import MOST_PIXELS, read_image
from .names import SPLIT_NAMES, alike, clean_name

KNOWN = ("path", "label", "spurious", "split")  # columns of a manifest that mean something
# Columns that manifests of generate_images.py have beside path and label.
GENERATED = ("class", "prompt", "seed", "similarity", "object", "shift")
_SPLIT_NAMES = SPLIT_NAMES | {"unlabeled": "unlabeled"}
_SCALE_DOWN = "give --max-pixels, and --max-resolution to store it scaled down, or leave it out (--skip-broken)"


@dataclass(frozen=True)
class ImageFiles:
    """Image files with labels (N ints, or an (N, k) float32 array for BCE) and, maybe, `spurious` (N ints).

    `notes` are sentences for the user on all that was read: what was left out or looks wrong. `most_pixels` is the
    largest image that is read. `metadata` holds other columns of a manifest, lists of N strings by name.
    """

    paths: list
    labels: np.ndarray
    class_names: list
    spurious: np.ndarray | None = None
    notes: tuple = ()
    most_pixels: int = MOST_PIXELS
    metadata: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        label = self.labels[i] if self.labels.ndim == 2 else int(self.labels[i])
        image = read_image(self.paths[i], most_pixels=self.most_pixels, too_large=_SCALE_DOWN)
        return image, label, None if self.spurious is None else int(self.spurious[i])

    def name(self, i):
        """What messages call image i."""
        return str(self.paths[i])

    def keep(self, positions):
        """The same source with only the examples at `positions`."""
        return replace(
            self,
            paths=[self.paths[i] for i in positions],
            labels=self.labels[positions],
            spurious=None if self.spurious is None else self.spurious[positions],
            metadata={name: [values[i] for i in positions] for name, values in self.metadata.items()},
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


def class_counts(source):
    """Images of each class (for BCE, with each condition), (K,) ints."""
    if source.labels.ndim == 2:
        return (source.labels > 0).sum(0)
    return np.bincount(source.labels, minlength=len(source.class_names))


def check_some_are_there(sources):
    """Raise `UserError` where files are listed and not one of them is there: their paths are relative to elsewhere."""
    paths = [path for source in sources.values() for path in source.paths]
    if not any(os.path.lexists(path) for path in paths):
        raise UserError(
            f"none of the {len(paths):,} images that are listed is there, such as {paths[0]}: give --image-root, the "
            "folder that the paths are relative to"
        )


def without_broken(source, workers=-1, misfit=None):
    """Read every image once; return the source without those that can't be used, and of these a list of (path, why).

    Only image files can be broken: other sources come back as they are.

    Args:
        misfit: image uint8 (H, W, 3) -> why it can't be stored, or None.
    """
    if not isinstance(source, ImageFiles):
        return source, []

    def problem(i):
        try:
            image, *_ = source[i]
        except UserError as error:
            return str(error)
        return misfit(image) if misfit else None

    bar = tqdm(range(len(source)), desc="checking images", unit="img", disable=None)
    threads = min(effective_n_jobs(workers), max(1, len(source)))
    problems = Parallel(threads, prefer="threads")(delayed(problem)(i) for i in bar)
    broken = [(source.paths[i], why) for i, why in enumerate(problems) if why]
    return source.keep(np.flatnonzero([why is None for why in problems])), broken


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
    """Images under `folder/SPLIT/CLASS/**`, each split's in the order class, path (see `class_folders`).

    Splits are train, val (or valid, validation), test and unlabeled, in any case.

    Returns:
        dict split -> `ImageFiles`, of the splits that are there.

    Raises:
        UserError: there are no training images, a class has none, or another split has a class that train has not.
    """
    folder = Path(folder)
    found = read_class_folders(folder, train=True)
    class_names = sorted(name for split, name in found.folders if split == "train")
    if not class_names:
        raise UserError(f"{folder / 'train'} has no class folders; lay images out as SPLIT/CLASS/FILE")
    for (_, name), place in found.folders.items():
        if name not in class_names:
            raise _unknown_class(place, class_names)
    number = {name: i for i, name in enumerate(class_names)}
    labels = np.array([number[name] for name in found.classes])
    everything = ImageFiles(list(map(Path, found.paths)), labels, class_names, notes=tuple(found.notes))
    sources = {}
    for split in SPLITS:
        rows = np.flatnonzero(np.array(found.splits) == split)
        places = [place for (of_split, _), place in found.folders.items() if of_split == split]
        if places and not len(rows):
            raise _no_images(places[0].parent)
        if len(rows):
            sources[split] = everything.keep(rows)
    for name, count in zip(class_names, class_counts(sources["train"]), strict=True):
        if count == 0:
            raise _no_images(found.folders["train", name])
    return sources


def class_folders(folder, class_names):
    """Images under `folder/CLASS/**`, in the order class, path; a class may be without any.

    Args:
        folder: path.
        class_names: which classes there are, in the order of their numbers.

    Returns:
        `ImageFiles`.

    Raises:
        UserError: there is no such folder or no image, or a folder is none of the classes.
    """
    found = read_class_folders(folder, splits=False)
    number = {name: i for i, name in enumerate(class_names)}
    for (_, name), place in found.folders.items():
        if name not in number:
            raise _unknown_class(place, class_names)
    labels = np.array([number[name] for name in found.classes])
    return ImageFiles(list(map(Path, found.paths)), labels, list(class_names), notes=tuple(found.notes))


def _unknown_class(place, class_names):
    hint = nearest(clean_name(place.name), class_names)
    return UserError(f"{place} is none of the classes {some(class_names)}; rename or remove it{hint and f' ({hint})'}")


def _no_images(folder):
    return UserError(f"{folder} holds no images that are read here (JPEG, PNG, ...); add some or remove it")


def manifest_sources(manifest, image_root=None, class_names=None, bce=False):
    """Images listed in a table `path,label[,spurious][,split]`, in its order; other columns are metadata.

    Blanks around a cell do not count.

    Args:
        manifest: the CSV. `label` is a class's name, or its number throughout; with `bce`, the names present joined by
            `|`. `spurious` is a number or a name (then numbered in alphabetical order). Without `split` all images are
            in train.
        image_root: folder that the paths are relative to and may not leave; by default the manifest's.
        class_names: order of the classes; by default alphabetical (or by value, where labels are numbers). A label may
            then be a position in them, too.
        bce: an image may be of several classes, or of none.

    Returns:
        dict split -> `ImageFiles`, of the splits that are named.

    Raises:
        UserError: there is no such file, a line is wrong (it is named), or a class has no image in train.
    """
    manifest = Path(manifest)
    columns, lines, notes = _read_manifest(manifest)
    root = Path(image_root) if image_root else manifest.parent
    words = [[clean_name(word) for word in cell.split("|")] if bce else [clean_name(cell)] for cell in columns["label"]]
    names = _given_names(class_names) if class_names is not None else _found_names(manifest, words, "label", bce)
    labels = _numbered(manifest, words, names, bce, "label", lines)
    spurious = None
    if "spurious" in columns:
        spurious = _attributes(manifest, columns["spurious"], lines)
    cells = columns.get("split", [""] * len(lines))
    splits = np.array([_split(manifest, cell, line) for cell, line in zip(cells, lines, strict=True)])
    cells = columns["path"]
    paths = [_path_within(root, cell.strip(), manifest, line) for cell, line in zip(cells, lines, strict=True)]
    _check_each_once(manifest, paths, lines)
    if class_names is None:
        notes = [*notes, *alike(names, f"the labels of {manifest}"), *_about_numbers(manifest, names)]
    others = {name: cells for name, cells in columns.items() if name not in KNOWN}
    everything = ImageFiles(paths, labels, names, spurious, tuple(notes), metadata=others)
    sources = {split: everything.keep(np.flatnonzero(splits == split)) for split in SPLITS if (splits == split).any()}
    if class_names is None and "train" in sources:
        _check_trained_on(manifest, sources["train"], everything)
    return sources


def _read_manifest(manifest):
    """Columns (dict of lists), the rows' lines, and notes."""
    if not manifest.is_file():
        raise UserError(
            f"manifest {manifest} {'is a folder' if manifest.is_dir() else 'does not exist'}; check the path"
        )
    given, lines, notes = read_csv(manifest)
    columns = {name.casefold() if name.casefold() in KNOWN else name: cells for name, cells in given.items()}
    if not {"path", "label"} <= set(columns) or len(columns) < len(given):
        raise UserError(
            f"manifest {manifest} has the columns {','.join(given)[:200] or '(none)'}, "
            "but must have path,label[,spurious][,split]"
        )
    for name in columns.keys() - {*KNOWN, *GENERATED}:
        # A column that is only misspelt would change what is trained on, unseen.
        if meant := difflib.get_close_matches(name.casefold(), set(KNOWN) - set(columns), 1, 0.75):
            raise UserError(f"manifest {manifest} has the column {name}: rename it to {meant[0]}, or to something else")
    if not lines:
        raise UserError(f"manifest {manifest} lists no images")
    return columns, lines, notes


def _given_names(class_names):
    names = [clean_name(name) for name in class_names]
    if len(set(names)) < len(names):
        raise UserError(f"--class-names lists a name twice: {some(names)}")
    return names


def _found_names(manifest, words, column, bce):
    """The names in a column: in the order of their letters, or where all are numbers by value."""
    present = {word for cell in words for word in cell if word}
    if not present:
        raise UserError(f"manifest {manifest}: no {column} is given in any line; fill the column {column}")
    numbers = {word for word in present if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", word)} if not bce else set()
    numeric = numbers == present
    if odd := {word for word in numbers if not (numeric and word.isdecimal() and len(word) <= 18)}:
        raise UserError(
            f"manifest {manifest}: {column} is {min(odd)[:80]!r} in some line, but must be a number 0, 1, 2, ... "
            "throughout, or a name throughout (then give --class-names for names that are numbers)"
        )
    if not numeric:
        return sorted(present)
    by_value = {word.lstrip("0"): word for word in present}
    if len(by_value) < len(present):
        twice = next(word for word in sorted(present) if by_value[word.lstrip("0")] != word)
        raise UserError(
            f"manifest {manifest}: {column} is {twice[:80]} in some line and {by_value[twice.lstrip('0')][:80]} in "
            "another; write each number in one way"
        )
    return [by_value[value] for value in sorted(by_value, key=lambda value: (len(value), value))]


def _numbered(manifest, words, names, bce, column, lines):
    """Positions in `names` (N,), or for BCE vectors (N, k) float32 of 0 and 1."""
    number = {name: i for i, name in enumerate(names)}
    # A position is accepted beside names: "3" means the class of that number unless a class is called so.
    if not all(name.isdecimal() for name in names):
        number = {str(i): i for i in range(len(names))} | number
    for line, cell in zip(lines, words, strict=True):
        for word in cell:
            if word not in number and (word or not bce):
                what = f"{column} is {word[:80]!r}, but must be one of {some(names)}"
                raise UserError(f"manifest {manifest} line {line}: {what}; {nearest(word, names, 'correct it')}")
    if not bce:
        return np.array([number[word] for (word,) in words])
    labels = np.zeros((len(words), len(names)), np.float32)
    for row, cell in zip(labels, words, strict=True):
        row[[number[word] for word in cell if word]] = 1
    return labels


def _attributes(manifest, cells, lines):
    """The column `spurious` (N,) ints: numbers as they are, names by the order of their letters."""
    words = [[clean_name(cell)] for cell in cells]
    names = _found_names(manifest, words, "spurious", bce=False)
    positions = _numbered(manifest, words, names, False, "spurious", lines)
    if not all(name.isdecimal() for name in names):
        return positions
    bound = len(cells) + 1000  # far beyond it a number is a mistake, and what counts by number fills the memory
    if not _below(names[-1], bound):
        raise UserError(f"manifest {manifest}: spurious is {names[-1][:80]} in some line, but must be below {bound:,}")
    return np.array([int(name) for name in names])[positions]


def _below(digits, bound):
    """Whether a decimal number is below `bound`; Python refuses to read one of thousands of digits."""
    return len(digits.lstrip("0")) <= len(str(bound)) and int(digits) < bound


def _about_numbers(manifest, names):
    """A sentence where numbers do not count from 0: (a list, of one or none)."""
    if not all(name.isdecimal() for name in names) or names == [str(i) for i in range(len(names))]:
        return []
    return [
        f"the labels of {manifest} are the numbers {some(names)}, not 0, 1, 2, ...: these are taken as names, so that "
        f"the model's output 0 is class {names[0]}"
    ]


def _check_trained_on(manifest, train, everything):
    """Every class that is found has an image in train, or the model would learn never to predict it."""
    absent = np.flatnonzero(class_counts(train) == 0)
    if len(absent):
        name, count = train.class_names[absent[0]], class_counts(everything)[absent[0]]
        raise UserError(
            f"manifest {manifest} has no image of {name} in train, but {count:,} in other splits; mend the labels or "
            "the splits, or give --class-names to keep the class"
        )


def _split(manifest, cell, line):
    word = clean_name(cell) or "train"
    split = _SPLIT_NAMES.get(word.casefold())
    if split is None:
        raise UserError(
            f"manifest {manifest} line {line}: split is {word[:80]!r}, not one of {', '.join(_SPLIT_NAMES)}"
        )
    return split


def _check_each_once(manifest, paths, lines):
    first = {}
    for path, line in zip(paths, lines, strict=True):
        if first.setdefault(path, line) != line:
            raise UserError(
                f"manifest {manifest} lists {path} twice, in lines {first[path]} and {line}; keep one line an image"
            )


def _path_within(root, path, manifest, line):
    """The path within `root` that a cell gives, absolute or relative to it; refused where it would leave `root`."""
    if "\\" in path and not os.path.exists(os.path.join(root, path)):  # written on Windows
        path = path.replace("\\", "/")
    inside = os.path.normpath(path)
    if os.path.isabs(inside):
        inside = _below_folder(root, inside)
    if inside is None or inside.split(os.sep)[0] == os.pardir:
        raise UserError(
            f"manifest {manifest} line {line}: {path} lies outside {root}; give as --image-root a folder that holds "
            "all images"
        )
    return root / inside


def _below_folder(root, path):
    """An absolute path as one relative to `root`, however either is spelt, or None where it is not in it."""
    for folder, file in ((os.path.abspath(root), path), (os.path.realpath(root), os.path.realpath(path))):
        inside = os.path.relpath(file, folder)
        if inside.split(os.sep)[0] != os.pardir:
            return inside
    return None


def group_classes(source, groups):
    """Merge classes into superclasses; `spurious` becomes the original class.

    Args:
        source: an `ImageFiles` or `ImageArrays` with int labels.
        groups: list of lists of class names; each class is in exactly one.
    """
    groups = [[clean_name(name) for name in group] for group in groups]
    members = [name for group in groups for name in group]
    if sorted(members) != sorted(source.class_names):
        twice = sorted(name for name, count in Counter(members).items() if count > 1)
        odd = sorted(set(members) ^ set(source.class_names)) or twice
        raise UserError(f"--group-classes must name every class once; look at {', '.join(odd)}")
    group_of = {name: g for g, group in enumerate(groups) for name in group}
    superclass = np.array([group_of[name] for name in source.class_names])
    return replace(
        source,
        labels=superclass[source.labels],
        spurious=np.asarray(source.labels),
        class_names=["+".join(group) for group in groups],
    )
