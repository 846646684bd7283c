"""A result's files, written and read here alone: `OUT.pt`, `OUT_model.pt` and the CSVs beside them.

What is in them is told in docs/formats.md. A file says with which `FORMAT` it was written; those without that key are
of the first.
"""

import csv
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config_parsing import DatasetConfig, SVMConfig, stored_config
from ..data import SPLITS
from ..runtime.english import some
from ..runtime.errors import UserError
from ..runtime.files import without_apostrophe, write_csv, written_together
from ..runtime.pt_files import FLOATS, INTEGERS, is_plain, is_plain_tensor, load_pt, save_pt
from .confirmation import CONFIRMED, VERDICTS, Claim, Slice

FORMAT = 2
SIDES = ("hard", "easy")  # of a direction
MAKE_AGAIN = "make it with failure-directions distil of this version"
CSV_ROWS = 2**14  # made at a time
MOST_EXAMPLES = 10**9  # of a beton: a larger index would make an intervention fill the memory


# ---------------------------------------------------------------------------------------------------------------------
# What the files hold
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class SplitResult:
    """One split of a result: N examples, what they are, what the model says, and how hard they look to the SVM.

    Attributes:
        accuracy, balanced_accuracy, confusion_matrix, indiv_accs: of the SVM, as `svm_metrics` gives them.
        ytrue, ypred: (N,) int64, 1 where the base model is right; 1 where the SVM says so.
        decision_values: (N,) float64, negative is hard, flagged is at or below 0; NaN in a skipped class.
        preds, classes: (N,) int64, predicted and true class.
        confs: (N,) float, the base model's probability of the true class.
        indices: (N,) int64, the examples' `index` in their beton.
        spuriouses: (N,) int64, where the beton has the field.
        slice_values: (N, S) float32, decision values of the slices of each example's class, in the order of their rank;
            NaN where the class has fewer than S.
        paths: list of N strings, the files of the images, where they are known.
        metadata: dict of column -> list of N plain values, what else is known of the images.
        looks_like, looks_like_values: (N,) int64 and float64, train only: see `label_noise`.
        looks_like_slice_values: (N, S) float32, train only: `slice_values` as one of the class that it looks like.
        hard_similarity, easy_similarity: (N,) float64, with captions: see `captions.subpopulations`.
    """

    accuracy: float | None = None
    balanced_accuracy: float | None = None
    confusion_matrix: np.ndarray | None = None
    indiv_accs: np.ndarray | None = None
    ytrue: np.ndarray
    ypred: np.ndarray
    decision_values: np.ndarray
    preds: np.ndarray
    classes: np.ndarray
    confs: np.ndarray
    indices: np.ndarray
    slice_values: np.ndarray | None = None
    paths: list | None = None
    metadata: dict | None = None
    spuriouses: np.ndarray | None = None
    looks_like: np.ndarray | None = None
    looks_like_values: np.ndarray | None = None
    looks_like_slice_values: np.ndarray | None = None
    hard_similarity: np.ndarray | None = None
    easy_similarity: np.ndarray | None = None

    def __len__(self):
        return len(self.indices)

    @property
    def flagged(self):
        """(N,) bool: the SVM says that the base model is wrong."""
        return self.ypred == 0


@dataclass(frozen=True, eq=False, kw_only=True)
class FoundSlices:
    """The failures that were found on one split and tested on another.

    Attributes:
        slices: list of `confirmation.Slice`, most harm first; `members` are positions in the confirm split,
            `found_members` in the find split.
        directions: list of `confirmation.Claim`, the single direction of each class that has one, by class: a family of
            tests of its own.
        skipped: dict class -> why no slice was sought.
        find, confirm: names of the splits.
        fdr: level of the family of tests.
        seed: of the search.
        near_duplicates: images of the confirm split with a near-duplicate in the find split.
        shared_groups: groups with images in both.
        uses: how often these confirm images have tested failures of this model, this time included.
        evaluate: int64, positions in the confirm split that have tested nothing, for repairs to be judged on; None
            where the whole split has.
    """

    slices: list[Slice]
    skipped: dict[int, str]
    find: str
    confirm: str
    fdr: float
    seed: int
    near_duplicates: int
    shared_groups: int
    uses: int = 1
    directions: list = field(default_factory=list)
    evaluate: np.ndarray | None = None

    @property
    def confirmed(self):
        """The slices whose verdict is "confirmed", most harm first."""
        return [found for found in self.slices if found.verdict == CONFIRMED]

    @property
    def confirmed_directions(self):
        """The classes whose single direction is confirmed: a set of class numbers."""
        return {one.class_index for one in self.directions if one.verdict == CONFIRMED}

    def of_class(self, c):
        """The slices of a class, by rank."""
        return sorted((found for found in self.slices if found.class_index == c), key=lambda found: found.rank)


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """The failures of a model: what `OUT.pt` holds.

    Attributes:
        class_names: list of K strings.
        cv_scores: (K,) float64, NaN where a class was skipped.
        skipped: dict class -> reason.
        splits: dict split -> `SplitResult`, in the order of `SPLITS`.
        found: `FoundSlices`, where failures were sought; None in results of format 1.
        dataset_config, svm_config: what it was made with; keys that this version does not know are left out.
        args: the command line, a dict.
        environment: see `runtime.environment`.
        made_from: dict of what (command, images, model, ...) -> a sentence for people, such as how a model's images are
            prepared and which output was taken for which class.
        notes: list of sentences on what looks wrong with what it was made from.
        train_labels_digest: hash of the train beton's labels, which ties interventions to it.
        extra_indices: (n,) int64, examples of the unlabeled beton that were trained on, where there are any.
        bce_threshold: of the condition that was analysed, where it is one.
    """

    class_names: list[str]
    cv_scores: np.ndarray
    skipped: dict[int, str]
    splits: dict[str, SplitResult]
    found: FoundSlices | None = None
    dataset_config: DatasetConfig | None = None
    svm_config: SVMConfig | None = None
    args: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    made_from: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    train_labels_digest: str | None = None
    extra_indices: np.ndarray | None = None
    bce_threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class AttributeRate:
    """A row of `OUT_spurious.csv`; see `minority.attribute_rates`."""

    ending = "spurious.csv"

    split: str
    class_name: str
    value: int
    minority: int
    count: int
    base_rate: float
    share_of_flagged: float
    flagged_share: float


@dataclass(frozen=True, kw_only=True)
class MinorityPrecision:
    """A row of `OUT_precision.csv`; see `minority.minority_precision`."""

    ending = "precision.csv"

    split: str
    class_name: str
    k: int
    svm: float
    confidence: float
    base_rate: float


@dataclass(frozen=True, kw_only=True)
class SliceRow:
    """A row of `OUT_slices.csv`; see `confirmation.Slice`. low and high: the interval of the difference."""

    ending = "slices.csv"

    id: str
    class_name: str
    verdict: str
    size: int
    error_rate: float
    rest_error_rate: float
    difference: float
    low: float
    high: float
    p_value: float
    q_value: float
    beyond_confidence_q: float
    wrong_as: str
    rest_wrong_as: str
    stability: float
    images_needed: str


@dataclass(frozen=True, kw_only=True)
class DirectionRow:
    """A row of `OUT_directions.csv`: a class's single direction, tested as a slice is (`confirmation.Claim`)."""

    ending = "directions.csv"

    class_name: str
    verdict: str
    cv_score: float
    size: int
    error_rate: float
    rest_error_rate: float
    difference: float
    low: float
    high: float
    p_value: float
    q_value: float
    beyond_confidence_q: float
    wrong_as: str
    rest_wrong_as: str
    images_needed: str


@dataclass(frozen=True, kw_only=True)
class CaptionRow:
    """A row of `OUT_captions.csv`; rank 1 is the most extreme of its side.

    Attributes:
        slice: id of the confirmed slice that is described; "" for the class's own direction, as in all of format 1.
    """

    ending = "captions.csv"

    class_name: str
    slice: str = ""
    side: str
    rank: int
    caption: str
    score: float
    z: float

    def __post_init__(self):
        _check_side(self.side)


@dataclass(frozen=True, kw_only=True)
class WordRow:
    """A row of `OUT_words.csv`: a statement about a confirmed slice; see `captions.statements.Held`.

    Attributes:
        source: "qualities", "labels", "captions" or "metadata".
        holds_elsewhere, fails_inside: positions in the confirm part, with spaces between; "" also in files of before.
    """

    ending = "words.csv"

    class_name: str
    slice: str
    source: str
    statement: str
    verdict: str
    separation: float
    auroc: float
    low: float
    high: float
    holds: int
    error_rate: float
    rest_error_rate: float
    p_value: float
    holds_elsewhere: str = ""
    fails_inside: str = ""


@dataclass(frozen=True, kw_only=True)
class SubpopulationRow:
    """A row of `OUT_subpopulations.csv`: the base model's accuracy on the K images nearest to a side's caption.

    Files of early versions, which are of one split, do not say of which.
    """

    ending = "subpopulations.csv"

    split: str = ""
    class_name: str
    side: str
    k: int
    accuracy: float
    class_accuracy: float

    def __post_init__(self):
        _check_side(self.side)


def _check_side(side):
    if side not in SIDES:
        raise ValueError(f"side is {side!r}")


TABLES = (SliceRow, DirectionRow, AttributeRate, MinorityPrecision, CaptionRow, WordRow, SubpopulationRow)


@dataclass(frozen=True, eq=False)
class Analysis:
    """All that a result's files hold.

    Attributes:
        result: a `Result`.
        fitter: the fitted `SVMFitter`.
        tables: dict kind of row, one of `TABLES` -> list of rows.
    """

    result: Result
    fitter: Any
    tables: dict = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------------------------------
# Where they are
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutputFiles:
    """The files of a result; `result` is the path of `OUT.pt`."""

    result: Path

    @classmethod
    def named(cls, out_file):
        """The files that `--out-file` names: `OUT` with or without `.pt`."""
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

    def of(self, kind):
        """The CSV of one of `TABLES`."""
        return self.beside(kind.ending)

    def every(self):
        """The paths of all that there may be, but for the directions: `OUT.pt` first, then what is said beside it."""
        return [self.result, *(self.beside(f"{split}.csv") for split in SPLITS), *map(self.of, TABLES)]

    def all(self):
        """The paths of all that there may be."""
        return [*self.every(), self.model]


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


def write_analysis(files, found):
    """Write all files of an `Analysis`; they get their names together, in the end, or none of them does."""
    with written_together(old=files.every()):
        for name, split in found.result.splits.items():
            write_split_csv(files.beside(f"{name}.csv"), split, found.result.class_names)
        for kind, rows in found.tables.items():
            write_table(files.of(kind), kind, rows)
        # The result itself comes last: where it is, everything beside it is.
        write_result(files, found.result, found.fitter)


def write_result(files, result, fitter):
    """Write `OUT_model.pt` and `OUT.pt`."""
    state = fitter.state()
    content = {"format": FORMAT, "args": result.args}
    for name in _CONFIGS:
        if getattr(result, name) is not None:
            content[name] = getattr(result, name).model_dump()
    content |= {
        "environment": result.environment,
        "class_names": list(result.class_names),
        "stats": {key: state[key] for key in ("mean", "std", "normalize")},
        "cv_scores": state["cv_scores"],
    }
    for name in ("train_labels_digest", "extra_indices", "bce_threshold"):
        if getattr(result, name) is not None:
            content[name] = _as_stored(getattr(result, name))
    for name in ("made_from", "notes"):
        if getattr(result, name):
            content[name] = getattr(result, name)
    if result.found:
        content["found"] = _stored_slices(result.found)
    skipped = {str(c): reason for c, reason in result.skipped.items()}
    for name, split in result.splits.items():
        columns = {key: _as_stored(value) for key, value in vars(split).items() if value is not None}
        content[f"{name}_metrics"] = columns | {"skipped_classes": skipped}
        content[f"predicted_{name}_errors"] = torch.from_numpy(split.flagged)
    save_pt(state, files.model)
    save_pt(content, files.result)


def _as_stored(value):
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _stored_slices(found):
    slices = [{name: _as_stored(value) for name, value in vars(one).items()} for one in found.slices]
    skipped = {str(c): reason for c, reason in found.skipped.items()}
    stored = vars(found) | {
        "slices": slices,
        "directions": [dict(vars(d)) for d in found.directions],
        "skipped": skipped,
        "evaluate": _as_stored(found.evaluate),
    }
    return {name: value for name, value in stored.items() if value is not None}


def slice_rows(result):
    """The `SliceRow`s of a result, most harm first."""
    return [_claim_row(SliceRow, one, result) for one in (result.found.slices if result.found else ())]


def direction_rows(result):
    """The `DirectionRow`s of a result, by class."""
    return [
        _claim_row(DirectionRow, one, result, cv_score=float(result.cv_scores[one.class_index]))
        for one in (result.found.directions if result.found else ())
    ]


def _claim_row(kind, claim, result, **more):
    """A row of a kind that tells of a `Claim`."""

    def name(c):
        return "" if c < 0 else result.class_names[c]

    return kind(
        **{field.name: getattr(claim, field.name) for field in fields(kind) if hasattr(claim, field.name)}
        | {"wrong_as": name(claim.wrong_as), "rest_wrong_as": name(claim.rest_wrong_as)}
        | {"images_needed": "" if claim.images_needed is None else str(claim.images_needed)},
        low=claim.interval[0],
        high=claim.interval[1],
        **more,
    )


def write_split_csv(path, split, class_names):
    """One row an example of a `SplitResult`: what it is, what the model says, and how hard it looks to the SVM."""
    # In parts: a million rows of Python's numbers and texts take 600 MB.
    parts = (_csv_columns(split, class_names, slice(i, i + CSV_ROWS)) for i in range(0, len(split), CSV_ROWS))
    header = _csv_columns(split, class_names, slice(0))
    write_csv(path, header, (row for columns in parts for row in zip(*columns.values(), strict=True)), for_people=True)


def _csv_columns(split, class_names, rows):
    """Column name -> list of the values in these rows, a slice."""
    classes, preds = split.classes[rows].tolist(), split.preds[rows].tolist()
    columns = {
        "index": split.indices[rows].tolist(),
        "class": classes,
        "class_name": [class_names[c] for c in classes],
        "pred": preds,
        "pred_name": [class_names[c] for c in preds],
        "correct": split.ytrue[rows].tolist(),
        "conf": [f"{value:.6f}" for value in split.confs[rows].tolist()],
        "decision_value": [f"{value:.6f}" for value in split.decision_values[rows].tolist()],
        "flagged": [1 - says_right for says_right in split.ypred[rows].tolist()],
    }
    if split.slice_values is not None:
        for rank, values in enumerate(split.slice_values[rows].T.tolist(), start=1):
            columns[f"slice_{rank}"] = ["" if value != value else f"{value:.6f}" for value in values]
    if split.spuriouses is not None:
        columns["spurious"] = split.spuriouses[rows].tolist()
    if split.paths is not None:
        columns["path"] = split.paths[rows]
    for name, values in (split.metadata or {}).items():
        columns.setdefault(name, values[rows])
    return columns


def write_table(path, kind, rows):
    """Write rows of a kind, one of `TABLES`, as CSV."""
    header, *lines = table_rows(kind, rows)
    write_csv(path, header, lines, for_people=True)


def table_rows(kind, rows):
    """The header, then the values of each row of a kind, one of `TABLES`."""
    columns = _columns(kind)
    return [list(columns), *([getattr(row, field.name) for field in columns.values()] for row in rows)]


def _columns(kind):
    """Column of the CSV -> field of the row."""
    return {"class" if field.name == "class_name" else field.name: field for field in fields(kind)}


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


def read_result(path):
    """The `Result` in `OUT.pt`.

    Warns of options in its configs that this version does not know.

    Raises:
        UserError: a file of another kind, one that is damaged, or one of a newer format than this version knows.
    """
    return as_result(read_content(path), path)


def read_directions(path):
    """The `SVMFitter` beside the result `OUT.pt`.

    Raises:
        UserError: it is missing or damaged.
    """
    from ..svm_utils import SVMFitter  # late: scikit-learn takes a second to import, and a look at a result needs none

    return SVMFitter.load(OutputFiles(Path(path)).model)


def read_table(path, kind):
    """Rows of a kind, one of `TABLES`, from the CSV beside the result `OUT.pt`; an empty list where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = OutputFiles(Path(path)).of(kind)
    if not path.is_file():
        return []
    columns = _columns(kind)
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            there = {name: field for name, field in columns.items() if name in (reader.fieldnames or ())}
            missing = sorted(name for name, field in columns.items() if name not in there and field.default != "")
            if missing:
                raise UserError(f"{path} lacks the column {missing[0]}; write it again with failure-directions distil")
            rows = list(reader)
            if any(None in row.values() for row in rows):
                raise ValueError("a line is too short")
            return [
                kind(**{field.name: field.type(without_apostrophe(row[name])) for name, field in there.items()})
                for row in rows
            ]
    except (UnicodeDecodeError, csv.Error, ValueError, TypeError) as error:
        problem = str(error)[:200]
        raise UserError(
            f"{path} is no longer what was written ({problem}); write it again with failure-directions distil"
        ) from None


def read_content(path):
    """What `OUT.pt` holds, as the file's own dict of tensors, numbers, strings, lists and dicts, checked.

    Raises:
        UserError: as `read_result`.
    """
    path = Path(path)
    content = load_pt(path, "SVM result", MAKE_AGAIN)
    try:
        _check_content(content)
    except _Refused as error:
        raise UserError(f"{path} {error}; {MAKE_AGAIN}") from None
    return content


def as_result(content, path):
    """The `Result` of what `read_content` gave; `path` is for errors and warnings."""
    configs = {}
    for name, model in _CONFIGS.items():
        if name not in content:
            continue
        try:
            configs[name], unknown = stored_config(model, content[name], name)
        except UserError as error:
            raise UserError(f"{path} is damaged: {error}; {MAKE_AGAIN}") from None
        if unknown:
            warnings.warn(f"{path}: {name} has what this version does not know: {', '.join(unknown)}", stacklevel=3)
    args, config = content["args"], configs.get("dataset_config")
    if config and config.bce and not (isinstance(args.get("bce_class"), int) and args["bce_class"] >= 0):
        raise UserError(f"{path} is damaged: args bce_class is not the number of a condition; {MAKE_AGAIN}")
    there = [name for name in SPLITS if f"{name}_metrics" in content]
    extra = content.get("extra_indices")
    return Result(
        class_names=content["class_names"],
        found=_as_slices(content["found"]) if "found" in content else None,
        cv_scores=content["cv_scores"].numpy(),
        skipped={int(c): reason for c, reason in content[f"{there[0]}_metrics"]["skipped_classes"].items()},
        splits={name: _as_split(content[f"{name}_metrics"]) for name in there},
        **configs,
        args=args,
        environment=content.get("environment", {}),
        made_from=content.get("made_from", {}),
        notes=content.get("notes", []),
        train_labels_digest=content.get("train_labels_digest"),
        extra_indices=None if extra is None else extra.numpy(),
        bce_threshold=content.get("bce_threshold"),
    )


def _as_slices(found):
    slices = []
    for stored in found["slices"]:
        values = {field.name: stored[field.name] for field in fields(Slice)}
        values = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in values.items()}
        slices.append(Slice(**values | {"interval": tuple(stored["interval"])}))
    directions = [
        Claim(**{field.name: stored[field.name] for field in fields(Claim)} | {"interval": tuple(stored["interval"])})
        for stored in found.get("directions", ())
    ]
    skipped = {int(c): reason for c, reason in found["skipped"].items()}
    known = {field.name: found[field.name] for field in fields(FoundSlices) if field.name in found}
    if "evaluate" in known:
        known["evaluate"] = known["evaluate"].numpy()
    return FoundSlices(**known | {"slices": slices, "directions": directions, "skipped": skipped})


def _as_split(entry):
    values = {field.name: entry[field.name] for field in fields(SplitResult) if field.name in entry}
    return SplitResult(
        **{key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in values.items()}
    )


# ---- checks ---------------------------------------------------------------------------------------------------------

_KINDS = {
    "args": dict,
    "class_names": list,
    "cv_scores": torch.Tensor,
}
_CONFIGS = {"dataset_config": DatasetConfig, "svm_config": SVMConfig}  # none in a result of plain arrays
_OF_FOUND = {
    "slices": list,
    "skipped": dict,
    "find": str,
    "confirm": str,
    "fdr": float,
    "seed": int,
    "near_duplicates": int,
    "shared_groups": int,
    "uses": int,
}
_COLUMNS = ("preds", "classes", "confs", "ytrue", "ypred", "decision_values", "indices")
_OPTIONAL = ("spuriouses", "looks_like", "looks_like_values", "hard_similarity", "easy_similarity")
_MAY_BE_NAN = (*_OPTIONAL[2:], "decision_values")  # of a class that was skipped


class _Refused(Exception):
    """Why a file is not read: the rest of a sentence that begins with its name."""


def _damaged(how):
    return _Refused(f"is damaged: {how}")


def _check_content(content):
    content = content if isinstance(content, dict) else {}
    number = content.get("format", 1)
    if type(number) is not int or number < 1:
        raise _damaged("format is not a number of a format")
    if number > FORMAT:
        raise _Refused(f"is of format {number}, which takes a newer version than this (it knows 1 to {FORMAT})")
    # Format 1 knew no result of plain arrays.
    needed = ("args", *(_CONFIGS if number == 1 else ()), "class_names", "cv_scores")
    missing = [key for key in needed if key not in content]
    there = [name for name in SPLITS if f"{name}_metrics" in content]
    if not there:
        missing.append("test_metrics")
    for name in there:
        entry = content[f"{name}_metrics"] if isinstance(content[f"{name}_metrics"], dict) else {}
        missing += [f"{name}_metrics['{key}']" for key in (*_COLUMNS, "skipped_classes") if key not in entry]
    if missing:
        raise _Refused(f"is not an SVM result: it lacks {some(missing)}")
    for key, kind in {**_KINDS, **dict.fromkeys(_CONFIGS.keys() & content.keys(), dict)}.items():
        if not isinstance(content[key], kind):
            raise _damaged(f"{key} is a {type(content[key]).__name__}")
    # The configs are checked where they are read; what is in these is there to be shown alone.
    for key in ("args", "dataset_config", "svm_config", "environment"):
        if not is_plain(content.get(key, {})):
            raise _damaged(f"{key} holds more than text and numbers")
    if not isinstance(content.get("environment", {}), dict):
        raise _damaged("environment is not a dict")
    if not _is_text(content["args"].get("root", ".")):
        raise _damaged("args root is not text")
    names, scores = content["class_names"], content["cv_scores"]
    if not is_plain(names) or not all(map(_is_text, names)) or len(set(names)) < len(names):
        raise _damaged("class_names is not a list of different names")
    if not is_plain_tensor(scores, 1, FLOATS) or len(scores) != len(names) or scores.isinf().any():
        raise _damaged(f"cv_scores is not one number for each of {len(names)} class_names")
    for name in there:
        _check_split(f"{name}_metrics", content[f"{name}_metrics"], len(names))
    if "found" in content:
        _check_found(content["found"], len(names), {name: len(content[f"{name}_metrics"]["indices"]) for name in there})
    extra = content.get("extra_indices", torch.arange(0))
    if not is_plain_tensor(extra, 1, INTEGERS) or (extra < 0).any():
        raise _damaged("extra_indices is not a list of positions")
    for key, kind in (("made_from", dict), ("notes", list)):
        value = content.get(key, kind())
        texts = [*value, *value.values()] if isinstance(value, dict) else value
        if not isinstance(value, kind) or not is_plain(value) or not all(map(_is_text, texts)):
            raise _damaged(f"{key} is not sentences")
    if not _is_text(content.get("train_labels_digest", "")):
        raise _damaged("train_labels_digest is not text")
    if not isinstance(content.get("bce_threshold", 0.0), int | float):
        raise _damaged("bce_threshold is not a number")


def _check_found(found, num_classes, lengths):
    """The slices are of these classes, and speak of examples of the splits there are, by `lengths`."""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in _OF_FOUND.items()):
        raise _damaged("found is not what a search for failures gives")
    if found["confirm"] not in lengths or found["find"] not in lengths or not is_plain(found["skipped"]):
        raise _damaged("found names splits or classes that it does not have")
    if not set(found["skipped"]) <= {str(c) for c in range(num_classes)}:
        raise _damaged("found names splits or classes that it does not have")
    evaluate = found.get("evaluate", torch.arange(0))
    if not is_plain_tensor(evaluate, 1, INTEGERS) or ((evaluate < 0) | (evaluate >= lengths[found["confirm"]])).any():
        raise _damaged(f"found evaluate are no images of {found['confirm']}")
    # Results of this format that know no tests of single directions are read, too.
    directions = found.get("directions", [])
    if not isinstance(directions, list):
        raise _damaged("found directions are no list")
    for where, kind, stored in (
        *(("found slices", Slice, stored) for stored in found["slices"]),
        *(("found directions", Claim, stored) for stored in directions),
    ):
        if not isinstance(stored, dict) or not {field.name for field in fields(kind)} <= set(stored):
            raise _damaged(f"{where} lack what they should say")
        plain = {key: value for key, value in stored.items() if not isinstance(value, torch.Tensor)}
        interval = plain.get("interval")
        if not isinstance(interval, tuple | list) or [type(end) for end in interval] != [float, float]:
            raise _damaged(f"{where} have an interval that is none")
        if not is_plain({**plain, "interval": list(interval)}):
            raise _damaged(f"{where} hold more than text and numbers")
        for of in fields(kind):
            if of.type in (str, int, float) and type(stored[of.name]) is not of.type:
                raise _damaged(f"{where} have a {of.name} that is none")
        if not (0 <= stored["class_index"] < num_classes and stored["verdict"] in VERDICTS):
            raise _damaged(f"{where} have a class or a verdict that is none")
    for stored in found["slices"]:
        where = "found slices"
        if not is_plain_tensor(stored["direction"], 1, FLOATS) or not stored["direction"].isfinite().all():
            raise _damaged(f"{where} have a direction that is none")
        for key, split in (("members", "confirm"), ("found_members", "find")):
            rows = stored[key]
            if not is_plain_tensor(rows, 1, INTEGERS) or ((rows < 0) | (rows >= lengths[found[split]])).any():
                raise _damaged(f"{where} have {key} that are none of {found[split]}")


def _check_split(where, entry, num_classes):
    """One number an example of the right kind in every column, those that not every result has included."""
    if not is_plain_tensor(entry["indices"], 1, INTEGERS) or not len(entry["indices"]):
        raise _damaged(f"{where}['indices'] is not one whole number an example")
    below = {
        "preds": num_classes,
        "classes": num_classes,
        "looks_like": num_classes,
        "ytrue": 2,
        "ypred": 2,
        "indices": MOST_EXAMPLES,
    }
    for key in (*_COLUMNS, *_OPTIONAL):
        if key not in entry:
            continue
        column, whole = entry[key], key in below or key == "spuriouses"
        if not is_plain_tensor(column, 1, INTEGERS if whole else FLOATS) or len(column) != len(entry["indices"]):
            raise _damaged(f"{where}['{key}'] is not one {'whole ' * whole}number an example")
        if key in below and ((column < 0) | (column >= below[key])).any():
            raise _damaged(f"{where}['{key}'] holds other than the numbers it should")
        if not whole and (column.isinf() | (column.isnan() & (key not in _MAY_BE_NAN))).any():
            raise _damaged(f"{where}['{key}'] holds NaN or infinity")
    for key in ("slice_values", "looks_like_slice_values"):
        values = entry.get(key, torch.zeros(len(entry["indices"]), 1))
        if not is_plain_tensor(values, 2, FLOATS) or len(values) != len(entry["indices"]) or values.isinf().any():
            raise _damaged(f"{where}['{key}'] is not a row of numbers an example")
    paths = entry.get("paths", [])
    if not isinstance(paths, list) or not is_plain(paths) or not all(map(_is_text, paths)):
        raise _damaged(f"{where}['paths'] is not a list of paths")
    if "paths" in entry and len(paths) != len(entry["indices"]):
        raise _damaged(f"{where}['paths'] is not one path an example")
    columns = entry.get("metadata", {})
    if not isinstance(columns, dict) or not is_plain(columns) or not all(isinstance(v, list) for v in columns.values()):
        raise _damaged(f"{where}['metadata'] is not columns of plain values")
    if any(len(values) != len(entry["indices"]) for values in columns.values()):
        raise _damaged(f"{where}['metadata'] is not one value an example")
    for one, other in (("looks_like", "looks_like_values"), ("hard_similarity", "easy_similarity")):
        if (one in entry) != (other in entry):
            raise _damaged(f"{where} has one of {one} and {other} alone")
    for key, dims, dtypes in (("confusion_matrix", 2, INTEGERS), ("indiv_accs", 1, FLOATS)):
        if key in entry and not is_plain_tensor(entry[key], dims, dtypes):
            raise _damaged(f"{where}['{key}'] is not what an SVM is judged by")
    for key in ("accuracy", "balanced_accuracy"):
        if not isinstance(entry.get(key, 0.0), int | float):
            raise _damaged(f"{where}['{key}'] is not a number")
    skipped = entry["skipped_classes"]
    reasons = skipped if isinstance(skipped, dict) and is_plain(skipped) else {"": None}
    if not set(reasons) <= {str(c) for c in range(num_classes)} or not all(map(_is_text, reasons.values())):
        raise _damaged(f"{where}['skipped_classes'] is not a reason for each class that was skipped")


def _is_text(value):
    return isinstance(value, str)
