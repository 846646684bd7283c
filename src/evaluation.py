"""One pass of a model over a split: predictions, confidences and, from the same pass, penultimate features."""

from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from .devices import autocast
from .errors import UserError
from .metrics import aurocs, class_accuracies
from .models import FeatureExtractor


@dataclass(frozen=True)
class Predictions:
    """What a model says of N examples.

    Attributes:
        indices: (N,) int64, the examples' `index` in their beton.
        labels: (N,) int64, or (N, k) 0/1 for BCE.
        preds: (N,) int64 predicted class; None for BCE, whose threshold is chosen later.
        confs: (N,) float32 probability of the true label; for BCE (N, k), of each condition being present.
    """

    indices: np.ndarray
    labels: np.ndarray
    preds: np.ndarray | None
    confs: np.ndarray

    def metrics(self, num_classes):
        """Accuracy and per-class accuracy; for BCE, at threshold 0.5, and AUROC."""
        if self.preds is None:
            correct = (self.confs > 0.5) == (self.labels > 0.5)
            per_class_auroc = aurocs(self.confs, self.labels)
            known = per_class_auroc[~np.isnan(per_class_auroc)]
            return {
                "accuracy": float(correct.mean()),
                "per_class_accuracy": torch.tensor(correct.mean(0)),
                "auroc": float(known.mean()) if len(known) else float("nan"),
                "per_class_auroc": torch.tensor(per_class_auroc),
            }
        correct = self.preds == self.labels
        return {
            "accuracy": float(correct.mean()),
            "per_class_accuracy": torch.tensor(class_accuracies(correct, self.labels, num_classes)),
        }


@torch.no_grad()
def predict(model, loader, device, bce=False, features_out=None):
    """Run a model over a loader with the fields image, label and index.

    Args:
        model: on `device`; put into evaluation mode.
        bce: whether outputs are conditions of their own.
        features_out: None, or a function `(N, d) -> writable (N, d) array` that says where features go.

    Returns:
        `Predictions`; features are written into what `features_out` gave.
    """
    model.eval()
    count, written = len(loader.split), 0
    kept = {"indices": [], "labels": [], "preds": [], "confs": []}
    features = None
    bar = tqdm(loader, desc=f"evaluating {loader.split.name}", unit="batch", disable=None, leave=False)
    with FeatureExtractor(model) as extract:
        if features_out:
            features = features_out(count, extract.dim)
        for batch in bar:
            with autocast(device):
                logits, latents = extract(batch.image)
            logits = logits.float()
            if bce:
                kept["confs"].append(logits.sigmoid())
            else:
                kept["preds"].append(logits.argmax(1))
                probabilities = logits.softmax(1)
                kept["confs"].append(probabilities.gather(1, batch.label[:, None])[:, 0])
            kept["labels"].append(batch.label)
            kept["indices"].append(batch.index)
            if features is not None:
                features[written : written + len(latents)] = latents.float().cpu().numpy()
                written += len(latents)
    arrays = {name: torch.cat(parts).cpu().numpy() if parts else None for name, parts in kept.items()}
    wrong = count - int(np.isfinite(arrays["confs"]).reshape(count, -1).all(1).sum())
    if wrong:
        raise UserError(
            f"the model gives NaN or infinity for {wrong} of {count} {loader.split.name} images: its weights are "
            "damaged or training diverged; train it again with a lower training.lr"
        )
    return Predictions(**arrays)
