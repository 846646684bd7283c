"""What `train_svms.py` leaves behind: `OUT.pt`, `OUT_model.pt` and one CSV a split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .errors import UserError
from .files import save_pt, write_csv


@dataclass(frozen=True)
class OutputFiles:
    """The files of a result, named after `--out-file`: `OUT` with or without `.pt`."""

    result: Path

    @classmethod
    def named(cls, out_file):
        path = Path(out_file)
        if not path.name:
            raise UserError(f"--out-file {out_file} names no file; give one such as results/cifar_svm.pt")
        return cls(path if path.suffix == ".pt" else path.with_name(path.name + ".pt"))

    @property
    def model(self):
        return self.beside("model.pt")

    def beside(self, ending):
        """`OUT_ending` in the same folder."""
        return self.result.with_name(f"{self.result.stem}_{ending}")


def split_metrics(fitter_metrics, predictions, spurious, skipped):
    """One split's entry in `OUT.pt`.

    Args:
        fitter_metrics: dict from `SVMFitter.predict`.
        predictions: `Predictions` with a class and a confidence an example (for BCE: of the chosen condition).
        spurious: (N,) ints or None.
        skipped: dict class -> reason.
    """
    entry = {
        **fitter_metrics,
        "preds": predictions.preds,
        "classes": predictions.labels,
        "confs": predictions.confs,
        "indices": predictions.indices,
    }
    if spurious is not None:
        entry["spuriouses"] = spurious
    entry = {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in entry.items()}
    return {**entry, "skipped_classes": {str(c): reason for c, reason in skipped.items()}}


def save_result(files, fitter, split_entries, args, class_names, bce_threshold=None):
    """Write `OUT.pt` and `OUT_model.pt`.

    Args:
        fitter: a fitted `SVMFitter`.
        split_entries: dict split -> `split_metrics`.
        args: dict of what the result was made from: strings, numbers, lists and dicts.
    """
    state = fitter.state()
    result = {
        "args": args,
        "class_names": list(class_names),
        "stats": {key: state[key] for key in ("mean", "std", "normalize")},
        "cv_scores": state["cv_scores"],
    }
    if bce_threshold is not None:
        result["bce_threshold"] = bce_threshold
    for name, entry in split_entries.items():
        result[f"{name}_metrics"] = entry
        result[f"predicted_{name}_errors"] = entry["ypred"] == 0
    save_pt(state, files.model)
    save_pt(result, files.result)


def write_split_csv(path, entry, class_names):
    """One row an example: what it is, what the model says, and how hard it looks to the SVM."""
    columns = {
        "index": entry["indices"],
        "class": entry["classes"],
        "class_name": [class_names[c] for c in entry["classes"].tolist()],
        "pred": entry["preds"],
        "pred_name": [class_names[c] for c in entry["preds"].tolist()],
        "correct": entry["ytrue"],
        "conf": [f"{value:.6f}" for value in entry["confs"].tolist()],
        "decision_value": [f"{value:.6f}" for value in entry["decision_values"].tolist()],
        "flagged": 1 - entry["ypred"],
    }
    if "spuriouses" in entry:
        columns["spurious"] = entry["spuriouses"]
    lists = [column.tolist() if isinstance(column, torch.Tensor) else column for column in columns.values()]
    write_csv(path, columns, zip(*lists, strict=True))
