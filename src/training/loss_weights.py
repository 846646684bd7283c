"""Loss weights of the training images."""

import torch

from ..runtime.errors import UserError
from ..runtime.pt_files import is_plain_tensor, load_pt


def load_loss_vector(path, train):
    """A loss vector, checked against the train `Split`: (M,) float32, finite and >= 0 on the train indices."""
    vector = load_pt(path, "loss vector", "make it again as a float tensor over the train beton")
    if not is_plain_tensor(vector, 1):
        raise UserError(f"loss vector {path} is not a one-dimensional tensor; make it one weight per training image")
    needed = int(train.indices.max()) + 1
    if len(vector) < needed:
        raise UserError(
            f"loss vector {path} has {len(vector)} weights, but the train indices go up to {needed - 1}; "
            "make it for this beton and index file"
        )
    if len(vector) > len(train.beton):
        raise UserError(
            f"loss vector {path} has {len(vector)} weights, but beton {train.beton.path} has {len(train.beton)} "
            "examples; make it for this beton"
        )
    weights = vector.float()[torch.from_numpy(train.indices)]
    bad = ~(weights.isfinite() & (weights >= 0))
    if bad.any():
        first = int(train.indices[int(bad.float().argmax())])
        raise UserError(
            f"loss vector {path} is {vector[first]:g} for training image {first} (and {int(bad.sum()) - 1} more), "
            "but weights must be finite and at least 0"
        )
    if not weights.any():
        raise UserError(f"loss vector {path} is 0 for every training image, so nothing would be learned")
    return vector.float()


def extended_loss_vector(vector, splits, extra_weight):
    """Weights for a `MixedLoader`'s index: of the train beton's examples, and `extra_weight` for all extra ones.

    Args:
        vector: (M,) from `load_loss_vector`, or None for ones.
        splits: list of `Split`, train and extra ones.
    """
    train, *extras = splits
    weights = torch.ones(len(train.beton) + sum(len(extra.beton) for extra in extras))
    if vector is not None:
        weights[: min(len(vector), len(train.beton))] = vector[: len(train.beton)]
    weights[len(train.beton) :] = extra_weight
    return weights
