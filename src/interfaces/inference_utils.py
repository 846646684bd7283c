"""Judging generated images by CLIP (Radford et al., ICML 2021): do they show the class, and do they show the shift?"""

from dataclasses import dataclass

import numpy as np
import torch

from ..runtime.errors import UserError
from .defaults import CLIP_MODEL, CLIP_WEIGHTS, QUANTILE
from .encoders import create_token_dictionary

__all__ = [
    "Thresholds",
    "calibrate_thresholds",
    "clip_similarity",
    "create_token_dictionary",
    "filter_images",
    "load_clip",
]


def clip_similarity(imgs, text, clip_model=CLIP_MODEL, clip_weights=CLIP_WEIGHTS, device="auto"):
    """Cosine similarity between images and a text, or several.

    Score the object ("a photo of a dog") and the shift ("a photo in the grass") apart: a caption with both in it is
    matched well by images that show one of them.

    Args:
        imgs: PIL images.
        text: a string, or a list of them.
        clip_model, clip_weights: open_clip's name of a model and tag of its weights (or a file of them), or
            "local-dir:FOLDER", "hf-hub:NAME" or "scenes", which need no tag. The model is kept between calls.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        (len(imgs),) float32 array, -1..1; for a list of texts, (len(imgs), len(text)).
    """
    if not imgs:
        return np.zeros(0 if isinstance(text, str) else (0, len(text)), np.float32)
    clip = load_clip(clip_model, clip_weights, device)
    images = clip.encode_pictures(imgs, normalize=True)
    if isinstance(text, str):
        return images @ _encode_text(clip, text)
    return np.stack([images @ _encode_text(clip, each) for each in text], axis=1)


@dataclass(frozen=True)
class Thresholds:
    """The least similarities to the object's and to the shift's caption with which an image is kept."""

    object: float
    shift: float
    quantile: float | None = None  # of real images, where they were calibrated

    def reached(self, object_similarity, shift_similarity=None):
        """(N,) bool: which images are similar enough, from their similarities (N,) to either caption."""
        kept = object_similarity >= self.object
        return kept if shift_similarity is None else kept & (shift_similarity >= self.shift)


def calibrate_thresholds(real_imgs, object_text, shift_text=None, quantile=QUANTILE, **clip):
    """Thresholds from real images of a class. Ours: those that were used for ImageNet* were never released.

    An image shows the object when it is at least as similar to `object_text` as all but a share `quantile` of the real
    images are. It shows the shift when it is as similar to `shift_text` as the most similar share `quantile` of them:
    real images mostly do not show the shift.

    Args:
        real_imgs: PIL images of the class, 20 or more (fewer cannot tell a quantile of 0.05).
        object_text, shift_text: as for `clip_similarity`; without a shift its threshold is -1, which all images pass.
        quantile: 0..1.
        clip: `clip_model`, `clip_weights` and `device` of `clip_similarity`.
    """
    check_quantile(quantile)
    if not real_imgs:
        raise UserError("there are no real images to calibrate thresholds on; give some of the class")
    object_similarity, shift_similarity = _object_and_shift(real_imgs, object_text, shift_text, clip)
    least = np.quantile(object_similarity, quantile)
    shift = -1.0 if shift_similarity is None else np.quantile(shift_similarity, 1 - quantile)
    return Thresholds(float(least), float(shift), quantile)


def check_quantile(quantile):
    if not 0 <= quantile <= 1:
        raise UserError(f"the quantile is {quantile}; give one from 0 to 1")


def filter_images(imgs, object_text, shift_text, thresholds, **clip):
    """Which images show both the object and the shift.

    Args:
        imgs: PIL images.
        object_text, shift_text: as for `clip_similarity`; a `shift_text` of None asks for the object alone.
        thresholds: `Thresholds`, or a pair of numbers: object, shift.
        clip: `clip_model`, `clip_weights` and `device` of `clip_similarity`.

    Returns:
        (len(imgs),) bool array.
    """
    if not isinstance(thresholds, Thresholds):
        thresholds = Thresholds(*thresholds)
    return thresholds.reached(*_object_and_shift(imgs, object_text, shift_text, clip))


def _object_and_shift(imgs, object_text, shift_text, clip):
    """Similarities (N,) to the object's caption and to the shift's, or None for the latter."""
    if shift_text is None:
        return clip_similarity(imgs, object_text, **clip), None
    return clip_similarity(imgs, [object_text, shift_text], **clip).T


# ---------------------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------------------


def load_clip(clip_model=CLIP_MODEL, clip_weights=CLIP_WEIGHTS, device="auto"):
    """The CLIP that `clip_similarity` uses; it is kept.

    Args:
        clip_model, clip_weights, device: as for `clip_similarity`.

    Returns:
        `LoadedCLIP`.

    Raises:
        UserError: it is not at hand, or is damaged.
    """
    from ..embeddings.clip import load_clip  # late: open_clip takes a second to import

    return load_clip(clip_model, clip_weights, device)


@torch.no_grad()
def _encode_text(clip, text):
    """(d,) float32, of length 1."""
    tokens = clip.tokenizer([text]).to(clip.device)
    return clip.model.encode_text(tokens, normalize=True)[0].float().cpu().numpy()
