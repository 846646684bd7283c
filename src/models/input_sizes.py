"""Whether a model takes images of a size, and batches of one: asked before the work, not found in the middle of it."""

import copy

import torch

from ..runtime.errors import UserError, one_line

_COSTLY = 512  # pixels a side, above which a model is not tried in earnest


def check_input(model, what, size, batch=None):
    """Raise `UserError` where a model can't take images of `size` x `size` pixels, or train on as few as `batch`.

    A copy without weights is tried, which costs next to nothing; where that fails, one with them.

    Args:
        what: the model's name, for the error.
        batch: images of the smallest batch in training; None where it is not trained.
    """
    own = getattr(model, "pretrained_cfg", None) or {}
    own = own.get("input_size") if isinstance(own, dict) else None
    wants = f"set imgsz to {own[-1]}, which {what} is made for" if own else "set imgsz to the size it is made for"
    if error := _complaint(model, size, 1, training=False):
        raise UserError(f"{what} can't take images of {size} x {size} pixels ({one_line(error)}): {wants}")
    if batch == 1 and (error := _complaint(model, size, 1, training=True)):
        raise UserError(
            f"{what} can't be trained on a batch of one image ({one_line(error)}), and the last batch is one: set "
            "drop_last: true, or another batch_size"
        )


def _complaint(model, size, batch, training):
    """What a model says of a batch of images, or None where it takes them. The model stays as it is."""
    error = None
    for device in ("meta", "cpu") if size <= _COSTLY else ("meta",):
        try:
            tried = copy.deepcopy(model).to(device).train(training)
            with torch.no_grad():
                tried(torch.zeros(batch, 3, size, size, device=device))
        except Exception as raised:  # a model's own, of any kind
            error = raised
        else:
            return None
    # What has no numbers on its device says nothing about the size.
    return None if isinstance(error, NotImplementedError) or "meta" in str(error) else error
