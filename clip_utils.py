"""CLIP and captions for notebooks: embed images and texts, and rank captions along a failure direction.

from clip_utils import CLIPProcessor, CaptionGenerator, get_caption_set

clip = CLIPProcessor(config.mean, config.std)                     # or arch="scenes": embedded, offline
cat = get_caption_set("CIFARSIMPLE").for_class("cat")
scores, latents = clip.get_caption_scores(cat.captions("all"), cat.reference, svm_fitter, target_c=3)
"""

from src.captions.ranking import describe_directions, rank_captions
from src.captions.subpopulations import subpopulation_accuracy
from src.captions.vocabulary import CaptionGenerator, get_caption_set
from src.embeddings.clip import CLIPProcessor

__all__ = [
    "CLIPProcessor",
    "CaptionGenerator",
    "describe_directions",
    "get_caption_set",
    "rank_captions",
    "subpopulation_accuracy",
]
