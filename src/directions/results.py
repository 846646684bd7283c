"""What `train_svms.py` leaves behind and shows: `OUT.pt`, `OUT_model.pt`, one CSV a split, and tables."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..runtime.errors import UserError
from ..runtime.files import write_csv
from ..runtime.pt_files import save_pt
from .class_fit import balanced_accuracy
from .minority import attribute_rates, minority_precision, minority_values

CSV_ROWS = 2**14  # made at a time

_CSV_KEYS = ("indices", "classes", "preds", "ytrue", "confs", "decision_values", "ypred", "spuriouses")


@dataclass(frozen=True)
class OutputFiles:
    """The files of a result, named after `--out-file`: `OUT` with or without `.pt`."""

    result: Path

    @classmethod
    def named(cls, out_file):
        path = Path(out_file)
        if path.name in ("", "..") or path.is_dir():
            raise UserError(f"--out-file {out_file} names no file; give one such as results/cifar_svm.pt")
        if path.stem.endswith("_model"):
            raise UserError(f"--out-file {out_file} ends as another result's directions do; give another name")
        return cls(path if path.suffix == ".pt" else path.with_name(path.name + ".pt"))

    @property
    def model(self):
        return self.beside("model.pt")

    def beside(self, ending):
        """`OUT_ending` in the same folder."""
        return self.result.with_name(f"{self.result.stem}_{ending}")

    def every(self):
        """The paths of all that there may be, but for the directions: `OUT.pt` first, then what is said beside it."""
        endings = [f"{split}.csv" for split in ("train", "val", "test", "unlabeled")]
        endings += ["spurious.csv", "precision.csv", "captions.csv", "subpopulations.csv"]
        return [self.result, *map(self.beside, endings)]


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


def save_result(files, fitter, split_entries, made_from, class_names, bce_threshold=None):
    """Write `OUT.pt` and `OUT_model.pt`.

    Args:
        fitter: a fitted `SVMFitter`.
        split_entries: dict split -> `split_metrics`.
        made_from: dict of the command line (`args`), `dataset_config`, `svm_config` and `environment`, each a dict.
    """
    state = fitter.state()
    result = {
        **made_from,
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
    # In parts: a million rows of Python's numbers and texts take 600 MB.
    starts = range(0, len(entry["indices"]), CSV_ROWS)
    parts = (_csv_columns(entry, class_names, slice(start, start + CSV_ROWS)) for start in starts)
    header = _csv_columns(entry, class_names, slice(0))
    write_csv(path, header, (row for columns in parts for row in zip(*columns.values(), strict=True)))


def _csv_columns(entry, class_names, rows):
    """Column name -> list of the values in these rows, a slice."""
    part = {key: entry[key][rows].tolist() for key in _CSV_KEYS if key in entry}
    columns = {
        "index": part["indices"],
        "class": part["classes"],
        "class_name": [class_names[c] for c in part["classes"]],
        "pred": part["preds"],
        "pred_name": [class_names[c] for c in part["preds"]],
        "correct": part["ytrue"],
        "conf": [f"{value:.6f}" for value in part["confs"]],
        "decision_value": [f"{value:.6f}" for value in part["decision_values"]],
        "flagged": [1 - says_right for says_right in part["ypred"]],
    }
    if "spuriouses" in part:
        columns["spurious"] = part["spuriouses"]
    return columns


def class_table(fitter, entries, class_names):
    """Per class: how accurate the model is, how strong the failure is, and how well the direction predicts it.

    Returns:
        header and rows; the last row is over all classes.
    """
    rows = []
    for c, name in enumerate(class_names):
        of_class = {split: entries[split]["classes"] == c for split in ("val", "test")}
        right = {split: entries[split]["ytrue"][of_class[split]].numpy() for split in of_class}
        says_right = entries["test"]["ypred"][of_class["test"]].numpy()
        row = [name, *(float(right[split].mean()) if len(right[split]) else None for split in right)]
        if c in fitter.skipped:
            rows.append([*row, None, None, None, None, f"skipped: {fitter.skipped[c]}"])
            continue
        rows.append(
            [
                *row,
                float(fitter.cv_scores[c]),
                "-" if np.isnan(fitter.C[c]) else f"{fitter.C[c]:g}",
                f"{(says_right == 0).sum()} of {len(says_right)}",
                balanced_accuracy(right["test"] == 1, says_right == 1),
                "no consistent failure" if fitter.no_consistent_failure[c] else "",
            ]
        )
    test = entries["test"]
    scores = fitter.cv_scores[~np.isnan(fitter.cv_scores)]
    rows.append(
        [
            "all",
            *(float(entries[split]["ytrue"].double().mean()) for split in ("val", "test")),
            float(scores.mean()) if len(scores) else None,
            "",
            f"{(test['ypred'] == 0).sum()} of {len(test['ypred'])}",
            test["balanced_accuracy"],
            "",
        ]
    )
    return ["class", "val acc", "test acc", "CV score", "C", "flagged (test)", "bal. acc (test)", ""], rows


def spurious_tables(entries, class_names, given=None):
    """What the flagged images are made of, and how early the minority comes in each ordering, of every split.

    Args:
        entries: dict split -> `split_metrics`, with `spuriouses`.
        given: the config's `minority`.

    Returns:
        two (header, rows), of `attribute_rates` and of `minority_precision`, with the split first.
    """
    train = entries["train"]
    minority = minority_values(
        train["classes"].numpy(), train["spuriouses"].numpy(), len(class_names), given, class_names
    )
    rates, precisions = [], []
    for split, entry in entries.items():
        labels, spurious = entry["classes"].numpy(), entry["spuriouses"].numpy()
        flagged, values = entry["ypred"].numpy() == 0, entry["decision_values"].numpy()
        for row in attribute_rates(labels, spurious, flagged, minority):
            rates.append([split, class_names[row.pop("class")], *row.values()])
        for row in minority_precision(labels, spurious, values, entry["confs"].numpy(), minority):
            precisions.append([split, class_names[row.pop("class")], *row.values()])
    rate_header = ["split", "class", "value", "minority", "count", "base_rate", "share_of_flagged", "flagged_share"]
    return (rate_header, rates), (["split", "class", "k", "svm", "confidence", "base_rate"], precisions)
