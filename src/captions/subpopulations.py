"""The images nearest a caption, and how well the model does on them."""

import numpy as np

from ..directions.results import SIDES

SUBPOPULATION_SIZES = tuple(range(20, 201, 20))


def caption_similarity(image_latents, labels, caption_latents):
    """Cosine similarity of every image to the hardest and to the easiest caption of its class.

    Args:
        image_latents: float (N, d), of one split.
        labels: int (N,).
        caption_latents: dict class -> (latent (d,) of its hardest caption, latent (d,) of its easiest), of the captions
            themselves, not of differences.

    Returns:
        dict side ("hard", "easy") -> float64 (N,), NaN in classes without captions.
    """
    similarity = {side: np.full(len(labels), np.nan) for side in SIDES}
    for c, latents in caption_latents.items():
        members = np.flatnonzero(labels == c)
        images = np.asarray(image_latents[members], dtype=np.float64)
        norms = np.linalg.norm(images, axis=1)
        for side, latent in zip(SIDES, latents, strict=True):
            caption = np.asarray(latent, dtype=np.float64)
            lengths = norms * np.linalg.norm(caption)
            similarity[side][members] = images @ caption / np.where(lengths == 0, 1, lengths)
    return similarity


def subpopulation_accuracy(similarity, labels, correct, sizes=SUBPOPULATION_SIZES):
    """A model's accuracy on each class's hard and easy subpopulations (Jain et al. 2023).

    Args:
        similarity: dict side -> (N,), as `caption_similarity` gives it; a class with NaN is left out.
        labels: int (N,).
        correct: bool or 0/1 (N,), whether the model is right.
        sizes: numbers of images K.

    Returns:
        list of dicts with class, k, hard, easy (accuracies on the K images of the class that are most similar to that
        side) and class_mean (on all of them). A K above the class's size is left out.
    """
    labels, correct = np.asarray(labels), np.asarray(correct)
    rows = []
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        if np.isnan(similarity["hard"][members]).any():
            continue
        right = correct[members].astype(np.float64)
        hard, easy = (right[np.argsort(-similarity[side][members], kind="stable")] for side in SIDES)
        rows += [
            {
                "class": int(c),
                "k": k,
                "hard": float(hard[:k].mean()),
                "easy": float(easy[:k].mean()),
                "class_mean": float(right.mean()),
            }
            for k in sizes
            if k <= len(members)
        ]
    return rows


def extreme_latents(clip, rows):
    """What `caption_similarity` asks for, from the rows of `describe_directions`: dict class -> (hard, easy)."""
    first = {(row["class"], row["side"]): row["caption"] for row in rows if row["rank"] == 1}
    latents = (
        dict(zip(first, np.asarray(clip.evaluate_clip_captions(list(first.values()))), strict=True)) if first else {}
    )
    return {c: (latents[c, "hard"], latents[c, "easy"]) for c in dict.fromkeys(c for c, _ in first)}
