"""What was found against what was planted, of drawn scenes: for the demo and the benchmarks, which know the truth."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ..data.scenes import Plant, make_split
from ..directions.analysis import slice_values
from ..directions.confirmation import Slice, hypergeometric_p
from ..directions.minority import precision_at
from ..directions.results import SplitResult, read_directions
from ..runtime.devices import precision, resolve_device

FRESH_IMAGES = 2000  # a class
FRESH_SEED = 1_000_000  # on top of the setting's
LEVEL = 0.05
BATCH = 256


# ---- Planted, and found? --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PlantInResult:
    """One plant of a setting in the confirm split of a result, which has N examples.

    Attributes:
        split: the `SplitResult`.
        of_class, minority: (N,) bool, the latter of the plant.
        slices: of its class, by rank.
    """

    plant: Plant
    split: SplitResult
    of_class: np.ndarray
    minority: np.ndarray
    slices: list

    @property
    def base_rate(self):
        """The minority's share of its class."""
        return share(self.minority, self.of_class)

    @property
    def accuracy(self):
        """The model's, on the minority."""
        return share(self.split.ytrue == 1, self.minority)

    @property
    def minority_of_flagged(self):
        """The minority's share of what the class's single direction flags."""
        return share(self.minority, self.of_class & self.split.flagged)

    @cached_property
    def slice(self):
        """The `Slice` that holds the minority best, by the F1 of its members; None where the class has none."""
        return max(self.slices, key=self._f1, default=None)

    def minority_of_members(self, found):
        """The minority's share of a slice's members; None where it has no members."""
        return share(self.minority, self._members(found))

    def share_found(self, found):
        """The share of the minority that are members of a slice."""
        return share(self._members(found), self.minority)

    def precision_at(self, k, values):
        """The minority's share of the `k` images of its class with the lowest values, (N,); None where one is NaN."""
        rows = np.flatnonzero(self.of_class)
        if np.isnan(values[rows]).any():
            return None
        return precision_at(min(k, len(rows)), self.minority[rows], values[rows])

    def slice_precision_at(self, k, found):
        """The same by a slice's decision values, which know nothing of earlier slices."""
        return self.precision_at(k, self.split.slice_values[:, found.rank - 1])

    def _members(self, found):
        members = np.zeros(len(self.minority), bool)
        members[found.members] = True
        return members

    def _f1(self, found):
        return 2 * self.minority[found.members].sum() / max(1, len(found.members) + self.minority.sum())


def plants_in_result(result, setting):
    """A `PlantInResult` for each plant of a `SceneSetting`, in their order; `result` has slices and `spuriouses`."""
    split, found = result.splits[result.found.confirm], []
    for plant in setting.plants:
        c = result.class_names.index(plant.shape)
        of_class, number = split.classes == c, setting.plants_of(plant.shape).index(plant) + 1
        minority = of_class & (split.spuriouses == number)
        found.append(PlantInResult(plant, split, of_class, minority, result.found.of_class(c)))
    return found


def share(part, whole):
    """Share of `part` in `whole`, both (N,) bool; None of nothing."""
    return float((part & whole).sum() / whole.sum()) if whole.any() else None


# ---- Claims that nothing was planted for ----------------------------------------------------------------------------


@dataclass(frozen=True)
class FreshClaim:
    """A confirmed slice on images drawn afresh: p of the one-sided test that its class fails more often inside it."""

    slice: Slice
    p_value: float

    @property
    def holds(self):
        return self.p_value < LEVEL


def unplanted_claims(out, result, setting, device="auto", images=FRESH_IMAGES):
    """Every confirmed slice of a class without a plant, tested on images that nobody has seen: list of `FreshClaim`.

    The images are those of the same setting with another seed; the model and the embedding are the result's own.

    Args:
        out: path of the result `OUT.pt`, whose directions lie beside it.
        result: what is in it.
        setting: the `SceneSetting` of its betons.
        images: to be drawn for each class with a claim.
    """
    planted = {plant.shape for plant in setting.plants}
    claims = [found for found in result.found.confirmed if found.class_name not in planted]
    if not claims:
        return []
    fresh = make_split(replace(setting, seed=setting.seed + FRESH_SEED, test=images), "test")
    preprocess = read_directions(out).preprocess
    tested = []
    for c in sorted({claim.class_index for claim in claims}):
        rows = np.flatnonzero(fresh.label == c)
        preds, latents = predict_drawn(result, fresh, rows, resolve_device(device))
        values = slice_values(result.found, preprocess, latents, fresh.label[rows])
        left = np.ones(len(rows), bool)
        for found in result.found.of_class(c):
            flagged = left & (values[:, found.rank - 1] <= 0)
            if found in claims:
                tested.append(FreshClaim(found, hypergeometric_p(flagged[left], (preds != c)[left])))
            left &= ~flagged
    return tested


@torch.no_grad()
def predict_drawn(result, split, rows, device):
    """Draw some images of a `SceneSplit`; what a result's model says, (n,) int64, and its embedding, float32 (n, d)."""
    from ..embeddings.spaces import make_embedding  # late: timm takes seconds to import
    from ..models.checkpoints import load_checkpoint
    from ..models.features import FeatureExtractor

    config = result.dataset_config
    model = load_checkpoint(result.args["model_path"], config).model.eval()
    model = model.to(device, memory_format=torch.channels_last)
    embedding = make_embedding(result.svm_config, config, device)
    mean, std = (torch.tensor(numbers, device=device)[:, None, None] for numbers in (config.mean, config.std))
    preds, latents = [], []
    with FeatureExtractor(model) as forward, precision(device):
        for start in range(0, len(rows), BATCH):
            pixels = np.stack([split.image(i) for i in rows[start : start + BATCH]])
            images = (torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2) - mean) / std
            logits, features = forward(images)
            preds.append(logits.argmax(1).cpu().numpy())
            latents.append(embedding(images, features).float().cpu().numpy())
    return np.concatenate(preds), np.concatenate(latents)
