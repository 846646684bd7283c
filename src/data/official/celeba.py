"""CelebA (Liu et al., ICCV 2015): ages with gender as `spurious`, and genders with hair colour.

Official files, all in one folder or in `Anno/`, `Eval/` and `Img/` as they are offered: `list_attr_celeba.txt`,
`list_eval_partition.txt` and the aligned images in `img_align_celeba/`.
"""

import numpy as np

from ...runtime.errors import UserError
from ..image_sources import ImageFiles
from .files import SPLIT_NUMBERS, by_split, codes, listed_images, official_path, read_lines

ORIGIN = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
BLACK, BLOND, OTHER_HAIR = range(3)


def celeba_age_sources(folder):
    """Train, val and test by the official partition: old 0, young 1; `spurious` female 0, male 1."""
    return _sources(folder, ["old", "young"], "Young", ["Male"], lambda male: male)


def celeba_gender_sources(folder):
    """Train, val and test by the official partition: female 0, male 1; `spurious` is the colour of the hair.

    Black 0, blond 1, 2 where an image is marked as neither or as both.
    """
    return _sources(folder, ["female", "male"], "Male", ["Black_Hair", "Blond_Hair"], _hair)


def _hair(black, blond):
    return np.select([black > blond, blond > black], [BLACK, BLOND], OTHER_HAIR)


def _sources(folder, class_names, label, others, spurious):
    """`spurious` is a function of the 0/1 arrays of the attributes `others`."""
    names, attributes, listing = _read_attributes(folder, [label, *others])
    splits = _read_partition(folder, names)
    images = official_path(folder, ["img_align_celeba", "Img/img_align_celeba"], ORIGIN)
    paths = listed_images(images, names, listing)
    everything = ImageFiles(paths, attributes[0], class_names, spurious(*attributes[1:]))
    return by_split(everything, splits)


def _read_attributes(folder, wanted):
    """Image names, the wanted attributes as 0/1 arrays (N,), and the file's path."""
    path = official_path(folder, ["list_attr_celeba.txt", "Anno/list_attr_celeba.txt"], ORIGIN)
    lines = read_lines(path)
    if len(lines) < 3:
        raise UserError(f"{path} lists no images; get it again from {ORIGIN}")
    count, header, *rows = lines
    for name in wanted:
        if name not in header:
            raise UserError(f"{path} has no attribute {name}; get it again from {ORIGIN}")
    if count != [str(len(rows))]:
        raise UserError(f"{path} announces {' '.join(count)} images, but lists {len(rows)}; get it again")
    for line, words in enumerate(rows, start=3):
        if len(words) != len(header) + 1:
            raise UserError(f"{path} line {line} has {len(words) - 1} attributes, not {len(header)}; get it again")
    columns = [header.index(name) + 1 for name in wanted]
    values = [
        codes(path, name, (words[column] for words in rows), {"-1": 0, "1": 1})
        for name, column in zip(wanted, columns, strict=True)
    ]
    return [words[0] for words in rows], values, path


def _read_partition(folder, names):
    """The split's number of every image."""
    path = official_path(folder, ["list_eval_partition.txt", "Eval/list_eval_partition.txt"], ORIGIN)
    rows = read_lines(path)
    if [words[0] for words in rows] != names or any(len(words) != 2 for words in rows):
        raise UserError(
            f"{path} does not list the {len(names)} images of list_attr_celeba.txt in their order; get both files again"
        )
    return codes(path, "the partition", (words[1] for words in rows), SPLIT_NUMBERS)
