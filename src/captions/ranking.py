"""Which captions lie along a class's failure direction, and how the model does on the images that they describe.

A caption's score is the decision value of text(caption) - text(reference), whitened and normalised as the images are:
lowest is hardest. Its sign carries no meaning, because every difference has the images' mean taken from it and so all
may lie on one side; the order does, and the z-score over a class's candidates says how far a caption stands out.
"Distilling Model Failures as Directions in Latent Space", Jain et al., ICLR 2023; the z-score is ours.
"""

from dataclasses import dataclass

import numpy as np

from ..directions.results import SIDES
from ..runtime.errors import UserError


def z_scores(scores):
    """`scores` (M,) in standard deviations from their mean, float64; zeros where all are equal."""
    scores = np.asarray(scores, dtype=np.float64)
    deviation = scores.std()
    return (scores - scores.mean()) / deviation if deviation > 0 else np.zeros_like(scores)


@dataclass(frozen=True)
class RankedCaptions:
    """The candidate captions of one class, the hardest first.

    Attributes:
        captions: list of M.
        scores, z: float64 (M,), ascending.
        latents: float (M, d), the captions' embeddings.
    """

    captions: list
    scores: np.ndarray
    z: np.ndarray
    latents: np.ndarray

    def side(self, side, k):
        """Indices of the `k` most extreme captions of a side, "hard" or "easy", the most extreme first."""
        order = np.arange(len(self.captions))
        return (order if side == "hard" else order[::-1])[:k]


def rank_captions(fitter, clip, generator, c, kind="all"):
    """Score the captions of a kind for class `c` and sort them: `RankedCaptions`.

    Args:
        fitter: a fitted `SVMFitter`, on embeddings of the same CLIP.
        clip: a `CLIPProcessor`, or anything whose `evaluate_clip_captions(list)` gives (M, d).
        generator: the class's `CaptionGenerator`.
        kind: "all", "noun", "adj" or "prep".

    Raises:
        UserError: class `c` was skipped, or has no captions of that kind.
    """
    captions, latents = _embedded(clip, generator, c, kind)
    return _ranked(captions, latents, fitter.caption_scores(c, latents[1:], latents[0]))


def _embedded(clip, generator, c, kind):
    """Captions of a kind, and embeddings (M + 1, d) of the reference and of these."""
    captions = generator.captions(kind)
    if not captions:
        raise UserError(f"class {c} has no captions of kind {kind}: all are excluded; choose another kind")
    return captions, np.asarray(clip.evaluate_clip_captions([generator.reference, *captions]))


def _ranked(captions, latents, scores):
    order = np.argsort(scores, kind="stable")
    return RankedCaptions([captions[i] for i in order], scores[order], z_scores(scores)[order], latents[1:][order])


def describe_directions(fitter, clip, caption_set, class_names, top_k=10, kind="all", slices=()):
    """The hardest and easiest captions of every class, and of slices, as rows of `OUT_captions.csv`.

    Args:
        fitter, clip, kind: as in `rank_captions`.
        caption_set: from `get_caption_set`.
        class_names: list, in the order of the labels.
        top_k: captions a side, at least 1; fewer where a class has fewer.
        slices: list of `confirmation.Slice`, found in the fitter's space; their captions are scored as a class's are.

    Returns:
        list of dicts with class (int), class_name, slice ("" for the class's own direction), side ("hard", then
        "easy"), rank (1 = most extreme), caption, score and z. A skipped class has none of its own; `fitter.skipped`
        has the reason.

    Raises:
        UserError: the caption set does not fit the classes.
    """
    check_top_k(top_k)
    rows = []
    for c, generator in enumerate(caption_set.for_classes(class_names)):
        of_class = [one for one in slices if one.class_index == c]
        if c in fitter.skipped and not of_class:
            continue
        captions, latents = _embedded(clip, generator, c, kind)
        scores = {} if c in fitter.skipped else {"": fitter.caption_scores(c, latents[1:], latents[0])}
        for one in of_class:
            scores[one.id] = _slice_scores(one, fitter.preprocess, latents)
        for name, values in scores.items():
            ranked = _ranked(captions, latents, values)
            rows += [
                {
                    "class": c,
                    "class_name": class_names[c],
                    "slice": name,
                    "side": side,
                    "rank": rank,
                    "caption": ranked.captions[i],
                    "score": float(ranked.scores[i]),
                    "z": float(ranked.z[i]),
                }
                for side in SIDES
                for rank, i in enumerate(ranked.side(side, top_k), start=1)
            ]
    return rows


def _slice_scores(one, preprocess, latents, block=4096):
    """Decision values (M,) of a slice for text(caption) - text(reference), the first of `latents`."""
    starts = range(1, len(latents), block)
    return np.concatenate([one.score(preprocess(latents[i : i + block] - latents[0])) for i in starts])


def check_top_k(top_k):
    if top_k < 1:
        raise UserError(f"top_k = {top_k} shows no captions; choose 1 or more")
