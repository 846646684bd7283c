"""Embeddings: the space in which a direction is looked for, computed in the pass that gives the base predictions.

An embedding is a callable `(images (B, 3, H, W), latents (B, d)) -> (B, dim)`; `images` are normalised as the data
set's config says, `latents` are the base model's penultimate features.
"""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from .evaluation import Predictions, predict
from .files import atomic_path, create_npy, load_pt, save_pt
from .models.build import pretrained_torchvision


class LatentEmbedding:
    """The base model's own penultimate features."""

    name = "latent"

    def __call__(self, images, latents):
        return latents


class InceptionEmbedding:
    """The 2,048 pooled features of torchvision's Inception v3, trained on ImageNet."""

    name = "inception_v3 IMAGENET1K_V1"

    def __init__(self, config, device):
        model = pretrained_torchvision("inception_v3", transform_input=False, init_weights=False)
        model.fc = torch.nn.Identity()
        self.model = model.eval().to(device, memory_format=torch.channels_last)
        # The data set's normalisation, undone, and ImageNet's, on the 0..255 scale.
        own = config.mean or [0.0] * 3, config.std or [255.0] * 3
        imagenet = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
        (self._own_mean, self._own_std), (self._mean, self._std) = (
            [torch.tensor(numbers, device=device)[:, None, None] for numbers in pair] for pair in (own, imagenet)
        )

    def __call__(self, images, latents):
        pixels = images * self._own_std + self._own_mean
        pixels = F.interpolate(pixels, size=299, mode="bilinear", antialias=True, align_corners=False)
        return self.model((pixels - self._mean) / self._std)


class ClipEmbedding:
    """CLIP's image embeddings (the paper's choice)."""

    def __init__(self, svm_config, config, device):
        from .clip import CLIPProcessor  # open_clip takes seconds to import

        self.clip = CLIPProcessor(config.mean, config.std, svm_config.clip_model, svm_config.clip_pretrained, device)
        self.name = self.clip.fingerprint

    def __call__(self, images, latents):
        return self.clip.encode_images(images)


def make_embedding(svm_config, config, device):
    """The embedding that an `SVMConfig` names."""
    if svm_config.embedding == "latent":
        return LatentEmbedding()
    if svm_config.embedding == "inception":
        return InceptionEmbedding(config, device)
    return ClipEmbedding(svm_config, config, device)


def cache_folder(checkpoint_path, otherwise):
    """`embeddings/` in the run that a checkpoint belongs to; in the folder `otherwise` where the run is read-only."""
    run = Path(checkpoint_path).absolute().parent
    run = run.parent if run.name == "checkpoints" else run
    return (run if os.access(run, os.W_OK) else Path(otherwise)) / "embeddings"


class EmbeddingCache:
    """Predictions and embeddings of splits, kept on disk and memory-mapped.

    Two files a split, named by a hash of all that they depend on: the beton's content, the indices, the model's
    weights, the embedding, how images are prepared, and the device's kind. Each is written under a temporary name, the
    predictions last, so that a run killed in between computes them again.
    """

    def __init__(self, folder, model, embedding, config, device):
        self.folder, self.model, self.embedding = Path(folder), model, embedding
        self.config, self.device = config, device
        how = (config.imgsz, config.val_img_decoder, config.val_aug, config.mean, config.std, config.bce, device.type)
        self._digest = hashlib.sha256(repr((embedding.name, how)).encode())
        for name, weight in model.state_dict().items():
            self._digest.update(name.encode())
            self._digest.update(weight.cpu().contiguous().numpy().tobytes())

    def get(self, loader):
        """`Predictions` and (N, d) float32 embeddings (a read-only memory map) of a loader's split."""
        split = loader.split
        digest = self._digest.copy()
        digest.update(split.beton.fingerprint.encode())
        digest.update(split.indices.tobytes())
        stem = f"{split.name}_{digest.hexdigest()[:16]}"
        predictions_path = self.folder / f"{stem}_predictions.pt"
        embeddings_path = self.folder / f"{stem}_embeddings.npy"
        if not (predictions_path.exists() and embeddings_path.exists()):
            self._compute(loader, predictions_path, embeddings_path)
        content = load_pt(predictions_path, "cached predictions", f"delete {self.folder}")
        arrays = {name: None if value is None else value.numpy() for name, value in content.items()}
        return Predictions(**arrays), np.load(embeddings_path, mmap_mode="r")

    def _compute(self, loader, predictions_path, embeddings_path):
        with atomic_path(embeddings_path) as temporary:
            allocate = functools.partial(create_npy, temporary)
            predictions = predict(self.model, loader, self.device, self.config.bce, self.embedding, allocate)
        arrays = {name: None if value is None else torch.from_numpy(value) for name, value in vars(predictions).items()}
        save_pt(arrays, predictions_path)
