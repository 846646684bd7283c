"""Sparse decision layers: elastic-net paths of linear models on deep features (Wong, Santurkar, Madry; ICML 2021)."""

from .feature_chunks import FeatureChunks
from .path import SparsePath, elastic_net_path
from .selection import check_selection, select_sparse_model

__all__ = ["FeatureChunks", "SparsePath", "check_selection", "elastic_net_path", "select_sparse_model"]
