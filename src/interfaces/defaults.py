"""The models that are used unless others are named, how they are sampled, and how strictly images are filtered."""

from typing import NamedTuple

DEFAULT_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SCENES_MODEL = "scenes"  # the embedded one of the drawn images
CLIP_MODEL, CLIP_WEIGHTS = "ViT-H-14", "laion2b_s32b_b79k"
QUANTILE = 0.05
"""Of the similarities of real images: a threshold that all but this share of them reach."""


class Sampling(NamedTuple):
    """How a diffusion model makes images.

    Attributes:
        batch_size: images made at once.
        steps: of Euler's method.
        guidance: how closely to follow the prompts.
    """

    batch_size: int
    steps: int
    guidance: float


USUAL_SAMPLING, SCENES_SAMPLING = Sampling(4, 50, 7.5), Sampling(20, 20, 3.0)
