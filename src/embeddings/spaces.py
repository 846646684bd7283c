"""Embeddings: the space in which a direction is looked for, computed in the pass that gives the base predictions.

An embedding is a callable `(images (B, 3, H, W), latents (B, d)) -> (B, dim)`; `images` are normalised as the data
set's config says, `latents` are the base model's penultimate features. `of_model` says whether it depends on the base
model; else it serves every model of the data set. `name` tells embeddings apart.
"""

import torch
from torch.nn import functional as F

from ..models.build import pretrained_timm, pretrained_torchvision, weights_digest


class LatentEmbedding:
    """The base model's own penultimate features."""

    name, of_model = "latent", True

    def __call__(self, images, latents):
        return latents


class Prepared:
    """Images as another network wants them: the data set's normalisation undone, resized, and normalised its way.

    Args:
        config: the `DatasetConfig`.
        size: pixels.
        mean, std: on the 0..255 scale.
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
        import timm.data

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
        from .clip import clip_of

        self.clip = clip_of(svm_config, config, device)
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
