"""The base model of a setting: a thin ResNet-10, trained in memory on a CPU in two minutes."""

from dataclasses import dataclass

import numpy as np
import torch
from failure_directions.data.augmentation import Augmentation, augment, epoch_key
from failure_directions.models.build import build_model
from failure_directions.models.features import FeatureExtractor
from torch.nn import functional as F

EPOCHS, PEAK_EPOCH, BATCH, LEARNING_RATE = 8, 2, 128, 0.2
AUGMENTATION = Augmentation(flip=True, translate=2)


@dataclass(frozen=True)
class BaseModel:
    """A trained network and the normalisation of its inputs (0..255 scale)."""

    network: torch.nn.Module
    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, images, batch=1000):
        """Probabilities float32 (N, k) and penultimate features float32 (N, 128) of uint8 (N, H, W, 3)."""
        self.network.eval()
        probs, features = [], []
        with torch.inference_mode(), FeatureExtractor(self.network) as extract:
            for start in range(0, len(images), batch):
                logits, penultimate = extract(_normalised(images[start : start + batch], self.mean, self.std))
                probs.append(logits.softmax(1).numpy())
                features.append(penultimate.numpy())
        return np.concatenate(probs), np.concatenate(features)


def train(images, labels, num_classes, seed, epochs=EPOCHS, start=None, weights=None, rate=LEARNING_RATE):
    """A `BaseModel` of uint8 images (N, H, W, 3) and int labels (N,): SGD, flips and shifts, a triangular rate.

    `start`, a `BaseModel`, is trained further in place of a new one; `weights` (N,) are of the images' losses.
    """
    torch.manual_seed(seed)
    network = build_model("cifar_resnet", "resnet10thin", num_classes).to(memory_format=torch.channels_last)
    if start is not None:
        network.load_state_dict(start.network.state_dict())
    weights = None if weights is None else torch.from_numpy(np.asarray(weights / np.mean(weights), np.float32))
    optimizer = torch.optim.SGD(network.parameters(), lr=1, momentum=0.9, weight_decay=5e-4)
    images, labels = torch.from_numpy(images), torch.from_numpy(np.asarray(labels, dtype=np.int64))
    sample = images[:5000].float()
    mean, std = (sample.mean((0, 1, 2)), sample.std((0, 1, 2))) if start is None else (start.mean, start.std)
    steps, peak = len(images) // BATCH or 1, min(PEAK_EPOCH, epochs / 2)
    for epoch in range(epochs):
        network.train()
        order = torch.from_numpy(np.random.default_rng([seed, 5, epoch]).permutation(len(images)))
        for step, index in enumerate(order[: steps * BATCH].split(BATCH)):
            position = epoch + step / steps
            rising, falling = position / peak, (epochs - position) / (epochs - peak)
            optimizer.param_groups[0]["lr"] = rate * min(rising, falling)
            shown = augment(images[index], AUGMENTATION, mean.round().to(torch.uint8), epoch_key(seed, epoch), index)
            loss = F.cross_entropy(network(_normalised(shown, mean, std)), labels[index], reduction="none")
            loss = (loss if weights is None else loss * weights[index]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return BaseModel(network, mean, std)


def _normalised(images, mean, std):
    images = images if isinstance(images, torch.Tensor) else torch.from_numpy(images)
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)
