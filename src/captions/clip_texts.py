"""Captions and word lists as statements on images: how near a CLIP finds a text to an image."""

import itertools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..embeddings.clip import CLIPProcessor
from .vocabulary import CaptionSet, read_vocabulary

MOST_TEXTS = 20_000  # of a class; more are cut off, and told
BATCH = 32
DEFAULT_CLIP = "ViT-B/32"


@dataclass
class ClipTexts:
    """A vocabulary, and the CLIP that compares it with images.

    Attributes:
        clip: a `CLIPProcessor`.
        vocabulary: list of texts, or a `CaptionSet`.
        notes: sentences on what was cut off.
    """

    clip: CLIPProcessor
    vocabulary: list | CaptionSet
    notes: list

    def texts(self, class_name):
        """The texts for a class, a list."""
        if isinstance(self.vocabulary, list):
            texts = self.vocabulary
        else:
            candidates = self.vocabulary.for_class(class_name).candidates()
            texts = list(dict.fromkeys(itertools.islice(candidates, MOST_TEXTS + 1)))
        if len(texts) > MOST_TEXTS:
            told = f"of the texts only the first {MOST_TEXTS:,} are asked; give fewer to have all of them"
            self.notes += [told] if told not in self.notes else []
        return texts[:MOST_TEXTS]

    def scores(self, images, texts):
        """Cosine similarities float32 (N, S) of an iterable of uint8 images (H, W, 3) and S texts."""
        words = _unit(self.clip.evaluate_clip_captions(texts))
        images, rows = iter(images), []
        while batch := list(itertools.islice(images, BATCH)):
            rows.append(_unit(self.clip.encode_pictures([Image.fromarray(image) for image in batch])) @ words.T)
        return np.concatenate(rows) if rows else np.empty((0, len(texts)), np.float32)


def read_texts(captions, clip=None):
    """`ClipTexts` of a vocabulary.

    Args:
        captions: as `vocabulary.read_vocabulary` takes them.
        clip: a `CLIPProcessor`, or as its `arch`, with "@TAG" for weights other than OpenAI's; None for ViT-B/32.

    Raises:
        UserError: as `read_vocabulary`, or a CLIP that is not at hand.
    """
    vocabulary = read_vocabulary(captions)
    if not isinstance(clip, CLIPProcessor):
        name, _, tag = (clip or DEFAULT_CLIP).partition("@")
        clip = CLIPProcessor((0, 0, 0), (255, 255, 255), name, tag or "openai")
    return ClipTexts(clip, vocabulary, [])


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
