"""`ClipAnalyzer`: the captions of a stored result, for notebooks."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import UserError
from ..svm_utils import SVMFitter
from .ranking import check_top_k, rank_captions
from .vocabulary import CaptionSet, get_caption_set

if TYPE_CHECKING:
    from ..directions.galleries import SVMProcessor
    from ..embeddings.clip import CLIPProcessor


class ClipAnalyzer:
    """The captions along the directions of a result.

        analyzer = ClipAnalyzer(proc, "cifar_svm_model.pt", "CIFAR", class_names)
        analyzer.get_svm_style_top_K(target_c=3, caption_type="all", K=10)["neg_captions"]

    Args:
        proc: an `SVMProcessor`.
        svm_model: path of `OUT_model.pt`, or a fitted `SVMFitter`.
        caption_set: a name of `CAPTION_SETS`, the path of a YAML file, or a `CaptionSet`.
        class_names: by default those of the result.
        clip: the `CLIPProcessor`; by default it is made as the result's SVM config says, on `device`.

    Raises:
        UserError: the result is not of CLIP embeddings, or the captions do not fit its classes.
    """

    def __init__(
        self,
        proc: "SVMProcessor",
        svm_model: str | Path | SVMFitter,
        caption_set: str | Path | CaptionSet,
        class_names: Sequence[str] | None = None,
        clip: "CLIPProcessor | None" = None,
        device: str = "auto",
    ) -> None:
        svm_config = proc.loaded.svm_config
        if svm_config.embedding != "clip":
            raise UserError(
                f"captions need directions in CLIP's space, and these are in {svm_config.embedding!r}; "
                "run failure-directions distil with embedding: clip"
            )
        self.fitter = svm_model if isinstance(svm_model, SVMFitter) else SVMFitter.load(svm_model)
        self.class_names = list(proc.loaded.class_names if class_names is None else class_names)
        self.caption_set = get_caption_set(caption_set) if isinstance(caption_set, str | Path) else caption_set
        self.generators = self.caption_set.for_classes(self.class_names)
        if clip is None:
            from ..embeddings.clip import clip_of  # open_clip takes seconds to import, and scoring alone needs it not

            clip = clip_of(svm_config, proc.loaded.dataset_config, device)
        self.clip = clip

    def get_svm_style_top_K(  # the published name
        self, target_c: int, caption_type: str = "all", K: int = 10
    ) -> dict[str, Any]:
        """The `K` hardest and easiest captions of class `target_c`, the most extreme first.

        Args:
            caption_type: "all", "noun", "adj" or "prep".

        Returns:
            dict: neg_captions (the hard ones), a list of at most K, neg_vals, their scores float64 (K,), neg_latents,
            their embeddings (K, d); pos_captions, pos_vals and pos_latents of the easy ones.

        Raises:
            UserError: a class that was skipped, with the reason.
        """
        check_top_k(K)
        if not 0 <= target_c < len(self.generators):
            raise UserError(f"target_c {target_c} is no class: give 0 to {len(self.generators) - 1}")
        ranked = rank_captions(self.fitter, self.clip, self.generators[target_c], target_c, caption_type)
        top = {}
        for prefix, side in (("neg", "hard"), ("pos", "easy")):
            chosen = ranked.side(side, K)
            top[f"{prefix}_captions"] = [ranked.captions[i] for i in chosen]
            top[f"{prefix}_vals"], top[f"{prefix}_latents"] = ranked.scores[chosen], ranked.latents[chosen]
        return top
