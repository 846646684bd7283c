"""What a training makes small."""

from torch.nn import functional as F


def example_losses(logits, labels, bce):
    """(B,) loss of each example: cross entropy, or for BCE the mean over its conditions."""
    if bce:
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
    return F.cross_entropy(logits, labels, reduction="none")
