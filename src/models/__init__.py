"""Models by name, each with its last linear layer known, so that features and predictions come from one pass."""

from .build import build_model, weights_digest
from .features import FeatureExtractor, last_linear, replace_last_linear

__all__ = ["FeatureExtractor", "build_model", "last_linear", "replace_last_linear", "weights_digest"]
