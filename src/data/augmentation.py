"""Augmentation as a batched operation on the device, repeatable example by example.

FFCV's own augmentations can't be seeded. Here the random numbers of an image are a hash of (seed, epoch, index): the
same on every device, in any batch, after a resume and with any number of processes. Ours.
"""

from dataclasses import dataclass

import numpy as np
import torch

_MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Augmentation:
    """What is done to an image: a mirrored, shifted view with a hole; what is uncovered shows the mean colour.

    Attributes:
        flip: mirror half of the images left to right.
        translate: largest shift in each direction, pixels.
        cutout: side of the square hole, pixels.
    """

    flip: bool = False
    translate: int = 0
    cutout: int = 0


AUGMENTATIONS = {
    "cifar_train_aug": Augmentation(flip=True, translate=2, cutout=4),
    "imagenet_train_aug": Augmentation(flip=True),
}


def epoch_key(seed, epoch):
    """One 32-bit number for a seed and an epoch, unlike those of their neighbours."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def keyed_uniform(key, index, draws):
    """Uniform numbers in [0, 1) that depend on (key, index, draw) alone.

    Args:
        key: int below 2**32, from `epoch_key`.
        index: (B,) int64 tensor of example numbers.
        draws: how many numbers an example gets.

    Returns:
        (B, draws) float32 tensor on `index`'s device.
    """
    # Two rounds of MurmurHash3's 32-bit finaliser. int64 holds 32-bit words, and wrapped products keep the low ones.
    word = (index[:, None] * 0x9E3779B1 + torch.arange(draws, device=index.device) * 0x85EBCA77 + key) & _MASK
    for _ in range(2):
        word = ((word ^ (word >> 16)) * 0x85EBCA6B) & _MASK
        word = ((word ^ (word >> 13)) * 0xC2B2AE35) & _MASK
        word = word ^ (word >> 16)
    return (word >> 8).to(torch.float32) / (1 << 24)


def augment(images, augmentation, fill, key, index):
    """Augment a batch of raw images.

    Args:
        images: (B, H, W, 3) uint8.
        fill: (3,) uint8, the colour of what is uncovered.
        key, index: see `keyed_uniform`.

    Returns:
        (B, H, W, 3) uint8.
    """
    batch, height, width, _ = images.shape
    device = images.device
    draws = keyed_uniform(key, index, 5)
    if augmentation == Augmentation(flip=True):
        # Whole images are chosen from both, which is several times faster than to gather their pixels.
        both = torch.cat([images, images.flip(2)])
        return both.index_select(0, torch.arange(batch, device=device) + batch * (draws[:, 0] < 0.5))
    rows = torch.arange(height, device=device).expand(batch, height)
    columns = torch.arange(width, device=device).expand(batch, width)
    visible = None
    if augmentation.translate:
        shift = (draws[:, 1:3] * (2 * augmentation.translate + 1)).long() - augmentation.translate
        rows, columns = rows + shift[:, :1], columns + shift[:, 1:]
        visible = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    if augmentation.flip:
        columns = torch.where(draws[:, :1] < 0.5, width - 1 - columns, columns)
    if augmentation.cutout:
        in_rows = _random_run(draws[:, 3:4], augmentation.cutout, height)
        in_columns = _random_run(draws[:, 4:5], augmentation.cutout, width)
        outside = ~(in_rows[:, :, None] & in_columns[:, None, :])
        visible = outside if visible is None else visible & outside
    # One gather of whole pixels moves everything; a pixel appended at the end holds the colour of what is uncovered.
    start = torch.arange(batch, device=device)[:, None] * (height * width)
    pixels = (start + rows * width).int()[:, :, None] + columns.int()[:, None, :]
    source = images.reshape(-1, 3)
    if visible is not None:
        pixels.masked_fill_(~visible, len(source))
        source = torch.cat([source, fill[None]])
    return source.index_select(0, pixels.view(-1)).view_as(images)


def _random_run(draw, length, size):
    """(B, size) bool: `length` positions in a row that lie in [0, size), by a (B, 1) draw."""
    start = (draw * (size - length + 1)).long()
    positions = torch.arange(size, device=draw.device)
    return (positions >= start) & (positions < start + length)
