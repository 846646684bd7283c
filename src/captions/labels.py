"""What images look like to a pretrained classifier: its label names, and the kinds of things that these are.

The classifier never saw the task, so that its labels say what else is in an image. Of ImageNet's labels, kinds are
WordNet's hypernyms ("truck", "ungulate"); an image is of a kind as far as it is of any of its labels.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..embeddings.passes import as_image_model
from ..models.lite import ARCH, PIP_LINE, has_lite_weights
from ..models.own_models import ImageModel, load_model
from ..runtime.devices import resolve_device
from ..runtime.english import with_article
from ..runtime.errors import UserError
from ..runtime.yaml_files import read_yaml

KINDS_FILE = Path(__file__).resolve().parent / "configs" / "kinds" / "imagenet.yaml"
DEFAULT = f"timm:{ARCH}"
SMALL = 96  # pixels: images no larger are shown to the default classifier at this size
BATCH = 32
LEAST_PROBABILITY = 0.01  # on average over a slice, of what is said of it
BROADEST = 125  # labels of a kind: what is one of eight things says little


@dataclass(frozen=True)
class Labels:
    """The labels of a classifier as statements on images.

    Attributes:
        model: an `ImageModel`.
        texts: list of S strings, of its K labels and then of the kinds.
        kinds: for each of the S - K kinds, int array of its labels.
    """

    model: ImageModel
    texts: list
    kinds: tuple

    def scores(self, images):
        """Log-probabilities float32 (N, S) of an iterable of uint8 images (H, W, 3)."""
        device = resolve_device("auto")
        module, rows = self.model.module.to(device), []
        with torch.inference_mode():
            for batch in _batched(images):
                prepared = torch.stack([self.model.preprocessing(Image.fromarray(image)) for image in batch])
                logs = module(prepared.to(device)).float().log_softmax(1)
                kinds = [torch.logsumexp(logs[:, of], dim=1, keepdim=True) for of in self.kinds]
                rows.append(torch.cat([logs, *kinds], dim=1).cpu().numpy())
        return np.concatenate(rows) if rows else np.empty((0, len(self.texts)), np.float32)

    def worth_saying(self, separation, scores, members):
        """Which statements add something, bool (S,).

        A label or kind that the classifier sees in a slice at all, and a kind only where it separates better than each
        of its labels.

        Args:
            separation: (S,), AUROCs.
            scores: (n, S), log-probabilities.
            members: bool (n,), the slice.
        """
        labels = len(self.texts) - len(self.kinds)
        best = [separation[of].max() for of in self.kinds]
        worth = np.concatenate([np.full(labels, True), separation[labels:] > np.array(best)])
        return worth & (np.exp(scores[members]).mean(axis=0) >= LEAST_PROBABILITY)


def at_hand():
    """Whether the default classifier can be loaded without a network."""
    return has_lite_weights()


def read_labels(classifier=None, small=False):
    """The `Labels` of a classifier.

    Args:
        classifier: an `ImageModel` or what `load_model` takes, None for EfficientNet-Lite0.
        small: whether the images are of at most `SMALL` pixels.

    Raises:
        UserError: weights that are not at hand; a model without label names, or with those of other outputs.
    """
    if classifier is not None:
        model = as_image_model(classifier)
    else:
        try:
            model = load_model(DEFAULT, size=SMALL if small else None)
        except UserError as error:
            raise UserError(f"label names need a pretrained classifier: {PIP_LINE}, or name one") from error
    if not model.labels:
        raise UserError(
            f"the classifier {model.name} has no label names; choose one of timm's or torchvision's that has"
        )
    if len(model.labels) != model.outputs:
        raise UserError(f"the classifier {model.name} has {len(model.labels)} label names for {model.outputs} outputs")
    names = [label.split(",")[0] for label in model.labels]
    kinds = read_kinds() if model.aliases is not None and len(names) == 1000 else {}
    kinds = {kind: of for kind, of in kinds.items() if kind not in names and len(of) <= BROADEST}
    texts = [f"looks like {with_article(name)}" for name in (*names, *kinds)]
    return Labels(model, texts, tuple(kinds.values()))


def read_kinds():
    """WordNet's names for several of ImageNet's 1,000 classes: dict name -> int array of their positions."""
    kinds = read_yaml(KINDS_FILE, "kinds", "install this package again")
    return {name: np.concatenate([_range(part) for part in ranges.split(", ")]) for name, ranges in kinds.items()}


def _range(text):
    first, _, last = text.partition("-")
    return np.arange(int(first), int(last or first) + 1)


def _batched(images):
    images = iter(images)
    while batch := list(itertools.islice(images, BATCH)):
        yield batch
