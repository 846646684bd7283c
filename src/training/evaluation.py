"""One pass of a model over a split: predictions, confidences and, from the same pass, penultimate features."""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from ..models.features import FeatureExtractor
from ..runtime.devices import precision, read_back
from ..runtime.distributed import gather, gather_arrays, gather_to_main
from ..runtime.errors import UserError
from ..runtime.pt_files import save_pt
from .metrics import aurocs, class_accuracies


@dataclass(frozen=True)
class Predictions:
    """What a model says of N examples.

    Attributes:
        indices: (N,) int64, the examples' `index` in their beton.
        labels: (N,) int64, or (N, k) 0/1 for BCE.
        preds: (N,) int64 predicted class; None for BCE, whose threshold is chosen later.
        confs: (N,) float32 probability of the true label; for BCE (N, k), of each condition being present.
        highest: (N,) float32 probability of the predicted class, the model's confidence; None for BCE.
    """

    indices: np.ndarray
    labels: np.ndarray
    preds: np.ndarray | None
    confs: np.ndarray
    highest: np.ndarray | None = None

    def of_condition(self, condition, threshold):
        """One condition as a two-class task: absent (0) or present (1), with the confidence of the true state."""
        labels = self.labels[:, condition].astype(np.int64)
        probability = self.confs[:, condition]
        return Predictions(
            indices=self.indices,
            labels=labels,
            preds=(probability > threshold).astype(np.int64),
            confs=np.where(labels == 1, probability, 1 - probability),
            highest=np.maximum(probability, 1 - probability),
        )

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


def save_predictions(path, splits, seed, class_names):
    """Save a dict split -> `Predictions` of a run, with its seed: what failure-directions compare reads."""
    content = {
        split: {name: None if array is None else torch.from_numpy(array) for name, array in vars(found).items()}
        for split, found in splits.items()
    }
    save_pt({"seed": seed, "class_names": list(class_names), **content}, path)


class _Rows:
    """The (N, d) array of an embedding, into which rank 0 writes what every process computes, batch by batch."""

    def __init__(self, loader, allocate):
        self.array, self.count, self.allocate = None, len(loader.split), allocate
        self.next = loader.rows.start
        self.rounds = max(gather(len(loader)))

    def send(self, rows=None):
        """This process's next rows, None where it has no more: all send equally often."""
        for start, part in gather_to_main((self.next, rows)):
            if part is None:
                continue
            if self.array is None:
                self.array = self.allocate((self.count, part.shape[1]))
            self.array[start : start + len(part)] = part
        self.next += 0 if rows is None else len(rows)
        self.rounds -= 1

    def finish(self):
        while self.rounds:
            self.send()


@torch.no_grad()
def predict(model, loader, device, bce=False, embedding=None, allocate=None, numbers="float32"):
    """Run a model, and maybe an embedding, over a loader with the fields image, label and index.

    With several processes each takes the whole batches that its loader delivers: results are those of a single one.

    Args:
        model: on `device`; put into evaluation mode.
        bce: whether outputs are conditions of their own.
        embedding: None, or a callable `(images, penultimate features) -> (B, d)`, see `embeddings`.
        allocate: with an embedding, a function of a shape (N, d) that gives the writable array for it (rank 0).
        numbers: as `precision` takes them.

    Returns:
        `Predictions`, on every rank; the embedding is written into what `allocate` gave.
    """
    model.eval()
    count, rows = len(loader.split), _Rows(loader, allocate) if embedding else None
    kept = {"indices": [], "labels": [], "preds": [], "confs": [], "highest": []}
    bar = tqdm(loader, desc=f"evaluating {loader.split.name}", unit="batch", disable=None, leave=False)

    def vectors(forward):
        """Keep what the model says of each batch; give what the embedding makes of it."""
        for batch in bar:
            with precision(device, numbers):
                logits = forward(batch.image)
                if embedding:
                    logits, latents = logits
                    found = embedding(batch.image, latents)
            logits = logits.float()
            if bce:
                kept["confs"].append(logits.sigmoid())
            else:
                probabilities = logits.softmax(1)
                kept["preds"].append(logits.argmax(1))
                kept["highest"].append(probabilities.amax(1))
                kept["confs"].append(probabilities.gather(1, batch.label[:, None])[:, 0])
            kept["labels"].append(batch.label)
            kept["indices"].append(batch.index)
            if embedding:
                yield found.float()

    with FeatureExtractor(model) if embedding else nullcontext(model) as forward:
        for part in read_back(vectors(forward)):
            rows.send(part)
    if embedding:
        rows.finish()
    arrays = {name: torch.cat(parts).cpu().numpy() if parts else None for name, parts in kept.items()}
    arrays = {name: gather_arrays(array) for name, array in arrays.items()}
    wrong = count - int(np.isfinite(arrays["confs"]).reshape(count, -1).all(1).sum())
    if wrong:
        raise UserError(
            f"the model gives NaN or infinity for {wrong} of {count} {loader.split.name} images: its weights are "
            "damaged or training diverged; train it again with a lower training.lr"
        )
    return Predictions(**arrays)
