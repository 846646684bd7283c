"""Failure directions: on what is an image classifier wrong, and how is it mended?

Names are imported when they are first used, so that a process that needs one does not load everything.

The package is installed as `failure_directions`; a checkout that is not installed reaches the same folder as `src`. A
process that uses both names must have one copy of everything, or an error raised in one is not caught in the other:
whichever name comes first is the package's, and `_OneCopy` answers for the other.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `__getattr__` gives, as a type checker and an editor see it
    from .api import Failures as Failures
    from .api import find_failures as find_failures
    from .api import load as load
    from .captions.analyzer import ClipAnalyzer as ClipAnalyzer
    from .captions.vocabulary import CaptionGenerator as CaptionGenerator
    from .captions.vocabulary import get_caption_set as get_caption_set
    from .directions.galleries import SVMProcessor as SVMProcessor
    from .embeddings.clip import CLIPProcessor as CLIPProcessor
    from .embeddings.passes import embed as embed
    from .embeddings.passes import predict as predict
    from .svm_utils import SVMFitter as SVMFitter

_EXPORTS = {
    "CLIPProcessor": "embeddings.clip",
    "Failures": "api",
    "embed": "embeddings.passes",
    "find_failures": "api",
    "load": "api",
    "predict": "embeddings.passes",
    "CaptionGenerator": "captions.vocabulary",
    "ClipAnalyzer": "captions.analyzer",
    "SVMFitter": "svm_utils",
    "SVMProcessor": "directions.galleries",
    "get_caption_set": "captions.vocabulary",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)


class _OneCopy(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the package and its modules under the package's other name: those of its own name, as they are."""

    other = "failure_directions" if __name__ == "src" else "src"

    def __init__(self):
        self._specs = {}

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] != self.other:
            return None
        if fullname == "src" and not self._is_here(importlib.machinery.PathFinder.find_spec(fullname)):
            return None  # a `src` of somebody else's
        if fullname != self.other and sys.modules.get(self.other) is not sys.modules[__name__]:
            return None
        own = importlib.util.find_spec(__name__ + fullname.removeprefix(self.other))
        return own and importlib.util.spec_from_loader(fullname, self, is_package=bool(own.submodule_search_locations))

    @staticmethod
    def _is_here(spec):
        return bool(spec and spec.origin) and os.path.realpath(spec.origin) == os.path.realpath(__file__)

    def create_module(self, spec):
        module = importlib.import_module(__name__ + spec.name.removeprefix(self.other))
        # The import system is about to give the module the other name's spec.
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self._specs.pop(module.__spec__.name)


sys.meta_path.insert(0, _OneCopy())
