"""Which captions lie along a class's failure direction, and how the model does on the images that they describe.

A caption's score is the decision value of text(caption) - text(reference), whitened and normalised as the images are:
lowest is hardest. Its sign carries no meaning, because every difference has the images' mean taken from it and so all
may lie on one side; the order does, and the z-score over a class's candidates says how far a caption stands out.
"Distilling Model Failures as Directions in Latent Space", Jain et al., ICLR 2023; the z-score is ours.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from .captions import get_caption_set
from .errors import UserError
from .svm_utils import SVMFitter

SIDES = ("hard", "easy")
SUBPOPULATION_SIZES = tuple(range(20, 201, 20))
CHUNK_NUMBERS = 2**17  # numbers scored at a time: 1 MiB in float64 stays in the cache, twice as fast as all at once


def caption_scores(fitter, c, caption_latents, reference_latent):
    """Decision values of class `c` for caption embeddings, relative to a reference caption's.

    Args:
        fitter: a fitted `SVMFitter`.
        caption_latents: float (M, d), as CLIP gives them, not normalised. reference_latent: float (d,).

    Returns:
        float64 (M,); lowest is hardest.

    Raises:
        UserError: class `c` was skipped, or the embeddings are not of the fitter's space.
    """
    if c in fitter.skipped:
        raise UserError(f"class {c} has no direction to describe: {fitter.skipped[c]}; choose another class")
    caption_latents, reference_latent = np.asarray(caption_latents), np.asarray(reference_latent)
    scores = np.empty(len(caption_latents))
    step = max(1, CHUNK_NUMBERS // len(reference_latent))
    # One BLAS thread: on blocks this small a second one gains nothing, and waiting for it on a busy machine costs much.
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, len(scores), step):
            differences = caption_latents[start : start + step] - reference_latent
            _, scores[start : start + step] = fitter.predict(ys=np.full(len(differences), c), latents=differences)
    return scores


def z_scores(scores):
    """`scores` (M,) in standard deviations from their mean, float64; zeros where all are equal."""
    scores = np.asarray(scores, dtype=np.float64)
    deviation = scores.std()
    return (scores - scores.mean()) / deviation if deviation > 0 else np.zeros_like(scores)


@dataclass(frozen=True)
class RankedCaptions:
    """The candidate captions of one class, the hardest first.

    captions: list of M; scores, z: float64 (M,), ascending; latents: float (M, d), the captions' embeddings.
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
    captions = generator.captions(kind)
    if not captions:
        raise UserError(f"class {c} has no captions of kind {kind}: all are excluded; choose another kind")
    latents = np.asarray(clip.evaluate_clip_captions([generator.reference, *captions]))
    scores = caption_scores(fitter, c, latents[1:], latents[0])
    order = np.argsort(scores, kind="stable")
    return RankedCaptions([captions[i] for i in order], scores[order], z_scores(scores)[order], latents[1:][order])


def describe_directions(fitter, clip, caption_set, class_names, top_k=10, kind="all"):
    """The hardest and easiest captions of every class, as rows of `OUT_captions.csv`.

    Args:
        fitter, clip, kind: as in `rank_captions`.
        caption_set: from `get_caption_set`.
        class_names: list, in the order of the labels.
        top_k: captions a side, at least 1; fewer where a class has fewer.

    Returns:
        list of dicts with class (int), class_name, side ("hard", then "easy"), rank (1 = most extreme), caption, score
        and z. A skipped class has none; `fitter.skipped` has the reason.

    Raises:
        UserError: the caption set does not fit the classes.
    """
    _check_top_k(top_k)
    rows = []
    for c, generator in enumerate(caption_set.for_classes(class_names)):
        if c in fitter.skipped:
            continue
        ranked = rank_captions(fitter, clip, generator, c, kind)
        rows += [
            {
                "class": c,
                "class_name": class_names[c],
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


def caption_similarity(image_latents, labels, caption_latents):
    """Cosine similarity of every image to the hardest and to the easiest caption of its class.

    Args:
        image_latents: float (N, d), of one split; labels: int (N,).
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
        labels: int (N,); correct: bool or 0/1 (N,), whether the model is right.
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


class ClipAnalyzer:
    """The captions along the directions of a result.

        analyzer = ClipAnalyzer(proc, "cifar_svm_model.pt", "CIFAR", class_names)
        analyzer.get_svm_style_top_K(target_c=3, caption_type="all", K=10)["neg_captions"]

    proc: an `SVMProcessor`. svm_model: path of `OUT_model.pt`, or a fitted `SVMFitter`. caption_set: a name of
    `CAPTION_SETS`, the path of a YAML file, or a `CaptionSet`. class_names: by default those of the result.
    clip: the `CLIPProcessor`; by default it is made as the result's SVM config says, on `device`.
    Raises `UserError` where the result is not of CLIP embeddings, and where the captions do not fit its classes.
    """

    def __init__(self, proc, svm_model, caption_set, class_names=None, clip=None, device="auto"):
        svm_config = proc.result["svm_config"]
        if svm_config["embedding"] != "clip":
            raise UserError(
                f"captions need directions in CLIP's space, and these are in {svm_config['embedding']!r}; "
                "run train_svms.py with embedding: clip"
            )
        self.fitter = svm_model if isinstance(svm_model, SVMFitter) else SVMFitter.load(svm_model)
        self.class_names = list(proc.result["class_names"] if class_names is None else class_names)
        self.caption_set = get_caption_set(caption_set) if isinstance(caption_set, str | Path) else caption_set
        self.generators = self.caption_set.for_classes(self.class_names)
        self.clip = _make_clip(svm_config, proc.result["dataset_config"], device) if clip is None else clip

    def get_svm_style_top_K(self, target_c, caption_type="all", K=10):  # the published name
        """The `K` hardest and easiest captions of class `target_c`, the most extreme first.

        caption_type: "all", "noun", "adj" or "prep". Returns a dict: neg_captions (the hard ones), a list of at most K,
        neg_vals, their scores float64 (K,), neg_latents, their embeddings (K, d); pos_captions, pos_vals and
        pos_latents of the easy ones. Raises `UserError` for a class that was skipped, with the reason.
        """
        _check_top_k(K)
        if not 0 <= target_c < len(self.generators):
            raise UserError(f"target_c {target_c} is no class: give 0 to {len(self.generators) - 1}")
        ranked = rank_captions(self.fitter, self.clip, self.generators[target_c], target_c, caption_type)
        top = {}
        for prefix, side in (("neg", "hard"), ("pos", "easy")):
            chosen = ranked.side(side, K)
            top[f"{prefix}_captions"] = [ranked.captions[i] for i in chosen]
            top[f"{prefix}_vals"], top[f"{prefix}_latents"] = ranked.scores[chosen], ranked.latents[chosen]
        return top


def _make_clip(svm_config, dataset_config, device):
    from .clip import CLIPProcessor  # open_clip takes seconds to import, and scoring alone does not need it

    return CLIPProcessor(
        dataset_config["mean"],
        dataset_config["std"],
        arch=svm_config["clip_model"],
        pretrained=svm_config["clip_pretrained"],
        device=device,
    )


def _check_top_k(top_k):
    if top_k < 1:
        raise UserError(f"top_k = {top_k} shows no captions; choose 1 or more")
