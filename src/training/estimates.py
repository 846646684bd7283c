"""How long a training will take, from a few steps of it."""

import copy
import time

import torch

from ..runtime.distributed import world_size
from .losses import example_losses

ENOUGH = 0.3  # seconds of a step that tell its time
FORWARD = 1 / 3  # of a step's time is the pass over an image that is only looked at


def seconds_an_epoch(model, config, device, train, val):
    """About how many seconds an epoch takes: steps on `train` images, and a look at `val` images.

    Measured on a copy of the model with random images, more and more until a step takes long enough to be measured.
    Neither the model nor the random numbers of a training change.
    """
    model, size = copy.deepcopy(model).train(), min(8, config.batch_size)
    with torch.random.fork_rng(devices=[]):
        while True:
            images = torch.randn(size, 3, config.imgsz, config.imgsz, device=device)
            labels = torch.zeros((size, config.num_classes) if config.bce else size, device=device)
            labels = labels if config.bce else labels.long()
            seconds = min(_step(model, images, labels, config.bce) for _ in range(2))
            if seconds > ENOUGH or size == config.batch_size:
                return seconds / size * (train + FORWARD * val) / world_size()
            size = min(2 * size, config.batch_size)


def _step(model, images, labels, bce):
    began = time.perf_counter()
    example_losses(model(images.contiguous(memory_format=torch.channels_last)), labels, bce).mean().backward()
    return time.perf_counter() - began
