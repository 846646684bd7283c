"""Colored MNIST (after Arjovsky et al., 2019): digits below five against the rest, in red and green.

Official files: MNIST's four IDX files (LeCun et al., 1998), plain or `.gz`, in one folder or in torchvision's
`MNIST/raw/`.
"""

import gzip
import math
import urllib.error
import zlib
from pathlib import Path

import numpy as np

from ...runtime.errors import UserError
from ..image_sources import ImageArrays
from ..index_files import split_indices
from .files import check_classes, official_path

ORIGIN = "https://ossci-datasets.s3.amazonaws.com/mnist/ (or add --download)"
CLASSES = ["below five", "five and above"]


def colored_mnist_sources(
    folder, train_corr=0.92, label_noise=0.25, val_corr=0.5, seed=10, unlabeled=False, download=False
):
    """Train, val and test and, if wanted, half of train as the unlabeled pool.

    Of each class every 5th image of MNIST's training file is val, and every 2nd of the rest is unlabeled. `spurious`
    is the tint, red 0, green 1; it agrees with the label in a share of each class, exactly but for rounding.

    Args:
        train_corr: share of train in which the tint is the label, 0 to 1.
        label_noise: share of each class of train whose label is turned, in [0, 1); the tint follows the turned label.
        val_corr: the share in val, test and unlabeled, where no label is turned.
        seed: of what is drawn: which images are turned, and which disagree.
    """
    for name, share in (("train-corr", train_corr), ("val-corr", val_corr)):
        if not 0 <= share <= 1:
            raise UserError(f"--{name} {share} is not a share between 0 and 1")
    if not 0 <= label_noise < 1:
        raise UserError(f"--label-noise {label_noise} is not a share of 0 or more and below 1")
    if seed < 0:
        raise UserError(f"--seed {seed} is not 0 or more")
    if download:
        _download(folder)
    (images, digits), test = _read_mnist(folder, "train"), _read_mnist(folder, "t10k")
    parts = split_indices(digits >= 5, set_apart_every=2 if unlabeled else None)
    sources = {}
    for number, split in enumerate(("train", "val", "test", "unlabeled")):
        if split == "test":
            chosen = test
        elif f"{split}_indices" in parts:
            chosen = images[parts[f"{split}_indices"]], digits[parts[f"{split}_indices"]]
        else:
            continue
        in_train = split == "train"
        sources[split] = color_digits(
            *chosen,
            correlation=train_corr if in_train else val_corr,
            label_noise=label_noise if in_train else 0,
            rng=np.random.default_rng([seed, number]),
        )
    check_classes(sources)
    return sources


def color_digits(images, digits, correlation, label_noise, rng):
    """Digits in red (0) or green (1) as an `ImageArrays`, labelled 0 below five and 1 from five on.

    Args:
        images: (N, H, W) uint8 greys.
        digits: (N,) 0..9.
        correlation, label_noise: shares, see `colored_mnist_sources`.
    """
    labels = (digits >= 5).astype(np.int64)
    labels = np.where(_drawn_share(labels, label_noise, rng), 1 - labels, labels)
    tints = np.where(_drawn_share(labels, correlation, rng), labels, 1 - labels)
    colored = np.zeros((*images.shape, 3), np.uint8)
    colored[np.arange(len(images)), :, :, tints] = images
    return ImageArrays(colored, labels, CLASSES, tints)


def _drawn_share(groups, share, rng):
    """(N,) bools that are true for a share of each group."""
    drawn = np.zeros(len(groups), dtype=bool)
    for group in np.unique(groups):
        members = rng.permutation(np.flatnonzero(groups == group))
        drawn[members[: round(share * len(members))]] = True
    return drawn


def _read_mnist(folder, part):
    """Images (N, H, W) uint8 and digits (N,) of "train" or "t10k"."""
    images = _read_idx(folder, f"{part}-images-idx3-ubyte", dimensions=3)
    digits = _read_idx(folder, f"{part}-labels-idx1-ubyte", dimensions=1)
    if len(images) != len(digits):
        raise UserError(f"MNIST in {folder} has {len(images)} {part} images but {len(digits)} labels; get it again")
    if digits.max(initial=0) > 9:
        raise UserError(f"MNIST in {folder} has the {part} label {digits.max()}, which is no digit; get it again")
    return images, digits


def _read_idx(folder, name, dimensions):
    """An IDX file of bytes: two zeros, the type (8), the number of dimensions, big-endian sizes, then the content."""
    places = [f"{place}{name}{suffix}" for place in ("", "MNIST/raw/") for suffix in ("", ".gz")]
    path = official_path(folder, places, ORIGIN)
    content = path.read_bytes()
    damaged = UserError(f"{path} is truncated or no IDX file of {dimensions} dimensions; get it again from {ORIGIN}")
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            raise damaged from None
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise damaged
    sizes = [int.from_bytes(content[at : at + 4]) for at in range(4, start, 4)]
    if len(content) != start + math.prod(sizes):
        raise damaged
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _download(folder):
    from torchvision.datasets import MNIST

    if any(Path(folder).glob("train-images-idx3-ubyte*")):
        return
    try:
        MNIST(Path(folder), download=True)
    except (urllib.error.URLError, ConnectionError, TimeoutError, RuntimeError) as error:
        reason = str(getattr(error, "reason", error)).strip().splitlines()[-1]
        raise UserError(
            f"MNIST could not be downloaded ({reason}); get its four IDX files from {MNIST.mirrors[0]} on another "
            f"machine and put them into {folder}"
        ) from None
