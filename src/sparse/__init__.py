"""Sparse decision layers: elastic-net paths of linear models on deep features (Wong, Santurkar, Madry; ICML 2021).

Names are imported when they are first used: a module of this folder does not load the solver.
"""

import importlib

_EXPORTS = {
    "FeatureChunks": "feature_chunks",
    "SparsePath": "path",
    "check_selection": "selection",
    "elastic_net_path": "path",
    "select_sparse_model": "selection",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
