"""Embeddings: the space in which a direction is looked for, computed in the pass that gives the base predictions.

An embedding is a callable `(images (B, 3, H, W), latents (B, d)) -> (B, dim)`; `images` are normalised as the data
set's config says, `latents` are the base model's penultimate features. `of_model` says whether it depends on the base
model; else it serves every model of the data set. `name` tells embeddings apart.
"""

import contextlib
import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import timm.data
import torch
from torch.nn import functional as F

from .distributed import barrier, broadcast, is_main
from .errors import UserError
from .evaluation import Predictions, predict
from .files import atomic_path, create_npy, load_pt, save_pt
from .models import weights_digest
from .models.build import pretrained_timm, pretrained_torchvision


class LatentEmbedding:
    """The base model's own penultimate features."""

    name, of_model = "latent", True

    def __call__(self, images, latents):
        return latents


class Prepared:
    """Images as another network wants them: the data set's normalisation undone, resized, and normalised its way.

    Args:
        config: the `DatasetConfig`. size: pixels. mean, std: on the 0..255 scale.
    """

    def __init__(self, config, size, mean, std, device, mode="bilinear"):
        own = config.mean or [0.0] * 3, config.std or [255.0] * 3
        (self._own_mean, self._own_std), (self._mean, self._std) = (
            [torch.tensor(numbers, device=device)[:, None, None] for numbers in pair] for pair in (own, (mean, std))
        )
        self.size, self.mode = size, mode

    def __call__(self, images):
        pixels = images * self._own_std + self._own_mean
        pixels = F.interpolate(pixels, size=self.size, mode=self.mode, antialias=True, align_corners=False)
        return (pixels.clamp(0, 255) - self._mean) / self._std


class InceptionEmbedding:
    """The 2,048 pooled features of torchvision's Inception v3, trained on ImageNet."""

    name, of_model = "inception_v3 IMAGENET1K_V1", False

    def __init__(self, config, device):
        model = pretrained_torchvision("inception_v3", transform_input=False, init_weights=False)
        model.fc = torch.nn.Identity()
        self.model = model.eval().to(device, memory_format=torch.channels_last)
        self.prepared = Prepared(config, 299, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], device)

    def __call__(self, images, latents):
        return self.model(self.prepared(images))


class TimmEmbedding:
    """The pooled features of a pretrained model of timm."""

    of_model = False

    def __init__(self, svm_config, config, device):
        model = pretrained_timm(svm_config.timm_model, svm_config.timm_weights)
        model.reset_classifier(0)
        self.model = model.eval().to(device, memory_format=torch.channels_last)
        options = timm.data.resolve_model_data_config(model)
        size = svm_config.timm_size or options["input_size"][-1]
        mean, std = ([255 * number for number in options[key]] for key in ("mean", "std"))
        self.prepared = Prepared(config, size, mean, std, device, options["interpolation"])
        self.name = f"timm {svm_config.timm_model} {size} {weights_digest(model)}"

    def __call__(self, images, latents):
        return self.model(self.prepared(images))


class ClipEmbedding:
    """CLIP's image embeddings (the paper's choice)."""

    of_model = False

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
    if svm_config.embedding == "timm":
        return TimmEmbedding(svm_config, config, device)
    return ClipEmbedding(svm_config, config, device)


def cache_folder(checkpoint_path, otherwise):
    """`embeddings/` in the checkpoint's run; in the folder `otherwise` where it is in none, or its run is read-only."""
    folder = Path(checkpoint_path).absolute().parent
    of_run = folder.name == "checkpoints" and os.access(folder.parent, os.W_OK)
    return (folder.parent if of_run else Path(otherwise)) / "embeddings"


class EmbeddingCache:
    """Predictions and embeddings of splits, kept on disk and memory-mapped.

    A file each a split, named by a hash of all that it depends on: the beton's content, the indices, how images are
    prepared, the device's kind, and the model's weights or the embedding (both, where the embedding is the model's).
    Each is written under a temporary name.
    """

    def __init__(self, folder, model, embedding, config, device):
        self.folder, self.model, self.embedding = Path(folder), model, embedding
        self.config, self.device = config, device
        how = (config.imgsz, config.val_img_decoder, config.val_aug, config.mean, config.std, config.bce, device.type)
        self._of_model = f"{how} {weights_digest(model)}"
        self._of_embedding = f"{self._of_model if embedding.of_model else how} {embedding.name}"

    def get(self, loader):
        """`Predictions` and (N, d) float32 embeddings (a read-only memory map) of a loader's split."""
        predictions_path = self._path(loader.split, self._of_model, "predictions.pt")
        embeddings_path = self._path(loader.split, self._of_embedding, "embeddings.npy")
        # Where rank 0 lacks a file, all processes compute it together, and rank 0 writes it.
        if not broadcast(embeddings_path.exists()):
            with atomic_path(embeddings_path) if is_main() else contextlib.nullcontext() as temporary:
                allocate = functools.partial(create_npy, temporary)
                self._predict(loader, predictions_path, self.embedding, allocate)
        if not broadcast(predictions_path.exists()):
            self._predict(loader, predictions_path)
        barrier()
        content = load_pt(predictions_path, "cached predictions", f"delete {self.folder}")
        try:
            arrays = {name: None if value is None else value.numpy() for name, value in content.items()}
            found, embeddings = Predictions(**arrays), np.load(embeddings_path, mmap_mode="r")
        except (AttributeError, TypeError, ValueError, EOFError):
            raise UserError(
                f"{embeddings_path} or the predictions beside it are damaged; delete {self.folder}"
            ) from None
        if not len(embeddings) == len(found.confs) == len(loader.split):
            raise UserError(f"{embeddings_path} does not have a row an image; delete {self.folder}")
        return found, embeddings

    def _path(self, split, of, ending):
        digest = hashlib.sha256(f"{of} {split.beton.fingerprint}".encode())
        digest.update(split.indices.tobytes())
        return self.folder / f"{split.name}_{digest.hexdigest()[:16]}_{ending}"

    def _predict(self, loader, path, *embedding_and_place):
        found = predict(self.model, loader, self.device, self.config.bce, *embedding_and_place)
        tensors = {name: None if array is None else torch.from_numpy(array) for name, array in vars(found).items()}
        if is_main():
            save_pt(tensors, path)
