"""Did the intervention help? Runs against a base, measure by measure, paired by seed.

Training anew with another seed alone moves accuracies by a point or more, so a difference is shown with its confidence
interval over the seeds: Student's t on the paired differences.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from ..captions.subpopulations import SUBPOPULATION_SIZES, subpopulation_accuracy
from ..directions.results import SIDES
from ..runtime.errors import UserError
from ..runtime.files import read_rows, write_rows
from ..runtime.pt_files import INTEGERS, is_plain_tensor, load_pt
from ..training.metrics import class_accuracies
from ..training.run_folders import finished_versions
from .choosing import in_minority, in_slices

CONFIDENCE = 0.95
PLACEBO, PLACEBO_SEEDS = "placebo", 10**6  # a base trained anew with its seed and so many more
FAILURES, WORST_FAILURE, REST = "failures", "worst failure", "rest"
SHOWN = (
    FAILURES,
    WORST_FAILURE,
    REST,
    "overall",
    "worst class",
    "minority",
    "majority",
    *(f"{side} {k}" for side in SIDES for k in (20, 100, 200)),
)


@dataclass(frozen=True)
class Row:
    """A run's accuracy by one measure, over the seeds.

    Attributes:
        name: of the run.
        measure: such as "overall" or "hard 20".
        mean, deviation: of the accuracy (the sample deviation; NaN with one seed).
        difference: mean of the accuracy minus the base's.
        low, high: its confidence interval (NaN with one seed).
        seeds: how many.
    """

    name: str
    measure: str
    mean: float
    deviation: float
    difference: float
    low: float
    high: float
    seeds: int

    @property
    def has_interval(self):
        return self.low == self.low  # NaN is not

    @property
    def is_clear(self):
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def load_run(path):
    """The test predictions of all versions of a run: dict seed -> arrays (indices, labels, preds).

    Args:
        path: a run of ffcv_main.py, or a folder of such, at any depth, that differ in their seeds. Of two versions with
            one seed the later counts, by its number. A placebo's seed counts as that of the base that it repeats.

    Raises:
        UserError: there is none, or it has no classes (BCE).
    """
    seeds = {}
    for file in finished_versions(path):
        content = load_pt(file, "predictions", "train the run again with failure-directions train")
        test = content.get("test") if isinstance(content, dict) else None
        whole = isinstance(test, dict) and {"indices", "labels", "preds"} <= set(test)
        if not whole or not isinstance(content.get("seed"), int):
            raise UserError(
                f"{file} does not hold the predictions of a run; train it again with failure-directions train"
            )
        if test["preds"] is None:
            raise UserError(
                f"{file} is of a model of conditions (bce), whose runs can't be compared; compare metrics.csv"
            )
        columns = {key: test[key] for key in ("indices", "labels", "preds")}
        plain = all(is_plain_tensor(column, 1, INTEGERS) for column in columns.values())
        if not plain or len(set(map(len, columns.values()))) > 1:
            raise UserError(f"{file} is damaged; train the run again with failure-directions train")
        seeds[content["seed"] % PLACEBO_SEEDS] = {key: column.numpy() for key, column in columns.items()}
    return seeds


def measure(proc, predictions, where):
    """Accuracies of one run's test predictions, dict measure -> float, with the subgroups that a result names.

    Of a result that has kept images from all choices, on these alone (`FoundSlices.evaluate`). On what its confirmed
    failures flag, on the worst of them, and on the rest; overall, worst class, each class, the minority and the rest
    (where `spurious` is known), and the hard and the easy subpopulations of K images, their mean over the classes: the
    images nearest to the hardest and easiest caption, or, for a result without captions, those with the lowest and
    highest decision values.

    Args:
        proc: the `SVMProcessor` of the result of the same seed.
        where: what the error calls the run.
    """
    test = proc.metrics("test")
    labels = test["classes"]
    if not (np.array_equal(test["indices"], predictions["indices"]) and np.array_equal(labels, predictions["labels"])):
        raise UserError(
            f"{where} was tested on other images than {proc.path}; give runs and a result of the same data set and "
            "condition"
        )
    correct, found = predictions["preds"] == labels, proc.loaded.found
    if found is not None and found.confirm == "test" and found.evaluate is not None:
        rows = found.evaluate
        test = {key: value[rows] for key, value in test.items() if key in _PER_IMAGE}
        correct, labels = correct[rows], labels[rows]
    by_class = class_accuracies(correct, labels, proc.num_classes)
    accuracies = _on_failures(found.confirmed if found else [], test, correct)
    accuracies |= {"overall": float(correct.mean()), "worst class": float(np.nanmin(by_class))}
    if "spuriouses" in test and "train" in proc.splits:
        rare = in_minority(test, proc.minority())
        if rare.any():
            accuracies["minority"], accuracies["majority"] = float(correct[rare].mean()), float(correct[~rare].mean())
    rows = subpopulation_accuracy(similarity(test), labels, correct)
    for side in SIDES:
        for k in SUBPOPULATION_SIZES:
            of_k = [row[side] for row in rows if row["k"] == k]
            if of_k:
                accuracies[f"{side} {k}"] = float(np.mean(of_k))
    return accuracies | {f"class {name}": float(by_class[c]) for c, name in enumerate(proc.class_names)}


_PER_IMAGE = (
    "classes",
    "spuriouses",
    "slice_values",
    "decision_values",
    *(f"{side}_similarity" for side in SIDES),
)


def _on_failures(slices, test, correct):
    """Accuracy on confirmed failures and on the rest, where there are any."""
    flagged = [in_slices([one], test["classes"], test["slice_values"]) for one in slices]
    flagged = [rows for rows in flagged if rows.any()]
    if not flagged:
        return {}
    together = np.logical_or.reduce(flagged)
    accuracies = {
        FAILURES: float(correct[together].mean()),
        WORST_FAILURE: min(float(correct[rows].mean()) for rows in flagged),
    }
    return accuracies | ({} if together.all() else {REST: float(correct[~together].mean())})


def similarity(entry):
    """dict side -> (N,): how near each image of a result's split is to its class's hard and easy side."""
    if "hard_similarity" in entry:
        return {side: entry[f"{side}_similarity"] for side in SIDES}
    return {"hard": -entry["decision_values"], "easy": entry["decision_values"]}


def compare(accuracies):
    """Rows of every run and measure, paired by seed.

    Args:
        accuracies: dict run -> list over seeds (the same seeds in every run) of what `measure` gives; the first run is
            the base that differences are taken from.
    """
    base = next(iter(accuracies.values()))
    rows = []
    for name, by_seed in accuracies.items():
        for what in dict.fromkeys(what for found in base for what in found):
            values, reference = (np.array([found.get(what, np.nan) for found in runs]) for runs in (by_seed, base))
            deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
            difference, interval = float((values - reference).mean()), paired_interval(values, reference)
            rows.append(Row(name, what, float(values.mean()), deviation, difference, *interval, len(values)))
    return rows


def paired_interval(values, reference):
    """The 95 % confidence interval of the mean of `values - reference`, both (seeds,); NaN for fewer than two.

    NaN, too, where all differences are equal but not 0: a test set of few images makes them so, and it is no certainty.
    """
    differences = values - reference
    if not differences.any():
        return (0.0, 0.0) if len(differences) > 1 else (float("nan"), float("nan"))
    if np.ptp(differences) < 1e-12:
        return float("nan"), float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nearly equal differences
        interval = stats.ttest_rel(values, reference).confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)


def save_rows(path, rows):
    """Write rows as CSV, a column a field."""
    write_rows(path, Row, rows)


def load_rows(path):
    """The list of `Row`s that `save_rows` wrote.

    Raises:
        UserError: the file is missing, or is another.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"comparison {path} does not exist; make it with failure-directions compare")
    try:
        rows = read_rows(path, Row)
    except ValueError:
        rows = []
    measures = [{row.measure for row in rows if row.name == name} for name in {row.name for row in rows}]
    if not rows or any(found != measures[0] for found in measures):
        raise UserError(f"{path} is no comparison of runs; make it with failure-directions compare")
    return rows


def main_table(rows):
    """The measures that are shown first, as the names of the runs, the base's first, and a list of (measure, rows)."""
    names = list(dict.fromkeys(row.name for row in rows))
    found = {(row.name, row.measure): row for row in rows}
    return names, [(what, [found[name, what] for name in names]) for what in SHOWN if (names[0], what) in found]
