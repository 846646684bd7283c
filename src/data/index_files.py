"""Index files: which examples of a beton are train, validation and the unlabeled pool."""

import numpy as np
import torch

from ..runtime.errors import UserError
from ..runtime.pt_files import INTEGERS, is_plain_tensor, load_pt, save_pt
from .run_files import existing_index_file

KEYS = ("train_indices", "val_indices", "unlabeled_indices", "extra_indices")
DIGEST = "train_labels_digest"


def set_apart(labels, candidates, every):
    """Of each class among `candidates`, in their order, the 1st, (every + 1)th, (2 every + 1)th, ... example.

    Args:
        labels: (N,) class of every example of the data set.
        candidates: (M,) ascending indices to choose from.
        every: a step, or a function of the class that gives one.

    Returns:
        The set-apart indices, class by class in class order, and the rest in ascending order.
    """
    step = every if callable(every) else lambda _: every
    chosen = [candidates[labels[candidates] == c][:: step(c)] for c in np.unique(labels[candidates])]
    chosen = np.concatenate(chosen) if chosen else candidates[:0]
    return chosen, np.setdiff1d(candidates, chosen)


def split_indices(labels, val_every=5, set_apart_every=None, set_apart_as="unlabeled"):
    """The split rule: of each class every `val_every`th example is validation; of the rest every n-th is set apart.

    Args:
        labels: (N,) ints.
        set_apart_every: n, or None to leave all of the rest to train.
        set_apart_as: what the set-apart part is: "unlabeled" (the rest is train) or "train" (the rest is unlabeled).

    Returns:
        dict of int64 arrays for `save_index_file`.
    """
    val, rest = set_apart(labels, np.arange(len(labels)), val_every)
    if set_apart_every is None:
        return {"train_indices": rest, "val_indices": val}
    part, rest = set_apart(labels, rest, set_apart_every)
    train, unlabeled = (rest, part) if set_apart_as == "unlabeled" else (part, rest)
    return {"train_indices": train, "val_indices": val, "unlabeled_indices": unlabeled}


def thin(indices, groups, steps):
    """Of each group in `steps` keep the 1st, (step + 1)th, ... of `indices`, in their order; keep all others.

    Args:
        indices: (M,) of one split.
        groups: (N,) group of every example of the data set, such as its `spurious` value.
        steps: dict group -> step.
    """
    keep = np.ones(len(indices), dtype=bool)
    for group, step in steps.items():
        members = np.flatnonzero(groups[indices] == group)
        keep[members] = np.arange(len(members)) % step == 0
    return indices[keep]


def skew(labels, spurious, subgroups, majority):
    """Of each class n examples of a minority and `majority` x n of a majority, those that come first.

    Args:
        labels, spurious: (N,) ints.
        subgroups: list of (class, minority's value of `spurious`, majority's value). The first class is the reference:
            n is the size of its minority, or that of its majority // `majority` where this is smaller.
        majority: how many times as large as the minority the majority is, 1 or more.

    Returns:
        Ascending indices, examples of no other class or value among them.

    Raises:
        UserError: a class has too few.
    """
    members = [
        [np.flatnonzero((labels == c) & (spurious == value)) for value in (minority, common)]
        for c, minority, common in subgroups
    ]
    n = max(1, min(len(members[0][0]), len(members[0][1]) // majority))
    chosen = []
    for (c, *values), found in zip(subgroups, members, strict=True):
        for value, candidates, count in zip(values, found, (n, majority * n), strict=True):
            if len(candidates) < count:
                raise UserError(
                    f"class {c} has {len(candidates)} examples with spurious {value}, but a majority of {majority} x "
                    f"the minority takes {count}; choose a smaller --majority, or name the rarest class first"
                )
            chosen.append(candidates[:count])
    return np.sort(np.concatenate(chosen))


def save_index_file(path, splits, labels_digest=None):
    """Save a dict of index arrays as int64 tensors; `labels_digest` of the train beton ties the file to it."""
    content = {key: torch.as_tensor(np.asarray(value, dtype=np.int64)) for key, value in splits.items()}
    save_pt(content | ({DIGEST: labels_digest} if labels_digest else {}), path)


def load_index_file(path):
    """Load an index file, by path or by the name of one of index_files/, as a dict of int64 arrays.

    It has the keys of `KEYS` that the file has, and the digest where there is one.

    Raises:
        UserError: the file is missing, damaged, would run code, or holds something else.
    """
    path = existing_index_file(path)
    content = load_pt(
        path,
        "index file",
        "make it with failure-directions index, or convert a published one with failure-directions convert",
    )
    if not isinstance(content, dict):
        raise UserError(
            f"index file {path} holds a {type(content).__name__}, not a dict of tensors; "
            "make it with failure-directions index"
        )
    if "unlabelled_indices" in content:
        content.setdefault("unlabeled_indices", content["unlabelled_indices"])
    splits = {}
    for key in KEYS:
        value = content.get(key)
        if value is None:
            continue
        if not is_plain_tensor(value, 1, INTEGERS):
            raise UserError(f"index file {path}: {key} is not a one-dimensional tensor of integers; make it again")
        splits[key] = value.numpy().astype(np.int64)
    if not splits:
        raise UserError(f"index file {path} has none of {', '.join(KEYS)}; make it with failure-directions index")
    if isinstance(content.get(DIGEST), str):
        splits[DIGEST] = content[DIGEST]
    return splits
