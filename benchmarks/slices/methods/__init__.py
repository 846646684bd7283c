"""One file a method: `fit(find) -> [slice]`, the most promising first; `slice.label`, `slice.score(embeddings, ...)`.

A new method is a new file here; `run.py` finds it by name. It may set

    TITLE = "what tables call it"
    USES_OUTPUTS = True      # its scores read probabilities or features of the base model; listed apart
    KNOWS_SLICES = True      # fit(find, slices) is told the truth: a ceiling
    VARIANTS = {"name": dict of arguments of fit}      # several rows from one file
"""

import functools
import importlib
import pkgutil
from dataclasses import dataclass

import numpy as np
from failure_directions.runtime.errors import UserError


@dataclass(frozen=True)
class Find:
    """The images in which a method looks for slices.

    Attributes:
        embeddings: float32 (n, d). labels: int64 (n,). preds: int64 (n,). probs: float32 (n, k).
        features: float32 (n, f), the base model's own. seed: for whatever is random.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    preds: np.ndarray
    probs: np.ndarray
    features: np.ndarray
    seed: int = 0

    @property
    def wrong(self):
        """bool (n,): where the base model errs."""
        return self.preds != self.labels

    @property
    def num_classes(self):
        return self.probs.shape[1]


@dataclass(frozen=True)
class Slice:
    """A guess: images of class `label` by a score.

    `score_embeddings` maps (m, d) embeddings to (m,) scores, high for images in the slice.
    """

    label: int
    score_embeddings: object

    def score(self, embeddings, probs=None, features=None):
        """float (m,) for images of the class. Only a method that `USES_OUTPUTS` is given probs and features."""
        return self.score_embeddings(embeddings)


@dataclass(frozen=True)
class Method:
    """A method as `run.py` sees it."""

    name: str
    title: str
    uses_outputs: bool
    knows_slices: bool
    fit: object


def method_names():
    """Names of all methods, a variant as FILE:VARIANT."""
    return sorted(load_methods())


def load_methods(names=None):
    """dict name -> `Method`. Raises `UserError` for a name that is not there."""
    methods = {}
    for module_info in pkgutil.iter_modules(__path__):
        if module_info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        title = getattr(module, "TITLE", module_info.name.replace("_", " "))
        for variant, arguments in getattr(module, "VARIANTS", {"": {}}).items():
            name = f"{module_info.name}:{variant}" if variant else module_info.name
            full_title = f"{title}, {variant.replace('_', ' ')}" if variant else title
            flags = [getattr(module, flag, False) for flag in ("USES_OUTPUTS", "KNOWS_SLICES")]
            methods[name] = Method(name, full_title, *flags, functools.partial(module.fit, **arguments))
    unknown = sorted(set(names or []) - set(methods))
    if unknown:
        raise UserError(f"there is no method {unknown[0]!r}; choose from {', '.join(sorted(methods))}")
    return {name: methods[name] for name in names or methods}
