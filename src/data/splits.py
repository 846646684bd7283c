"""The splits of a run: which examples of which beton are train, val, test and the unlabeled pool."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import UserError
from .betons import Beton, open_beton
from .index_files import DIGEST, load_index_file
from .run_files import check_run_files


@dataclass(frozen=True)
class Split:
    """Some examples of a beton.

    Attributes:
        name: "train", "val", "test", "unlabeled" or "extra".
        indices: (N,) int64 positions in the beton.
    """

    name: str
    beton: Beton
    indices: np.ndarray

    def __len__(self):
        return len(self.indices)

    @property
    def has_spurious(self):
        return "spurious" in self.beton.fields

    def column(self, field):
        """A number field of the split's examples, (N,), or a vector field, (N, k)."""
        return self.beton.column(field)[self.indices]


def open_splits(config, root=".", indices_file=None, unlabeled=False, extra=False, verify=False):
    """Open the betons of a `DatasetConfig` and cut them into splits, with every check.

    Args:
        root: folder that the config's betons are relative to.
        indices_file: index file, or None where the config has a `val_beton`.
        unlabeled: whether the extra pool is wanted; it is an error if there is none.
        extra: whether images of `unlabeled_beton` that the index file adds to train are wanted, where there are any.
        verify: whether betons above 1 GiB are read to be compared with their checksums, as smaller ones always are.

    Returns:
        dict of `Split`: train, val, test and, if wanted, unlabeled and extra.
    """
    check_run_files(config, root, indices_file, unlabeled)
    index = load_index_file(indices_file) if indices_file else {}
    files = {"train": config.train_beton, "val": config.val_beton or config.train_beton, "test": config.test_beton}
    if unlabeled:
        files["unlabeled"] = config.unlabeled_beton or config.train_beton
        if config.unlabeled_beton is None and "unlabeled_indices" not in index:
            raise UserError(
                "there is no unlabeled pool: set unlabeled_beton, or give an index file with one, made by "
                "failure-directions index --set-apart-every before the model is trained"
            )
    if extra and "extra_indices" in index:
        if config.unlabeled_beton is None:
            raise UserError(
                f"index file {indices_file} has extra_indices, of an unlabeled_beton, but the config names none; use "
                "the config that the file was made with"
            )
        files["extra"] = config.unlabeled_beton
    betons = {name: open_beton(Path(root) / name) for name in dict.fromkeys(files.values())}
    for beton in betons.values():
        beton.check_content(whole=verify)
    if DIGEST in index and index[DIGEST] != betons[files["train"]].labels_digest:
        raise UserError(
            f"index file {indices_file} was made for a train beton with other labels than "
            f"{Path(root) / files['train']}; use the beton of its result, or make the file again"
        )
    splits = {}
    for name in files:
        beton = betons[files[name]]
        if f"{name}_indices" in index:
            indices = index[f"{name}_indices"]
        elif name in ("train", "test") or getattr(config, f"{name}_beton"):
            indices = np.arange(len(beton))
        else:
            raise UserError(f"index file {indices_file} has no {name}_indices, and the config no {name}_beton")
        splits[name] = Split(name, beton, indices)
    for split in splits.values():
        _check_indices(split, indices_file)
        _check_labels(split, config)
    _check_disjoint(splits, indices_file)
    return splits


def _check_indices(split, indices_file):
    where = f"index file {indices_file}: {split.name}_indices"
    if len(split) == 0:
        raise UserError(f"{where} is empty; make the index file again")
    low, high = split.indices.min(), split.indices.max()
    if low < 0 or high >= len(split.beton):
        raise UserError(
            f"{where} holds {low if low < 0 else high}, but beton {split.beton.path} has examples 0 to "
            f"{len(split.beton) - 1}; use the index file that was made for it"
        )
    values, counts = np.unique(split.indices, return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{where} holds {values[counts.argmax()]} more than once; make the index file again")


def _check_disjoint(splits, indices_file):
    names = list(splits)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if splits[one].beton.path.resolve() != splits[other].beton.path.resolve():
                continue
            common = np.intersect1d(splits[one].indices, splits[other].indices)
            if len(common):
                raise UserError(
                    f"{one} and {other} share {len(common)} examples of {splits[one].beton.path} (the first is "
                    f"{common[0]}): correct the config's betons or the index file {indices_file or '(none given)'}"
                )


def _check_labels(split, config):
    labels = split.column("label")
    where = f"beton {split.beton.path}"
    if config.bce:
        if labels.ndim != 2 or labels.shape[1] != config.num_classes:
            raise UserError(
                f"{where} has {'one label' if labels.ndim == 1 else f'{labels.shape[1]} labels'} an image, but with "
                f"bce the config's num_classes asks for {config.num_classes} 0/1 labels"
            )
        if not np.isin(labels, (0, 1)).all():
            raise UserError(f"{where} has labels other than 0 and 1, which bce needs")
        return
    if labels.ndim != 1:
        raise UserError(f"{where} has {labels.shape[1]} labels an image; set bce: true in the config")
    low, high = labels.min(), labels.max()
    if low < 0 or high >= config.num_classes:
        raise UserError(
            f"{where} has the label {low if low < 0 else high}, but the config's num_classes is "
            f"{config.num_classes}; correct one of them"
        )
