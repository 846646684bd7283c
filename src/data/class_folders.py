"""Images in class folders, `[SPLIT/]CLASS/**/FILE`: what is taken in, and what is left out by name.

Hidden names (.ipynb_checkpoints, ._cat.png, .DS_Store) are skipped, as are the folders that systems leave behind.
Everything else is read, or named and counted in the notes.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..runtime.english import some
from ..runtime.errors import UserError
from .names import SPLIT_NAMES, alike, clean_name

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for names in ("jpg jpeg jpe jfif", "png apng", "bmp dib", "webp gif", "tif tiff", "ppm pgm pbm pnm")
    for name in names.split()
)
SYSTEM_FOLDERS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"))
# The first bytes of the formats that `read_image` reads, where a suffix does not say what a file is.
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")


@dataclass(frozen=True)
class ClassFolders:
    """What a folder holds, one entry an image, in the order split, class, path.

    Attributes:
        paths: list of str.
        classes: list of str, the class of each.
        class_names: sorted as torchvision's ImageFolder does, empty class folders among them.
        splits: list of "train", "val", "test", or None without split folders.
        notes: sentences on what was left out, merged or looks wrong.
        folders: dict (split or None, class) -> path of the class's folder, the first of several, empty ones among them.
    """

    paths: list
    classes: list
    class_names: list
    splits: list | None
    notes: list
    folders: dict


def read_class_folders(folder, splits=True, train=False):
    """Find the images of a folder.

    Args:
        folder: path.
        splits: take top folders as splits where every one of them has a split's name; False: they are classes.
        train: images to train a model on: top folders are splits, train among them, maybe `unlabeled`; others are left
            out and named.

    Returns:
        `ClassFolders`.

    Raises:
        UserError: there is no such folder, or no image in class folders.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"the folder {folder} does not exist; check the path")
    top = _visible_folders(folder)
    known = SPLIT_NAMES | {"unlabeled": "unlabeled"} if train else SPLIT_NAMES
    named = {entry: known.get(clean_name(entry.name).casefold()) for entry in top}
    if train and "train" not in named.values():
        raise UserError(f"{folder} has no folder train/CLASS/ with images; lay images out as SPLIT/CLASS/FILE")
    others = sorted(entry.name for entry, split in named.items() if not split)
    if train:
        top = [entry for entry in top if named[entry]]
        named = {entry: named[entry] for entry in top}
    as_splits = splits and bool(top) and all(named.values())
    walk = _Walk()
    loose, found, empty, folders, merged = [], [], {}, {}, []
    for parent in top if as_splits else [folder]:
        split = named[parent] if as_splits else None
        loose += walk.files(parent, deep=False)
        for entry in _visible_folders(parent):
            name = clean_name(entry.name)
            images = walk.files(entry, deep=True)
            found += [(split, name, path) for path in images]
            empty[name] = empty.get(name, True) and not images
            if folders.setdefault((split, name), entry).parent == parent and folders[split, name] != entry:
                merged.append(name)
    if as_splits:
        loose += walk.files(folder, deep=False)
    if not found:
        raise _nothing_found(folder, top, as_splits, loose, walk)
    # Stable, so that files stay in the order of their paths.
    order = {split: i for i, split in enumerate(("train", "val", "test", "unlabeled", None))}
    found.sort(key=lambda entry: (order[entry[0]], entry[1]))
    notes = walk.notes(folder)
    if merged:
        notes.append(f"folders that differ by blanks or the spelling of accents alone are one class: {some(merged)}")
    if train and others:
        notes.append(f"left out of {folder}, because they are no split ({', '.join(sorted(known))}): {some(others)}")
    if loose:
        notes.append(f"{len(loose)} image(s) of {folder} lie in no class folder and are left out, such as {loose[0]}")
    if without := sorted(name for name, is_empty in empty.items() if is_empty):
        notes.append(f"class folder(s) without an image: {some(without)}")
    notes += alike(empty, "the class folders")
    if not as_splits and splits and any(named.values()):
        notes.append(
            f"the top folders of {folder} are taken as classes, because {some(others)} is no split (train, val, test, "
            "find, confirm)"
        )
    if as_splits and len(set(named.values())) < len(named):
        notes.append(f"several top folders of {folder} are one split: {some(sorted(entry.name for entry in top))}")
    return ClassFolders(
        [path for *_, path in found],
        [name for _, name, _ in found],
        sorted(empty),
        [split for split, *_ in found] if as_splits else None,
        notes,
        folders,
    )


def list_images(folder):
    """Paths of the images of one folder and of those in it, sorted, and sentences on what else is there."""
    walk = _Walk()
    return [Path(path) for path in walk.files(folder, deep=True)], walk.notes(folder)


def _nothing_found(folder, top, as_splits, loose, walk):
    if loose and as_splits:
        return UserError(
            f"{loose[0]} and the other images of {folder} lie in no class folder: lay them out as SPLIT/CLASS/FILE, or "
            f"give --no-splits where {some(sorted(entry.name for entry in top))} are the classes"
        )
    if loose:
        return UserError(
            f"{folder} has images, but not in class folders: lay them out as CLASS/FILE or SPLIT/CLASS/FILE, or list "
            "them in a table path,label"
        )
    if walk.other:
        return UserError(f"{folder} holds no image that can be read, but {walk.describe_other()}; convert them to PNG")
    return UserError(f"{folder} holds no images: lay them out as CLASS/FILE or SPLIT/CLASS/FILE")


class _Walk:
    """Lists image files, and remembers what else was there."""

    def __init__(self):
        self.other, self.example, self.by_content, self.called_images = Counter(), {}, 0, []

    def files(self, folder, deep):
        """Paths (str) of the images in a folder, sorted; with `deep` those of its folders, too."""
        images, waiting = [], [(str(folder), ())]
        while waiting:
            place, above = waiting.pop()
            real = os.path.realpath(place)
            if real in above:  # a link to a folder that it lies in
                continue
            folders = []
            for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    folders.append((entry.path, (*above, real)))
                    if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                        self.called_images.append(entry.path)
                elif self._is_image(entry):
                    images.append(entry.path)
            if deep:
                waiting += reversed(folders)
        return images

    def _is_image(self, entry):
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in IMAGE_SUFFIXES:
            return True
        if entry.is_file() and _begins_as_image(entry.path):
            self.by_content += 1
            return True
        self.other[suffix or "no suffix"] += 1
        self.example.setdefault(suffix or "no suffix", entry.path)
        return False

    def describe_other(self):
        """How many files of which kinds are no images, with an example."""
        kinds = [f"{suffix} ({count})" for suffix, count in self.other.most_common()]
        example = self.example[self.other.most_common(1)[0][0]]
        return f"{self.other.total()} other file(s): {some(kinds)}, such as {example}"

    def notes(self, folder):
        """Sentences on what was left out of a folder."""
        notes = []
        if self.other:
            notes.append(f"left out of {folder}, not images that are read here: {self.describe_other()}")
        if self.called_images:
            notes.append(
                f"{len(self.called_images)} folder(s) are called as images are, such as {self.called_images[0]}"
            )
        if self.by_content:
            notes.append(f"{self.by_content} file(s) of {folder} are images by their content and were read as such")
        return notes


def is_hidden(name):
    """Whether a file or folder of this name is no one's image or class."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _visible_folders(folder):
    return sorted(entry for entry in Path(folder).iterdir() if entry.is_dir() and not is_hidden(entry.name))


def _begins_as_image(path):
    try:
        with open(path, "rb") as stream:
            beginning = stream.read(12)
    except OSError:
        return False
    return beginning.startswith(_BEGINNINGS) or (beginning[:4] == b"RIFF" and beginning[8:] == b"WEBP")
