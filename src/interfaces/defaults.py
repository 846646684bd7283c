"""The models that are used unless others are named, and how strictly images are filtered."""

DEFAULT_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CLIP_MODEL, CLIP_WEIGHTS = "ViT-H-14", "laion2b_s32b_b79k"
QUANTILE = 0.05
"""Of the similarities of real images: a threshold that all but this share of them reach."""
