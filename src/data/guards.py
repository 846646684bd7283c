"""What goes wrong when a person brings labels, predictions, probabilities and embeddings: told before it misleads.

Functions named `check_...` raise `UserError`; the others give a sentence, or None where all is well.
"""

import numpy as np

from ..runtime.english import some
from ..runtime.errors import UserError

NEARLY_RIGHT = 0.995
SMALLEST_CLUSTER = 6  # wrong images that a slice is made of, at least
ENOUGH_TO_TELL = 30  # images below which accuracy says nothing about order or training


def check_rows(**arrays):
    """Raise `UserError` where two of some named arrays differ in their number of rows; None is passed over."""
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"the numbers of rows differ ({told}): give one row an image, in one order, in all of them")


def check_finite(array, name="embeddings", rows_at_a_time=16_384):
    """Raise `UserError` with the numbers of the rows of (N, d) that hold NaN or infinity."""
    bad = []
    for start in range(0, len(array), rows_at_a_time):
        part = np.asarray(array[start : start + rows_at_a_time])
        bad += (start + np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(axis=1))).tolist()
    if bad:
        raise UserError(f"{len(bad)} row(s) of the {name} hold NaN or infinity: {some(bad)}; mend or leave them out")


def check_embeddings(embeddings, rows):
    """Raise `UserError` unless embeddings are numbers (rows, d), all finite."""
    if embeddings.ndim != 2 or not np.issubdtype(embeddings.dtype, np.number):
        raise UserError(
            f"the embeddings have the shape {embeddings.shape} and type {embeddings.dtype}: give numbers, one row an "
            "image"
        )
    if len(embeddings) != rows:
        raise UserError(
            f"the embeddings have {len(embeddings)} rows, and the table {rows}: row i of one belongs to row i of the "
            "other, so make them from the same list"
        )
    check_finite(embeddings)


def check_groups(groups, split):
    """Raise `UserError` where groups can't be shared out to find and confirm: all images are one."""
    if groups is not None and split is None and len(set(groups)) < 2:
        raise UserError(
            f"all images are of one group ({groups[0]}), which is never cut: name smaller groups, or give splits"
        )


def column_order(probs, labels, class_names):
    """A sentence where the columns of `probs` (N, K) are in another order than the classes, by what they predict.

    The mean probability of every column is taken among the images of every class; a permutation that gives the classes
    much more of it than the order as it stands is the columns' true order.
    """
    from scipy.optimize import linear_sum_assignment

    labels = np.asarray(labels)
    present = np.unique(labels)
    if len(labels) < ENOUGH_TO_TELL or len(present) < 2 or probs.shape[1] < 2:
        return None
    means = np.stack([np.asarray(probs[labels == c], dtype=np.float64).mean(axis=0) for c in present])
    rows, columns = linear_sum_assignment(-means)
    moved = columns != present
    if not moved.any():
        return None
    as_given, best = means[rows, present][moved].mean(), means[rows, columns][moved].mean()
    # Twice as much of the probability, and much of what there is: no weak model's confusions.
    if best < 2 * as_given or best < 0.3:
        return None
    names = {c: class_names[c] for c in (*present, *columns)}
    pairs = [f"column {j} ({names[j]}) predicts {names[c]}" for c, j in zip(present, columns, strict=True) if c != j]
    return (
        f"the columns of the probabilities seem to be in another order than the classes: {some(pairs, 4)}; these "
        f"classes have a mean probability of {as_given:.2f} in their own images, in the other order {best:.2f}"
    )


def below_chance(labels, preds, classes):
    """A sentence where a model is right less often than one that always says the commonest class of chance."""
    labels, preds = np.asarray(labels), np.asarray(preds)
    if len(labels) < ENOUGH_TO_TELL or classes < 2:
        return None
    accuracy = float((labels == preds).mean())
    # Three standard errors below.
    chance = 1 / classes
    if accuracy >= chance - 3 * np.sqrt(chance * (1 - chance) / len(labels)):
        return None
    return (
        f"the model is right on {accuracy:.1%} of the images, less than by chance ({chance:.1%}): see that labels and "
        "predictions count and name the classes alike"
    )


def training_rows(labels, preds):
    """A sentence where a model is right so often that these may be the images that it was trained on."""
    labels, preds = np.asarray(labels), np.asarray(preds)
    accuracy = float((labels == preds).mean()) if len(labels) else 0.0
    if len(labels) < ENOUGH_TO_TELL or accuracy < NEARLY_RIGHT:
        return None
    wrong = int((labels != preds).sum())
    return (
        f"the model is right on {accuracy:.2%} of the images ({wrong} wrong): if these are images it was trained on, "
        "its failures do not show in them; give images that it has not seen"
    )


def classes_in_test_alone(labels, split, class_names):
    """A sentence on classes that have images to confirm a failure, and none to find one."""
    if split is None:
        return None
    split, labels = np.asarray(split), np.asarray(labels)
    if not (split == "val").any() or not (split == "test").any():
        return None
    alone = np.setdiff1d(labels[split == "test"], labels[split == "val"])
    if not len(alone):
        return None
    return f"{some(class_names[c] for c in alone)}: no images in val (find), so nothing is looked for in these classes"


def too_few_images(labels, wrong, split, class_names):
    """A sentence on classes with fewer wrong images than a failure is made of, and how many images would do.

    Args:
        wrong: bool (N,).
        split: (N,) of "val" and "test", or None where each class will be halved.
    """
    labels, wrong = np.asarray(labels), np.asarray(wrong, dtype=bool)
    finding = np.ones(len(labels), dtype=bool) if split is None else np.asarray(split) == "val"
    needed_errors = SMALLEST_CLUSTER * (2 if split is None else 1)
    few = {}
    for c in np.unique(labels[finding]):
        rows = finding & (labels == c)
        errors = int(wrong[rows].sum())
        if 0 < errors < needed_errors:
            few[class_names[c]] = int(np.ceil(needed_errors * rows.sum() / errors))
    if not few:
        return None
    told = some([f"{name} (about {images} images)" for name, images in few.items()], 5)
    return (
        f"{len(few)} class(es) have fewer than the {needed_errors} wrong images that finding and confirming a failure "
        f"takes: {told} would do"
    )


def row_order(embeddings, labels, most=1500):
    """A sentence where the rows of embeddings (N, d) seem to be in another order than the labels (N,); else None.

    In an embedding of the same images an image's nearest neighbour has its label more often than by chance. Looked at
    are `most` rows, evenly taken.
    """
    rows = np.unique(np.linspace(0, len(labels) - 1, min(most, len(labels))).astype(int))
    labels = np.asarray(labels)[rows]
    counts = np.bincount(labels)
    chance = float((counts * (counts - 1)).sum() / (len(rows) * (len(rows) - 1))) if len(rows) > 1 else 1.0
    if len(rows) < ENOUGH_TO_TELL or chance == 1:
        return None
    points = np.asarray(embeddings[rows], dtype=np.float64)
    points -= points.mean(axis=0)
    points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-12
    cosines = points @ points.T
    np.fill_diagonal(cosines, -np.inf)
    same = float((labels[cosines.argmax(axis=1)] == labels).mean())
    if same > chance + 3 * np.sqrt(chance * (1 - chance) / len(rows)):
        return None
    return (
        f"neighbours in the embedding have the same label in {same:.0%} of {len(rows):,} images, as by chance "
        f"({chance:.0%}): see that row i of the embeddings belongs to row i of the table"
    )
