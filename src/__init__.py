"""Failure directions: on what is an image classifier wrong, and how is it mended?

Names are imported when they are first used, so that a process that needs one does not load everything.
"""

import importlib

_EXPORTS = {
    "CLIPProcessor": "clip",
    "CaptionGenerator": "captions",
    "ClipAnalyzer": "caption_scores",
    "SVMFitter": "svm_utils",
    "SVMProcessor": "svm_processor",
    "get_caption_set": "captions",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
